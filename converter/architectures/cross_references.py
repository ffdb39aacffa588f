"""Checks that every reference in a table has a target, and every declaration a use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from converter.architectures.expressions import Expression, NamePattern
from converter.architectures.schema import CROSS_ATTENTION, FRAMEWORKS, Architecture, ModuleEntry
from converter.errors import Problem

TOKENS = ("start", "end", "pad")
"""What special tokens do in generation."""

DECODER = "decoder"
"""The role that needs cross-attention."""

Complain = Callable[..., None]


def check_references(architecture: Architecture, file: str) -> list[Problem]:
    """Return a problem for every name that refers to nothing, and every unused declaration."""
    problems: list[Problem] = []

    def add_problem(place: str, what: str, expected: str | None, remedy: str) -> None:
        problems.append(Problem(what, file, place, expected=expected, remedy=remedy))

    _expressions(architecture, add_problem)
    _places(architecture, add_problem)
    _groups(architecture, add_problem)
    _roles(architecture, add_problem)
    _ties(architecture, add_problem)
    _check_cross_attention_init(architecture, add_problem)
    _check_detection(architecture, add_problem)
    _check_reasons(architecture, add_problem)
    return problems


def groups(architecture: Architecture) -> Iterator[tuple[str, tuple[ModuleEntry, ...]]]:
    """Yield the sections of the table that have rows, with the rows."""
    yield "modules", architecture.modules
    for name, rows in architecture.parts.items():
        yield f"parts.{name}", rows
    for name, rows in architecture.heads.items():
        yield f"heads.{name}", rows


def expressions(architecture: Architecture) -> Iterator[tuple[str, Expression, tuple[str, ...]]]:
    """Yield key path, expression, and the placeholders that it may use as well as fields."""
    for name, expression in architecture.layers.items():
        others = tuple(other for other in architecture.layers if other != name)
        yield f"layers.{name}", expression, others
    yield "init", architecture.init.scale, ()
    for name, expression in architecture.attributes.items():
        yield f"attributes.{name}", expression, ()
    for group, rows in groups(architecture):
        for row in rows:
            place = f"{group}.{row.path}"
            for size in row.sizes:
                yield f"{place}.{row.layer_type.name}", size, row.path.places
            if row.when:
                yield f"{place}.when", row.when, row.path.places
            if row.init:
                yield f"{place}.init", row.init.scale, ()
    for name, tie in architecture.ties.items():
        if tie.when:
            yield f"tied.{name}.when", tie.when, ()
        for dialect, condition in tie.stored_in.items():
            if condition:
                yield f"tied.{name}.stored_in.{dialect}.when", condition, ()
    for name, unsupported in architecture.unsupported.items():
        yield f"unsupported.{name}.when", unsupported.when, ()


def unused_fields(architecture: Architecture, own: Iterable[str]) -> Iterator[Problem]:
    """Yield a problem for each unused field among `own`, those that the table itself lists."""
    used = {name for _, expression, _ in expressions(architecture) for name in expression.fields}
    for name in own:
        if name not in used:
            yield Problem(
                "the field is used nowhere",
                tensor=f"config.{name}",
                expected="a size, condition, attribute or layer count that depends on it",
                remedy="Remove it.",
            )


def unused_groups(architecture: Architecture, own: Iterable[str]) -> Iterator[Problem]:
    """Yield a problem for each part or head among `own`, those of the table itself, of no model."""
    used = {CROSS_ATTENTION} if DECODER in architecture.roles else set()
    for model in architecture.models.values():
        used |= {*model.parts, *model.heads}
    for group, _ in groups(architecture):
        kind, _, name = group.partition(".")
        if name in own and name not in used:
            yield Problem(
                "no model has it",
                tensor=group,
                expected=f"a model under [models] that names it among its {kind}",
                remedy="Name it there, or remove it.",
            )


def _expressions(architecture: Architecture, add_problem: Complain) -> None:
    for place, expression, placeholders in expressions(architecture):
        for name in sorted(expression.fields - set(architecture.config) - set(placeholders)):
            add_problem(
                place,
                f"{str(expression)!r} names {name!r}, which is not a field",
                f"a field under [config]: {_listed(architecture.config)}",
                f"Correct the name, or list {name!r} with its default under [config].",
            )
    for name, default in architecture.config.items():
        items = default if isinstance(default, tuple) else (default,)
        if not all(item is None or isinstance(item, int | float | str) for item in items):
            add_problem(
                f"config.{name}",
                f"{default!r} is not a value for expressions",
                "a number, a string, true, false, or a list of such",
                "Leave the field out, or list it under nullable.",
            )


def _places(architecture: Architecture, add_problem: Complain) -> None:
    used: set[str] = set()
    numbered = {
        row.path.text[: found.start()]
        for _, rows in groups(architecture)
        for row in rows
        for found in re.finditer(r"\.\{", row.path.text)
    }
    for group, rows in groups(architecture):
        for row in rows:
            for prefix in sorted(numbered):
                if re.match(re.escape(prefix) + r"\.[^\d{]", row.path.text):
                    add_problem(
                        f"{group}.{row.path}",
                        f"lacks the placeholder that follows {prefix!r} in other rows",
                        f"{prefix}.{{…}}, as lists of modules have it",
                        "Add the placeholder.",
                    )
            used |= set(row.path.places)
            if not row.path.text or row.path.open_ended:
                add_problem(
                    f"{group}.{row.path}",
                    "the row's path names no module",
                    "a path such as encoder.layer.{layer}.output",
                    "Write the complete path of the module.",
                )
            for name in row.path.places:
                if name not in architecture.layers:
                    add_problem(
                        f"{group}.{row.path}",
                        f"{{{name}}} is not declared: how many {{{name}}} are there?",
                        f"a placeholder under layers: {_listed(architecture.layers)}",
                        f"Correct the placeholder, or declare it: layers = {{ {name} = … }}.",
                    )
            if len(row.omitted) == len(row.layer_type.params):
                add_problem(
                    f"{group}.{row.path}",
                    "the row is dead: it omits every parameter of its layer type",
                    f"some of {_listed(param.name for param in row.layer_type.params)} to stay",
                    "Remove the row.",
                )
    for name in architecture.layers:
        if name not in used:
            add_problem(
                f"layers.{name}",
                f"no path has the placeholder {{{name}}}",
                "a row that uses it",
                "Remove it.",
            )


def _check_name(
    add_problem: Complain, place: str, name: str | None, defined: Iterable[str], noun: str
) -> None:
    """Check that `name`, if given, is one of those that are defined."""
    names = set(defined)
    if name is not None and name not in names:
        what = f"{name!r} is not {noun}"
        add_problem(place, what, f"one of {_listed(names)}", "Correct the name, or define it.")


def _groups(architecture: Architecture, add_problem: Complain) -> None:
    """Check parts and heads against the models that have them."""
    for name in sorted({*architecture.parts} & {*architecture.heads}):
        add_problem(f"heads.{name}", "a part has the same name", "distinct names", "Rename one.")
    for model in architecture.models.values():
        place = f"models.{model.name}"
        for name in model.parts:
            _check_name(add_problem, f"{place}.parts", name, architecture.parts, "a part")
        for name in model.heads:
            _check_name(add_problem, f"{place}.heads", name, architecture.heads, "a head")
    for group, rows in groups(architecture):
        if not rows:
            add_problem(group, "has no rows", "at least one module", "Write them or remove it.")
    for name, unsupported in architecture.unsupported.items():
        place = f"unsupported.{name}"
        _check_name(add_problem, f"{place}.role", unsupported.role, architecture.roles, "a role")
        _check_name(add_problem, f"{place}.head", unsupported.head, architecture.heads, "a head")


def _roles(architecture: Architecture, add_problem: Complain) -> None:
    for name, role in architecture.roles.items():
        place = f"roles.{name}.model"
        _check_name(add_problem, place, role.model, architecture.models, "a model under [models]")
    has_part, has_role = CROSS_ATTENTION in architecture.parts, DECODER in architecture.roles
    if has_part and not has_role:
        add_problem(
            f"parts.{CROSS_ATTENTION}",
            f"there is cross-attention, but no role {DECODER!r}",
            "cross-attention only in architectures that can be a decoder",
            f"Write [roles] {DECODER} = …, or remove the part: {CROSS_ATTENTION} = false.",
        )
    elif has_role and not has_part:
        add_problem(
            f"roles.{DECODER}",
            f"there is a {DECODER}, but no cross-attention",
            f"[parts.{CROSS_ATTENTION}]",
            f"Write [parts.{CROSS_ATTENTION}], or remove the role.",
        )
    needed = {"width"} if architecture.roles else set()
    if has_role or architecture.tokens:
        needed.add("vocabulary")
    for name in sorted(needed - set(architecture.attributes)):
        expected = "width in an architecture with roles, vocabulary in one of texts"
        add_problem("attributes", f"lacks {name!r}", expected, f'Name the field: {name} = "…".')
    for name in architecture.tokens:
        _check_name(add_problem, f"tokens.{name}", name, TOKENS, "a role of a token")
    if architecture.languages and "start" not in architecture.tokens:
        add_problem(
            "languages",
            "there is no start token for texts without a language code",
            "a start token as well as [languages]",
            "Write [tokens] start = …",
        )


def _ties(architecture: Architecture, add_problem: Complain) -> None:
    groups = {*architecture.parts, *architecture.heads}
    for name, tie in architecture.ties.items():
        for key, group in (("requires", tie.requires), ("stored_without", tie.stored_without)):
            _check_name(add_problem, f"tied.{name}.{key}", group, groups, "a part or head")
        for place in sorted(set(tie.to.places) - set(NamePattern(name).places)):
            add_problem(
                f"tied.{name}.to",
                f"{{{place}}} is not in the tied name",
                "placeholders of the tied name only",
                "Use the same placeholders on both sides.",
            )


def _check_cross_attention_init(architecture: Architecture, add_problem: Complain) -> None:
    rules = architecture.cross_attention_init
    if rules and CROSS_ATTENTION in architecture.parts and not rules.zero_output:
        add_problem(
            "cross_attention_init.zero_output",
            "is empty",
            "the last modules of cross-attention",
            "Name them, such as crossattention.output.dense.",
        )
    if rules and rules.default == "copy-self-attention" and not rules.copy_self_attention:
        add_problem(
            "cross_attention_init.default",
            "is a copy, without copy_self_attention",
            "what cross-attention copies",
            "Write copy_self_attention, or leave the default out.",
        )


def _check_detection(architecture: Architecture, add_problem: Complain) -> None:
    rules = architecture.detection
    if rules is None:
        return
    each = [(f"alternatives[{n}].", rule) for n, rule in enumerate(rules.alternatives)]
    if not (rules.nested_in or each) or rules.fields or rules.tensors:
        each.append(("", rules))
    for place, rule in each:
        for key, values in (("fields", rule.fields), ("tensors", rule.tensors)):
            if not values:
                expected = "the fields and tensors that a release has"
                add_problem(f"detection.{place}{key}", "is empty", expected, "List at least one.")
    for old, new in rules.rename_fields.items():
        place = f"detection.rename_fields.{old}"
        _check_name(add_problem, place, new, architecture.config, "a field under [config]")
    _check_name(
        add_problem, "detection.model", rules.model, architecture.models, "a model under [models]"
    )


def _check_reasons(architecture: Architecture, add_problem: Complain) -> None:
    """Check that everything that is left out has a reason."""
    places = [
        f"roles.{name}.frameworks"
        for name, role in architecture.roles.items()
        if set(role.frameworks) != set(FRAMEWORKS) and not role.reason
    ]
    places += [
        f"ignore.{dialect}.{pattern}"
        for dialect, patterns in architecture.ignore.items()
        for pattern, reason in patterns.items()
        if not reason
    ]
    for place in places:
        add_problem(place, "leaves something out without a reason", "a reason", "Write it.")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "(none)"
