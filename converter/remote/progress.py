"""How far a transfer is, on terminals: the bar that the Hub's client shows for its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, if that is a terminal; gives what to call with more bytes."""
    from huggingface_hub import utils

    tqdm: Any = utils.tqdm  # type: ignore[attr-defined]
    lock = threading.Lock()
    with tqdm(
        total=total, desc=title, unit="B", unit_scale=True, leave=False, disable=None
    ) as shown:

        def advance(nbytes: int) -> None:
            with lock:
                shown.update(nbytes)

        yield advance
