"""Mapping tables as ``converter families`` and ``converter check-table`` print them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from converter.architectures.schema import FRAMEWORKS
from converter.report.terminal_text import (
    Part,
    count,
    grouped,
    heading,
    indented,
    line,
    lines,
    rendered,
    table,
)

if TYPE_CHECKING:
    from converter.commands.check_table import TableCheck
    from converter.commands.families import Families

_NONE = "–"
_SHORT = {"pytorch": "pt", "tensorflow": "tf"}


@rendered
def describe_families(families: Families, *, long: bool = False) -> Iterator[Part]:
    """Return the text of ``converter families [NAME]``; a list is short unless `long`."""
    described = families.to_dict()
    if families.name is None:
        yield from (_long_list if long else _short_list)(described)
        return
    yield line(f"{families.name}: {described['title']}", "bold")
    if "composite" in described:
        submodels = ("submodels", ", ".join(described["submodels"]))
        yield indented(table([submodels, *described["classes"].items()]))
    else:
        yield from _architecture_parts(described)
    yield from _row_parts(described.get("rows", ()))


@rendered
def describe_check(result: TableCheck) -> Iterator[Part]:
    """Return the text of ``converter check-table FILE``: per table the verdict, and the reasons."""
    for file, problems in result.problems.items():
        yield line(f"{file}: {table_verdict(result, file)}")
        for problem in problems:
            yield indented(line(f"- {problem}"))
        for number, what in result.marks.get(file, {}).items():
            yield indented(line(f"- line {number}: {what}"))


def table_verdict(result: TableCheck, file: str) -> str:
    """Return ``good``, or the number of problems and of marks that a draft leaves open."""
    problems, marks = result.problems[file], result.marks.get(file, {})
    verdict = [count(len(problems), "problem")] if problems else []
    verdict += [f'not finished: {count(len(marks), "mark")} "decide:"'] if marks else []
    return ", ".join(verdict) or "good"


def _short_list(described: Mapping[str, Any]) -> Iterator[Part]:
    """Yield a row per architecture, with short names of frameworks, and the names of all else.

    Architectures that have no checkpoints of their own are left out.
    """
    shown = {n: each for n, each in described["architectures"].items() if "part_of" not in each}
    short = {name: _SHORT.get(name, name) for name in FRAMEWORKS}
    if shown:
        rows = catalog_rows(shown, lambda names: " ".join(short[name] for name in names))
        yield table(rows, header=CATALOG_HEADER)
    for title in ("composites", "presets"):
        if names := described[title]:
            yield lines(["", f"{title.capitalize()}: {', '.join(names)}"])
    own = [(name, each["file"]) for name, each in shown.items() if "file" in each]
    if own:
        yield heading("Tables of your own")
        yield indented(table(own))
    legend = ", ".join(f"{_SHORT[name]}: {name}" for name in FRAMEWORKS if name in _SHORT)
    yield lines(
        [
            *(["", f"{count(len(shown), 'architecture')}; {legend}."] if shown else []),
            *([] if shown or described["composites"] else ["No table fits.", ""]),
            "`converter families NAME` describes one. --role and --framework filter the list, "
            "--long adds details.",
        ]
    )


CATALOG_HEADER = ("architecture", "as encoder", "as decoder", "converts to")


def catalog_rows(
    architectures: Mapping[str, Any], text: Callable[[Sequence[str]], str]
) -> Iterator[tuple[str, ...]]:
    """Yield architecture, frameworks in each role, and all; `text` formats frameworks."""
    for name, summary in architectures.items():
        roles = (summary["roles"].get(role, {}) for role in ("encoder", "decoder"))
        of_roles = (text(role.get("frameworks", ())) or _NONE for role in roles)
        yield name, *of_roles, text(summary["frameworks"])


def _long_list(described: Mapping[str, Any]) -> Iterator[Part]:
    yield table(catalog_rows(described["architectures"], ", ".join), header=CATALOG_HEADER)
    reasons = grouped(
        ((f"{name} as {role}", reason), framework)
        for name, summary in described["architectures"].items()
        for role, entry in summary["roles"].items()
        for framework, reason in entry["left_out"].items()
    )
    if reasons:
        yield heading("Left out")
        left_out = ((place, ", ".join(names), why) for (place, why), names in reasons.items())
        yield indented(table(left_out))
    if composites := described["composites"]:
        yield heading("Composites")
        classes = {name: each["classes"].values() for name, each in composites.items()}
        yield indented(table((name, ", ".join(names)) for name, names in classes.items()))
    if presets := described["presets"]:
        yield heading("Presets: converter compose --preset NAME ENCODER DECODER OUTPUT")
        yield indented(table(_preset_row(*item) for item in presets.items()))


def _preset_row(name: str, preset: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the row of a preset, with the architectures that the paper used."""
    encoder, decoder = (
        f"random {preset[each]}" if each in preset["random"] else preset[each]
        for each in ("encoder", "decoder")
    )
    return name, encoder, decoder, "shared" if preset["share"] else "", preset["paper"]


def _architecture_parts(described: Mapping[str, Any]) -> Iterator[Part]:
    yield heading("Roles")
    yield indented(table(role_rows(described["roles"])))
    yield heading("Models")
    rows = [
        (
            name,
            ", ".join((*model["parts"], *model["heads"])) or _NONE,
            *(model["classes"].get(framework, _NONE) for framework in FRAMEWORKS[1:]),
        )
        for name, model in described["models"].items()
    ]
    yield indented(table(rows, header=("pytorch", "parts and heads", *FRAMEWORKS[1:])))
    if described["unsupported"]:
        yield heading("Unsupported")
        yield indented(table(map(_unsupported_row, described["unsupported"])))
    yield heading("Fields of config.json and their defaults")
    yield indented(
        table((field, json.dumps(value)) for field, value in described["config"].items())
    )


def role_rows(roles: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield each role, its class, its frameworks, and why others are left out."""
    for name, role in roles.items():
        yield name, role["model"], ", ".join(role["frameworks"])
        reasons = grouped((reason, framework) for framework, reason in role["left_out"].items())
        for reason, frameworks in reasons.items():
            yield "", f"not {', '.join(frameworks)}", reason


def _unsupported_row(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    where = f" (with {entry['head']})" if entry["head"] else ""
    where += f" (as {entry['role']})" if entry["role"] else ""
    return f"{entry['when']}{where}", f"not {', '.join(entry['frameworks'])}", entry["reason"]


def _row_parts(rows: Any) -> Iterator[Part]:
    """Yield the parameters, grouped by section: name, axes and sizes in each dialect."""
    for section, params in grouped((row["section"], row) for row in rows).items():
        yield heading(f"Rows of {section}")
        yield indented(table(entry for row in params for entry in _param_rows(row)))


def _param_rows(row: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    sizes = ", ".join(f"{axis} = {size}" for axis, size in row["sizes"].items())
    condition = f" if {row['when']}" if row["when"] else ""
    yield row["param"], row["layer_type"], f"{sizes}{condition}"
    for dialect, layout in row["dialects"].items():
        yield f"  {layout['name']}", dialect, f"[{layout['axes'].replace(' ', ', ')}]"
