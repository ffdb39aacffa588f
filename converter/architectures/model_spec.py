"""A table and a configuration combined: every parameter of a model, named in every dialect."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from types import MappingProxyType
from typing import Any

from converter.architectures.expressions import Expression, ExpressionError, NamePattern, Value
from converter.architectures.model_config import MAX_SIZE, ModelConfig, Places
from converter.architectures.schema import (
    Architecture,
    Composite,
    Conventions,
    Dialect,
    Init,
    ModuleEntry,
    Param,
    Tie,
)
from converter.display import Displayed
from converter.errors import ConfigError, Problem, TableError
from converter.tensors import Axes

_MAX_BUILT = 8
"""Specifications that are kept."""

OUTSIDE = "/"
"""Start of the path of a module that a dialect stores outside the base model."""


@dataclass(frozen=True)
class FrameworkParam:
    """A parameter in one dialect."""

    name: str
    """The name in files that are written."""
    axes: Axes
    shape: tuple[int, ...]
    aliases: tuple[str, ...] = ()
    """Other names in files: with or without the base model prefix, or older ones."""


@dataclass(frozen=True)
class ParamNamer:
    """Formats the parameter names of one group of rows."""

    conventions: Conventions
    architecture: Architecture | None
    prefix: str
    in_base: bool
    with_head: bool
    base: Mapping[str, str] = field(default_factory=dict)
    """Dialect → path of the base model in files of the class, if it is not the architecture's."""
    prefixed: bool = True
    """If false, names in files lack the prefix."""

    @cached_property
    def prefixes(self) -> Mapping[str, Mapping[str, None]]:
        """Dialect → what names in files may start with, that of written files first."""
        return {name: self._prefixes(each) for name, each in self.conventions.dialects.items()}

    def _prefixes(self, dialect: Dialect) -> Mapping[str, None]:
        if not (self.in_base and self.architecture):
            return {"": None}
        first = dialect.path(self.base.get(dialect.name, ""))
        if not first and (dialect.base_model_prefix == "always" or self.with_head):
            first = self.architecture.base_model_prefix.get(dialect.name, "")
        if not self.prefixed:
            return {first: None}
        return {first: None, **self.architecture.base_model_prefixes(dialect), "": None}

    def canonical(self, name: str) -> str:
        """Return a canonical name, with the prefix of the submodel that the model is."""
        return f"{self.prefix}.{name}" if self.prefix else name

    def framework_param(
        self,
        dialect: Dialect,
        row: ModuleEntry,
        param: Param,
        places: Places,
        lengths: dict[str, int],
    ) -> FrameworkParam:
        """Return a parameter of a row in one dialect, in which it must have a layout."""
        names, axes = self.layout(dialect, row, param, places)
        return FrameworkParam(names[0], axes, axes.shape(lengths), tuple(names[1:]))

    def layout(
        self, dialect: Dialect, row: ModuleEntry, param: Param, places: Places
    ) -> tuple[list[str], Axes]:
        """Return the names of a parameter in one dialect, its own first, and its axes."""
        layout = param.layouts[dialect.name]
        override = row.paths.get(dialect.name)
        index = self.architecture.index_separator.get(dialect.name) if self.architecture else None
        path = override.format(places) if override else dialect.path(row.path.format(places), index)
        own = self.architecture.collection.get(dialect.name) if self.architecture else None
        collection = own and (layout.collection or own)
        last = layout.name
        if dialect.name in row.param_names and param is row.layer_type.params[0]:
            last = row.param_names[dialect.name]
        paths = [path, *(other.format(places) for other in row.aliases.get(dialect.name, ()))]
        own_name = path.removeprefix(OUTSIDE)
        in_base = self.in_base and own_name == path
        if dialect.unscoped and self.prefix and not (in_base or last or "/" in own_name):
            paths[0] = OUTSIDE + dialect.separator + own_name  # no scope is part of its name
        names = [
            dialect.join(
                collection or "",
                self.prefix * self.prefixed,
                prefix,
                path.removeprefix(OUTSIDE),
                name,
            )
            + dialect.suffix
            for path in paths
            for name in (last, *layout.aliases)
            for prefix in ([""] if path.startswith(OUTSIDE) else self.prefixes[dialect.name])
        ]
        return names, layout.axes


