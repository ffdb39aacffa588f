"""`families`: the supported architectures, composites and presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from converter.architectures.cross_references import groups
from converter.architectures.loader import load_presets
from converter.architectures.model_spec import ParamNamer
from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import FRAMEWORKS, Architecture, Composite, ModuleEntry, Role
from converter.errors import UsageError
from converter.option_declaration import takes
from converter.options import FamiliesOptions


@dataclass(frozen=True)
class Families:
    """The result of `families`."""

    architectures: Mapping[str, Mapping[str, Any]]
    """By ``model_type``: title and roles; if one was named, everything that its table states."""
    composites: Mapping[str, Mapping[str, Any]]
    """By name: title, submodels and classes."""
    presets: Mapping[str, Mapping[str, Any]]
    """By name; empty if an architecture or composite was named."""
    name: str | None = None
    """The architecture or composite that was named."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON representation."""
        if self.name is None:
            names = ("architectures", "composites", "presets")
            return {name: dict(getattr(self, name)) for name in names}
        if self.name in self.composites:
            return {"composite": self.name, **self.composites[self.name]}
        return {"model_type": self.name, **self.architectures[self.name]}


@takes(FamiliesOptions)
def families(options: FamiliesOptions) -> Families:
    """List the supported architectures, composites and presets, or describe one.

    Raises:
        UsageError: if rows are asked for without a name.
        TableError: if a table in `mapping` is not valid.
        UnsupportedError: if there is no table of this name.

    """
    registry = ArchitectureRegistry(options.mapping)
    name, rows = options.name, options.rows
    if not name:
        if rows:
            raise UsageError("--rows requires NAME", remedy="Name an architecture or a composite.")
        return _all(registry)
    if registry.is_composite(name):
        return Families({}, {name: _describe_composite(registry, name, rows)}, {}, name)
    return Families({name: _describe_architecture(registry, name, rows)}, {}, {}, name)


def _all(registry: ArchitectureRegistry) -> Families:
    composites = {name for name in registry.names if registry.is_composite(name)}
    return Families(
        architectures={
            name: _summary(registry.architecture(name))
            for name in registry.names
            if name not in composites
        },
        composites={name: _composite(registry.composite(name)) for name in sorted(composites)},
        presets={
            name: {
                "paper": preset.paper,
                "encoder": preset.encoder,
                "decoder": preset.decoder,
                "random": list(preset.random),
                "share": preset.share,
                "set": list(preset.set),
            }
            for name, preset in load_presets().items()
        },
    )


def _describe_composite(registry: ArchitectureRegistry, name: str, rows: bool) -> dict[str, Any]:
    composite = registry.composite(name)
    listed = {"rows": _rows(registry, None, [("modules", composite.modules)])} if rows else {}
    return {**_composite(composite), **listed}


def _describe_architecture(registry: ArchitectureRegistry, name: str, rows: bool) -> dict[str, Any]:
    architecture = registry.architecture(name)
    described = {
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
    registry: ArchitectureRegistry, architecture: Architecture | None, sections: Any
) -> list[dict[str, Any]]:
    """Return every parameter of every row, named as in models with a head."""
    dialects = registry.conventions.dialects
    listed = []
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
                listed.append(
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
    return listed


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
