"""A table and a configuration combined: every tensor of a model, named in every dialect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from converter.architectures.model_config import Places
from converter.architectures.schema import Conventions, Dialect, Family, ModuleEntry, Param
from converter.errors import Problem
from converter.tensors import Axes

if TYPE_CHECKING:
    pass

from collections.abc import Callable, Iterable, Iterator
from dataclasses import field, replace
from functools import cached_property

from converter.architectures.expressions import Expression, ExpressionError, Value
from converter.architectures.model_config import ModelConfig
from converter.architectures.name_patterns import NamePattern
from converter.architectures.schema import Composite, Init, Tie
from converter.errors import ConfigError, TableError

OUTSIDE = "/"
"""Begins the path of a module that a dialect keeps beside the base model, not inside."""


@dataclass(frozen=True)
class FrameworkParam:
    """A tensor in one dialect."""

    name: str
    """As it is written for this very model."""
    axes: Axes
    shape: tuple[int, ...]
    also: tuple[str, ...] = ()
    """Other names under which files hold it: with or without the base model's, older ones."""


@dataclass(frozen=True)
class ParamNamer:
    """Spells the tensors of one group of rows."""

    vocabulary: Conventions
    family: Family | None
    prefix: str
    in_base: bool
    beside_head: bool

    def canonical(self, name: str) -> str:
        """A canonical name, behind the half that the model is."""
        return f"{self.prefix}.{name}" if self.prefix else name

    def spell(
        self,
        dialect: Dialect,
        row: ModuleEntry,
        leaf: Param,
        places: Places,
        lengths: dict[str, int],
    ) -> FrameworkParam:
        """A leaf of a row in one dialect.

        Args:
            dialect: in which dialect.
            row: the row.
            leaf: the leaf, which must have a spelling in the dialect.
            places: what the places in the row's path stand for.
            lengths: the length of each named axis.
        """
        spelled = leaf.spellings[dialect.name]
        override = row.paths.get(dialect.name)
        index = self.family.index.get(dialect.name) if self.family else None
        path = override.format(places) if override else dialect.path(row.path.format(places), index)
        last = spelled.leaf
        if dialect.name in row.leaves and leaf is row.kind.leaves[0]:
            last = row.leaves[dialect.name]
        bases = [""]
        base = self.family.base.get(dialect.name) if self.family else None
        if self.in_base and base:
            bases = [base, ""] if dialect.base_always or self.beside_head else ["", base]
        paths = [path, *(other.format(places) for other in row.also.get(dialect.name, ()))]
        names = [
            dialect.join(self.prefix, base, path.removeprefix(OUTSIDE), name) + dialect.suffix
            for path in paths
            for name in (last, *spelled.also)
            for base in ([""] if path.startswith(OUTSIDE) else bases)
        ]
        return FrameworkParam(names[0], spelled.axes, spelled.axes.shape(lengths), tuple(names[1:]))


def invalid_ties(slots: Mapping[str, ParamSpec], file: str) -> list[Problem]:
    """Every tie among `slots`, by canonical name, that leads nowhere or to something else.

    Args:
        slots: all tensors of a model.
        file: what messages call the table.
    """
    problems = []

    def add_problem(slot: ParamSpec, what: str, expected: str, found: str, remedy: str) -> None:
        problems.append(Problem(what, file, f"tied.{slot.name}", expected, found, remedy))

    for slot in slots.values():
        if slot.tied_to is None:
            continue
        target, seen = slots.get(slot.tied_to), {slot.name}
        if target is None:
            add_problem(
                slot,
                f"is tied to {slot.tied_to}, which is not there",
                "a tensor of the same model",
                "none",
                "Correct the name, or let the model have the part or head that holds it.",
            )
        elif target.canonical.shape != slot.canonical.shape:
            add_problem(
                slot,
                f"is tied to {slot.tied_to}, which has another shape",
                str(list(target.canonical.shape)),
                str(list(slot.canonical.shape)),
                "Correct the sizes of one of the two rows.",
            )
        while target is not None and target.tied_to is not None and target.name not in seen:
            seen.add(target.name)
            target = slots.get(target.tied_to)
        if target is not None and target.name in seen:
            add_problem(
                slot,
                "is tied in a circle",
                "a tensor with values of its own at the end",
                " → ".join([*sorted(seen)]),
                "Take out the tie of the tensor that files hold.",
            )
    return problems


MAX_TENSORS = 100_000
"""No model has more tensors; a configuration that asks for them is damaged or hostile."""

BODY = ""
"""The `Slot.part` of tensors that every model of the family has."""