def invalid_ties(params: Mapping[str, ParamSpec], file: str) -> list[Problem]:
    """Return a problem for every invalid tie among the parameters of a model, by canonical name."""
    problems = []

    def add_problem(param: ParamSpec, what: str, expected: str, found: str, remedy: str) -> None:
        problems.append(Problem(what, file, f"tied.{param.name}", expected, found, remedy))

    for param in params.values():
        if param.tied_to is None:
            continue
        target, seen = params.get(param.tied_to), {param.name}
        if target is None:
            add_problem(
                param,
                f"is tied to {param.tied_to}, which is not there",
                "a tensor of the same model",
                "none",
                "Correct the name, or let the model have the part or head that holds it.",
            )
        elif target.canonical.shape != param.canonical.shape:
            add_problem(
                param,
                f"is tied to {param.tied_to}, which has another shape",
                str(list(target.canonical.shape)),
                str(list(param.canonical.shape)),
                "Correct the sizes of one of the two rows.",
            )
        while target is not None and target.tied_to is not None and target.name not in seen:
            seen.add(target.name)
            target = params.get(target.tied_to)
        if target is not None and target.name in seen:
            add_problem(
                param,
                "is tied in a circle",
                "a tensor with values of its own at the end",
                " → ".join([*sorted(seen)]),
                "Take out the tie of the tensor that files hold.",
            )
    return problems


MAX_TENSORS = 100_000
"""A configuration that asks for more is damaged or hostile."""

BODY = ""
"""The `ParamSpec.part` of parameters that every model of the architecture has."""


@dataclass(frozen=True)
class ParamSpec:
    """One parameter of a model."""

    name: str
    """Canonical: PyTorch's path below the base model, after the submodel in a composite."""
    part: str
    """`BODY`, or the part or head that it belongs to."""
    stored_as: Mapping[str, FrameworkParam]
    rule: str
    """The initialization rule, one of `converter.initializers`."""
    scale: float
    tied_to: str | None = None
    """Canonical name of the parameter whose values it shares."""
    stored_in: frozenset[str] = frozenset()
    """Dialects whose files hold it although it is tied."""
    overrides_in: frozenset[str] = frozenset()
    """Dialects whose classes use it, and not what it is tied to."""
    copied_in: frozenset[str] = frozenset()
    """Dialects whose files may hold it as a further copy of what it is tied to."""
    dtype: str = ""
    """The dtype when newly initialized, if not that of the model."""
    buffer: bool = False
    """If true, it is a buffer of PyTorch's module, not a parameter in the narrow sense."""

    @property
    def canonical(self) -> FrameworkParam:
        """The PyTorch name and layout, which are the canonical ones."""
        return self.stored_as["pytorch"]


@dataclass(frozen=True, repr=False)
class ModelSpec(Displayed):
    """All parameters of a model."""

    params: tuple[ParamSpec, ...]
    ignore: Mapping[str, tuple[tuple[str, NamePattern, str], ...]] = field(default_factory=dict)
    """Dialect → (prefix, pattern, reason) of names that are ignored."""
    repeated: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    """Dialect → layer → names of other layers' tensors that files repeat there."""
    missing_parts: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @cached_property
    def by_name(self) -> dict[str, ParamSpec]:
        """The parameters by canonical name."""
        return {param.name: param for param in self.params}

    def resolve(self, param: ParamSpec) -> ParamSpec:
        """Return the parameter whose values `param` shares; itself if it is not tied."""
        while param.tied_to:
            param = self.by_name[param.tied_to]
        return param

    def below(self, module: str, conventions: Conventions) -> ModelSpec:
        """Return the specification of a model that has this one as a module."""
        dialects = conventions.dialects

        def moved(param: ParamSpec) -> ParamSpec:
            stored_as = {
                name: replace(each, name=dialects[name].join(module, each.name))
                for name, each in param.stored_as.items()
            }
            return replace(param, stored_as=stored_as)

        return replace(self, params=tuple(map(moved, self.params)))

    def index(self, dialect: str) -> dict[str, ParamSpec]:
        """Return every name that a file in `dialect` may use → its parameter."""
        found: dict[str, ParamSpec] = {}
        named = [param for param in self.params if dialect in param.stored_as]
        for param in named:
            for name in param.stored_as[dialect].aliases:
                found.setdefault(name, param)
        for param in named:  # the exact name of one parameter beats another's alternative
            found[param.stored_as[dialect].name] = param
        return found

    def ignore_reason(self, dialect: str, name: str) -> str | None:
        """Return why `name` is ignored, or ``None`` if it is not."""
        for prefix, pattern, reason in self.ignore.get(dialect, ()):
            if name.startswith(prefix) and pattern.match(name[len(prefix) :]) is not None:
                return reason
        return None


