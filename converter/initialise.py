"""Fresh weights, the same in every framework, thread order and machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Initialiser:
    """How one tensor is drawn; a pure function of its fields and the element's index."""

    rule: str
    """``normal``, ``truncated-normal``, ``uniform`` or ``constant``."""
    scale: float
    """Standard deviation; half width of the interval for ``uniform``; value for ``constant``."""
    seed: int
    name: str
    """Canonical name of the tensor, which keys its random stream together with the seed."""