@dataclass(frozen=True)
class ParamSpec:
    """One tensor that a model has."""

    name: str
    """Canonical: PyTorch's path below the base model, below the half in a composite."""
    part: str
    """`BODY`, or the table's name of the part or head it belongs to."""
    spellings: Mapping[str, FrameworkParam]
    rule: str
    """How it is drawn when fresh: a rule of `converter.initializers`."""
    scale: float
    tied_to: str | None = None
    """Canonical name of the slot whose values it shares."""
    stored: frozenset[str] = frozenset()
    """Dialects whose files hold it although it is tied."""
    dtype: str = ""
    """The dtype when fresh, if not that of the model."""

    @property
    def canonical(self) -> FrameworkParam:
        """The PyTorch spelling, whose layout is the canonical one."""
        return self.spellings["pytorch"]


@dataclass(frozen=True)
class ModelSpec:
    """All tensors of a concrete model."""

    params: tuple[ParamSpec, ...]
    drops: Mapping[str, tuple[tuple[str, NamePattern, str], ...]] = field(default_factory=dict)
    """Dialect → (prefix, template, reason) of names that are left out on purpose."""
    relisted: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    """Dialect → layer → names of other layers' tensors that files list there again."""
    without: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Dialect → parts whose tensors its files do not hold."""

    @cached_property
    def by_name(self) -> dict[str, ParamSpec]:
        """The slots by canonical name."""
        return {slot.name: slot for slot in self.params}

    def resolve(self, slot: ParamSpec) -> ParamSpec:
        """The slot whose values `slot` shares; itself if it is not tied."""
        while slot.tied_to:
            slot = self.by_name[slot.tied_to]
        return slot

    def index(self, dialect: str) -> dict[str, ParamSpec]:
        """Every name that a file in `dialect` may use → the slot it means."""
        found: dict[str, ParamSpec] = {}
        spelled = [slot for slot in self.params if dialect in slot.spellings]
        for slot in spelled:
            for name in slot.spellings[dialect].also:
                found.setdefault(name, slot)
        for slot in spelled:  # the exact name of one slot beats another's alternative
            found[slot.spellings[dialect].name] = slot
        return found

    def ignore_reason(self, dialect: str, name: str) -> str | None:
        """Why the table leaves `name` out, or ``None`` if it does not."""
        for prefix, template, reason in self.drops.get(dialect, ()):
            if name.startswith(prefix) and template.match(name[len(prefix) :]) is not None:
                return reason
        return None


class ModelSpecBuilder:
    """Draws blueprints.

    Args:
        vocabulary: the dialects and kinds that the tables share.
    """

    def __init__(self, vocabulary: Conventions) -> None:
        self.vocabulary = vocabulary

    def model(
        self,
        config: ModelConfig,
        parts: Iterable[str] | None = None,
        heads: Iterable[str] | None = None,
        prefix: str = "",
    ) -> ModelSpec:
        """The blueprint of a model of one family.

        Args:
            config: its configuration, read through the family's table.
            parts: names of the table's parts that the model has; all of them by default.
            heads: names of the table's heads that the model has; all of them by default.
            prefix: name of the half that the model is in a composite.

        Raises:
            ConfigError: if a size cannot be worked out, or the model would be absurdly large.
            TableError: if a tensor is tied to none, to one of another shape, or in a circle.
        """
        family = config.family
        parts = tuple(dict.fromkeys(family.parts if parts is None else parts))
        heads = tuple(family.heads if heads is None else heads)
        has = {*parts, *heads}
        ties = [
            (NamePattern(name), replace(tie, stored={}) if tie.stored_without in has else tie)
            for name, tie in family.ties.items()
            if tie.beside is None or tie.beside in has
        ]
        groups = [(BODY, family.modules, True)]
        groups += [(part, family.parts[part], True) for part in parts]
        groups += [(head, family.heads[head], False) for head in heads]
        asked = sum(
            len(config.combinations(row.path.places, MAX_TENSORS)) * len(row.kind.leaves)
            for _, rows, _ in groups
            for row in rows
        )
        if asked > MAX_TENSORS:
            raise ConfigError(f"{config.file}: asks for up to {asked} tensors")
        slots: list[ParamSpec] = []
        for part, rows, in_base in groups:
            namer = ParamNamer(self.vocabulary, family, prefix, in_base, bool(heads))
            for row in rows:
                slots += self._module(row, config, part, namer, ties)
        relisted = {} if prefix else _relisted(family, slots)
        blueprint = ModelSpec(tuple(slots), self._drops(family, prefix), relisted)
        problems = invalid_ties(blueprint.by_name, f"mappings/{family.name}.toml")
        if problems:
            raise TableError(f"{family.name}: {len(problems)} tied tensor(s) cannot be", problems)
        return blueprint

    def composite(
        self,
        composite: Composite,
        halves: Mapping[str, ModelConfig],
        models: Mapping[str, ModelSpec],
    ) -> ModelSpec:
        """The blueprint of a composite, from those of its halves (drawn with their prefixes).

        Raises:
            ConfigError: if a size cannot be worked out.
        """

        def lookup(name: str) -> Value:
            half, _, measure = name.partition(".")
            return halves[half].attribute(measure) if half in halves else None

        def number(expression: Expression) -> float:
            try:
                return expression.number(lookup)
            except ExpressionError as error:
                raise ConfigError(f"{composite.name}: {error}") from error

        own: list[ParamSpec] = []
        namer = ParamNamer(self.vocabulary, None, "", in_base=False, beside_head=False)
        for row in composite.modules:
            if row.when is None or row.when.evaluate(lookup):
                sizes = [int(number(size)) for size in row.sizes]
                own += self._leaves(
                    row,
                    {},
                    sizes,
                    composite.name,
                    namer,
                    [],
                    lambda init: number(init.scale),
                    row.init,
                )
        drops: dict[str, tuple[tuple[str, NamePattern, str], ...]] = {}
        for blueprint in models.values():
            for dialect, entries in blueprint.drops.items():
                drops[dialect] = (*drops.get(dialect, ()), *entries)
        slots = [slot for blueprint in models.values() for slot in blueprint.params]
        return ModelSpec((*slots, *own), drops)

    def _module(
        self,
        row: ModuleEntry,
        config: ModelConfig,
        part: str,
        namer: ParamNamer,
        ties: list[tuple[NamePattern, Tie]],
    ) -> Iterator[ParamSpec]:
        """The tensors of one row, for every combination of the numbers in its path."""
        live = [
            (name, replace(tie, stored={d: c for d, c in tie.stored.items() if config.holds(c)}))
            for name, tie in ties
            if not (tie.unless and config.holds(tie.unless))
        ]

        def scale(init: Init) -> float:
            return float(config.number(init.scale))

        for places in config.combinations(row.path.places, MAX_TENSORS):
            if config.holds(row.when, places):
                sizes = [config.size(size, places) for size in row.sizes]
                init = row.init or config.family.init
                yield from self._leaves(row, places, sizes, part, namer, live, scale, init)

    def _leaves(
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
        lengths = dict(zip(row.kind.sizes, sizes, strict=True))
        path = row.path.format(places)
        for leaf in row.kind.leaves:
            if leaf.name in row.without:
                continue
            spellings = {
                name: namer.spell(dialect, row, leaf, places, lengths)
                for name, dialect in self.vocabulary.dialects.items()
                if name in leaf.spellings and name not in row.not_in
            }
            own = f"{path}.{leaf.name}" if leaf.name else path
            tied_to, stored = _tied(own, ties)
            rule, amount = _drawn(row, leaf, init, scale)
            yield ParamSpec(
                name=namer.canonical(own),
                part=part,
                spellings=spellings,
                rule=rule,
                scale=amount,
                tied_to=namer.canonical(tied_to) if tied_to else None,
                stored=stored,
                dtype=leaf.dtype,
            )

    def _drops(
        self, family: Family, prefix: str
    ) -> dict[str, tuple[tuple[str, NamePattern, str], ...]]:
        """The table's names to leave out, behind every prefix that a file may put before them."""
        drops = {}
        for name, dialect in self.vocabulary.dialects.items():
            templates = family.drops.get(name, {})
            leads = {dialect.join(prefix, base) for base in ("", family.base.get(name, ""))}
            drops[name] = (
                *(("", template, reason) for template, reason in dialect.drops.items()),
                *(
                    (f"{lead}{dialect.separator}" if lead else "", template, reason)
                    for lead in sorted(leads)
                    for template, reason in templates.items()
                ),
            )
        return drops


