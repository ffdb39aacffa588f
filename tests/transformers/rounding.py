"""Which differences of two outputs are rounding.

Frameworks, versions and processors round in different places, and each model amplifies that by a
factor of its own: if every weight moves by one unit in the last place, the logits of BERT move by
6e-7 of their scale, the masks of SAM by 1.2e-5. So one tolerance is too strict for some models on
some machines. A difference above it passes only if it is a small multiple of what the model itself
makes of such a move, and never above `LIMIT`, which a wrong weight exceeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

TOLERANCE = 1e-5
"""Largest difference of two frameworks' outputs that needs no explanation, by their scale."""
MULTIPLE = 8
LIMIT = 1e-4
MOVES = 4

Outputs: TypeAlias = Mapping[str, np.ndarray]
Measure: TypeAlias = Callable[[np.ndarray, np.ndarray], float]


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """Return the largest relative difference of two outputs; infinite if shapes differ."""
    if first.shape != second.shape:
        return float("inf")
    return float(np.abs(first - second).max() / max(1.0, np.abs(first).max()))


def scaled_difference(first: np.ndarray, second: np.ndarray) -> float:
    """Return the largest difference of two outputs, by the largest value of the first."""
    if first.shape != second.shape:
        return float("inf")
    return float(abs(first - second).max() / max(float(abs(first).max()), 1e-9))


def moved_outputs(model: Any, run: Callable[[], Outputs]) -> list[Outputs]:
    """Run a PyTorch model with every weight moved by one unit in the last place, up or down.

    Returns the outputs of several such models. The model itself is the same afterwards.
    """
    import torch

    stream = torch.Generator().manual_seed(0)
    weights = [
        (weight, weight.detach().clone())
        for weight in model.parameters()
        if weight.is_floating_point()
    ]
    outputs = []
    with torch.no_grad():
        try:
            for _ in range(MOVES):
                for weight, value in weights:
                    up = torch.randint(0, 2, value.shape, generator=stream).bool()
                    infinity = torch.where(up, torch.inf, -torch.inf).to(value.dtype)
                    weight.copy_(torch.nextafter(value, infinity))
                outputs.append(run())
        finally:
            for weight, value in weights:
                weight.copy_(value)
    return outputs


def is_rounding(
    gap: float, tolerance: float, output: np.ndarray, moved: list[np.ndarray], measure: Measure
) -> bool:
    """Return whether a difference is at most the tolerance, or what rounding makes of `output`.

    Args:
        gap: the difference of ``output`` from another framework's.
        tolerance: what needs no explanation; 0 for outputs that must be equal.
        output: what PyTorch computes.
        moved: the same output of `moved_outputs`.
        measure: how ``gap`` was measured.

    """
    allowed = MULTIPLE * max((measure(output, each) for each in moved), default=0.0)
    return gap <= tolerance or bool(tolerance and gap <= min(LIMIT, allowed))


def assert_close(actual: np.ndarray, model: Any, run: Callable[[], np.ndarray]) -> None:
    """Assert that an output is what ``run`` returns of a PyTorch model, but for rounding."""
    expected = run()
    gap = difference(expected, actual)
    if gap <= TOLERANCE:
        return
    moved = [each[""] for each in moved_outputs(model, lambda: {"": run()})]
    assert is_rounding(gap, TOLERANCE, expected, moved, difference), f"outputs differ by {gap:.1e}"
