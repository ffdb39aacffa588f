"""Checks of built models: duplicate names, names that do not invert, dead ties and rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations, product

import msgspec
import numpy as np

from converter.architectures.cross_references import groups
from converter.architectures.model_config import ModelConfig
from converter.architectures.model_spec import ModelSpec, ModelSpecBuilder, ParamSpec
from converter.architectures.name_patterns import NamePattern
from converter.architectures.schema import (
    CROSS_ATTENTION,
    Architecture,
    Conventions,
    CrossAttentionInitRules,
    LayerType,
    ModuleEntry,
)
from converter.errors import ConverterError, Problem
from converter.tensors import Rearrangement
from converter.tensors.rearrangement import rearrange

_NUMBERS = (0, 1, 10, 23)
"""Numbers of one and two digits, which run into each other where places touch."""


def check_rows(
    architecture: Architecture, conventions: Conventions, file: str
) -> Iterator[Problem]:
    """Rows whose names do not invert, or that say what holds anyway."""
    for group, rows in groups(architecture):
        for row in rows:
            yield from _inverts(architecture, row, conventions, file, f"{group}.{row.path}")
            yield from _redundant(architecture, row, conventions, file, f"{group}.{row.path}")


def check_layer_type(kind: LayerType, file: str) -> Iterator[Problem]:
    """Layouts of a kind of module that do not lead to one another and back."""
    for leaf in kind.params:
        for one, other in permutations(leaf.layouts, 2):
            axes = leaf.layouts[one].axes, leaf.layouts[other].axes
            try:
                way = Rearrangement(*axes)
                shape = axes[0].shape({size: 2 + n for n, size in enumerate(kind.sizes)})
                values = np.arange(np.prod(shape, dtype=int)).reshape(shape)
                there = rearrange(values, way, np.empty(way.shape(shape), values.dtype))
                back = rearrange(there, way.inverse, np.empty_like(values))
                if np.array_equal(values, back):
                    continue
                found = "other values"
            except (ValueError, KeyError) as error:
                found = str(error)
            yield Problem(
                f"its layout does not lead to that of {other} and back",
                file,
                f"{kind.name}.{leaf.name}.{one}",
                expected="the same named axes in both",
                found=found,
                remedy="Correct the axes.",
            )


def check_models(
    architecture: Architecture, conventions: Conventions, configs: Sequence[ModelConfig], file: str
) -> Iterator[Problem]:
    """Yield the problems of the models of some configurations."""
    builder = ModelSpecBuilder(conventions)
    met: set[str] = set()
    for config in configs:
        try:
            whole = builder.model(config)
            for model in architecture.models.values():
                builder.model(config, model.parts, model.heads)
                if CROSS_ATTENTION in architecture.parts:
                    builder.model(config, (*model.parts, CROSS_ATTENTION), model.heads)
        except ConverterError as error:
            for problem in error.problems or [Problem(error.message)]:
                yield replace(problem, file=file, tensor=_folded(problem.tensor or "") or None)
            continue
        yield from duplicate_names(whole, conventions, file)
        yield from _ignored_params(whole, architecture, file)
        met |= {param.name for param in whole.params}
    if met:
        yield from _dead(architecture, met, file)


def _dead(architecture: Architecture, met: set[str], file: str) -> Iterator[Problem]:
    """Entries that concern no tensor of any model."""
    repeated = [
        (f"repeated.{dialect}.{layer}", template)
        for dialect, layers in architecture.repeated.items()
        for layer, templates in layers.items()
        for template in templates
    ]
    for place, template in repeated:
        if not any(template.match(param) is not None for param in met):
            yield Problem(
                f"lists {str(template)!r}, which no model has",
                file,
                place,
                expected="the canonical name of a tensor of some row",
                found="none of that name",
                remedy="Correct the name, or take it out.",
            )
    if CROSS_ATTENTION in architecture.parts and architecture.cross_attention_init:
        yield from _unused_init_rules(architecture.cross_attention_init, met, file)
    for name in architecture.ties:
        if not any(NamePattern(name).match(param) is not None for param in met):
            yield Problem(
                "ties a tensor that no model has",
                file,
                f"tied.{name}",
                expected="the canonical name of a tensor of some row",
                found="none of that name",
                remedy="Correct the name, or take the tie out.",
            )


def _unused_init_rules(
    table: CrossAttentionInitRules, met: set[str], file: str
) -> Iterator[Problem]:
    """Parts of paths that no tensor has, and counterparts that there are none of."""
    for parts, other in table.copy_self_attention.items():
        alone = msgspec.structs.replace(table, copy_self_attention={parts: other})
        named = {name for name in met if alone.counterpart(name)}
        if not any(alone.counterpart(name) in met for name in named):
            yield Problem(
                f"copies from {other!r}, which no model has" if named else "is in no path",
                file,
                f"cross_attention_init.copies.{parts}",
                expected="parts of the paths of cross-attention, and those of self-attention",
                found=repr(other),
                remedy="Correct the paths, or take the entry out.",
            )
    for path in table.zero_output:
        alone = msgspec.structs.replace(table, zero_output=(path,))
        if not any(alone.is_output(name) for name in met):
            yield Problem(
                "is no module of any model",
                file,
                "cross_attention_init.output",
                expected="the last parts of the path of a module",
                found=repr(path),
                remedy="Correct the path, or take it out.",
            )


def duplicate_names(
    model_spec: ModelSpec, conventions: Conventions, file: str
) -> Iterator[Problem]:
    """Names that two tensors claim in one dialect, be it to write or to read them."""
    for dialect in conventions.dialects:
        owners: dict[str, ParamSpec] = {}
        for param in model_spec.params:
            spelling = param.stored_as.get(dialect)
            for name in (spelling.name, *spelling.aliases) if spelling else ():
                owner = owners.setdefault(name, param)
                if owner is not param:
                    yield Problem(
                        f"{dialect} name {_folded(name)!r} is claimed twice",
                        file,
                        _folded(param.name),
                        expected="names that mean one tensor each",
                        found=f"{_folded(owner.name)} claims it as well",
                        remedy="Rename one of the two rows, or take one out.",
                    )


def _ignored_params(
    model_spec: ModelSpec, architecture: Architecture, file: str
) -> Iterator[Problem]:
    """Yield patterns that ignore a tensor of every model.

    Where a condition removes a row, files may still hold its tensors.
    """
    hit: set[tuple[str, NamePattern]] = set()
    for dialect, entries in model_spec.ignore.items():
        for name, param in model_spec.index(dialect).items():
            for prefix, template, _ in entries:
                if (
                    (dialect, template) not in hit
                    and name.startswith(prefix)
                    and template.match(name[len(prefix) :]) is not None
                    and not _conditional(architecture, param.name)
                ):
                    hit.add((dialect, template))
                    yield Problem(
                        "ignores a tensor that the model has",
                        file,
                        f"ignore.{dialect}.{template}",
                        expected="names that no row claims",
                        found=_folded(name),
                        remedy="Remove the pattern, or the row.",
                    )


def _conditional(architecture: Architecture, name: str) -> bool:
    """Whether the tensor of this canonical name is one that models may lack."""
    paths = [
        f"{row.path}.{leaf.name}" if leaf.name else str(row.path)
        for _, rows in groups(architecture)
        for row in rows
        for leaf in row.layer_type.params
        if row.when
    ]
    return any(NamePattern(path).match(name) is not None for path in paths)


def _inverts(
    architecture: Architecture, row: ModuleEntry, conventions: Conventions, file: str, place: str
) -> Iterator[Problem]:
    """Whether the numbers in a name can be told from the name in every dialect."""
    places = row.path.places
    for dialect in conventions.dialects.values():
        spelled = row.paths.get(dialect.name)
        index = architecture.index_separator.get(dialect.name)
        template = spelled or NamePattern(dialect.path(row.path.text, index))
        for numbers in product(_NUMBERS, repeat=len(places)):
            wanted = dict(zip(places, numbers, strict=True))
            name = (
                spelled.format(wanted)
                if spelled
                else dialect.path(row.path.format(dict(wanted)), index)
            )
            if template.match(name) != wanted:
                yield Problem(
                    f"the {dialect.name} name does not invert",
                    file,
                    place,
                    expected=f"{wanted} from {name!r}",
                    found=str(template.match(name)),
                    remedy="Put a letter or a separator between the places.",
                )
                break


def _redundant(
    architecture: Architecture, row: ModuleEntry, conventions: Conventions, file: str, place: str
) -> Iterator[Problem]:
    """Spellings that say what follows from the dialect's rule anyway."""
    first = row.layer_type.params[0]
    for name, dialect in conventions.dialects.items():
        path = row.paths.get(name)
        usual = dialect.path(row.path.text, architecture.index_separator.get(name))
        if path and (name in row.not_in or path.text == usual):
            yield _changes_nothing(file, f"{place}.path.{name}", path.text)
        if name in row.param_names and (
            first.name in row.omitted
            or name not in first.layouts
            or row.param_names[name] == first.layouts[name].name
        ):
            yield _changes_nothing(file, f"{place}.param.{name}", row.param_names[name])


def _changes_nothing(file: str, place: str, text: str) -> Problem:
    return Problem(
        "changes nothing",
        file,
        place,
        expected="a spelling that differs from the dialect's own",
        found=repr(text),
        remedy="Remove it.",
    )


def _folded(name: str) -> str:
    """Return a name without its numbers, so that a problem of every layer is reported once."""
    return re.sub(r"\d+", "{…}", name)
