"""From the content of a table to `Architecture` or `Composite`, refusing every slip."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from converter.architectures.cross_references import references
from converter.architectures.expressions import Expression, Value
from converter.architectures.name_patterns import NamePattern
from converter.architectures.schema import (
    FRAMEWORKS,
    Architecture,
    Composite,
    Conventions,
    CrossAttentionInitRules,
    Init,
    LanguageCodes,
    LegacyDetection,
    ModelClass,
    ModuleEntry,
    Role,
    Tie,
    Token,
    UnsupportedConfig,
)
from converter.architectures.toml_section import TomlSection, raise_if_problems, split_sizes
from converter.errors import Problem

_INIT = re.compile(
    r"(normal|truncated-normal|uniform|constant|sinusoidal|frequencies|window-distances|count)\((.+)\)"
)
_ROW_KEYS = ("when", "without", "init", "path", "leaf", "also", "not_in")


def load_rows(section: TomlSection, conventions: Conventions) -> tuple[ModuleEntry, ...]:
    """The rows of a section: of each path one, or alternatives that conditions choose from."""
    rows = []
    for path, entry in [(key, each) for key in section for each in section.alternatives(key)]:
        kinds = [key for key in entry if key in conventions.layer_types]
        if len(kinds) != 1:
            entry.add_problem(
                f"must name one kind of module, not {len(kinds)}",
                remedy="kinds: " + ", ".join(conventions.layer_types),
            )
            continue
        kind = conventions.layer_types[kinds[0]]
        texts = split_sizes(entry.take(kind.name, str, ""))
        if len(texts) != len(kind.sizes):
            entry.add_problem(f"{kind.name} takes sizes '{' -> '.join(kind.sizes)}'", kind.name)
        sizes = [entry.parsed(kind.name, Expression, text) for text in texts]
        init = entry.take("init", str, "")
        without = entry.names("without", tuple(leaf.name for leaf in kind.params))
        template = entry.parsed("", NamePattern, path)
        paths = {
            dialect: entry.parsed("path", NamePattern, str(text))
            for dialect, text in by_dialect(entry, "path", conventions).items()
        }
        for dialect, other in paths.items():
            if other and template and set(other.places) != set(template.places):
                entry.add_problem(f"the {dialect} path has other places than the row", "path")
        rows.append(
            ModuleEntry(
                path=template or NamePattern("?"),
                layer_type=kind,
                sizes=tuple(size for size in sizes if size),
                when=entry.expression("when"),
                omitted=frozenset(without),
                init=load_init(entry, "init", init) if init else None,
                paths={dialect: other for dialect, other in paths.items() if other},
                param_names=by_dialect(entry, "leaf", conventions),
                aliases=_also(entry, conventions),
                not_in=frozenset(entry.names("not_in", _may_lack(conventions))),
            )
        )
        entry.finish(", ".join((*_ROW_KEYS, "or one kind of module")))
    return tuple(rows)


def load_init(section: TomlSection, key: str, text: str) -> Init:
    """A rule for fresh weights from `text`; a slip becomes a problem at `key`."""
    found = _INIT.fullmatch(text)
    if not found:
        section.add_problem(
            f"{text!r} is none of normal(…), truncated-normal(…), uniform(…), constant(…), "
            "sinusoidal(…), frequencies(…), window-distances(…), count(…)",
            key,
        )
        return Init("normal", Expression("0.02"))
    scale = section.parsed(key, Expression, found[2])
    return Init(found[1], scale or Expression("0.02"))


def _may_lack(conventions: Conventions) -> tuple[str, ...]:
    """The dialects that may lack a module: all but that of the canonical names."""
    return tuple(name for name in conventions.dialects if name != FRAMEWORKS[0])


def by_dialect(section: TomlSection, key: str, conventions: Conventions) -> dict[str, str]:
    """Take a table of one text for each dialect."""
    spelled = section.section(key)
    found = {name: spelled.take(name, str, "") for name in spelled if name in conventions.dialects}
    spelled.finish(", ".join(conventions.dialects))
    return found


def _also(section: TomlSection, conventions: Conventions) -> dict[str, tuple[NamePattern, ...]]:
    listed = section.section("also")
    found = {}
    for dialect in listed:
        if dialect in conventions.dialects:
            templates = [
                listed.parsed(dialect, NamePattern, name) for name in listed.names(dialect)
            ]
            found[dialect] = tuple(template for template in templates if template)
    listed.finish(", ".join(conventions.dialects))
    return found


def load_tokens(section: TomlSection) -> dict[str, Token]:
    """The special tokens by their roles in generation."""
    tokens = {}
    for name in section:
        entry = section.section(name)
        tokens[name] = Token(
            entry.require("token", str, ""),
            entry.require("id", int, 0),
            entry.take("always", bool, False),
        )
        entry.finish("token, id, always")
    return tokens


def load_languages(section: TomlSection) -> LanguageCodes | None:
    """The codes of languages, ``None`` where a table has none."""
    if not list(section):
        return None
    groups = section.take("codes", list, [])
    if not groups or not all(
        isinstance(group, list) and group and all(isinstance(code, str) for code in group)
        for group in groups
    ):
        section.add_problem("must be lists of codes, one for each size of vocabulary", "codes")
        groups = []
    codes = [code for group in groups for code in group]
    for code in dict.fromkeys(code for code in codes if codes.count(code) > 1):
        section.add_problem(f"{code!r} stands twice", "codes")
    form = section.take("form", str, "{}")
    if form.count("{}") != 1 or form.replace("{}", "").strip("{}") != form.replace("{}", ""):
        section.add_problem("must have one {} for the name of the language", "form")
        form = "{}"
    found = LanguageCodes(
        codes=tuple(tuple(group) for group in groups),
        first_id=section.require("first", int, 0),
        format=form,
        after_start_token=frozenset(section.names("follows")),
    )
    section.finish("codes, first, form, follows")
    return found


def load_original(
    section: TomlSection, fields: Collection[str], models: Collection[str]
) -> LegacyDetection | None:
    """Read the section, ``None`` where a table has none.

    Args:
        section: what the table says.
        fields: the configuration fields that the table knows.
        models: the classes that it knows.

    """
    if not list(section):
        return None
    named, without = section.names("fields"), section.names("without")
    if not named:
        section.add_problem("must name the fields that a configuration is told by", "fields")
    templates = [section.parsed("tensors", NamePattern, text) for text in section.names("tensors")]
    if not templates:
        section.add_problem("must name a tensor that a release is told by", "tensors")
    renamed = section.section("rename")
    rename = {old: renamed.take(old, str, "") for old in renamed}
    for old, new in rename.items():
        if new not in fields:
            renamed.add_problem(f"{new!r} is no field under [config]", old)
    model = section.take("model", str, "") or None
    if model is not None and model not in models:
        section.add_problem(f"there is no model {model!r} under [models]", "model")
    section.finish("fields, without, tensors, rename, model")
    return LegacyDetection(
        fields=frozenset(named),
        absent_fields=frozenset(without),
        tensors=tuple(template for template in templates if template),
        rename_fields=rename,
        model=model,
    )


T = TypeVar("T")

NORMS = ("before", "after")
"""Where a layer norm stands, of the branch or of the sum that it is added to."""

_CLASS_PREFIX = {"pytorch": "", "tensorflow": "TF", "flax": "Flax"}


def load_architecture(
    data: Mapping[str, Any], file: str, conventions: Conventions, sha256: str = ""
) -> Architecture:
    """A family from its table, ``extends`` already resolved.

    Raises:
        TableError: with every problem found.

    """
    problems: list[Problem] = []
    root = TomlSection(data, "", problems, file)
    frameworks = root.names("frameworks", FRAMEWORKS) or FRAMEWORKS
    nullable = root.names("nullable")
    config = {
        **{key: _value(value) for key, value in root.take("config", dict, {}).items()},
        **dict.fromkeys(nullable),
    }
    parts, heads = root.section("parts"), root.section("heads")
    models = _models(root.section("models"), frameworks)
    architecture = Architecture(
        name=root.require("family", str, ""),
        title=root.require("title", str, ""),
        base_model_prefix=_base(root, conventions),
        layers=_expressions(root.section("layers")),
        init=load_init(root, "init", root.take("init", str, "normal(0.02)")),
        config=config,
        attributes=_expressions(root.section("measures")),
        modules=load_rows(root.section("modules"), conventions),
        parts={name: load_rows(parts.section(name), conventions) for name in parts},
        heads={name: load_rows(heads.section(name), conventions) for name in heads},
        models=models,
        roles=_roles(root.section("roles")),
        ties=_ties(root.section("tied"), conventions),
        ignore=_drops(root.section("drop"), conventions),
        repeated=_relisted(root.section("relisted"), conventions),
        unsupported=_limits(root, file, problems),
        tokens=load_tokens(root.section("tokens")),
        languages=load_languages(root.section("languages")),
        tokenizer=root.take("tokenizer", str, "") or None,
        cross_attention_init=_warm_start(root.section("warm_start")),
        index_separator=by_dialect(root, "index", conventions),
        nested_in=root.section("within").texts(),
        legacy_detection=load_original(root.section("original"), config, models),
        sha256=sha256,
    )
    root.finish()
    return raise_if_problems(architecture, [*problems, *references(architecture, file)], file)


def load_composite(
    data: Mapping[str, Any], file: str, conventions: Conventions, sha256: str = ""
) -> Composite:
    """A composite from its table.

    Raises:
        TableError: with every problem found.

    """
    problems: list[Problem] = []
    root = TomlSection(data, "", problems, file)
    submodels = root.names("halves")
    if len(submodels) != 2:
        root.add_problem('must name two halves, such as ["encoder", "decoder"]', "halves")
        submodels = ("encoder", "decoder")
    classes = root.take("classes", dict, {})
    for framework in set(classes) - set(FRAMEWORKS):
        root.add_problem(f"{framework!r} is none of {', '.join(FRAMEWORKS)}", "classes")
    composite = Composite(
        name=root.require("composite", str, ""),
        title=root.require("title", str, ""),
        submodels=(submodels[0], submodels[1]),
        classes=classes,
        modules=load_rows(root.section("modules"), conventions),
        tied_by=root.take("shared", str, ""),
        unsupported=_limits(root, file, problems),
        sha256=sha256,
    )
    root.finish("composite, title, halves, shared, classes, modules, limits")
    return raise_if_problems(composite, problems, file)


def _base(root: TomlSection, conventions: Conventions) -> dict[str, str]:
    """One name for all dialects, or a table of one for each."""
    if root.holds("base", dict):
        return by_dialect(root, "base", conventions)
    return dict.fromkeys(conventions.dialects, root.take("base", str, ""))


def _expressions(section: TomlSection) -> dict[str, Expression]:
    found = {key: section.expression(key) for key in section}
    return {key: expression for key, expression in found.items() if expression}


def _value(value: Any) -> Value:
    """A configuration field's default as expressions see it."""
    return tuple(value) if isinstance(value, list) else value


