"""Composes and converts encoder-decoder checkpoints between PyTorch, TensorFlow and Flax.

Everything public is reachable from here and loaded when first used, so that importing the package
costs next to nothing.
"""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter._version import __version__

if TYPE_CHECKING:
    from converter.composition.compose import compose as compose
    from converter.composition.convert import convert as convert
    from converter.composition.options import OutputOptions as OutputOptions
    from converter.composition.production import Result as Result
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
    from converter.hub.push import Pushed as Pushed
    from converter.hub.push import push as push
    from converter.inspection import Inspection as Inspection
    from converter.inspection import inspect as inspect
    from converter.loading import KerasWeights as KerasWeights
    from converter.loading import LazyTensor as LazyTensor
    from converter.loading import OpenedCheckpoint as OpenedCheckpoint
    from converter.loading import open_checkpoint as open_checkpoint
    from converter.plan import Plan as Plan
    from converter.plan import PlannedTensor as PlannedTensor
    from converter.progress import Progress as Progress
    from converter.proof.comparison import Difference as Difference
    from converter.proof.diff import Comparison as Comparison
    from converter.proof.diff import diff as diff
    from converter.proof.origin import Origin as Origin
    from converter.proof.statistics import Statistics as Statistics
    from converter.proof.verification import Verification as Verification
    from converter.proof.verify import verify as verify
    from converter.recipes.outcome import Interrupted as Interrupted
    from converter.recipes.outcome import Outcome as Outcome
    from converter.recipes.outcome import Summary as Summary
    from converter.recipes.running import run as run

_PUBLIC = {
    "converter.composition.compose": "compose",
    "converter.composition.convert": "convert",
    "converter.composition.options": "OutputOptions",
    "converter.composition.production": "Result",
    "converter.composition.split": "split",
    "converter.errors": "CheckpointError ConfigError ConverterError FormatError MatchError "
    "OutputError Problem TableError UnsupportedError UsageError VerificationError",
    "converter.hub.push": "Pushed push",
    "converter.inspection": "Inspection inspect",
    "converter.loading": "KerasWeights LazyTensor OpenedCheckpoint open_checkpoint",
    "converter.progress": "Progress",
    "converter.plan": "Plan PlannedTensor",
    "converter.proof.comparison": "Difference",
    "converter.proof.diff": "Comparison diff",
    "converter.proof.origin": "Origin",
    "converter.proof.statistics": "Statistics",
    "converter.proof.verification": "Verification",
    "converter.proof.verify": "verify",
    "converter.recipes.outcome": "Interrupted Outcome Summary",
    "converter.recipes.running": "run",
}
"""Module → the public names that it defines."""

_HOMES = {name: module for module, names in _PUBLIC.items() for name in names.split()}

__all__ = ["__version__", *sorted(_HOMES)]

if not (Path(__file__).parent / "mappings").is_dir():
    # Imported from a checkout, where the tables lie beside the package: `converter.mappings` is
    # found there also by a Python whose working directory hides what is installed.
    __path__.append(str(Path(__file__).parents[1]))

# Whoever uses the library decides what becomes of its messages.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'converter' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted((*globals(), *_HOMES))
