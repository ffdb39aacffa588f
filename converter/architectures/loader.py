"""Conversion of decoded TOML files to `Architecture`, `Composite`, `Conventions` and `Preset`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, Literal

from msgspec import structs

from converter.architectures.cross_references import check_references
from converter.architectures.decoding import Decoder, parse_toml, split_sizes
from converter.architectures.expressions import Expression, NamePattern
from converter.architectures.schema import (
    FRAMEWORKS,
    Architecture,
    ArchitectureTable,
    Composite,
    CompositeTable,
    Conventions,
    Dialect,
    Entry,
    LanguageCodes,
    LayerType,
    LayoutOptions,
    ModelClass,
    ModelOptions,
    ModuleEntry,
    Param,
    ParamLayout,
    ParamOptions,
    RowOptions,
    Tie,
    TieOptions,
    Wrapper,
)
from converter.errors import UsageError
from converter.file_names import tables_directory
from converter.tensors import Axes

_PRESETS = "_presets.toml"
_CLASS_PREFIX = {"pytorch": "", "tensorflow": "TF", "flax": "Flax"}


def load_architecture(
    data: Mapping[str, Any], file: str, conventions: Conventions, sha256: str = ""
) -> Architecture:
    """Return the architecture of a table, parents merged; raise TableError with every problem."""
    decoder = Decoder(file, conventions.dialects)
    table = decoder.struct(ArchitectureTable, data, "")
    rows = _RowLoader(decoder, conventions)
    names = {each.name for each in fields(Architecture)}
    changed = {
        "name": table.model_type,
        "base_model_prefix": _base_model_prefix(decoder, table.base_model_prefix),
        "config": {
            **dict.fromkeys(table.nullable),
            **{k: tuple(v) if isinstance(v, list) else v for k, v in table.config.items()},
        },
        "modules": rows.load(table.modules, "modules"),
        "parts": {name: rows.load(part, f"parts.{name}") for name, part in table.parts.items()},
        "heads": {name: rows.load(head, f"heads.{name}") for name, head in table.heads.items()},
        "models": {
            name: _model(decoder, name, model, table.frameworks or FRAMEWORKS)
            for name, model in table.models.items()
        },
        "ties": {name: _tie(decoder, f"tied.{name}", tie) for name, tie in table.tied.items()},
        "sha256": sha256,
    }
    unchanged = {k: v for k, v in structs.asdict(table).items() if k in names}
    architecture = Architecture(**{**unchanged, **changed})
    if architecture.languages:
        _check_languages(decoder, architecture.languages)
    decoder.problems += check_references(architecture, file)
    decoder.raise_if_problems()
    return architecture


def load_composite(
    data: Mapping[str, Any], file: str, conventions: Conventions, sha256: str = ""
) -> Composite:
    """Return the composite of a table; raise TableError with every problem."""
    decoder = Decoder(file, conventions.dialects)
    table = decoder.struct(CompositeTable, data, "")
    submodels = table.submodels
    if len(submodels) != 2:
        decoder.add_problem(
            "submodels", "must name two submodels", '["encoder", "decoder"]', submodels
        )
        submodels = ("encoder", "decoder")
    for key in ("roles", "models", "configs", "accepts"):
        for name in getattr(table, key).keys() - {*submodels}:
            decoder.unknown_key(key, name, submodels)
    composite = Composite(
        name=table.composite,
        title=table.title,
        submodels=(submodels[0], submodels[1]),
        classes=table.classes,
        modules=_RowLoader(decoder, conventions).load(table.modules, "modules"),
        roles={name: table.roles.get(name, name) for name in submodels},
        configs={name: table.configs.get(name, name) for name in submodels},
        config=table.config,
        derived=table.derived,
        prefixed=table.prefixed,
        closed=table.closed,
        models=table.models,
        wrappers=tuple(
            Wrapper(module, {each: _CLASS_PREFIX[each] + name for each in table.classes})
            for name, module in table.wrappers.items()
        ),
        accepts=table.accepts,
        notes=table.notes,
        split_note=table.split_note,
        tied_by=table.tied_by,
        unsupported=table.unsupported,
        sha256=sha256,
    )
    decoder.raise_if_problems()
    return composite


def load_conventions(data: Mapping[str, Any], file: str) -> Conventions:
    """Return what all architectures share, from the content of ``_dialects.toml``.

    Raise TableError with every problem.
    """
    decoder = Decoder(file)
    dialects = {
        name: _dialect(decoder, name, decoder.table(value, f"dialects.{name}"))
        for name, value in decoder.table(data.get("dialects", {}), "dialects").items()
    }
    decoder.dialects = dialects
    layer_types = {
        name: _layer_type(decoder, name, decoder.table(value, name))
        for name, value in data.items()
        if name != "dialects"
    }
    decoder.raise_if_problems()
    return Conventions(dialects, layer_types)


def _dialect(decoder: Decoder, name: str, data: Mapping[str, Any]) -> Dialect:
    if "name" in data:
        decoder.unknown_key(f"dialects.{name}", "name", ())
    return decoder.struct(Dialect, {**data, "name": name}, f"dialects.{name}")


def _layer_type(decoder: Decoder, name: str, data: Mapping[str, Any]) -> LayerType:
    if "sizes" not in data:
        decoder.add_problem(name, "lacks 'sizes'", '"in -> out"')
    text = decoder.value(str, data.get("sizes", ""), f"{name}.sizes")
    sizes = tuple(split_sizes(text)) if isinstance(text, str) else ()
    params = tuple(
        _param(decoder, key, decoder.table(value, f"{name}.{key}"), f"{name}.{key}", sizes)
        for key, value in data.items()
        if key != "sizes"
    )
    return LayerType(name, sizes, params)


def _param(
    decoder: Decoder, name: str, data: Mapping[str, Any], place: str, sizes: tuple[str, ...]
) -> Param:
    """Return a parameter; frameworks that it does not list use its own name and axes."""
    own = {key: value for key, value in data.items() if key not in decoder.dialects}
    options = decoder.struct(ParamOptions, own, place)
    layouts = {}
    for dialect in decoder.dialects:
        if data.get(dialect, dialect in FRAMEWORKS) is False:
            continue  # it has no such parameter
        inner = f"{place}.{dialect}"
        layout = decoder.struct(LayoutOptions, data.get(dialect, {}), inner)
        axes = options.axes if layout.axes is None else layout.axes
        if axes is None:
            decoder.add_problem(inner, "lacks 'axes'", 'such as "out in", here or for all dialects')
        elif not set(axes.names) <= set(sizes):
            decoder.add_problem(
                f"{inner}.axes", "names axes that are not among the sizes", ", ".join(sizes), axes
            )
        layouts[dialect] = ParamLayout(
            name if layout.name is None else layout.name,
            axes or Axes(()),
            layout.aliases,
            layout.collection,
        )
    if len({frozenset(layout.axes.names) for layout in layouts.values()}) > 1:
        decoder.add_problem(place, "its dialects name different axes")
    return Param(name, options.init, layouts, options.dtype, options.buffer)


class _RowLoader:
    """Loads the rows of one table."""

    def __init__(self, decoder: Decoder, conventions: Conventions) -> None:
        self.decoder = decoder
        self.layer_types = conventions.layer_types

    def load(self, section: Mapping[str, Any], place: str) -> tuple[ModuleEntry, ...]:
        """Return the rows of a section: one of each path, or alternatives with conditions."""
        rows = []
        for path, value in section.items():
            for data in value if isinstance(value, tuple | list) else [value]:
                if isinstance(data, dict):
                    alternatives = self._alternatives(data, f"{place}.{path}")
                    loaded = [self._row(path, each, place) for each in alternatives]
                    rows += [row for row in loaded if row]
                else:
                    self.decoder.table(data, f"{place}.{path}")
        return tuple(rows)

    def _alternatives(self, data: dict[str, Any], place: str) -> list[dict[str, Any]]:
        """Return a row with each parameter that has a condition, and without it."""
        types = [self.layer_types[key] for key in data if key in self.layer_types]
        names = [param.name for layer_type in types for param in layer_type.params]
        for name in names:
            if isinstance(condition := data.get(name), str):
                rest = {key: value for key, value in data.items() if key != name}
                parsed = self.decoder.parse(Expression, condition, f"{place}.{name}")
                if not isinstance(parsed, Expression):
                    return [rest]
                when = f" and ({rest['when']})" if "when" in rest else ""
                present = {**rest, "when": f"({condition}){when}"}
                absent = {**rest, "when": f"not ({condition}){when}", name: False}
                return [
                    row
                    for alternative in (present, absent)
                    for row in self._alternatives(alternative, place)
                    if any(row.get(name) is not False for name in names)
                ]
        return [data]

    def _row(self, path: str, data: dict[str, Any], section: str) -> ModuleEntry | None:
        place = f"{section}.{path}"
        types = [key for key in data if key in self.layer_types]
        if len(types) != 1:
            known = ", ".join(self.layer_types)
            self.decoder.add_problem(
                place, "must name one layer type", f"one of {known}", list(data)
            )
            return None
        layer_type = self.layer_types[types[0]]
        params = {param.name for param in layer_type.params}
        omitted = {key for key in data if key in params}
        for key in omitted:
            if data[key] is not False:
                self.decoder.add_problem(
                    f"{place}.{key}", "is not valid", "false or a condition", data[key]
                )
        rest = {k: v for k, v in data.items() if k != layer_type.name and k not in omitted}
        options = self.decoder.struct(RowOptions, rest, place)
        pattern = self.decoder.parse(NamePattern, path, place)
        if not isinstance(pattern, NamePattern):
            pattern = NamePattern("?")
        else:
            self._check_paths(place, pattern, options)
        if FRAMEWORKS[0] in options.not_in:
            self.decoder.add_problem(
                f"{place}.not_in", "names the dialect of the canonical names", found=FRAMEWORKS[0]
            )
        return ModuleEntry(
            path=pattern,
            layer_type=layer_type,
            sizes=self._sizes(layer_type, data[layer_type.name], f"{place}.{layer_type.name}"),
            when=options.when,
            omitted=frozenset(omitted),
            init=options.init,
            paths=options.path,
            param_names=options.param,
            aliases=options.aliases,
            not_in=frozenset(options.not_in),
            buffer=options.buffer,
            empty=options.empty,
        )

    def _sizes(self, layer_type: LayerType, value: Any, place: str) -> tuple[Expression, ...]:
        text = self.decoder.value(str, value, place)
        if not isinstance(text, str):
            return ()
        texts = split_sizes(text)
        if len(texts) != len(layer_type.sizes):
            self.decoder.add_problem(
                place, "has the wrong number of sizes", " -> ".join(layer_type.sizes), text
            )
        sizes = [self.decoder.parse(Expression, each, place) for each in texts]
        return tuple(size for size in sizes if isinstance(size, Expression))

    def _check_paths(self, place: str, pattern: NamePattern, options: RowOptions) -> None:
        for dialect, other in options.path.items():
            if set(other.places) != set(pattern.places):
                self.decoder.add_problem(
                    f"{place}.path.{dialect}",
                    "has other placeholders than the row",
                    pattern.text,
                    other.text,
                )


def _base_model_prefix(decoder: Decoder, value: Any) -> Mapping[str, str]:
    if isinstance(value, dict):
        decoded = {}
        for key, name in value.items():
            if key not in decoder.dialects:
                decoder.unknown_key("base_model_prefix", key, decoder.dialects)
            else:
                decoded[key] = decoder.value(str, name, f"base_model_prefix.{key}")
        return decoded
    return dict.fromkeys(decoder.dialects, decoder.value(str, value, "base_model_prefix"))


def _model(
    decoder: Decoder, name: str, options: ModelOptions, frameworks: tuple[str, ...]
) -> ModelClass:
    frameworks = options.frameworks or frameworks
    for framework, missing in options.missing_parts.items():
        for part in sorted(missing - {*options.parts}):
            decoder.add_problem(
                f"models.{name}.missing_parts.{framework}",
                "is not a part of the model",
                ", ".join(options.parts) or None,
                part,
            )
    return ModelClass(
        name,
        options.parts,
        options.heads,
        {each: getattr(options, each) or _CLASS_PREFIX[each] + name for each in frameworks},
        {each: parts for each, parts in options.missing_parts.items() if parts},
        _base_model_prefix(decoder, options.base_model_prefix),
    )


def _tie(decoder: Decoder, place: str, options: TieOptions) -> Tie:
    stored = options.stored_in
    if isinstance(stored, tuple | list):
        stored = dict.fromkeys(map(str, stored), True)
    stored_in: dict[str, Expression | None] = {}
    for dialect, condition in decoder.table(stored, f"{place}.stored_in").items():
        inner = f"{place}.stored_in.{dialect}"
        if dialect not in decoder.dialects:
            decoder.unknown_key(f"{place}.stored_in", dialect, decoder.dialects)
        elif condition is True:
            stored_in[dialect] = None
        elif condition is not False:
            expression = decoder.value(Expression, condition, inner)
            if isinstance(expression, Expression):
                stored_in[dialect] = expression
    return Tie(
        options.to,
        options.when,
        stored_in,
        options.stored_without,
        options.requires,
        options.overrides_in,
        options.copied_in,
    )


def _check_languages(decoder: Decoder, languages: LanguageCodes) -> None:
    codes = languages.names
    if not languages.codes or not all(languages.codes):
        decoder.add_problem("languages.codes", "is empty", "a list of codes for each vocabulary")
    for code in dict.fromkeys(code for code in codes if codes.count(code) > 1):
        decoder.add_problem("languages.codes", f"{code!r} is listed twice")
    text = languages.format
    if text.count("{}") != 1 or set(text.replace("{}", "")) & {"{", "}"}:
        decoder.add_problem("languages.format", "must have one {} for the language", "{}", text)


class Preset(Entry, frozen=True):
    """A published setup."""

    name: str
    paper: str
    encoder: str
    """The ``model_type`` that the paper used."""
    decoder: str
    random: tuple[Literal["encoder", "decoder"], ...] = ()
    """Submodels whose weights are all newly initialized."""
    share: bool = False
    set: tuple[str, ...] = ()
    """Configuration fields, ``encoder.KEY=VALUE`` or ``decoder.KEY=VALUE``."""


def load_presets() -> dict[str, Preset]:
    """Return all presets by name; raise TableError if the file breaks a rule."""
    decoder = Decoder(f"mappings/{_PRESETS}")
    tables = parse_toml((tables_directory() / _PRESETS).read_bytes(), _PRESETS)
    presets = {
        name: decoder.struct(Preset, {**decoder.table(data, name), "name": name}, name)
        for name, data in tables.items()
    }
    decoder.raise_if_problems()
    return presets


def get_preset(name: str) -> Preset:
    """Return the preset called `name`; raise UsageError if it does not exist."""
    presets = load_presets()
    if name not in presets:
        close = get_close_matches(name, presets, 1)
        hint = f"Did you mean {close[0]}? " if close else ""
        hint += "`converter families` lists the presets."
        raise UsageError(f"preset: {name!r} is not a preset", remedy=hint)
    return presets[name]
