"""`families`: the supported architectures, composites and presets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from converter.architectures.cross_references import groups
from converter.architectures.loader import load_presets
from converter.architectures.model_spec import ParamNamer
from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import FRAMEWORKS, Architecture, Composite, ModuleEntry, Role
from converter.display import Displayed
from converter.errors import UsageError
from converter.options import FamiliesOptions
from converter.python_calls import takes
from converter.text import natural_key


@dataclass(frozen=True, repr=False)
class Families(Displayed):
    """The result of `families`."""

    architectures: Mapping[str, Mapping[str, Any]]
    """By ``model_type``: title, roles and frameworks; if one was named, all that its table has."""
    composites: Mapping[str, Mapping[str, Any]]
    """By name: title, submodels and classes."""
    presets: Mapping[str, Mapping[str, Any]]
    """By name; empty if only some architectures or composites were asked for."""
    name: str | None = None
    """The architecture or composite that was named in full."""

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
        UsageError: if rows are asked for without a full name.
        TableError: if a table in `mapping` is not valid.
        UnsupportedError: if no table has this name, or a name that starts with or matches it.

    """
    registry = ArchitectureRegistry.for_user(options.mapping)
    name, rows = options.name, options.rows
    if name and name in registry.names and not (options.role or options.framework):
        if registry.is_composite(name):
            return Families({}, {name: _describe_composite(registry, name, rows)}, {}, name)
        return Families({name: _describe_architecture(registry, name, rows)}, {}, {}, name)
    if rows:
        raise UsageError("--rows requires NAME", remedy="Name an architecture or a composite.")
    names = registry.names
    if name:
        pattern = name if {*"*?"} & {*name} else f"{name}*"
        names = tuple(each for each in names if fnmatchcase(each, pattern))
        if not names:
            registry.architecture(name)  # which raises, with what may have been meant
    return _listed(registry, sorted(names, key=natural_key), options)


def _listed(
    registry: ArchitectureRegistry, names: Sequence[str], options: FamiliesOptions
) -> Families:
    """Return the entries of `names` that the options do not leave out."""
    role, framework = options.role, options.framework
    composites = {name for name in names if registry.is_composite(name)}
    architectures = {
        name: _summary(registry, registry.architecture(name))
        for name in names
        if name not in composites
    }
    presets = {} if options.name or role or framework else load_presets()
    return Families(
        architectures={
            name: summary
            for name, summary in architectures.items()
            if (role is None or role in summary["roles"])
            and (framework is None or framework in _frameworks(summary, role))
        },
        composites={
            name: entry
            for name in names
            if name in composites
            for entry in [_composite(registry.composite(name))]
            if role is None and (framework is None or framework in entry["classes"])
        },
        presets={
            name: {
                "paper": preset.paper,
                "encoder": preset.encoder,
                "decoder": preset.decoder,
                "random": list(preset.random),
                "share": preset.share,
                "set": list(preset.set),
            }
            for name, preset in presets.items()
        },
    )


def _frameworks(summary: Mapping[str, Any], role: str | None) -> Sequence[str]:
    """Return the frameworks that have an architecture, or have it in a role."""
    frameworks: Sequence[str] = (summary["roles"][role] if role else summary)["frameworks"]
    return frameworks


def _describe_composite(registry: ArchitectureRegistry, name: str, rows: bool) -> dict[str, Any]:
    composite = registry.composite(name)
    listed = {"rows": _rows(registry, None, [("modules", composite.modules)])} if rows else {}
    return {**_composite(composite), **listed}


def _describe_architecture(registry: ArchitectureRegistry, name: str, rows: bool) -> dict[str, Any]:
    architecture = registry.architecture(name)
    described = {
        **_summary(registry, architecture),
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


def _summary(registry: ArchitectureRegistry, architecture: Architecture) -> dict[str, Any]:
    """Return title, roles and frameworks; of a submodel without own checkpoints, its composite."""
    roles = architecture.roles
    has = {name for model in architecture.models.values() for name in model.classes}
    own = registry.own_file(architecture.name)
    part_of = registry.is_part(architecture.name) and next(iter(roles.values())).composite
    return {
        "title": architecture.title,
        "roles": {name: _role(registry, architecture, name, role) for name, role in roles.items()},
        "frameworks": [name for name in FRAMEWORKS if name in has],
        **({"part_of": part_of} if part_of else {}),
        **({"file": own} if own else {}),
    }


def _role(
    registry: ArchitectureRegistry, architecture: Architecture, name: str, role: Role
) -> dict[str, Any]:
    classes = architecture.models[role.model].classes
    # An encoder has one composite; a decoder may be in one that has classes in all frameworks.
    composite = registry.composite(role.composite).classes if name == "encoder" else FRAMEWORKS
    left_out = {
        framework: f"there is no {framework} class for {role.model}"
        if framework not in classes
        else f"there is no {framework} class for {role.composite}"
        if framework not in composite
        else role.reason or "not supported"
        for framework in FRAMEWORKS
        if not (framework in classes and framework in composite and framework in role.frameworks)
    }
    return {
        "model": role.model,
        "composite": role.composite if name == "encoder" or registry.is_closed(role) else None,
        "frameworks": [name for name in FRAMEWORKS if name not in left_out],
        "left_out": left_out,
    }


def _composite(composite: Composite) -> dict[str, Any]:
    return {
        "title": composite.title,
        "submodels": list(composite.submodels),
        "classes": dict(composite.classes),
    }
