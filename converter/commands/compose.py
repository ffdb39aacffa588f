"""`compose`: an encoder checkpoint and a decoder checkpoint as one encoder-decoder checkpoint."""

from __future__ import annotations

from contextlib import ExitStack

from converter.architectures.registry import ArchitectureRegistry
from converter.execution.write_checkpoint import WriteResult, write_checkpoint
from converter.options import ComposeOptions
from converter.planning.compatibility import check_compatibility, check_roles
from converter.planning.composition import (
    ComposeSettings,
    join_closed_composite,
    model_configs,
    open_configs,
    open_sources,
    plan_composition,
)
from converter.planning.dual_encoder import plan_dual_encoder
from converter.planning.encoder_decoder import add_joint_weights, pair_models
from converter.python_calls import takes


@takes(ComposeOptions)
def compose(options: ComposeOptions) -> WriteResult:
    """Join an encoder and a decoder into one checkpoint for each requested framework.

    Returns:
        What was written, or with ``dry_run`` what would be written.

    Raises:
        ConverterError: see `converter.errors`; nothing is written then.

    """
    registry = ArchitectureRegistry.for_user(options.mapping)
    settings = ComposeSettings.of(options, registry)
    composite = settings.composite
    with ExitStack() as stack:
        opened = open_configs(settings, registry, stack)
        opened = join_closed_composite(opened, settings, registry)
        if composite is None:
            model_types = {name: checkpoint.architecture for name, checkpoint in opened.items()}
            check_roles(model_types, registry, options.to)
        configs = model_configs(opened, settings, registry)
        check_compatibility(configs, registry, options.to, options.force, composite)
        access = {"headers": options.dry_run, "streamed": not options.resume}
        sources = open_sources(opened, settings, registry, stack, **access)
        pair = pair_models(sources, registry, settings.random, composite, settings.fields)
        pair = add_joint_weights(pair, stack)
        make_plan = plan_dual_encoder if composite else plan_composition
        plan = make_plan(pair, options, settings, registry)
        return write_checkpoint(plan, options.output, options, [*pair.sources.values()])
