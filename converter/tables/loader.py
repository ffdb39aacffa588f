"""From the content of a table to `Family` or `Composite`, refusing every slip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from converter.errors import Problem
from converter.tables.expressions import Expression, Value
from converter.tables.original import load_original
from converter.tables.references import references
from converter.tables.rows import by_dialect, load_init, load_rows
from converter.tables.schema import (
    FRAMEWORKS,
    Composite,
    Family,
    Limit,
    ModelClass,
    Role,
    Tie,
    Vocabulary,
    WarmStart,
)
from converter.tables.section import Section, checked
from converter.tables.templates import Template
from converter.tables.tokens import load_languages, load_tokens

T = TypeVar("T")

NORMS = ("before", "after")
"""Where a layer norm stands, of the branch or of the sum that it is added to."""

_CLASS_PREFIX = {"pytorch": "", "tensorflow": "TF", "flax": "Flax"}


def load_family(
    data: Mapping[str, Any], file: str, vocabulary: Vocabulary, sha256: str = ""
) -> Family:
    """A family from its table, ``extends`` already resolved.

    Raises:
        TableError: with every problem found.
    """
    problems: list[Problem] = []
    root = Section(data, "", problems, file)
    frameworks = root.names("frameworks", FRAMEWORKS) or FRAMEWORKS
    nullable = root.names("nullable")
    config = {
        **{key: _value(value) for key, value in root.take("config", dict, {}).items()},
        **dict.fromkeys(nullable),
    }
    parts, heads = root.section("parts"), root.section("heads")
    models = _models(root.section("models"), frameworks)
    family = Family(
        name=root.require("family", str, ""),
        title=root.require("title", str, ""),
        base=_base(root, vocabulary),
        layers=_expressions(root.section("layers")),
        init=load_init(root, "init", root.take("init", str, "normal(0.02)")),
        config=config,
        measures=_expressions(root.section("measures")),
        modules=load_rows(root.section("modules"), vocabulary),
        parts={name: load_rows(parts.section(name), vocabulary) for name in parts},
        heads={name: load_rows(heads.section(name), vocabulary) for name in heads},
        models=models,
        roles=_roles(root.section("roles")),
        ties=_ties(root.section("tied"), vocabulary),
        drops=_drops(root.section("drop"), vocabulary),
        relisted=_relisted(root.section("relisted"), vocabulary),
        limits=_limits(root, file, problems),
        tokens=load_tokens(root.section("tokens")),
        languages=load_languages(root.section("languages")),
        tokenizer=root.take("tokenizer", str, "") or None,
        warm_start=_warm_start(root.section("warm_start")),
        index=by_dialect(root, "index", vocabulary),
        within=root.section("within").texts(),
        original=load_original(root.section("original"), config, models),
        sha256=sha256,
    )
    root.finish()
    return checked(family, [*problems, *references(family, file)], file)


def load_composite(
    data: Mapping[str, Any], file: str, vocabulary: Vocabulary, sha256: str = ""
) -> Composite:
    """A composite from its table.

    Raises:
        TableError: with every problem found.
    """
    problems: list[Problem] = []
    root = Section(data, "", problems, file)
    halves = root.names("halves")
    if len(halves) != 2:
        root.complain('must name two halves, such as ["encoder", "decoder"]', "halves")
        halves = ("encoder", "decoder")
    classes = root.take("classes", dict, {})
    for framework in set(classes) - set(FRAMEWORKS):
        root.complain(f"{framework!r} is none of {', '.join(FRAMEWORKS)}", "classes")
    composite = Composite(
        name=root.require("composite", str, ""),
        title=root.require("title", str, ""),
        halves=(halves[0], halves[1]),
        classes=classes,
        modules=load_rows(root.section("modules"), vocabulary),
        shared=root.take("shared", str, ""),
        limits=_limits(root, file, problems),
        sha256=sha256,
    )
    root.finish("composite, title, halves, shared, classes, modules, limits")
    return checked(composite, problems, file)


def _base(root: Section, vocabulary: Vocabulary) -> dict[str, str]:
    """One name for all dialects, or a table of one for each."""
    if root.holds("base", dict):
        return by_dialect(root, "base", vocabulary)
    return dict.fromkeys(vocabulary.dialects, root.take("base", str, ""))


def _expressions(section: Section) -> dict[str, Expression]:
    found = {key: section.expression(key) for key in section}
    return {key: expression for key, expression in found.items() if expression}


def _value(value: Any) -> Value:
    """A configuration field's default as expressions see it."""
    return tuple(value) if isinstance(value, list) else value


