"""What a table says, as plain frozen data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from converter.architectures.expressions import Expression, Value
from converter.architectures.name_patterns import NamePattern
from converter.tensors import Axes

FRAMEWORKS = ("pytorch", "tensorflow", "flax")
"""The frameworks that outputs are written for; each has a dialect of its name."""

CROSS_ATTENTION = "cross_attention"
"""The part that only a decoder with cross-attention has."""

_BEFORE_NUMBER = re.compile(r"\.(?=\{|\d+(?:\.|$))")


@dataclass(frozen=True)
class Dialect:
    """How a framework spells the names of tensors."""

    name: str
    separator: str
    index_separator: str
    always_prefixed: bool
    suffix: str = ""
    prefixes: tuple[str, ...] = ()
    """Prefixes that training code puts before every name."""
    inner_prefixes: tuple[str, ...] = ()
    """Parts of names that wrappers of single modules add anywhere."""
    flat_separator: str = ""
    """What stands for the separator in files that do not nest, if not the separator."""
    config_files: tuple[str, ...] = ()
    """What the configurations beside its files are called, if not ``config.json``."""
    ignore: Mapping[NamePattern, str] = field(default_factory=dict)
    """Template of a name that is left out in every family → the reason."""

    def path(self, canonical: str, index: str | None = None) -> str:
        """A canonical module path, possibly with places, in this dialect's spelling.

        Args:
            canonical: the path.
            index: what joins a number to the part before it, where a family has its own way.

        """
        marked = _BEFORE_NUMBER.sub("\0", canonical)
        return marked.replace(".", self.separator).replace("\0", index or self.index_separator)

    def join(self, *parts: str) -> str:
        """One name from its parts, leaving out empty ones."""
        return self.separator.join(part for part in parts if part)


@dataclass(frozen=True)
class ParamLayout:
    """A leaf of a module kind in one dialect."""

    name: str
    axes: Axes
    aliases: tuple[str, ...] = ()
    """Older names, read but never written."""


@dataclass(frozen=True)
class Param:
    """A tensor of a module kind."""

    name: str
    init: str
    """``normal`` (the family's own rule), ``zeros`` or ``ones``."""
    layouts: Mapping[str, ParamLayout]
    dtype: str = ""
    """The dtype when fresh, if not that of the model: of whole numbers."""


@dataclass(frozen=True)
class LayerType:
    """A kind of module: the axes that its sizes name, and its leaves."""

    name: str
    sizes: tuple[str, ...]
    params: tuple[Param, ...]


@dataclass(frozen=True)
class Conventions:
    """What all families share: dialects and kinds."""

    dialects: Mapping[str, Dialect]
    layer_types: Mapping[str, LayerType]


@dataclass(frozen=True)
class Init:
    """How fresh weights are drawn: a rule and its scale."""

    rule: str
    scale: Expression


@dataclass(frozen=True)
class ModuleEntry:
    """One module of a family."""

    path: NamePattern
    layer_type: LayerType
    sizes: tuple[Expression, ...]
    when: Expression | None = None
    omitted: frozenset[str] = frozenset()
    """Leaves that this module lacks."""
    init: Init | None = None
    paths: Mapping[str, NamePattern] = field(default_factory=dict)
    """The path in dialects where it does not follow from the rule."""
    param_names: Mapping[str, str] = field(default_factory=dict)
    """The name of the kind's first leaf in dialects where the kind's own does not hold."""
    aliases: Mapping[str, tuple[NamePattern, ...]] = field(default_factory=dict)
    """Dialect → other paths under which files hold the module, read but never written."""
    not_in: frozenset[str] = frozenset()
    """Dialects that have no name for the module."""


@dataclass(frozen=True)
class Tie:
    """A tensor that shares the values of another one."""

    to: NamePattern
    unless: Expression | None = None
    stored_in: Mapping[str, Expression | None] = field(default_factory=dict)
    """Dialects whose files hold it all the same, and if only under a condition, that."""
    stored_without: str | None = None
    """They do so only in models that lack this part or head."""
    requires: str | None = None
    """The tie holds only in models that have this part or head."""


@dataclass(frozen=True)
class ModelClass:
    """A class of the frameworks: which parts and heads its models have."""

    name: str
    parts: tuple[str, ...]
    heads: tuple[str, ...]
    classes: Mapping[str, str]
    """Framework → name of the class there."""
    missing_parts: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Framework → parts that its class lacks although another framework's has them."""


@dataclass(frozen=True)
class Role:
    """What a family does in an encoder-decoder model."""

    model: str
    frameworks: tuple[str, ...]
    reason: str | None = None
    """Why not every framework of the model."""
    config: Mapping[str, Value] = field(default_factory=dict)
    """Fields that the configuration must have in this role."""
    composite: str = "encoder-decoder"
    """The composite that an encoder calls for; of a decoder it says nothing."""
    note: str | None = None
    """What who composes it should know."""


@dataclass(frozen=True)
class Token:
    """A special token: its role in tokenizers, and its id in the family's own vocabulary."""

    token: str
    id: int
    overrides_config: bool = False
    """Whether it goes before what configurations call by the plain name of its role: the family's
    configurations and tokenizers state another one there, which does not begin or end texts."""


@dataclass(frozen=True)
class LanguageCodes:
    """Codes of languages: a decoder begins what it writes with one, instead of a start token."""

    codes: tuple[tuple[str, ...], ...]
    """The codes in the order of their ids, in groups: a vocabulary has the first, or the first
    two …, at its end, with at most one further token behind them."""
    first_id: int
    """The id of the first code in the family's own vocabularies."""
    format: str = "{}"
    """What becomes of the name of a language to be its code."""
    after_start_token: frozenset[str] = frozenset()
    """Classes of tokenizers with which the start token stays, and the code follows."""

    def ids(self, conventions: int) -> dict[str, int]:
        """Code → id in the family's own vocabulary of a size; none if it is none of them."""
        known: list[str] = []
        for group in self.codes:
            known += group
            if conventions - self.first_id - len(known) in (0, 1):
                return {code: self.first_id + place for place, code in enumerate(known)}
        return {}

    @property
    def names(self) -> list[str]:
        """All codes."""
        return [code for group in self.codes for code in group]


@dataclass(frozen=True)
class CrossAttentionInitRules:
    """How fresh cross-attention can begin as something better than noise."""

    copy_self_attention: Mapping[str, str]
    """Parts of a cross-attention tensor's path → the parts to put in their place for the path of
    the self-attention tensor of the same use."""
    zero_output: tuple[str, ...]
    """Paths of modules, by their last parts: the cross-attention's last, which, where all zero,
    let it add nothing."""
    norm: str
    """``before``: the branch normalises its own input, so that a zero output leaves the decoder as
    it was; ``after``: the sum is normalised, by a fresh layer norm, which does not."""

    def counterpart(self, name: str) -> str | None:
        """The tensor that a cross-attention tensor copies, by the first entry that concerns it."""
        whole = f".{name}."
        for parts, other in self.copy_self_attention.items():
            if f".{parts}." in whole:
                return whole.replace(f".{parts}.", f".{other}.", 1)[1:-1]
        return None

    def is_output(self, name: str) -> bool:
        """Whether a tensor is of a module whose zeros silence the branch."""
        module = f".{name.rpartition('.')[0]}"
        return any(module.endswith(f".{path}") for path in self.zero_output)


@dataclass(frozen=True)
class UnsupportedConfig:
    """A configuration that some frameworks cannot hold."""

    when: Expression
    frameworks: tuple[str, ...]
    reason: str
    head: str | None = None
    """The limit concerns only models with this head."""
    role: str | None = None
    """It concerns models in this role only, not stand-alone ones."""


@dataclass(frozen=True)
class LegacyDetection:
    """How a family's first releases are told, whose configurations state no ``model_type``."""

    fields: frozenset[str]
    """A configuration that has all of these fields,"""
    absent_fields: frozenset[str]
    """has none of these,"""
    tensors: tuple[NamePattern, ...]
    """and lies beside a tensor of one of these names is the family's."""
    rename_fields: Mapping[str, str]
    """Field there → field in transformers' configuration."""
    model: str | None = None
    """The class of the released models, where their tensors do not tell."""


@dataclass(frozen=True)
class Architecture:
    """One architecture's table."""

    name: str
    title: str
    base_model_prefix: Mapping[str, str]
    """Dialect → name of the base model inside a model with a head."""
    layers: Mapping[str, Expression]
    """Place in paths → how many there are, or which (a list). A place may depend on earlier ones
    of the same path, and sizes and conditions may depend on places."""
    init: Init
    config: Mapping[str, Value]
    """The fields that matter, with the defaults of the family's own configuration class."""
    attributes: Mapping[str, Expression]
    """What composites, checks and cards ask for: width, vocabulary, positions, heads, init_range,
    first_position."""
    models: Mapping[str, ModelClass]
    roles: Mapping[str, Role]
    modules: tuple[ModuleEntry, ...]
    parts: Mapping[str, tuple[ModuleEntry, ...]]
    heads: Mapping[str, tuple[ModuleEntry, ...]]
    ties: Mapping[str, Tie]
    """Canonical template of the tied tensor → what it is tied to."""
    ignore: Mapping[str, Mapping[NamePattern, str]]
    """Dialect → template of a name that is left out → the reason."""
    repeated: Mapping[str, Mapping[str, tuple[NamePattern, ...]]] = field(default_factory=dict)
    """Dialect → layer of a head → tensors of the body that a stand-alone file lists there again."""
    unsupported: tuple[UnsupportedConfig, ...] = ()
    tokens: Mapping[str, Token] = field(default_factory=dict)
    languages: LanguageCodes | None = None
    tokenizer: str | None = None
    """The class that transformers loads its tokenizer with where no file says so."""
    cross_attention_init: CrossAttentionInitRules | None = None
    index_separator: Mapping[str, str] = field(default_factory=dict)
    """Dialect → what joins a number to the part before it, where not as the dialect says."""
    legacy_detection: LegacyDetection | None = None
    nested_in: Mapping[str, str] = field(default_factory=dict)
    """``model_type`` of larger models that hold one of this family → the field of their
    configuration that holds its own."""
    sha256: str = ""
    """Of the table's file, for the manifest."""


@dataclass(frozen=True)
class Composite:
    """Two families joined into one model."""

    name: str
    title: str
    submodels: tuple[str, str]
    classes: Mapping[str, str]
    modules: tuple[ModuleEntry, ...]
    tied_by: str = ""
    """The field that, where true, makes tensors of the same path in both halves one."""
    unsupported: tuple[UnsupportedConfig, ...] = ()
    """Halves that some frameworks' classes cannot join."""
    sha256: str = ""
