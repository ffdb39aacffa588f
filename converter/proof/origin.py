"""Where the values of a tensor come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from converter.proof.comparison import Difference


@dataclass(frozen=True)
class Origin:
    """Where the values of one tensor come from."""

    source: str | None
    """The source, or ``None`` of a fresh tensor."""
    verdict: str
    """``equal``, ``fresh``, or what is wrong."""
    difference: Difference | None = None

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        described: dict[str, Any] = {"source": self.source, "verdict": self.verdict}
        if self.difference and not self.difference.exact:
            described["difference"] = self.difference.to_dict()
        return described
