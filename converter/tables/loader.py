"""From the text of a table to `Family`, `Composite` or `Vocabulary`, refusing every slip."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any, TypeVar

from converter.errors import Problem, TableError
from converter.tables.expressions import Expression, Value
from converter.tables.schema import (
    FRAMEWORKS,
    Composite,
    Dialect,
    Family,
    Init,
    Kind,
    Leaf,
    LeafSpelling,
    Limit,
    ModelClass,
    Role,
    Row,
    Tie,
    Token,
    Vocabulary,
)
from converter.tables.section import Section
from converter.tables.templates import Template
from converter.tensors import Axes

T = TypeVar("T")

_MAX_BYTES = 1 << 20
_INIT = re.compile(r"(normal|truncated-normal|uniform|constant)\((.+)\)")
_ROW_KEYS = ("when", "without", "init", "path", "leaf", "also")
_BASE = {"always": True, "beside a head": False}
_CLASS_PREFIX = {"pytorch": "", "tensorflow": "TF", "flax": "Flax"}


def parse_toml(text: bytes, file: str) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        TableError: if it is too large, not UTF-8, or not TOML (duplicate keys included).
    """
    if len(text) > _MAX_BYTES:
        raise TableError(f"{file}: a mapping table of {len(text)} bytes; at most {_MAX_BYTES}")
    try:
        return tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TableError(f"{file}: not a TOML file: {error}") from error


def load_vocabulary(data: Mapping[str, Any], file: str) -> Vocabulary:
    """What families share, from the content of ``_dialects.toml``.

    Raises:
        TableError: with every problem found.
    """
    problems: list[Problem] = []
    root = Section(data, "", problems, file)
    dialects = {}
    listed = root.section("dialects")
    for name in listed:
        entry = listed.section(name)
        base = entry.require("base", str, "always")
        if base not in _BASE:
            entry.complain(f"{base!r} is none of {', '.join(_BASE)}", "base")
        dialects[name] = Dialect(
            name,
            separator=entry.require("separator", str, "."),
            index=entry.require("index", str, "."),
            base_always=_BASE.get(base, True),
            suffix=entry.take("suffix", str, ""),
            wrappers=entry.names("wrappers"),
        )
        entry.finish("separator, index, base, suffix, wrappers")
    kinds = {name: _kind(name, root.section(name), dialects) for name in root}
    return _checked(Vocabulary(dialects, kinds), problems, file)


def _kind(name: str, section: Section, dialects: Mapping[str, Dialect]) -> Kind:
    sizes = tuple(_split_sizes(section.require("sizes", str, "")))
    leaves = []
    for leaf_name in section:
        entry = section.section(leaf_name)
        init = entry.require("init", str, "normal")
        if init not in ("normal", "zeros", "ones"):
            entry.complain(f"{init!r} is none of normal, zeros, ones", "init")
        spellings = {}
        for dialect in entry:
            if dialect not in dialects:
                entry.complain(f"{dialect!r} is no dialect")
                entry.take(dialect, dict, {})
                continue
            spelled = entry.section(dialect)
            axes = spelled.parsed("axes", Axes.parse, spelled.require("axes", str, ""))
            if axes and not set(axes.names) <= set(sizes):
                spelled.complain(f"'{axes}' names axes that are not among the sizes", "axes")
            leaf = spelled.require("leaf", str, "")
            spellings[dialect] = LeafSpelling(leaf, axes or Axes(()), spelled.names("also"))
            spelled.finish("leaf, axes, also")
        if len({frozenset(spelling.axes.names) for spelling in spellings.values()}) > 1:
            entry.complain("its dialects name different axes")
        leaves.append(Leaf(leaf_name, init, spellings))
    return Kind(name, sizes, tuple(leaves))


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
    family = Family(
        name=root.require("family", str, ""),
        title=root.require("title", str, ""),
        base=_base(root, vocabulary),
        layers=_expressions(root.section("layers")),
        init=_init(root, "init", root.take("init", str, "normal(0.02)")),
        config=config,
        measures=_expressions(root.section("measures")),
        modules=_rows(root.section("modules"), vocabulary),
        parts={name: _rows(parts.section(name), vocabulary) for name in parts},
        heads={name: _rows(heads.section(name), vocabulary) for name in heads},
        models=_models(root.section("models"), frameworks),
        roles=_roles(root.section("roles")),
        ties=_ties(root.section("tied"), vocabulary),
        drops=_drops(root.section("drop"), vocabulary),
        limits=_limits(root, file, problems),
        tokens=_tokens(root.section("tokens")),
        sha256=sha256,
    )
    root.finish()
    return _checked(family, problems, file)


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
        modules=_rows(root.section("modules"), vocabulary),
        sha256=sha256,
    )
    root.finish("composite, title, halves, classes, modules")
    return _checked(composite, problems, file)


def _checked(table: T, problems: list[Problem], file: str) -> T:
    if problems:
        raise TableError(f"{file}: the mapping table breaks {len(problems)} rule(s)", problems)
    return table


def _split_sizes(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"->|,", text)]


