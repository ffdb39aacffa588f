"""`split`: the encoder and the decoder of a combined checkpoint as checkpoints of their own."""

from __future__ import annotations

from converter.architectures.registry import ArchitectureRegistry
from converter.checkpoint.opening import open_files
from converter.execution.write_checkpoint import WriteResult, write_checkpoint
from converter.models.model import resolve_model
from converter.option_declaration import takes
from converter.options import SplitOptions
from converter.planning.conversion import plan_split


@takes(SplitOptions)
def split(options: SplitOptions) -> WriteResult:
    """Split an encoder-decoder checkpoint into an encoder and a decoder checkpoint.

    They go to ``OUTPUT/encoder`` and ``OUTPUT/decoder``. A projection between their hidden sizes,
    which is part of neither, goes to ``OUTPUT/joint.safetensors``; `compose` of the two directories
    reads it from there and restores the source bit for bit.

    Returns:
        What was written, or with ``dry_run`` what would be written.

    Raises:
        UnsupportedError: if the source is not an encoder-decoder checkpoint.
        ConverterError: see `converter.errors`; nothing is written then.

    """
    registry = ArchitectureRegistry(options.mapping)
    with open_files(
        options.source, options.config, headers=options.dry_run, ignore=options.ignore
    ) as checkpoint:
        model = resolve_model(checkpoint, registry, options.set)
        plan = plan_split(model, options, registry, options.ignore)
        return write_checkpoint(plan, options.output, options, [model])
