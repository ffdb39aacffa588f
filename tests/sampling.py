"""Samples for the quick tests, of cases that plain ``pytest`` runs in full."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def quick_sample(values: Iterable[Any], every: int) -> list[Any]:
    """Return values for `parametrize`, of which all but each n-th are marked as slow."""
    return [
        pytest.param(
            *(value if isinstance(value, tuple) else (value,)),
            marks=[pytest.mark.slow] if number % every else [],
        )
        for number, value in enumerate(values)
    ]
