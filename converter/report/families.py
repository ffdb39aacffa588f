"""The supported architectures, composites and presets, as ``converter families`` prints them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from converter.architectures.cross_references import groups
from converter.architectures.model_spec import ParamNamer
from converter.architectures.presets import load_presets
from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import FRAMEWORKS, Architecture, Composite, ModuleEntry, Role
from converter.report.rich_text import heading, indented, line, render, table

if TYPE_CHECKING:
    from rich.console import RenderableType

_NONE = "–"


def catalog(registry: ArchitectureRegistry) -> dict[str, Any]:
    """Return a summary of every architecture, composite and preset, as ``--json`` prints it."""
    composites = {name for name in registry.names if registry.is_composite(name)}
    return {
        "architectures": {
            name: _summary(registry.architecture(name))
            for name in registry.names
            if name not in composites
        },
        "composites": {name: _composite(registry.composite(name)) for name in sorted(composites)},
        "presets": {
            name: {
                "paper": preset.paper,
                "encoder": preset.encoder,
                "decoder": preset.decoder,
                "random": list(preset.random),
                "share": preset.share,
                "set": list(preset.settings),
            }
            for name, preset in load_presets().items()
        },
    }


def details(registry: ArchitectureRegistry, name: str, rows: bool = False) -> dict[str, Any]:
    """Return one architecture or composite in full, as ``--json`` prints it.

    Args:
        registry: the mapping tables.
        name: the ``model_type``.
        rows: if true, with every parameter and its name in each dialect.

    Raises:
        UnsupportedError: if there is no such table.

    """
    if registry.is_composite(name):
        composite = registry.composite(name)
        listed = _rows(registry, None, [("modules", composite.modules)]) if rows else []
        return {"composite": name, **_composite(composite), **({"rows": listed} if rows else {})}
    architecture = registry.architecture(name)
    described = {
        "model_type": name,
        **_summary(architecture),
        "models": {
            model.name: {
                "parts": list(model.parts),
                "heads": list(model.heads),
                "classes": dict(model.classes),
            }
            for model in architecture.models.values()
        },
        "parts": list(architecture.parts),
        "heads": list(architecture.heads),
        "unsupported": [
            {
                "when": str(unsupported.when),
                "frameworks": list(unsupported.frameworks),
                "head": unsupported.head,
                "role": unsupported.role,
                "reason": unsupported.reason,
            }
            for unsupported in architecture.unsupported.values()
        ],
        "tokens": {
            role: {"token": token.token, "id": token.id}
            for role, token in architecture.tokens.items()
        },
        "config": dict(architecture.config),
    }
    if rows:
        described["rows"] = _rows(registry, architecture, groups(architecture))
    return described


def _rows(
    registry: ArchitectureRegistry,
    architecture: Architecture | None,
    sections: Any,
) -> list[dict[str, Any]]:
    """Return every parameter of every row, named as in models with a head."""
    dialects = registry.conventions.dialects
    found = []
    for section, modules in sections:
        in_base = architecture is not None and not section.startswith("heads.")
        namer = ParamNamer(registry.conventions, architecture, "", in_base, True)
        for row in modules:
            placeholders = {place: f"{{{place}}}" for place in row.path.places}
            for param in row.layer_type.params:
                if param.name in row.omitted:
                    continue
                layouts = {
                    name: namer.layout(dialect, row, param, placeholders)
                    for name, dialect in dialects.items()
                    if name in param.layouts and name not in row.not_in
                }
                found.append(
                    {
                        "section": section,
                        "param": ".".join(filter(None, (row.path.text, param.name))),
                        "layer_type": row.layer_type.name,
                        "sizes": _sizes(row),
                        "when": str(row.when) if row.when else None,
                        "dialects": {
                            name: {"name": names[0], "axes": str(axes)}
                            for name, (names, axes) in layouts.items()
                        },
                    }
                )
    return found


def _sizes(row: ModuleEntry) -> dict[str, str]:
    return dict(zip(row.layer_type.sizes, map(str, row.sizes), strict=True))


def _summary(architecture: Architecture) -> dict[str, Any]:
    return {
        "title": architecture.title,
        "roles": {name: _role(architecture, role) for name, role in architecture.roles.items()},
    }


def _role(architecture: Architecture, role: Role) -> dict[str, Any]:
    classes = architecture.models[role.model].classes
    left_out = {
        framework: role.reason or "not supported"
        if framework in classes
        else f"there is no {framework} class for {role.model}"
        for framework in FRAMEWORKS
        if framework not in classes or framework not in role.frameworks
    }
    return {
        "model": role.model,
        "frameworks": [name for name in FRAMEWORKS if name not in left_out],
        "left_out": left_out,
    }


def _composite(composite: Composite) -> dict[str, Any]:
    return {
        "title": composite.title,
        "submodels": list(composite.submodels),
        "classes": dict(composite.classes),
    }


def describe_catalog(found: Mapping[str, Any]) -> str:
    """Return the text of ``converter families``."""
    return render(_catalog_parts(found))


def _catalog_parts(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    rows = [
        (name, *(_frameworks(summary, role) for role in ("encoder", "decoder")))
        for name, summary in found["architectures"].items()
    ]
    yield table(rows, header=("architecture", "as encoder", "as decoder"))
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, summary in found["architectures"].items():
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
            for name, composite in found["composites"].items()
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
            for name, preset in found["presets"].items()
        )
    )


def _submodel(preset: Mapping[str, Any], submodel: str) -> str:
    """Return the architecture that the paper used for a submodel."""
    return f"random {preset[submodel]}" if submodel in preset["random"] else str(preset[submodel])


def _frameworks(summary: Mapping[str, Any], role: str) -> str:
    entry = summary["roles"].get(role)
    return ", ".join(entry["frameworks"]) or _NONE if entry else _NONE


def describe_details(found: Mapping[str, Any]) -> str:
    """Return the text of ``converter families NAME``."""
    parts = _composite_parts(found) if "composite" in found else _architecture_parts(found)
    return render([*parts, *_row_parts(found.get("rows", ()))])


def _composite_parts(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    yield line(f"{found['composite']}: {found['title']}", "bold")
    yield indented(table([("submodels", ", ".join(found["submodels"])), *found["classes"].items()]))


def _architecture_parts(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    yield line(f"{found['model_type']}: {found['title']}", "bold")
    yield heading("Roles")
    yield indented(table(_role_rows(found["roles"])))
    yield heading("Models")
    rows = [
        (
            name,
            ", ".join((*model["parts"], *model["heads"])) or _NONE,
            *(model["classes"].get(framework, _NONE) for framework in FRAMEWORKS[1:]),
        )
        for name, model in found["models"].items()
    ]
    yield indented(table(rows, header=("pytorch", "parts and heads", *FRAMEWORKS[1:])))
    if found["unsupported"]:
        yield heading("Unsupported")
        yield indented(table(map(_unsupported_row, found["unsupported"])))
    yield heading("Fields of config.json and their defaults")
    yield indented(table((field, json.dumps(value)) for field, value in found["config"].items()))


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
