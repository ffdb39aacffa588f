"""Two checkpoints compared tensor by tensor, across containers, dialects and dtypes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.architectures.registry import ArchitectureRegistry
from converter.checkpoint.opening import open_files
from converter.errors import UnsupportedError
from converter.models.model import Model, resolve_model
from converter.option_declaration import takes
from converter.options import DiffOptions
from converter.plan import SourceTensor
from converter.progress import ProgressCounter
from converter.verification.comparison import Difference, canonical_shape, compare, thread_map
from converter.verification.name_alignment import align_names, matching_submodel


@dataclass(frozen=True)
class Comparison:
    """What `diff` found."""

    first: str
    second: str
    tolerance: float
    differences: Mapping[str, Difference]
    """Canonical name → how the tensors that both have differ."""
    only_first: Sequence[str]
    only_second: Sequence[str]
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    """Canonical name → the two shapes, where they are not the same."""
    unknown: Mapping[str, Sequence[str]]
    """Reference → stored tensors that its table does not know, which were not compared."""
    submodel: str | None = None
    """Where one is combined and the other stand-alone: the half that was compared, alone."""

    @property
    def differing(self) -> dict[str, Difference]:
        """Those that differ by more than the tolerance."""
        return {
            name: difference
            for name, difference in self.differences.items()
            if not difference.exact and not difference.max_abs <= self.tolerance
        }

    @property
    def equal(self) -> bool:
        """Whether both hold the same tensors with the same values, within the tolerance."""
        return not (
            self.differing
            or self.only_first
            or self.only_second
            or self.shapes
            or any(self.unknown.values())
        )

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {
            "first": self.first,
            "second": self.second,
            "tolerance": self.tolerance,
            "equal": self.equal,
            "half": self.submodel,
            "compared": len(self.differences),
            "exact": sum(difference.exact for difference in self.differences.values()),
            "differing": {name: found.to_dict() for name, found in self.differing.items()},
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
    registry = ArchitectureRegistry(Path(path) for path in options.mapping)
    with (
        open_files(first, options.first_config) as one,
        open_files(second, options.second_config) as two,
    ):
        models = (
            resolve_model(one, registry, label="first"),
            resolve_model(two, registry, label="second"),
        )
        found, submodel = _counterparts(*models)
        shared = [name for name in found[0] if name in found[1]]
        shapes = {
            name: (canonical_shape(found[0][name]), canonical_shape(found[1][name]))
            for name in shared
        }
        unequal = {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}
        pairs = [(name, found[0][name], found[1][name]) for name in shared if name not in unequal]
        count = ProgressCounter(options.progress).start_step(
            {pair[0]: _nbytes(pair) for pair in pairs}
        )
        compared = thread_map(_compare, pairs, options.jobs, lambda pair: count(pair[0]))
        return Comparison(
            first=str(first),
            second=str(second),
            tolerance=options.tolerance,
            differences={difference.name: difference for difference in compared},
            only_first=[name for name in found[0] if name not in found[1]],
            only_second=[name for name in found[1] if name not in found[0]],
            shapes=unequal,
            submodel=submodel,
            unknown={
                str(reference): _unknown(model)
                for reference, model in zip((first, second), models, strict=True)
            },
        )


def _counterparts(
    first: Model, second: Model
) -> tuple[tuple[Mapping[str, SourceTensor], Mapping[str, SourceTensor]], str | None]:
    """The tensors of both by the names of the stand-alone one, if one is; and the half it is."""
    submodel = None
    if bool(first.submodels) != bool(second.submodels):
        whole, alone = (first, second) if first.submodels else (second, first)
        submodel = matching_submodel(whole, alone)
        if submodel is None:
            architecture = alone.configs[""].architecture.name
            raise UnsupportedError(
                f"{alone.checkpoint.reference}: is a {architecture} model, which is no half of"
                f" {whole.checkpoint.reference}",
                remedy="Compare two combined models, or one with a checkpoint of either half.",
            )
        found = align_names(alone, whole, submodel)
        pair = (found, alone.report.matched)
        return (pair if whole is first else pair[::-1]), submodel
    return (first.report.matched, second.report.matched), submodel


def _compare(pair: tuple[str, SourceTensor, SourceTensor]) -> Difference:
    return compare(*pair)


def _nbytes(pair: tuple[str, SourceTensor, SourceTensor]) -> int:
    return sum(stored.tensor.spec.nbytes for stored in pair[1:])


def _unknown(model: Model) -> list[str]:
    odd = [spec.name for spec, _, _ in model.report.mismatched]
    return [*odd, *(spec.name for spec in model.report.unmatched)]
