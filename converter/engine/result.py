"""What is found out about a tensor while it is carried over."""

from __future__ import annotations

from dataclasses import dataclass, field

from converter.errors import Problem


@dataclass(slots=True)
class TensorResult:
    """What was found while one tensor was carried over."""

    sha256: str = ""
    """Of the little-endian bytes in PyTorch layout and planned dtype."""
    non_finite: int = 0
    overflowed: int = 0
    problems: list[Problem] = field(default_factory=list)
