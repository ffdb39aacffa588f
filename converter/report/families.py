"""What the mapping tables support."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from converter.architectures.presets import Preset, load_presets
from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import FRAMEWORKS, Architecture, Composite, Role
from converter.report.rich_text import heading, indented, line, render, table

if TYPE_CHECKING:
    from rich.console import RenderableType

_NONE = "–"


def catalogue(registry: ArchitectureRegistry) -> dict[str, Any]:
    """Every family and composite in short, as ``--json`` prints it."""
    composites = {name for name in registry.names if registry.is_composite(name)}
    return {
        "families": {
            name: _short(registry.architecture(name))
            for name in registry.names
            if name not in composites
        },
        "composites": {
            name: _composite(registry.composite(name))
            for name in registry.names
            if name in composites
        },
        "recipes": {name: _recipe(recipe) for name, recipe in load_presets().items()},
    }


def details(registry: ArchitectureRegistry, name: str) -> dict[str, Any]:
    """One family or composite in full, as ``--json`` prints it.

    Raises:
        UnsupportedError: if there is no such table.

    """
    if registry.is_composite(name):
        return {"composite": name, **_composite(registry.composite(name))}
    architecture = registry.architecture(name)
    return {
        "family": name,
        **_short(architecture),
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
        "limits": [
            {
                "when": str(limit.when),
                "frameworks": list(limit.frameworks),
                "head": limit.head,
                "role": limit.role,
                "reason": limit.reason,
            }
            for limit in architecture.unsupported.values()
        ],
        "tokens": {
            role: {"token": token.token, "id": token.id}
            for role, token in architecture.tokens.items()
        },
        "config": dict(architecture.config),
    }


def _short(architecture: Architecture) -> dict[str, Any]:
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


def _recipe(recipe: Preset) -> dict[str, Any]:
    return {
        "paper": recipe.paper,
        "encoder": recipe.encoder,
        "decoder": recipe.decoder,
        "random": list(recipe.random),
        "share": recipe.share,
        "set": list(recipe.settings),
    }


def _composite(composite: Composite) -> dict[str, Any]:
    return {
        "title": composite.title,
        "halves": list(composite.submodels),
        "classes": dict(composite.classes),
    }


def describe_catalogue(found: Mapping[str, Any]) -> str:
    """The report of ``converter families``."""
    return render(_catalogue_parts(found))


def _catalogue_parts(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    rows = [
        (name, *(_frameworks(architecture, role) for role in ("encoder", "decoder")))
        for name, architecture in found["families"].items()
    ]
    yield table(rows, header=("family", "as encoder", "as decoder"))
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, architecture in found["families"].items():
        for role, entry in architecture["roles"].items():
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
    yield heading("Recipes: converter compose --preset NAME ENCODER DECODER OUTPUT")
    yield indented(
        table(
            (
                name,
                *(_half(recipe, submodel) for submodel in ("encoder", "decoder")),
                "shared" if recipe["share"] else "",
                recipe["paper"],
            )
            for name, recipe in found["recipes"].items()
        )
    )


def _half(recipe: Mapping[str, Any], submodel: str) -> str:
    """The family that the paper used for a half."""
    return f"random {recipe[submodel]}" if submodel in recipe["random"] else str(recipe[submodel])


def _frameworks(architecture: Mapping[str, Any], role: str) -> str:
    entry = architecture["roles"].get(role)
    return ", ".join(entry["frameworks"]) or _NONE if entry else _NONE


def describe_details(found: Mapping[str, Any]) -> str:
    """The report of ``converter families NAME``."""
    return render(_composite_parts(found) if "composite" in found else _family_parts(found))


def _composite_parts(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    yield line(f"{found['composite']}: {found['title']}", "bold")
    yield indented(table([("halves", ", ".join(found["halves"])), *found["classes"].items()]))


def _family_parts(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    yield line(f"{found['family']}: {found['title']}", "bold")
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
    if found["limits"]:
        yield heading("Limits")
        yield indented(table(_limit_rows(found["limits"])))
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


def _limit_rows(limits: list[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    for limit in limits:
        head = f" (with {limit['head']})" if limit["head"] else ""
        head += f" (as {limit['role']})" if limit["role"] else ""
        yield f"{limit['when']}{head}", f"not {', '.join(limit['frameworks'])}", limit["reason"]
