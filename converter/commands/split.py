"""`split`: the submodels of a combined checkpoint as checkpoints of their own."""

from __future__ import annotations

from converter.architectures.registry import ArchitectureRegistry
from converter.checkpoint.opening import open_files
from converter.execution.write_checkpoint import WriteResult, write_checkpoint
from converter.models.ties import resolve_as_used
from converter.options import SplitOptions
from converter.planning.conversion import plan_split
from converter.python_calls import takes


@takes(SplitOptions)
def split(options: SplitOptions) -> WriteResult:
    """Split an encoder-decoder checkpoint into an encoder and a decoder checkpoint.

    They go to ``OUTPUT/encoder`` and ``OUTPUT/decoder``, or to directories with the names of the
    submodels, such as ``OUTPUT/vision_model``. Projections, which are part of neither, go to
    ``OUTPUT/joint.safetensors``; `compose` of an encoder and a decoder reads them from there and
    restores the source bit for bit.

    Returns:
        What was written, or with ``dry_run`` what would be written.

    Raises:
        UnsupportedError: if the source is not a combined checkpoint.
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
        plan = plan_split(model, options, registry, options.set, options.ignore)
        return write_checkpoint(plan, options.output, options, [model])
