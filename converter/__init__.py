"""Composes and converts encoder-decoder checkpoints between PyTorch, TensorFlow and Flax.

Every public name is imported when it is first used, so that importing the package is fast.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from converter._version import __version__

if TYPE_CHECKING:
    from converter.commands.check_table import TableCheck as TableCheck
    from converter.commands.check_table import check_table as check_table
    from converter.commands.compose import compose as compose
    from converter.commands.convert import convert as convert
    from converter.commands.diff import Comparison as Comparison
    from converter.commands.diff import diff as diff
    from converter.commands.env import Environment as Environment
    from converter.commands.env import env as env
    from converter.commands.families import Families as Families
    from converter.commands.families import families as families
    from converter.commands.inspect import Inspection as Inspection
    from converter.commands.inspect import inspect as inspect
    from converter.commands.push import push as push
    from converter.commands.split import split as split
    from converter.commands.verify import verify as verify
    from converter.errors import CheckpointError as CheckpointError
    from converter.errors import ConfigError as ConfigError
    from converter.errors import ConverterError as ConverterError
    from converter.errors import ConverterWarning as ConverterWarning
    from converter.errors import FormatError as FormatError
    from converter.errors import MatchError as MatchError
    from converter.errors import OutputError as OutputError
    from converter.errors import Problem as Problem
    from converter.errors import TableError as TableError
    from converter.errors import UnsupportedError as UnsupportedError
    from converter.errors import UsageError as UsageError
    from converter.errors import VerificationError as VerificationError
    from converter.execution.write_checkpoint import WriteResult as WriteResult
    from converter.frameworks import KerasWeights as KerasWeights
    from converter.frameworks import LazyTensor as LazyTensor
    from converter.frameworks import OpenedCheckpoint as OpenedCheckpoint
    from converter.frameworks import open_checkpoint as open_checkpoint
    from converter.plan import Plan as Plan
    from converter.plan import TargetTensor as TargetTensor
    from converter.progress import Progress as Progress
    from converter.recipes.job import Interrupted as Interrupted
    from converter.recipes.job import JobResult as JobResult
    from converter.recipes.job import RunSummary as RunSummary
    from converter.recipes.scheduler import run as run
    from converter.storage.hub_upload import PushResult as PushResult
    from converter.verification.result import Difference as Difference
    from converter.verification.result import Provenance as Provenance
    from converter.verification.result import Statistics as Statistics
    from converter.verification.result import Verification as Verification

_PUBLIC = {
    "converter.commands.compose": "compose",
    "converter.commands.convert": "convert",
    "converter.execution.write_checkpoint": "WriteResult",
    "converter.commands.split": "split",
    "converter.errors": "CheckpointError ConfigError ConverterError ConverterWarning FormatError "
    "MatchError OutputError Problem TableError UnsupportedError UsageError VerificationError",
    "converter.storage.hub_upload": "PushResult",
    "converter.commands.push": "push",
    "converter.commands.env": "Environment env",
    "converter.commands.families": "Families families",
    "converter.commands.check_table": "TableCheck check_table",
    "converter.commands.inspect": "Inspection inspect",
    "converter.frameworks": "KerasWeights LazyTensor OpenedCheckpoint open_checkpoint",
    "converter.progress": "Progress",
    "converter.plan": "Plan TargetTensor",
    "converter.commands.diff": "Comparison diff",
    "converter.verification.result": "Difference Provenance Statistics Verification",
    "converter.commands.verify": "verify",
    "converter.recipes.job": "Interrupted JobResult RunSummary",
    "converter.recipes.scheduler": "run",
}
"""Module → the public names that it defines."""

_HOMES = {name: module for module, names in _PUBLIC.items() for name in names.split()}

__all__ = ["__version__", *sorted(_HOMES)]

# The application decides which log messages are shown.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'converter' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