def _models(section: TomlSection, family_frameworks: tuple[str, ...]) -> dict[str, ModelClass]:
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


def _roles(section: TomlSection) -> dict[str, Role]:
    roles = {}
    for name in section:
        entry = section.section(name)
        roles[name] = Role(
            model=entry.require("model", str, ""),
            frameworks=entry.names("frameworks", FRAMEWORKS) or FRAMEWORKS,
            reason=entry.take("why", str, "") or None,
            config=entry.take("config", dict, {}),
            composite=entry.take("composite", str, Role.composite),
            note=entry.take("note", str, "") or None,
        )
        if roles[name].frameworks != FRAMEWORKS and not roles[name].reason:
            entry.add_problem("leaves out a framework and must say why", "frameworks")
        entry.finish("model, frameworks, why, config, composite, note")
    return roles


def _ties(section: TomlSection, conventions: Conventions) -> dict[str, Tie]:
    ties = {}
    for name in section:
        entry = section.section(name)
        to = entry.parsed("to", NamePattern, entry.require("to", str, ""))
        ties[name] = Tie(
            to or NamePattern("?"),
            entry.expression("unless"),
            _stored(entry, conventions),
            entry.take("stored_without", str, "") or None,
            entry.take("beside", str, "") or None,
        )
        entry.finish("to, unless, stored, stored_without, beside")
    return ties


