"""Checking a mapping table as a whole, beyond what loading it shows.

A family's table is drawn with small configurations that bring out every row (`probes`), and the
models are looked at (`soundness`); a table that extends another must change it (`inheritance`); a
composite's table must fit the families that can be its halves. Nothing is raised: every finding
is a `Problem` that says where it is and how to mend it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from converter.architectures.conventions import load_vocabulary
from converter.architectures.cross_references import unused_fields, unused_groups
from converter.architectures.model_checks import (
    check_rows,
    duplicate_names,
    unsound_kind,
    unsound_models,
)
from converter.architectures.model_config import ModelConfig
from converter.architectures.model_spec import ModelSpec, ModelSpecBuilder
from converter.architectures.registry import (
    DIALECTS,
    MERGED,
    MERGED_DEEPLY,
    OWN,
    ArchitectureRegistry,
)
from converter.architectures.sample_configs import probes
from converter.architectures.schema import (
    CROSS_ATTENTION,
    FRAMEWORKS,
    Composite,
    Conventions,
    Family,
)
from converter.architectures.toml_section import parse_toml, read_table
from converter.errors import ConverterError, Problem, TableError


def redundant_overrides(
    parent: Mapping[str, Any], child: Mapping[str, Any], file: str
) -> Iterator[Problem]:
    """Whatever `child` states although `parent` says the very same.

    Args:
        parent: the content of the extended table, its own parents resolved.
        child: the content of the table itself.
        file: what messages call it.
    """
    for key, value in child.items():
        if key not in parent or key in OWN:
            continue
        if key in (*MERGED, *MERGED_DEEPLY) and isinstance(value, dict):
            yield from _same(parent[key], value, key, key in MERGED_DEEPLY, file)
        elif value == parent[key]:
            yield _idle(key, file)


def _same(parent: Any, child: Mapping[str, Any], place: str, deeply: bool, file: str) -> Any:
    if not isinstance(parent, dict):
        return
    for key, value in child.items():
        if key not in parent:
            continue
        if deeply and isinstance(value, dict):
            yield from _same(parent[key], value, f"{place}.{key}", False, file)
        elif type(value) is type(parent[key]) and value == parent[key]:
            yield _idle(f"{place}.{key}", file)


def _idle(place: str, file: str) -> Problem:
    return Problem(
        "changes nothing",
        file,
        place,
        expected="something else than in the table that is extended",
        found="the same",
        remedy="Take it out.",
    )


def lint(path: Path, library: ArchitectureRegistry | None = None) -> list[Problem]:
    """Everything that is wrong with a mapping table.

    Args:
        path: the table's file: a family's, a composite's, or ``_dialects.toml``.
        library: the tables that it may extend; the bundled ones by default.

    Returns:
        The findings, none twice; none at all for a good table.
    """
    library = library or ArchitectureRegistry()
    try:
        found = list(_findings(path, library))
    except ConverterError as error:
        found = list(error.problems) or [_problem(error, str(path))]
    return list(dict.fromkeys(found))


def _problem(error: ConverterError, file: str) -> Problem:
    """An error as a finding in `file`, which it may name itself."""
    return Problem(error.message.removeprefix(f"{file}: "), file, remedy=error.remedy)


def _findings(path: Path, library: ArchitectureRegistry) -> Iterator[Problem]:
    file = str(path)
    if path.stem == DIALECTS:
        yield from _vocabulary(load_vocabulary(parse_toml(read_table(path), file), file), file)
        return
    library, name = library.with_table(path)
    if library.is_composite(name):
        yield from _composite(library.composite(name), library, file)
        return
    family = library.family(name)
    child, parent = library.contents(name)
    if parent is not None:
        yield from redundant_overrides(parent, child, file)
    yield from unused_fields(family, child.get("config", {}), file)
    yield from unused_groups(family, {*child.get("parts", {}), *child.get("heads", {})}, file)
    if "warm_start" in child and CROSS_ATTENTION not in family.parts:
        yield Problem(
            "concerns cross-attention, which the family has not",
            file,
            "warm_start",
            remedy="Take it out.",
        )
    yield from _family(family, library, file)


def _family(family: Family, library: ArchitectureRegistry, file: str) -> Iterator[Problem]:
    yield from _halves(family, library, file)
    yield from check_rows(family, library.vocabulary, file)
    configs, problems = probes(family, file)
    yield from problems
    yield from unsound_models(family, library.vocabulary, configs, file)


def _halves(family: Family, library: ArchitectureRegistry, file: str) -> Iterator[Problem]:
    """Whether composites find in the family what they ask its halves for."""
    composites = [library.composite(name) for name in library.names if library.is_composite(name)]
    known = {half for composite in composites for half in composite.halves}
    for role in family.roles:
        if role not in known:
            yield Problem(
                "is the half of no composite",
                file,
                f"roles.{role}",
                expected=", ".join(sorted(known)),
                found=role,
                remedy="Correct the name.",
            )
    for composite in composites:
        for place, name in _measures(composite):
            half, _, measure = name.partition(".")
            if _may_be(family, half, composite) and measure not in family.measures:
                yield Problem(
                    f"lacks {measure!r}",
                    file,
                    "measures",
                    expected=f"what {composite.name} asks its {half} for in {place}",
                    found=", ".join(family.measures),
                    remedy=f'Name the field: {measure} = "…".',
                )


def _may_be(family: Family, half: str, composite: Composite) -> bool:
    """Whether the family can be a half of the composite; the first half decides which it is."""
    if half not in family.roles:
        return False
    return half != composite.halves[0] or family.roles[half].composite == composite.name


def _measures(composite: Composite) -> Iterator[tuple[str, str]]:
    """Where a composite asks for a measure of a half, and for which."""
    for row in composite.modules:
        place = f"modules.{row.path}"
        asked = [(row.kind.name, size) for size in row.sizes]
        asked += [("when", row.when)] if row.when else []
        asked += [("init", row.init.scale)] if row.init else []
        for key, expression in asked:
            yield from ((f"{place}.{key}", name) for name in sorted(expression.fields))
    for number, limit in enumerate(composite.limits):
        place = f"limits[{number}].when"
        yield from ((place, name) for name in sorted(limit.when.fields))


def _composite(composite: Composite, library: ArchitectureRegistry, file: str) -> Iterator[Problem]:
    def problem(place: str, what: str, expected: str, found: str, remedy: str) -> Problem:
        return Problem(what, file, place, expected, found, remedy)

    if len(set(composite.halves)) != len(composite.halves):
        yield problem("halves", "are one", "two names", composite.halves[0], "Rename one.")
    if not composite.classes:
        yield problem("classes", "is empty", ", ".join(FRAMEWORKS), "none", "Name the classes.")
    families = _families(library)
    measures = {measure for family in families for measure in family.measures}
    broken = False
    for place, name in _measures(composite):
        half, _, measure = name.partition(".")
        if half not in composite.halves or measure not in measures:
            broken = True
            known = f"{' or '.join(composite.halves)}, a dot, and one of {', '.join(measures)}"
            yield problem(place, "asks for no measure of a half", known, name, "Correct the name.")
    for row in composite.modules:
        place = f"modules.{row.path}"
        if row.path.places:
            broken = True
            yield problem(place, "has places", "none", ", ".join(row.path.places), "Fill them.")
        draws = any(
            leaf.init == "normal" and leaf.name not in row.without for leaf in row.kind.leaves
        )
        if row.init is None and draws:
            yield problem(
                place,
                "does not say how fresh weights are drawn, and there is no family that does",
                'such as init = "normal(decoder.init_range)"',
                "no init",
                "Write it.",
            )
    if not broken:
        yield from _joined(composite, families, library.vocabulary, file)


def _families(library: ArchitectureRegistry) -> list[Family]:
    """All families whose tables can be read; what is wrong with another is not of this table."""
    found = []
    for name in library.names:
        with suppress(TableError):
            if not library.is_composite(name):
                found.append(library.family(name))
    return found


def _joined(
    composite: Composite, families: Iterable[Family], vocabulary: Conventions, file: str
) -> Iterator[Problem]:
    """Draws the composite with halves of equal and of unequal measures."""
    draftsman = ModelSpecBuilder(vocabulary)
    first, second = composite.halves
    encoders = [family for family in families if _may_be(family, first, composite)]
    decoders = [family for family in families if second in family.roles]
    met: set[str] = set()
    drawn = 0
    for one in encoders[:1]:
        for other in decoders:
            halves = {
                half: ModelConfig(family, config.raw)
                for half, family in ((first, one), (second, other))
                for config in probes(family, file)[0][:1]
            }
            if len(halves) < 2:
                continue
            try:
                models = {half: _half(draftsman, half, config) for half, config in halves.items()}
            except TableError:  # a family's own mistake, found in its own table
                continue
            whole = draftsman.composite(composite, halves, models)
            drawn += 1
            met |= {slot.name for slot in whole.params}
            yield from duplicate_names(whole, vocabulary, file)
    for row in composite.modules:
        if drawn and not any(name.startswith(row.path.text) for name in met):
            yield Problem(
                "the row is dead: no two halves bring it out",
                file,
                f"modules.{row.path}",
                expected="a condition that some halves meet",
                found=str(row.when),
                remedy="Correct the condition, or take the row out.",
            )


def _half(draftsman: ModelSpecBuilder, half: str, config: ModelConfig) -> ModelSpec:
    role = config.family.roles[half]
    model = config.family.models[role.model]
    has = CROSS_ATTENTION in config.family.parts and half == "decoder"
    parts = (*model.parts, CROSS_ATTENTION) if has else model.parts
    return draftsman.model(config, parts, model.heads, prefix=half)


def _vocabulary(vocabulary: Conventions, file: str) -> Iterator[Problem]:
    for kind in vocabulary.kinds.values():
        yield from unsound_kind(kind, file)
        named = {
            axis
            for leaf in kind.leaves
            for spelled in leaf.spellings.values()
            for axis in spelled.axes.names
        }
        for size in sorted(set(kind.sizes) - named):
            yield Problem(
                f"no tensor has the size {size!r}",
                file,
                f"{kind.name}.sizes",
                expected="sizes that some tensor's axes name",
                found=", ".join(kind.sizes),
                remedy="Take it out, or name it in axes.",
            )
        for dialect in vocabulary.dialects:
            names = [
                name
                for leaf in kind.leaves
                if dialect in leaf.spellings
                for name in (leaf.spellings[dialect].leaf, *leaf.spellings[dialect].also)
            ]
            for name in sorted({name for name in names if names.count(name) > 1}):
                yield Problem(
                    f"two tensors of the kind are called {name!r}",
                    file,
                    f"{kind.name}",
                    expected=f"distinct names in {dialect}",
                    found=", ".join(names),
                    remedy="Rename one.",
                )