class ModelSpecBuilder:
    """Builds the specification of models, with the dialects and layer types that tables share."""

    def __init__(self, conventions: Conventions) -> None:
        self.conventions = conventions
        self._built: dict[tuple[object, ...], tuple[Architecture, ModelSpec]] = {}

    def model(
        self,
        config: ModelConfig,
        parts: Iterable[str] | None = None,
        heads: Iterable[str] | None = None,
        prefix: str = "",
        base: Mapping[str, str] = MappingProxyType({}),
        prefixed: bool = True,
    ) -> ModelSpec:
        """Return the specification of a model with some parts and heads of its table, or all.

        All heads are the first set of `Architecture.head_sets`. In a composite, `prefix` is the
        submodel, with which names in files start if `prefixed`; `base` is the base model prefix of
        its class. The last few are kept: the files of one checkpoint have the same configuration,
        and often so have two checkpoints. Raise ConfigError if a size is not valid or there are too
        many tensors, TableError if a tie is invalid.
        """
        architecture = config.architecture
        parts = tuple(dict.fromkeys(architecture.parts if parts is None else parts))
        heads = architecture.head_sets()[0] if heads is None else tuple(heads)
        try:
            raw = json.dumps(config.raw)
        except (TypeError, ValueError, RecursionError):
            return self._build(config, parts, heads, prefix, base, prefixed)
        key = (id(architecture), raw, parts, heads, prefix, *base.items(), prefixed)
        if (kept := self._built.get(key)) is not None:
            return kept[1]
        built = self._build(config, parts, heads, prefix, base, prefixed)
        for oldest in [*self._built][: 1 - _MAX_BUILT]:
            self._built.pop(oldest, None)
        self._built[key] = architecture, built
        return built

    def _build(
        self,
        config: ModelConfig,
        parts: tuple[str, ...],
        heads: tuple[str, ...],
        prefix: str,
        base: Mapping[str, str],
        prefixed: bool,
    ) -> ModelSpec:
        """Build what `model` returns."""
        architecture = config.architecture
        has = {*parts, *heads}
        ties = [
            (NamePattern(name), self._live(tie, config, has))
            for name, tie in architecture.ties.items()
            if (tie.requires is None or tie.requires in has) and config.is_true(tie.when)
        ]
        groups = [(BODY, architecture.modules, True)]
        groups += [(part, architecture.parts[part], True) for part in parts]
        groups += [(head, architecture.heads[head], False) for head in heads]
        asked = sum(
            len(config.index_combinations(row.path.places, MAX_TENSORS))
            * len(row.layer_type.params)
            for _, rows, _ in groups
            for row in rows
        )
        if asked > MAX_TENSORS:
            raise ConfigError(f"{config.file}: asks for up to {asked} tensors")
        params: list[ParamSpec] = []
        for part, rows, in_base in groups:
            namer = ParamNamer(
                self.conventions, architecture, prefix, in_base, bool(heads), base, prefixed
            )
            for row in rows:
                params += self._module(row, config, part, namer, ties)
        repeated = {} if prefix else _repeated(architecture, params)
        ignored = self._ignored(architecture, prefix * prefixed)
        model_spec = ModelSpec(tuple(params), ignored, repeated)
        problems = invalid_ties(model_spec.by_name, f"mappings/{architecture.name}.toml")
        if problems:
            raise TableError(f"{architecture.name}: {len(problems)} invalid tie(s)", problems)
        return model_spec

    def composite(
        self,
        composite: Composite,
        submodels: Mapping[str, ModelConfig],
        models: Mapping[str, ModelSpec],
        raw: Mapping[str, Any] = MappingProxyType({}),
    ) -> ModelSpec:
        """Return the specification of a composite from those of its submodels, which have prefixes.

        `raw` is its own configuration. Raise ConfigError if a size is not valid.
        """

        def lookup(name: str) -> Value:
            submodel, _, measure = name.partition(".")
            if submodel in submodels:
                return submodels[submodel].attribute(measure)
            value = raw.get(name)
            return composite.config.get(name) if value is None else value

        def number(expression: Expression) -> float:
            try:
                return expression.number(lookup)
            except ExpressionError as error:
                raise ConfigError(f"{composite.name}: {error}") from error

        def scale(init: Init) -> float:
            value = number(init.scale)
            if value < 0:
                raise ConfigError(f"{composite.name}: {init.scale} is {value}, not a number from 0")
            return value

        def size(expression: Expression) -> int:
            value = number(expression)
            if value != int(value) or not 1 <= value <= MAX_SIZE:
                raise ConfigError(f"{composite.name}: {expression} is {value}, not a length")
            return int(value)

        own: list[ParamSpec] = []
        namer = ParamNamer(self.conventions, None, "", in_base=False, with_head=False)
        for row in composite.modules:
            if row.when is None or row.when.evaluate(lookup):
                sizes = [size(each) for each in row.sizes]
                own += self._params(row, {}, sizes, composite.name, namer, [], scale, row.init)
        ignored: dict[str, tuple[tuple[str, NamePattern, str], ...]] = {}
        for model_spec in models.values():
            for dialect, entries in model_spec.ignore.items():
                ignored[dialect] = (*ignored.get(dialect, ()), *entries)
        params = [param for model_spec in models.values() for param in model_spec.params]
        return ModelSpec((*params, *own), ignored)

    def _module(
        self,
        row: ModuleEntry,
        config: ModelConfig,
        part: str,
        namer: ParamNamer,
        ties: list[tuple[NamePattern, Tie]],
    ) -> Iterator[ParamSpec]:
        """Yield the parameters of one row, for every combination of the indices in its path."""
        varies = any(size.fields.intersection(row.path.places) for size in row.sizes)
        scale = cache(config.scale)
        init = row.init or config.architecture.init
        sizes: list[int] = []
        for places in config.index_combinations(row.path.places, MAX_TENSORS):
            if config.is_true(row.when, places):
                if varies or not sizes:
                    sizes = [config.size(size, places, 0 if row.empty else 1) for size in row.sizes]
                yield from self._params(row, places, sizes, part, namer, ties, scale, init)

    @staticmethod
    def _live(tie: Tie, config: ModelConfig, has: Set[str]) -> Tie:
        """Return a tie with the dialects in which files of this model hold it."""
        if tie.stored_without in has:
            return replace(tie, stored_in={})
        stored = {name: when for name, when in tie.stored_in.items() if config.is_true(when)}
        return replace(tie, stored_in=stored)

    def _params(
        self,
        row: ModuleEntry,
        places: Places,
        sizes: list[int],
        part: str,
        namer: ParamNamer,
        ties: list[tuple[NamePattern, Tie]],
        scale: Callable[[Init], float],
        init: Init | None,
    ) -> Iterator[ParamSpec]:
        lengths = dict(zip(row.layer_type.sizes, sizes, strict=True))
        path = row.path.format(places)
        for param in row.layer_type.params:
            if param.name in row.omitted:
                continue
            stored_as = {
                name: namer.framework_param(dialect, row, param, places, lengths)
                for name, dialect in self.conventions.dialects.items()
                if name in param.layouts and name not in row.not_in
            }
            own = f"{path}.{param.name}" if param.name else path
            tied_to, tie = _tied(own, ties)
            rule, amount = _init_rule(row, param, init, scale)
            yield ParamSpec(
                name=namer.canonical(own),
                part=part,
                stored_as=stored_as,
                rule=rule,
                scale=amount,
                tied_to=namer.canonical(tied_to) if tied_to else None,
                stored_in=frozenset(tie.stored_in) if tie else frozenset(),
                overrides_in=tie.overrides_in if tie else frozenset(),
                copied_in=tie.copied_in if tie else frozenset(),
                dtype=param.dtype,
                buffer=param.buffer or row.buffer,
            )

    def _ignored(
        self, architecture: Architecture, prefix: str
    ) -> dict[str, tuple[tuple[str, NamePattern, str], ...]]:
        """Return the name patterns to ignore, with every prefix that files may have."""
        ignored = {}
        for name, dialect in self.conventions.dialects.items():
            patterns = architecture.ignore.get(name, {})
            prefixes = {
                dialect.join(prefix, base)
                for base in ("", *architecture.base_model_prefixes(dialect))
            }
            ignored[name] = (
                *(("", pattern, reason) for pattern, reason in dialect.ignore.items()),
                *(
                    (f"{lead}{dialect.separator}" if lead else "", pattern, reason)
                    for lead in sorted(prefixes)
                    for pattern, reason in patterns.items()
                ),
            )
        return ignored


