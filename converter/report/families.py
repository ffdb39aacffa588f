"""The supported architectures, composites and presets, as ``converter families`` prints them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from converter.architectures.schema import FRAMEWORKS
from converter.report.rich_text import grouped, heading, indented, line, rendered, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from converter.commands.families import Families

_NONE = "–"


@rendered
def describe_families(families: Families) -> Iterator[RenderableType]:
    """Return the text of ``converter families [NAME]``."""
    described = families.to_dict()
    if families.name is None:
        yield from _catalog_parts(described)
        return
    yield line(f"{families.name}: {described['title']}", "bold")
    if "composite" in described:
        submodels = ("submodels", ", ".join(described["submodels"]))
        yield indented(table([submodels, *described["classes"].items()]))
    else:
        yield from _architecture_parts(described)
    yield from _row_parts(described.get("rows", ()))


def _catalog_parts(described: Mapping[str, Any]) -> Iterator[RenderableType]:
    rows = [
        (name, *(_frameworks(summary, role) for role in ("encoder", "decoder")))
        for name, summary in described["architectures"].items()
    ]
    yield table(rows, header=("architecture", "as encoder", "as decoder"))
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
    yield heading("Composites")
    classes = {name: each["classes"].values() for name, each in described["composites"].items()}
    yield indented(table((name, ", ".join(names)) for name, names in classes.items()))
    yield heading("Presets: converter compose --preset NAME ENCODER DECODER OUTPUT")
    yield indented(table(_preset_row(*item) for item in described["presets"].items()))


def _preset_row(name: str, preset: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the row of a preset, with the architectures that the paper used."""
    encoder, decoder = (
        f"random {preset[each]}" if each in preset["random"] else preset[each]
        for each in ("encoder", "decoder")
    )
    return name, encoder, decoder, "shared" if preset["share"] else "", preset["paper"]


def _frameworks(summary: Mapping[str, Any], role: str) -> str:
    entry = summary["roles"].get(role)
    return ", ".join(entry["frameworks"]) or _NONE if entry else _NONE


def _architecture_parts(described: Mapping[str, Any]) -> Iterator[RenderableType]:
    yield heading("Roles")
    yield indented(table(_role_rows(described["roles"])))
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


def _role_rows(roles: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, role in roles.items():
        yield name, role["model"], ", ".join(role["frameworks"])
        reasons = grouped((reason, framework) for framework, reason in role["left_out"].items())
        for reason, frameworks in reasons.items():
            yield "", f"not {', '.join(frameworks)}", reason


def _unsupported_row(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    where = f" (with {entry['head']})" if entry["head"] else ""
    where += f" (as {entry['role']})" if entry["role"] else ""
    return f"{entry['when']}{where}", f"not {', '.join(entry['frameworks'])}", entry["reason"]


def _row_parts(rows: Any) -> Iterator[RenderableType]:
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
