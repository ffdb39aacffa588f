"""Composes and converts encoder-decoder checkpoints between PyTorch, TensorFlow and Flax.

Everything public is reachable from here and loaded when first used, so that importing the package
costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from converter._version import __version__

if TYPE_CHECKING:
    from converter.composition.compose import compose as compose
    from converter.composition.convert import convert as convert
    from converter.composition.split import split as split
    from converter.errors import CheckpointError as CheckpointError
    from converter.errors import ConfigError as ConfigError
    from converter.errors import ConverterError as ConverterError
    from converter.errors import FormatError as FormatError
    from converter.errors import MatchError as MatchError
    from converter.errors import OutputError as OutputError
    from converter.errors import Problem as Problem
    from converter.errors import TableError as TableError
    from converter.errors import UnsupportedError as UnsupportedError
    from converter.errors import UsageError as UsageError
    from converter.errors import VerificationError as VerificationError
    from converter.hub.push import push as push
    from converter.inspection import inspect as inspect
    from converter.loading import open_checkpoint as open_checkpoint
    from converter.proof.diff import diff as diff
    from converter.proof.verify import verify as verify
    from converter.recipes.running import run as run

_HOMES = {
    "compose": "converter.composition.compose",
    "convert": "converter.composition.convert",
    "diff": "converter.proof.diff",
    "inspect": "converter.inspection",
    "open_checkpoint": "converter.loading",
    "push": "converter.hub.push",
    "run": "converter.recipes.running",
    "split": "converter.composition.split",
    "verify": "converter.proof.verify",
}
_ERRORS = (
    "CheckpointError ConfigError ConverterError FormatError MatchError OutputError Problem "
    "TableError UnsupportedError UsageError VerificationError"
).split()
_HOMES.update(dict.fromkeys(_ERRORS, "converter.errors"))

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'converter' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted((*globals(), *_HOMES))
