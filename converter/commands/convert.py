"""The same model in other frameworks, formats or dtypes."""

from __future__ import annotations

from converter.architectures.registry import ArchitectureRegistry
from converter.checkpoint.opening import open_files
from converter.execution.write_checkpoint import WriteResult, write_checkpoint
from converter.models.ties import resolve_as_used
from converter.options import ConvertOptions
from converter.planning.conversion import plan_conversion
from converter.python_calls import takes


@takes(ConvertOptions)
def convert(options: ConvertOptions) -> WriteResult:
    """Convert a checkpoint to other frameworks, file formats or dtypes.

    Returns:
        What was written, or with ``dry_run`` what would be written.

    Raises:
        ConverterError: see `converter.errors`; nothing is written then.

    """
    registry = ArchitectureRegistry.for_user(options.mapping)
    with open_files(
        options.source,
        options.config,
        headers=options.dry_run,
        streamed=not options.resume,
        ignore=options.ignore,
    ) as checkpoint:
        model = resolve_as_used(checkpoint, registry, options.set)
        plan = plan_conversion(model, options, options.seed, options.set, options.ignore)
        return write_checkpoint(plan, options.output, options, [model])