def _init(section: Section, key: str, text: str) -> Init:
    found = _INIT.fullmatch(text)
    if not found:
        section.complain(
            f"{text!r} is none of normal(…), truncated-normal(…), uniform(…), constant(…)", key
        )
        return Init("normal", Expression("0.02"))
    scale = section.parsed(key, Expression, found[2])
    return Init(found[1], scale or Expression("0.02"))


def _rows(section: Section, vocabulary: Vocabulary) -> tuple[Row, ...]:
    rows = []
    for path in section:
        entry = section.section(path)
        kinds = [key for key in entry if key in vocabulary.kinds]
        if len(kinds) != 1:
            entry.complain(
                f"must name one kind of module, not {len(kinds)}",
                remedy="kinds: " + ", ".join(vocabulary.kinds),
            )
            continue
        kind = vocabulary.kinds[kinds[0]]
        texts = _split_sizes(entry.take(kind.name, str, ""))
        if len(texts) != len(kind.sizes):
            entry.complain(f"{kind.name} takes sizes '{' -> '.join(kind.sizes)}'", kind.name)
        sizes = [entry.parsed(kind.name, Expression, text) for text in texts]
        init = entry.take("init", str, "")
        without = entry.names("without", tuple(leaf.name for leaf in kind.leaves))
        template = entry.parsed("", Template, path)
        paths = {
            dialect: entry.parsed("path", Template, str(text))
            for dialect, text in _by_dialect(entry, "path", vocabulary).items()
        }
        for dialect, other in paths.items():
            if other and template and set(other.places) != set(template.places):
                entry.complain(f"the {dialect} path has other places than the row", "path")
        rows.append(
            Row(
                path=template or Template("?"),
                kind=kind,
                sizes=tuple(size for size in sizes if size),
                when=entry.expression("when"),
                without=frozenset(without),
                init=_init(entry, "init", init) if init else None,
                paths={dialect: other for dialect, other in paths.items() if other},
                leaves=_by_dialect(entry, "leaf", vocabulary),
                also=_also(entry, vocabulary),
            )
        )
        entry.finish(", ".join((*_ROW_KEYS, "or one kind of module")))
    return tuple(rows)


def _by_dialect(section: Section, key: str, vocabulary: Vocabulary) -> dict[str, str]:
    spelled = section.section(key)
    found = {name: spelled.take(name, str, "") for name in spelled if name in vocabulary.dialects}
    spelled.finish(", ".join(vocabulary.dialects))
    return found


def _also(section: Section, vocabulary: Vocabulary) -> dict[str, tuple[Template, ...]]:
    listed = section.section("also")
    found = {}
    for dialect in listed:
        if dialect in vocabulary.dialects:
            templates = [listed.parsed(dialect, Template, name) for name in listed.names(dialect)]
            found[dialect] = tuple(template for template in templates if template)
    listed.finish(", ".join(vocabulary.dialects))
    return found


def _base(root: Section, vocabulary: Vocabulary) -> dict[str, str]:
    """One name for all dialects, or a table of one for each."""
    if root.holds("base", dict):
        return _by_dialect(root, "base", vocabulary)
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
        models[name] = ModelClass(name, entry.names("parts"), entry.names("heads"), classes)
        entry.finish("parts, heads, frameworks, " + ", ".join(FRAMEWORKS))
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
        )
        if roles[name].frameworks != FRAMEWORKS and not roles[name].why:
            entry.complain("leaves out a framework and must say why", "frameworks")
        entry.finish("model, frameworks, why, config, composite")
    return roles


def _ties(section: Section, vocabulary: Vocabulary) -> dict[str, Tie]:
    ties = {}
    for name in section:
        entry = section.section(name)
        to = entry.parsed("to", Template, entry.require("to", str, ""))
        stored = entry.names("stored", tuple(vocabulary.dialects))
        ties[name] = Tie(to or Template("?"), entry.expression("unless"), frozenset(stored))
        entry.finish("to, unless, stored")
    return ties


def _drops(section: Section, vocabulary: Vocabulary) -> dict[str, dict[Template, str]]:
    drops: dict[str, dict[Template, str]] = {}
    for dialect in section:
        entry = section.section(dialect)
        if dialect not in vocabulary.dialects:
            section.complain(f"{dialect!r} is no dialect")
        drops[dialect] = {}
        for name in entry:
            template = entry.parsed(name, Template, name)
            reason = entry.take(name, str, "")
            if not reason:
                entry.complain("must give the reason", name)
            if template:
                drops[dialect][template] = reason
    return drops


def _limits(root: Section, file: str, problems: list[Problem]) -> tuple[Limit, ...]:
    limits = []
    for number, data in enumerate(root.take("limits", list, [])):
        if not isinstance(data, dict):
            root.complain("must be tables", "limits")
            continue
        entry = Section(data, f"limits[{number}]", problems, file)
        limits.append(
            Limit(
                when=entry.expression("when") or Expression("false"),
                frameworks=entry.names("frameworks", FRAMEWORKS),
                reason=entry.require("reason", str, ""),
                head=entry.take("head", str, "") or None,
            )
        )
        entry.finish("when, frameworks, reason, head")
    return tuple(limits)


def _tokens(section: Section) -> dict[str, Token]:
    tokens = {}
    for name in section:
        entry = section.section(name)
        tokens[name] = Token(entry.require("token", str, ""), entry.require("id", int, 0))
        entry.finish("token, id")
    return tokens