def _tied(name: str, ties: list[tuple[NamePattern, Tie]]) -> tuple[str | None, frozenset[str]]:
    for template, tie in ties:
        numbers = template.match(name)
        if numbers is not None:
            return tie.to.format(numbers), frozenset(tie.stored)
    return None, frozenset()


def _relisted(family: Family, slots: list[ParamSpec]) -> dict[str, dict[str, tuple[str, ...]]]:
    """The names that a head's layers list again; combined files do without."""
    relisted: dict[str, dict[str, tuple[str, ...]]] = {}
    for dialect, layers in family.relisted.items():
        for layer, templates in layers.items():
            spelled = [slot for slot in slots if dialect in slot.spellings]
            if any(slot.spellings[dialect].name.startswith(f"{layer}/") for slot in spelled):
                relisted.setdefault(dialect, {})[layer] = tuple(
                    slot.spellings[dialect].name
                    for slot in spelled
                    if any(template.match(slot.name) is not None for template in templates)
                )
    return relisted


def _drawn(
    row: ModuleEntry, leaf: Param, init: Init | None, scale: Callable[[Init], float]
) -> tuple[str, float]:
    """The rule and scale of a leaf: its row's own rule is for the first leaf, whatever its kind
    says; the family's rule is for the leaves that are drawn at all."""
    if init is None or (leaf.init != "normal" and not (row.init and leaf is row.kind.leaves[0])):
        return "constant", 1.0 if leaf.init == "ones" else 0.0
    return init.rule, scale(init)
