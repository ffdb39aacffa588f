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
    architecture = alone.configs[""].architecture
    submodels = [
        submodel
        for submodel in whole.submodels
        if whole.configs[submodel].architecture.name == architecture.name
    ]
    if len(submodels) < 2:
        return next(iter(submodels), None)
    decodes = architecture.models[architecture.roles[submodels[1]].model].name
    reads = architecture.models[architecture.roles[submodels[0]].model].name
    params = alone.target.by_name
    attends = any(params[name].part == CROSS_ATTENTION for name in alone.report.matched)
    return submodels[1 if attends or alone.name == decodes != reads else 0]


def align_names(model: Model, source: Model, submodel: str | None) -> Mapping[str, SourceTensor]:
    """The tensors of `source` by the names that they have in `model`.

    Args:
        model: whose names are wanted.
        source: whose tensors.
        submodel: which half of the source the model is, where the source alone is combined.

    """
    found = source.report.matched
    if submodel is None:
        return found
    lead = f"{submodel}."
    return {n.removeprefix(lead): each for n, each in found.items() if n.startswith(lead)}


def align_submodel_names(
    model: Model, source: Model, submodel: str, registry: ArchitectureRegistry
) -> Mapping[str, SourceTensor]:
    """The tensors of a stand-alone model as `compose` puts them into a half of a combined one.

    A decoder that was taken out of a whole model gets the embeddings that this shares.

    Args:
        model: the combined one.
        source: the stand-alone one.
        submodel: which half it was made into.
        registry: the mapping tables.

    """
    lead = f"{submodel}."
    own = {
        param.name.removeprefix(lead): param
        for param in model.target.params
        if param.name.startswith(lead)
    }
    raw = source.checkpoint.config
    taken = SourceModel.from_checkpoint(source.label, source.checkpoint, registry, raw)
    taken.move_tied_values(own)
    return {lead + name: stored for name, stored in taken.report.matched.items()}


def check_related(model: Model, source: Model, found: Mapping[str, SourceTensor]) -> None:
    """Refuse a source that has no tensor in common with what it is said to be the source of.

    Raises:
        UnsupportedError: then.

    """
    if not any(name in model.target.by_name for name in found):
        kinds = [
            " and ".join(config.architecture.name for config in each.configs.values())
            for each in (source, model)
        ]
        raise UnsupportedError(
            f"{source.label}: is {kinds[0]}, but {model.checkpoint.directory} is {kinds[1]}",
            remedy="Give what it was made from: no tensor is in both.",
        )