def _stored(entry: TomlSection, conventions: Conventions) -> dict[str, Expression | None]:
    """The dialects whose files hold a tied tensor: a list of them, or each with its condition."""
    if entry.holds("stored", list):
        return dict.fromkeys(entry.names("stored", tuple(conventions.dialects)))
    stored = entry.section("stored")
    found: dict[str, Expression | None] = {}
    for name in [name for name in stored if name in conventions.dialects]:
        if not stored.holds(name, bool):
            found[name] = stored.expression(name)
        elif stored.take(name, bool, True):
            found[name] = None
    stored.finish(", ".join(conventions.dialects))
    return found


def _drops(section: TomlSection, conventions: Conventions) -> dict[str, dict[NamePattern, str]]:
    drops: dict[str, dict[NamePattern, str]] = {}
    for dialect in section:
        entry = section.section(dialect)
        if dialect not in conventions.dialects:
            section.add_problem(f"{dialect!r} is no dialect")
        drops[dialect] = entry.reasons()
    return drops


def _relisted(
    section: TomlSection, conventions: Conventions
) -> dict[str, dict[str, tuple[NamePattern, ...]]]:
    relisted: dict[str, dict[str, tuple[NamePattern, ...]]] = {}
    for dialect in section:
        entry = section.section(dialect)
        if dialect not in conventions.dialects:
            section.add_problem(f"{dialect!r} is no dialect")
        relisted[dialect] = {}
        for layer in entry:
            templates = [entry.parsed(layer, NamePattern, name) for name in entry.names(layer)]
            relisted[dialect][layer] = tuple(template for template in templates if template)
    return relisted


def _limits(root: TomlSection, file: str, problems: list[Problem]) -> tuple[UnsupportedConfig, ...]:
    limits = []
    for number, data in enumerate(root.take("limits", list, [])):
        if not isinstance(data, dict):
            root.add_problem("must be tables", "limits")
            continue
        entry = TomlSection(data, f"limits[{number}]", problems, file)
        limits.append(
            UnsupportedConfig(
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


def _warm_start(section: TomlSection) -> CrossAttentionInitRules | None:
    if not list(section):
        return None
    found = CrossAttentionInitRules(
        copy_self_attention=section.section("copies").texts(),
        zero_output=section.names("output"),
        norm=section.require("norm", str, NORMS[0]),
    )
    if found.norm not in NORMS:
        section.add_problem(f"{found.norm!r} is none of {', '.join(NORMS)}", "norm")
    section.finish("copies, output, norm")
    return found
