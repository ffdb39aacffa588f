"""The same model in other frameworks, containers or dtypes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from converter.architectures.registry import ArchitectureRegistry
from converter.checkpoint.opening import open_files
from converter.execution.write_checkpoint import WriteResult, write_checkpoint
from converter.models.model import resolve_model
from converter.options import OutputOptions, OutputOptionsDict
from converter.planning.conversion import plan_conversion


def convert(
    source: str | Path,
    output: str | Path,
    *,
    seed: int = 0,
    set: Sequence[str] = (),
    mapping: Sequence[str | Path] = (),
    config: str | Path | None = None,
    **options: Unpack[OutputOptionsDict],
) -> WriteResult:
    """Write a checkpoint again, for other frameworks, in other containers or dtypes.

    Args:
        source: a stand-alone or a combined checkpoint: a directory or a weight file.
        output: the directory to be made.
        seed: of weights that the model's class has and the checkpoint lacks (a pooler).
        set: configuration fields, ``KEY=VALUE``; in a combined model also ``encoder.KEY=VALUE``.
        mapping: a user's own mapping tables.
        config: the configuration, where none lies beside the weights.
        options: see `OutputOptions`.

    Returns:
        What was written, or with ``dry_run`` what would be.

    Raises:
        ConverterError: see `converter.errors`; nothing is written then.

    """
    wanted = OutputOptions(**options)
    registry = ArchitectureRegistry(Path(path) for path in mapping)
    with open_files(source, config, headers=wanted.dry_run) as checkpoint:
        model = resolve_model(checkpoint, registry, set)
        plan = plan_conversion(model, wanted, seed)
        written = {tensor.spec.name for tensor in plan.tensors}
        held = [name for name in model.report.matched if name in model.target.by_name]
        model.report.drop(
            [name for name in held if name not in written], "no class that is written for has it"
        )
        return write_checkpoint(
            plan,
            output,
            wanted,
            sources=[model],
            tables=model.tables,
            settings={"seed": seed, "set": list(set)},
            classes={"": model.classes},
        )
