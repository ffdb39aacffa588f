"""The comparison of two checkpoints tensor by tensor, across formats, dialects and dtypes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from converter.architectures.registry import ArchitectureRegistry
from converter.checkpoint.opening import open_files
from converter.display import Displayed
from converter.errors import UnsupportedError
from converter.models.model import Model, resolve_model
from converter.options import DiffOptions
from converter.progress import ProgressCounter
from converter.python_calls import takes
from converter.storage.references import display_name
from converter.verification.comparison import canonical_shape, compare, thread_map
from converter.verification.result import Difference
from converter.verification.source_comparison import matching_submodel, submodel_tensors


@dataclass(frozen=True, repr=False)
class Comparison(Displayed):
    """The result of `diff`."""

    first: str
    second: str
    tolerance: float
    differences: Mapping[str, Difference]
    """Canonical name of a tensor in both → the difference."""
    only_first: Sequence[str]
    only_second: Sequence[str]
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    """Canonical name → both shapes, where they differ."""
    unknown: Mapping[str, Sequence[str]]
    """Reference → stored tensors that the mapping table does not list, which were not compared."""
    submodel: str | None = None
    """The submodel that was compared, if one checkpoint is an encoder-decoder and the other not."""

    @property
    def differing(self) -> dict[str, Difference]:
        """Return the differences beyond the tolerance."""
        return {
            name: difference
            for name, difference in self.differences.items()
            if not difference.exact and not difference.max_abs <= self.tolerance
        }

    @property
    def equal(self) -> bool:
        """Return whether both hold the same tensors with the same values, within the tolerance."""
        return not (
            self.differing
            or self.only_first
            or self.only_second
            or self.shapes
            or any(self.unknown.values())
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON representation."""
        return {
            "first": self.first,
            "second": self.second,
            "tolerance": self.tolerance,
            "equal": self.equal,
            "submodel": self.submodel,
            "compared": len(self.differences),
            "exact": sum(difference.exact for difference in self.differences.values()),
            "differing": {name: each.to_dict() for name, each in self.differing.items()},
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
            "shapes": {name: [list(a), list(b)] for name, (a, b) in self.shapes.items()},
            "unknown": {name: list(names) for name, names in self.unknown.items()},
        }


@takes(DiffOptions)
def diff(options: DiffOptions) -> Comparison:
    """Compare two checkpoints by the canonical names of their tensors.

    Raises:
        UsageError: if the tolerance is not a number of at least 0.
        UnsupportedError: if one is an encoder-decoder model, and the other not a submodel of it.
        ConverterError: if one cannot be opened, or its architecture is not supported.

    """
    first, second = options.first, options.second
    registry = ArchitectureRegistry.for_user(options.mapping)
    with (
        open_files(first, options.first_config, option="--first-config") as one,
        open_files(second, options.second_config, option="--second-config") as two,
    ):
        models = (
            resolve_model(one, registry, label="first"),
            resolve_model(two, registry, label="second"),
        )
        submodel = _submodel(*models, registry)
        mine, theirs = (
            submodel_tensors(m, submodel if m.submodels else None, registry) for m in models
        )
        shapes = {
            name: (canonical_shape(mine[name]), canonical_shape(theirs[name]))
            for name in mine
            if name in theirs
        }
        unequal = {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}
        names = [name for name in shapes if name not in unequal]
        nbytes = {n: mine[n].tensor.spec.nbytes + theirs[n].tensor.spec.nbytes for n in names}
        differences = thread_map(
            lambda name: compare(name, mine[name], theirs[name]),
            names,
            options.jobs,
            ProgressCounter(options.progress).start_step(nbytes),
            lambda name: (mine[name], theirs[name]),
        )
        return Comparison(
            first=display_name(first),
            second=display_name(second),
            tolerance=options.tolerance,
            differences=dict(zip(names, differences, strict=True)),
            only_first=[name for name in mine if name not in theirs],
            only_second=[name for name in theirs if name not in mine],
            shapes=unequal,
            submodel=submodel,
            unknown={
                display_name(reference): _unknown(model)
                for reference, model in zip((first, second), models, strict=True)
            },
        )


def _submodel(first: Model, second: Model, registry: ArchitectureRegistry) -> str | None:
    """Return the submodel to compare if one model is an encoder-decoder and the other is not."""
    if bool(first.submodels) == bool(second.submodels):
        return None
    composite, model = (first, second) if first.submodels else (second, first)
    submodel = matching_submodel(composite, model, registry)
    if submodel is None:
        raise UnsupportedError(
            f"{model.checkpoint.reference}: is a {model.configs[''].architecture.name} model, which"
            f" is not a submodel of {composite.checkpoint.reference}",
            remedy="Compare two encoder-decoder models, or one with its encoder or decoder.",
        )
    return submodel


def _unknown(model: Model) -> list[str]:
    mismatched = [spec.name for spec, _, _ in model.key_match.mismatched]
    return [*mismatched, *(spec.name for spec in model.key_match.unmatched)]
