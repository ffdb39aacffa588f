"""Checks of built models: duplicate names, names that do not invert, dead ties and rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations, product

import msgspec
import numpy as np

from converter.architectures.cross_references import groups
from converter.architectures.expressions import NamePattern
from converter.architectures.model_config import ModelConfig
from converter.architectures.model_spec import ModelSpec, ModelSpecBuilder, ParamSpec
from converter.architectures.schema import (
    CROSS_ATTENTION,
    Architecture,
    Conventions,
    CrossAttentionInitRules,
    LayerType,
    ModuleEntry,
)
from converter.errors import ConverterError, Problem
from converter.tensors import Rearrangement, rearrange

_NUMBERS = (0, 1, 10, 23)
"""Numbers of one and two digits, which run into each other where placeholders touch."""


def check_rows(architecture: Architecture, conventions: Conventions) -> Iterator[Problem]:
    """Yield rows whose names do not invert, or that repeat what follows from a rule."""
    for group, rows in groups(architecture):
        for row in rows:
            yield from _inverts(architecture, row, conventions, f"{group}.{row.path}")
            yield from _redundant(architecture, row, conventions, f"{group}.{row.path}")


def check_layer_type(layer_type: LayerType) -> Iterator[Problem]:
    """Yield layouts of a layer type that cannot be converted to one another and back."""
    for param in layer_type.params:
        for one, other in permutations(param.layouts, 2):
            axes = param.layouts[one].axes, param.layouts[other].axes
            try:
                way = Rearrangement(*axes)
                shape = axes[0].shape({size: 2 + n for n, size in enumerate(layer_type.sizes)})
                values = np.arange(np.prod(shape, dtype=int)).reshape(shape)
                there = rearrange(values, way, np.empty(way.shape(shape), values.dtype))
                back = rearrange(there, way.inverse, np.empty_like(values))
                if np.array_equal(values, back):
                    continue
                found = "other values"
            except (ValueError, KeyError) as error:
                found = str(error)
            yield Problem(
                f"its layout cannot be converted to that of {other} and back",
                tensor=f"{layer_type.name}.{param.name}.{one}",
                expected="the same named axes in both",
                found=found,
                remedy="Correct the axes.",
            )


def check_models(
    architecture: Architecture, conventions: Conventions, configs: Sequence[ModelConfig]
) -> Iterator[Problem]:
    """Yield the problems of the models of some configurations."""
    builder = ModelSpecBuilder(conventions)
    names: set[str] = set()
    for config in configs:
        try:
            specs = [builder.model(config, heads=heads) for heads in architecture.head_sets()]
            for model in architecture.models.values():
                builder.model(config, model.parts, model.heads)
                if CROSS_ATTENTION in architecture.parts:
                    builder.model(config, (*model.parts, CROSS_ATTENTION), model.heads)
        except ConverterError as error:
            for problem in error.problems or [Problem(error.message)]:
                yield replace(problem, tensor=_folded(problem.tensor or "") or None)
            continue
        for spec in specs:
            yield from duplicate_names(spec, conventions)
            yield from _ignored_params(spec, architecture)
            names |= {param.name for param in spec.params}
    if names:
        yield from _dead(architecture, names)


def _dead(architecture: Architecture, names: set[str]) -> Iterator[Problem]:
    """Yield entries that apply to no tensor of any model."""
    entries = [
        (f"repeated.{dialect}.{layer}", pattern, f"lists {str(pattern)!r}, which no model has")
        for dialect, layers in architecture.repeated.items()
        for layer, patterns in layers.items()
        for pattern in patterns
    ]
    entries += [
        (f"tied.{name}", NamePattern(name), "ties a tensor that no model has")
        for name in architecture.ties
    ]
    for place, pattern, what in entries:
        if not any(pattern.match(param) is not None for param in names):
            yield Problem(
                what,
                tensor=place,
                expected="the canonical name of a tensor of some row",
                found="none of that name",
                remedy="Correct the name, or remove it.",
            )
    if CROSS_ATTENTION in architecture.parts and architecture.cross_attention_init:
        yield from _unused_init_rules(architecture.cross_attention_init, names)


def _unused_init_rules(table: CrossAttentionInitRules, names: set[str]) -> Iterator[Problem]:
    """Yield path components and counterparts that no tensor has."""
    for parts, other in table.copy_self_attention.items():
        alone = msgspec.structs.replace(table, copy_self_attention={parts: other})
        named = {name for name in names if alone.counterpart(name)}
        if not any(alone.counterpart(name) in names for name in named):
            yield Problem(
                f"copies from {other!r}, which no model has" if named else "is in no path",
                tensor=f"cross_attention_init.copy_self_attention.{parts}",
                expected="parts of the paths of cross-attention, and those of self-attention",
                found=repr(other),
                remedy="Correct the paths, or remove the entry.",
            )
    for path in table.zero_output:
        alone = msgspec.structs.replace(table, zero_output=(path,))
        if not any(alone.is_output(name) for name in names):
            yield Problem(
                "is not a module of any model",
                tensor="cross_attention_init.zero_output",
                expected="the last parts of the path of a module",
                found=repr(path),
                remedy="Correct the path, or remove it.",
            )


def duplicate_names(model_spec: ModelSpec, conventions: Conventions) -> Iterator[Problem]:
    """Names that two tensors claim in one dialect, be it to write or to read them."""
    for dialect in conventions.dialects:
        owners: dict[str, ParamSpec] = {}
        for param in model_spec.params:
            layout = param.stored_as.get(dialect)
            for name in (layout.name, *layout.aliases) if layout else ():
                owner = owners.setdefault(name, param)
                if owner is not param:
                    yield Problem(
                        f"{dialect} name {_folded(name)!r} is claimed twice",
                        tensor=_folded(param.name),
                        expected="names that mean one tensor each",
                        found=f"{_folded(owner.name)} claims it as well",
                        remedy="Rename one of the two rows, or take one out.",
                    )


def _ignored_params(model_spec: ModelSpec, architecture: Architecture) -> Iterator[Problem]:
    """Yield patterns that ignore a tensor of every model.

    Where a condition removes a row, files may still hold its tensors.
    """
    hit: set[tuple[str, NamePattern]] = set()
    for dialect, entries in model_spec.ignore.items():
        own = architecture.ignore.get(dialect, {})
        if dialect in architecture.collection:  # others may ignore its running statistics
            entries = tuple(entry for entry in entries if entry[1] in own)
        for name, param in model_spec.index(dialect).items():
            for prefix, pattern, _ in entries:
                if (
                    (dialect, pattern) not in hit
                    and name.startswith(prefix)
                    and pattern.match(name[len(prefix) :]) is not None
                    and not _conditional(architecture, param.name)
                ):
                    hit.add((dialect, pattern))
                    yield Problem(
                        "ignores a tensor that the model has",
                        tensor=f"ignore.{dialect}.{pattern}",
                        expected="names that no row claims",
                        found=_folded(name),
                        remedy="Remove the pattern, or the row.",
                    )


def _conditional(architecture: Architecture, name: str) -> bool:
    """Return whether models may lack the tensor of this canonical name."""
    paths = [
        f"{row.path}.{param.name}" if param.name else str(row.path)
        for _, rows in groups(architecture)
        for row in rows
        for param in row.layer_type.params
        if row.when
    ]
    return any(NamePattern(path).match(name) is not None for path in paths)


def _inverts(
    architecture: Architecture, row: ModuleEntry, conventions: Conventions, place: str
) -> Iterator[Problem]:
    """Check that the numbers in a name can be read back from it in every dialect."""
    places = row.path.places
    for dialect in conventions.dialects.values():
        override = row.paths.get(dialect.name)
        index = architecture.index_separator.get(dialect.name)
        pattern = override or NamePattern(dialect.path(row.path.text, index))
        for numbers in product(_NUMBERS, repeat=len(places)):
            numbers_by_name = dict(zip(places, numbers, strict=True))
            name = (
                override.format(numbers_by_name)
                if override
                else dialect.path(row.path.format(dict(numbers_by_name)), index)
            )
            if pattern.match(name) != numbers_by_name:
                yield Problem(
                    f"the {dialect.name} name does not invert",
                    tensor=place,
                    expected=f"{numbers_by_name} from {name!r}",
                    found=str(pattern.match(name)),
                    remedy="Put a letter or a separator between the placeholders.",
                )
                break


def _redundant(
    architecture: Architecture, row: ModuleEntry, conventions: Conventions, place: str
) -> Iterator[Problem]:
    """Yield names that follow from the dialect's rule anyway."""
    first = row.layer_type.params[0]
    for name, dialect in conventions.dialects.items():
        path = row.paths.get(name)
        usual = dialect.path(row.path.text, architecture.index_separator.get(name))
        if path and (name in row.not_in or path.text == usual):
            yield _changes_nothing(f"{place}.path.{name}", path.text)
        if name in row.param_names and (
            first.name in row.omitted
            or name not in first.layouts
            or row.param_names[name] == first.layouts[name].name
        ):
            yield _changes_nothing(f"{place}.param.{name}", row.param_names[name])


def _changes_nothing(place: str, text: str) -> Problem:
    return Problem(
        "changes nothing",
        tensor=place,
        expected="a name that differs from the dialect's own",
        found=repr(text),
        remedy="Remove it.",
    )


def _folded(name: str) -> str:
    """Return a name without its numbers, so that a problem of every layer is reported once."""
    return re.sub(r"\d+", "{…}", name)