def _models(section: Section, family_frameworks: tuple[str, ...]) -> dict[str, ModelClass]:
    models = {}
    for name in section:
        entry = section.section(name)
        frameworks = entry.names("frameworks", family_frameworks) or family_frameworks
        classes = {
            framework: entry.take(framework, str, _CLASS_PREFIX[framework] + name)
            for framework in frameworks
        }
        parts, lacking = entry.names("parts"), entry.section("without")
        without = {name: frozenset(lacking.names(name, parts)) for name in classes}
        lacking.finish(", ".join(classes))
        models[name] = ModelClass(
            name,
            parts,
            entry.names("heads"),
            classes,
            {framework: lacks for framework, lacks in without.items() if lacks},
        )
        entry.finish("parts, heads, without, frameworks, " + ", ".join(FRAMEWORKS))
    return models


def _roles(section: Section) -> dict[str, Role]:
    roles = {}
    for name in section:
        entry = section.section(name)
        roles[name] = Role(
            model=entry.require("model", str, ""),
            frameworks=entry.names("frameworks", FRAMEWORKS) or FRAMEWORKS,
            why=entry.take("why", str, "") or None,
            config=entry.take("config", dict, {}),
            composite=entry.take("composite", str, Role.composite),
            note=entry.take("note", str, "") or None,
        )
        if roles[name].frameworks != FRAMEWORKS and not roles[name].why:
            entry.complain("leaves out a framework and must say why", "frameworks")
        entry.finish("model, frameworks, why, config, composite, note")
    return roles


def _ties(section: Section, vocabulary: Vocabulary) -> dict[str, Tie]:
    ties = {}
    for name in section:
        entry = section.section(name)
        to = entry.parsed("to", Template, entry.require("to", str, ""))
        ties[name] = Tie(
            to or Template("?"),
            entry.expression("unless"),
            _stored(entry, vocabulary),
            entry.take("stored_without", str, "") or None,
            entry.take("beside", str, "") or None,
        )
        entry.finish("to, unless, stored, stored_without, beside")
    return ties


def _stored(entry: Section, vocabulary: Vocabulary) -> dict[str, Expression | None]:
    """The dialects whose files hold a tied tensor: a list of them, or each with its condition."""
    if entry.holds("stored", list):
        return dict.fromkeys(entry.names("stored", tuple(vocabulary.dialects)))
    stored = entry.section("stored")
    found: dict[str, Expression | None] = {}
    for name in [name for name in stored if name in vocabulary.dialects]:
        if not stored.holds(name, bool):
            found[name] = stored.expression(name)
        elif stored.take(name, bool, True):
            found[name] = None
    stored.finish(", ".join(vocabulary.dialects))
    return found


def _drops(section: Section, vocabulary: Vocabulary) -> dict[str, dict[Template, str]]:
    drops: dict[str, dict[Template, str]] = {}
    for dialect in section:
        entry = section.section(dialect)
        if dialect not in vocabulary.dialects:
            section.complain(f"{dialect!r} is no dialect")
        drops[dialect] = entry.reasons()
    return drops


def _relisted(
    section: Section, vocabulary: Vocabulary
) -> dict[str, dict[str, tuple[Template, ...]]]:
    relisted: dict[str, dict[str, tuple[Template, ...]]] = {}
    for dialect in section:
        entry = section.section(dialect)
        if dialect not in vocabulary.dialects:
            section.complain(f"{dialect!r} is no dialect")
        relisted[dialect] = {}
        for layer in entry:
            templates = [entry.parsed(layer, Template, name) for name in entry.names(layer)]
            relisted[dialect][layer] = tuple(template for template in templates if template)
    return relisted


def _limits(root: Section, file: str, problems: list[Problem]) -> tuple[Limit, ...]:
    limits = []
    for number, data in enumerate(root.take("limits", list, [])):
        if not isinstance(data, dict):
            root.complain("must be tables", "limits")
            continue
        entry = Section(data, f"limits[{number}]", problems, file)
        limits.append(
            Limit(
                when=entry.parsed("when", Expression, entry.require("when", str, "false"))
                or Expression("false"),
                frameworks=entry.names("frameworks", FRAMEWORKS) or FRAMEWORKS,
                reason=entry.require("reason", str, ""),
                head=entry.take("head", str, "") or None,
                role=entry.take("role", str, "") or None,
            )
        )
        entry.finish("when, frameworks, reason, head, role")
    return tuple(limits)


def _warm_start(section: Section) -> WarmStart | None:
    if not list(section):
        return None
    found = WarmStart(
        copies=section.section("copies").texts(),
        output=section.names("output"),
        norm=section.require("norm", str, NORMS[0]),
    )
    if found.norm not in NORMS:
        section.complain(f"{found.norm!r} is none of {', '.join(NORMS)}", "norm")
    section.finish("copies, output, norm")
    return found
