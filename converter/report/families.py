"""The supported architectures, composites and presets, as ``converter families`` prints them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from converter.architectures.schema import FRAMEWORKS
from converter.report.rich_text import heading, indented, line, render, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from converter.commands.families import Families

_NONE = "–"


def describe_families(families: Families) -> str:
    """Return the text of ``converter families [NAME]``."""
    described = families.to_dict()
    if families.name is None:
        return render(_catalog_parts(described))
    parts = _composite_parts if "composite" in described else _architecture_parts
    return render([*parts(described), *_row_parts(described.get("rows", ()))])


def _catalog_parts(described: Mapping[str, Any]) -> Iterator[RenderableType]:
    rows = [
        (name, *(_frameworks(summary, role) for role in ("encoder", "decoder")))
        for name, summary in described["architectures"].items()
    ]
    yield table(rows, header=("architecture", "as encoder", "as decoder"))
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, summary in described["architectures"].items():
        for role, entry in summary["roles"].items():
            for framework, reason in entry["left_out"].items():
                reasons.setdefault((f"{name} as {role}", reason), []).append(framework)
    if reasons:
        yield heading("Left out")
        yield indented(
            table((place, ", ".join(names), why) for (place, why), names in reasons.items())
        )
    yield heading("Composites")
    yield indented(
        table(
            (name, ", ".join(composite["classes"].values()))
            for name, composite in described["composites"].items()
        )
    )
    yield heading("Presets: converter compose --preset NAME ENCODER DECODER OUTPUT")
    yield indented(
        table(
            (
                name,
                *(_submodel(preset, submodel) for submodel in ("encoder", "decoder")),
                "shared" if preset["share"] else "",
                preset["paper"],
            )
            for name, preset in described["presets"].items()
        )
    )


def _submodel(preset: Mapping[str, Any], submodel: str) -> str:
    """Return the architecture that the paper used for a submodel."""
    return f"random {preset[submodel]}" if submodel in preset["random"] else str(preset[submodel])


def _frameworks(summary: Mapping[str, Any], role: str) -> str:
    entry = summary["roles"].get(role)
    return ", ".join(entry["frameworks"]) or _NONE if entry else _NONE


def _composite_parts(described: Mapping[str, Any]) -> Iterator[RenderableType]:
    yield line(f"{described['composite']}: {described['title']}", "bold")
    yield indented(
        table([("submodels", ", ".join(described["submodels"])), *described["classes"].items()])
    )


def _architecture_parts(described: Mapping[str, Any]) -> Iterator[RenderableType]:
    yield line(f"{described['model_type']}: {described['title']}", "bold")
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
        reasons: dict[str, list[str]] = {}
        for framework, reason in role["left_out"].items():
            reasons.setdefault(reason, []).append(framework)
        for reason, frameworks in reasons.items():
            yield "", f"not {', '.join(frameworks)}", reason


def _unsupported_row(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    where = f" (with {entry['head']})" if entry["head"] else ""
    where += f" (as {entry['role']})" if entry["role"] else ""
    return f"{entry['when']}{where}", f"not {', '.join(entry['frameworks'])}", entry["reason"]


def _row_parts(rows: Any) -> Iterator[RenderableType]:
    """Yield the parameters, grouped by section: name, axes and sizes in each dialect."""
    sections: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        sections.setdefault(row["section"], []).append(row)
    for section, params in sections.items():
        yield heading(f"Rows of {section}")
        yield indented(table(entry for row in params for entry in _param_rows(row)))


def _param_rows(row: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    sizes = ", ".join(f"{axis} = {size}" for axis, size in row["sizes"].items())
    condition = f" if {row['when']}" if row["when"] else ""
    yield row["param"], row["layer_type"], f"{sizes}{condition}"
    for dialect, layout in row["dialects"].items():
        yield f"  {layout['name']}", dialect, f"[{layout['axes'].replace(' ', ', ')}]"