def _tied(name: str, ties: list[tuple[NamePattern, Tie]]) -> tuple[str | None, Tie | None]:
    for pattern, tie in ties:
        numbers = pattern.match(name)
        if numbers is not None:
            return tie.to.format(numbers), tie
    return None, None


def _repeated(
    architecture: Architecture, params: list[ParamSpec]
) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return the names that a head's layers repeat in stand-alone files."""
    repeated: dict[str, dict[str, tuple[str, ...]]] = {}
    for dialect, layers in architecture.repeated.items():
        for layer, patterns in layers.items():
            named = [param for param in params if dialect in param.stored_as]
            if any(param.stored_as[dialect].name.startswith(f"{layer}/") for param in named):
                repeated.setdefault(dialect, {})[layer] = tuple(
                    param.stored_as[dialect].name
                    for param in named
                    if any(pattern.match(param.name) is not None for pattern in patterns)
                )
    return repeated


def _init_rule(
    row: ModuleEntry, param: Param, init: Init | None, scale: Callable[[Init], float]
) -> tuple[str, float]:
    """Return the initialization rule and scale of a parameter.

    A row's own rule applies to its first parameter, the architecture's to those of rule ``normal``.
    """
    if param.init == "count":
        return param.init, 0.0  # from zero
    if init is None or (
        param.init != "normal" and not (row.init and param is row.layer_type.params[0])
    ):
        return "constant", 1.0 if param.init == "ones" else 0.0
    return init.rule, scale(init)
