"""Which tensors of two models belong together, combined or stand-alone."""

from __future__ import annotations

from collections.abc import Mapping

from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import CROSS_ATTENTION
from converter.errors import UnsupportedError
from converter.models.model import Model
from converter.models.source_model import SourceModel
from converter.plan import SourceTensor


def matching_submodel(whole: Model, alone: Model) -> str | None:
    """The half of a combined model that a stand-alone one is, if it is of the family of any.

    Of two halves of one family, what attends to an encoder or is of a decoder's class is the
    decoder.
    """
    family = alone.configs[""].family
    halves = [half for half in whole.halves if whole.configs[half].family.name == family.name]
    if len(halves) < 2:
        return next(iter(halves), None)
    decodes = family.models[family.roles[halves[1]].model].name
    reads = family.models[family.roles[halves[0]].model].name
    slots = alone.target.by_name
    attends = any(slots[name].part == CROSS_ATTENTION for name in alone.report.matched)
    return halves[1 if attends or alone.name == decodes != reads else 0]


def align_names(model: Model, source: Model, half: str | None) -> Mapping[str, SourceTensor]:
    """The tensors of `source` by the names that they have in `model`.

    Args:
        model: whose names are wanted.
        source: whose tensors.
        half: which half of the source the model is, where the source alone is combined.
    """
    found = source.report.matched
    if half is None:
        return found
    lead = f"{half}."
    return {n.removeprefix(lead): each for n, each in found.items() if n.startswith(lead)}


def align_submodel_names(
    model: Model, source: Model, half: str, library: ArchitectureRegistry
) -> Mapping[str, SourceTensor]:
    """The tensors of a stand-alone model as `compose` puts them into a half of a combined one.

    A decoder that was taken out of a whole model gets the embeddings that this shares.

    Args:
        model: the combined one.
        source: the stand-alone one.
        half: which half it was made into.
        library: the mapping tables.
    """
    lead = f"{half}."
    own = {
        slot.name.removeprefix(lead): slot
        for slot in model.target.params
        if slot.name.startswith(lead)
    }
    raw = source.checkpoint.config
    taken = SourceModel.from_checkpoint(source.label, source.checkpoint, library, raw)
    taken.move_tied_values(own)
    return {lead + name: stored for name, stored in taken.report.matched.items()}


def check_related(model: Model, source: Model, found: Mapping[str, SourceTensor]) -> None:
    """Refuse a source that has no tensor in common with what it is said to be the source of.

    Raises:
        UnsupportedError: then.
    """
    if not any(name in model.target.by_name for name in found):
        kinds = [
            " and ".join(config.family.name for config in each.configs.values())
            for each in (source, model)
        ]
        raise UnsupportedError(
            f"{source.label}: is {kinds[0]}, but {model.checkpoint.directory} is {kinds[1]}",
            remedy="Give what it was made from: no tensor is in both.",
        )
