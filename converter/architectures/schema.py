"""The schema of mapping tables.

Each subclass of `Entry` is the schema of one section of a TOML file: a field is a key, optional if
it has a default. `Architecture`, `Composite` and `Conventions` are complete tables, as others see.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec

from converter.architectures.expressions import Expression, NamePattern, Value
from converter.display import Displayed
from converter.tensors import Axes

FRAMEWORKS = ("pytorch", "tensorflow", "flax")
"""The frameworks that outputs are written for; each has a dialect of its name."""

CROSS_ATTENTION = "cross_attention"
"""The part that only a decoder with cross-attention has."""

Framework = Annotated[str, "framework"]
DialectName = Annotated[str, "dialect"]
"""One of the dialects of ``_dialects.toml``."""

_BEFORE_NUMBER = re.compile(r"\.(?=\{|\d+(?:\.|$))")
_MAX_CACHED = 200
"""Characters of the longest path whose names are kept."""


@lru_cache(4096)  # all parameters of a module, and all configurations of a table, have its path
def _path(canonical: str, separator: str, index_separator: str) -> str:
    marked = _BEFORE_NUMBER.sub("\0", canonical)
    return marked.replace(".", separator).replace("\0", index_separator)


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A section of a table."""


class Dialect(Entry, frozen=True):
    """How a framework formats parameter names."""

    name: str
    separator: str
    """Joins the components of a path."""
    index_separator: str
    """Joins a number to the component before it."""
    base_model_prefix: Literal["always", "with head"]
    """When the base model's name is part of the parameter names."""
    suffix: str = ""
    unscoped: str = ""
    """Start of names that files have without the scope of the model, as those of one component."""
    inner_prefixes: tuple[str, ...] = ()
    """Components that wrappers of single modules add anywhere in a name."""
    leaves: tuple[str, ...] = ()
    """Ends of names in files that keep every value in an object of its own."""
    flat_separator: str = ""
    """The separator in files that do not nest, if it differs."""
    config_files: tuple[str, ...] = ()
    """Names of the configuration files, if not ``config.json``."""
    ignore: Mapping[NamePattern, str] = {}
    """Tensor names that are ignored in every architecture → the reason."""

    def path(self, canonical: str, index: str | None = None) -> str:
        """Return a canonical module path, possibly with placeholders, in this dialect.

        An architecture may have an index separator of its own, `index`.
        """
        separators = self.separator, index or self.index_separator
        path = _path if len(canonical) <= _MAX_CACHED else _path.__wrapped__
        return path(canonical, *separators)

    def join(self, *parts: str) -> str:
        """Return one name from its parts, leaving out empty ones."""
        return self.separator.join(filter(None, parts))


@dataclass(frozen=True)
class ParamLayout:
    """A parameter of a layer type in one dialect."""

    name: str
    axes: Axes
    aliases: tuple[str, ...] = ()
    """Older names, read but never written."""
    collection: str = ""
    """The one that holds it in files with several."""


@dataclass(frozen=True)
class Param:
    """A parameter of a layer type."""

    name: str
    init: str
    """``normal`` (the architecture's rule), ``zeros``, ``ones``, ``count`` (zero if missing)."""
    layouts: Mapping[str, ParamLayout]
    dtype: str = ""
    """The dtype when newly initialized, if not that of the model."""
    buffer: bool = False
    """If true, PyTorch's module computes it or counts with it, and does not train it."""


@dataclass(frozen=True)
class LayerType:
    """A type of module: the axes that its sizes name, and its parameters."""

    name: str
    sizes: tuple[str, ...]
    params: tuple[Param, ...]


@dataclass(frozen=True)
class Conventions:
    """What all architectures share: dialects and layer types."""

    dialects: Mapping[str, Dialect]
    layer_types: Mapping[str, LayerType]


@dataclass(frozen=True)
class Init:
    """An initialization rule and its scale."""

    rule: str
    scale: Expression


@dataclass(frozen=True)
class ModuleEntry:
    """One module of an architecture: a row of its table."""

    path: NamePattern
    layer_type: LayerType
    sizes: tuple[Expression, ...]
    when: Expression | None = None
    omitted: frozenset[str] = frozenset()
    init: Init | None = None
    """The rule for the first parameter, if not the architecture's."""
    paths: Mapping[str, NamePattern] = field(default_factory=dict)
    """Dialect → path, where it does not follow from the dialect's rule."""
    param_names: Mapping[str, str] = field(default_factory=dict)
    """Dialect → name of the first parameter, where it is not the layer type's."""
    aliases: Mapping[str, tuple[NamePattern, ...]] = field(default_factory=dict)
    """Dialect → other paths, read but never written."""
    not_in: frozenset[str] = frozenset()
    buffer: bool = False
    empty: bool = False
    """If true, an axis may have the length 0."""


class RowOptions(Entry, frozen=True):
    """The keys of a row other than its layer type."""

    when: Expression | None = None
    init: Init | None = None
    path: Mapping[DialectName, NamePattern] = {}
    param: Mapping[DialectName, str] = {}
    aliases: Mapping[DialectName, tuple[NamePattern, ...]] = {}
    not_in: tuple[DialectName, ...] = ()
    buffer: bool = False
    empty: bool = False


@dataclass(frozen=True)
class Tie:
    """A tensor that shares the values of another one."""

    to: NamePattern
    when: Expression | None = None
    stored_in: Mapping[str, Expression | None] = field(default_factory=dict)
    """Dialects whose files hold the tied tensor as well → the condition, if any."""
    stored_without: str | None = None
    """They do so only in models without this part or head."""
    requires: str | None = None
    """The tie holds only in models with this part or head."""
    overrides_in: frozenset[str] = frozenset()
    """Dialects whose classes use the tied tensor, and not the one that it is tied to."""
    copied_in: frozenset[str] = frozenset()
    """Dialects whose files may hold it as a further copy, by the name of what it is tied to."""


class TieOptions(Entry, frozen=True):
    """An entry of ``[tied]``."""

    to: NamePattern
    when: Expression | None = None
    stored_in: Any = ()
    """A list of dialects, or a table of dialect → condition or ``true``."""
    stored_without: str | None = None
    requires: str | None = None
    overrides_in: frozenset[DialectName] = frozenset()
    copied_in: frozenset[DialectName] = frozenset()


@dataclass(frozen=True)
class ModelClass:
    """A model class of the frameworks: its parts and heads."""

    name: str
    parts: tuple[str, ...]
    heads: tuple[str, ...]
    classes: Mapping[str, str]
    missing_parts: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Framework → parts that its class lacks although another framework's has them."""
    base_model_prefix: Mapping[str, str] = field(default_factory=dict)
    """Dialect → path of the base model in all its files, if it is not the architecture's."""


class ModelOptions(Entry, frozen=True):
    """An entry of ``[models]``."""

    parts: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    frameworks: tuple[Framework, ...] = ()
    missing_parts: Mapping[Framework, frozenset[str]] = {}
    base_model_prefix: Any = ""
    pytorch: str = ""
    tensorflow: str = ""
    flax: str = ""


class Role(Entry, frozen=True):
    """How an architecture is used in a composite."""

    model: str
    frameworks: tuple[Framework, ...] = FRAMEWORKS
    reason: str | None = None
    """Why some frameworks of the model are left out."""
    config: Mapping[str, Any] = {}
    """Fields that the configuration must have in this role."""
    composite: str = "encoder-decoder"
    note: str | None = None
    uncallable: Mapping[str, str] = {}
    """Composite → why its PyTorch class loads the model in this role but cannot call it."""
    positions_as_types: tuple[Framework, ...] = ()
    """Frameworks whose composites pass positions as this encoder's token types in `generate`."""
    cannot_generate: Mapping[Framework, Mapping[str, str]] = {}
    """Framework → composite → why its class calls the model in this role, but cannot generate."""
    uncached: Mapping[Framework, str] = {}
    """Framework → why `generate` fails with the cache of this decoder."""
    unmasked: Mapping[Framework, Mapping[str, str]] = {}
    """Framework → composite → why `generate` fails with the encoder's mask, which it makes."""


class Token(Entry, frozen=True):
    """A special token: its role in tokenizers, and its id in the architecture's vocabulary."""

    token: str
    id: int
    overrides_config: bool = False
    """If true, it is used instead of the token that configurations name for the role."""


class LanguageCodes(Entry, frozen=True):
    """Language codes, with one of which a decoder starts instead of a start token."""

    codes: tuple[tuple[str, ...], ...]
    """The codes in the order of their ids, in groups: a vocabulary ends with the first group, or
    the first two, and so on, followed by at most one further token."""
    first_id: int
    """The id of the first code in the architecture's own vocabularies."""
    format: str = "{}"
    """The code of a language, from its name."""
    after_start_token: frozenset[str] = frozenset()
    """Tokenizer classes that keep the start token and put the code after it."""

    def ids(self, vocabulary: int) -> dict[str, int]:
        """Return code → id in the vocabulary of a given size; empty if no size matches."""
        codes: list[str] = []
        for group in self.codes:
            codes += group
            if vocabulary - self.first_id - len(codes) in (0, 1):
                return {code: self.first_id + index for index, code in enumerate(codes)}
        return {}

    @property
    def names(self) -> list[str]:
        """All codes."""
        return [code for group in self.codes for code in group]


class CrossAttentionInitRules(Entry, frozen=True):
    """Rules to initialize cross-attention by something better than noise."""

    norm: Literal["pre", "post"]
    """``pre``: layer norm is applied to the branch's input, so that with a zero output the decoder
    is unchanged; ``post``: it is applied to the sum, and changes it."""
    zero_output: tuple[str, ...] = ()
    """Last components of the path of the branch's output module, which is zero."""
    copy_self_attention: Mapping[str, str] = {}
    """Components of a cross-attention path → their replacement in the path of the self-attention
    tensor of the same use; the first match applies."""
    default: Literal["normal", "copy-self-attention"] = "normal"
    """The rule if none is requested; a copy only if every counterpart can be copied."""

    def counterpart(self, name: str) -> str | None:
        """Return the name of the tensor that a cross-attention tensor copies."""
        path = f".{name}."
        for parts, other in self.copy_self_attention.items():
            if f".{parts}." in path:
                return path.replace(f".{parts}.", f".{other}.", 1)[1:-1]
        return None

    def is_output(self, name: str) -> bool:
        """Return whether a tensor belongs to the branch's output module."""
        module = f".{name.rpartition('.')[0]}"
        return any(module.endswith(f".{path}") for path in self.zero_output)


class UnsupportedConfig(Entry, frozen=True):
    """A configuration that some frameworks do not support."""

    when: Expression
    frameworks: tuple[Framework, ...]
    reason: str
    head: str | None = None
    """Only models with this head are affected."""
    role: str | None = None
    """Only models in this role are affected, not stand-alone ones."""


class DetectionRule(Entry, frozen=True):
    """What a checkpoint has whose configuration has no ``model_type``."""

    fields: frozenset[str] = frozenset()
    """The configuration has all of these fields,"""
    absent_fields: frozenset[str] = frozenset()
    """has none of these,"""
    when: Expression | None = None
    """meets this condition,"""
    tensors: tuple[NamePattern, ...] = ()
    """and the weights include a tensor of one of these names, which may have a prefix."""


class Detection(DetectionRule, frozen=True):
    """How to recognize a config without ``model_type``: this is the rule of the first release."""

    alternatives: tuple[DetectionRule, ...] = ()
    """Rules for later releases, whose fields are those of the table."""
    rename_fields: Mapping[str, str] = {}
    """Field of the first releases → field in transformers' configuration."""
    model: str | None = None
    """The class of the released models, where the tensors do not show it."""
    nested_in: Mapping[str, str] = {}
    """``model_type`` of larger models with one of this architecture inside → the field of their
    configuration that contains its own."""


class ArchitectureTable(Entry, frozen=True):
    """An architecture's TOML file, ``extends`` resolved."""

    model_type: str
    title: str
    base_model_prefix: Any = ""
    """One name for all dialects, or a table of one for each."""
    class_prefix: str = ""
    index_separator: Mapping[DialectName, str] = {}
    collection: Mapping[DialectName, str] = {}
    frameworks: tuple[Framework, ...] = FRAMEWORKS
    layers: Mapping[str, Expression] = {}
    init: Init = Init("normal", Expression("0.02"))
    nullable: tuple[str, ...] = ()
    per_layer: tuple[str, ...] = ()
    tokenizer: str | None = None
    config: Mapping[str, Any] = {}
    attributes: Mapping[str, Expression] = {}
    models: Mapping[str, ModelOptions] = {}
    roles: Mapping[str, Role] = {}
    becomes: Mapping[str, str] = {}
    tokens: Mapping[str, Token] = {}
    languages: LanguageCodes | None = None
    cross_attention_init: CrossAttentionInitRules | None = None
    detection: Detection | None = None
    modules: Mapping[str, Any] = {}
    parts: Mapping[str, Mapping[str, Any]] = {}
    heads: Mapping[str, Mapping[str, Any]] = {}
    tied: Mapping[str, TieOptions] = {}
    ignore: Mapping[DialectName, Mapping[NamePattern, str]] = {}
    repeated: Mapping[DialectName, Mapping[str, tuple[NamePattern, ...]]] = {}
    unsupported: Mapping[str, UnsupportedConfig] = {}
    note: str | None = None


class ModelTypes(Entry, frozen=True):
    """The content of ``_model_types.toml``: model types, with or without a table."""

    encoder: Mapping[str, frozenset[str]]
    """Reason → the model types that cannot be the encoder of an encoder-decoder model."""
    decoder: Mapping[str, frozenset[str]]
    aliases: Mapping[str, str]
    """Model type → the one whose configuration and models transformers uses for it."""
    successors: Mapping[str, str]
    """Model type of code outside of transformers → the one that transformers uses now."""

    def role_obstacle(self, model_type: str, role: str) -> str | None:
        """Return why a model type cannot be the ``encoder`` or ``decoder``, if that is known."""
        reasons = self.encoder if role == "encoder" else self.decoder
        return next((why for why, names in reasons.items() if model_type in names), None)


class CompositeTable(Entry, frozen=True):
    """A composite's TOML file."""

    composite: str
    title: str
    submodels: tuple[str, ...]
    roles: Mapping[str, str] = {}
    models: Mapping[str, Mapping[str, Role]] = {}
    wrappers: Mapping[str, str] = {}
    configs: Mapping[str, str] = {}
    config: Mapping[str, Any] = {}
    derived: Mapping[str, Expression] = {}
    prefixed: bool = True
    closed: bool = False
    split_note: str = ""
    notes: Mapping[Framework, str] = {}
    accepts: Mapping[str, tuple[str, ...]] = {}
    classes: Mapping[Framework, str] = {}
    modules: Mapping[str, Any] = {}
    tied_by: str = ""
    unsupported: Mapping[str, UnsupportedConfig] = {}


class ParamOptions(Entry, frozen=True):
    """A parameter of a layer type in ``_dialects.toml``; other keys are dialects."""

    init: Literal["normal", "zeros", "ones", "count"]
    axes: Axes | None = None
    dtype: Literal["", "int64"] = ""
    buffer: bool = False


class LayoutOptions(Entry, frozen=True):
    """A parameter in one dialect, where it differs from the parameter's own name and axes."""

    name: str | None = None
    axes: Axes | None = None
    aliases: tuple[str, ...] = ()
    collection: str = ""


@dataclass(frozen=True, repr=False)
class Architecture(Displayed):
    """The table of one architecture."""

    name: str
    title: str
    base_model_prefix: Mapping[str, str]
    """Dialect → name of the base model inside a model with a head."""
    layers: Mapping[str, Expression]
    """Placeholder in paths → the number of layers, or a list of indices. It may depend on earlier
    placeholders of the same path, and sizes and conditions may depend on placeholders."""
    init: Init
    config: Mapping[str, Value]
    """The fields that matter, with the defaults of the configuration class."""
    attributes: Mapping[str, Expression]
    """What composites, checks and cards use: width, vocabulary, positions, heads, init_range,
    first_position."""
    models: Mapping[str, ModelClass]
    roles: Mapping[str, Role]
    modules: tuple[ModuleEntry, ...]
    parts: Mapping[str, tuple[ModuleEntry, ...]]
    heads: Mapping[str, tuple[ModuleEntry, ...]]
    ties: Mapping[str, Tie]
    """Canonical name pattern of the tied tensor → what it is tied to."""
    ignore: Mapping[str, Mapping[NamePattern, str]]
    """Dialect → pattern of names that are ignored → the reason."""
    repeated: Mapping[str, Mapping[str, tuple[NamePattern, ...]]] = field(default_factory=dict)
    """Dialect → layer of a head → tensors of the body that a stand-alone file repeats there."""
    unsupported: Mapping[str, UnsupportedConfig] = field(default_factory=dict)
    note: str | None = None
    """A warning to all who write such a model."""
    becomes: Mapping[str, str] = field(default_factory=dict)
    """Composite → the architecture as which its checkpoints are read there."""
    tokens: Mapping[str, Token] = field(default_factory=dict)
    languages: LanguageCodes | None = None
    tokenizer: str | None = None
    """The tokenizer class that transformers uses where no file names one."""
    cross_attention_init: CrossAttentionInitRules | None = None
    index_separator: Mapping[str, str] = field(default_factory=dict)
    """Dialect → index separator, where it is not the dialect's."""
    collection: Mapping[str, str] = field(default_factory=dict)
    """Dialect → the collection of its parameters, in files with several."""
    nullable: tuple[str, ...] = ()
    """Fields that may be null, whatever their default."""
    per_layer: tuple[str, ...] = ()
    """Fields with an entry for each layer, in lists, or in pairs of a list and its repetitions."""
    detection: Detection | None = None
    sha256: str = ""

    def base_model_prefixes(self, dialect: Dialect) -> dict[str, None]:
        """Return the names that the base model may have in files of a dialect, without ``""``."""
        paths = (model.base_model_prefix.get(dialect.name, "") for model in self.models.values())
        names = (self.base_model_prefix.get(dialect.name, ""), *map(dialect.path, paths))
        return {name: None for name in names if name}

    def named_models(self, names: Set[str]) -> list[ModelClass]:
        """Return the models that have one of some class names in any framework."""
        return [
            model
            for model in self.models.values()
            if not names.isdisjoint({model.name, *model.classes.values()})
        ]

    def head_sets(self, models: Iterable[ModelClass] = ()) -> list[tuple[str, ...]]:
        """Return each set of heads that a checkpoint of one of `models`, or any, can have together.

        Two heads with a row of the same path exclude each other, since the classifier of multiple
        choice has another size than that of sequences. A set has the heads of a model, and those
        others that fit, the first of the table above all.
        """
        own = [model.heads for model in models or self.models.values()] or [()]
        return [*dict.fromkeys(map(self._compatible, own))]

    def _compatible(self, first: Iterable[str]) -> tuple[str, ...]:
        paths: set[NamePattern] = set()
        heads = set()
        for head in dict.fromkeys((*first, *self.heads)):
            own = {row.path for row in self.heads[head]}
            if paths.isdisjoint(own):
                heads.add(head)
                paths |= own
        return tuple(head for head in self.heads if head in heads)


@dataclass(frozen=True)
class Wrapper:
    """Classes that have a composite as one of their modules, and no parameters of their own."""

    module: str
    classes: Mapping[str, str]
    """Framework → class."""


@dataclass(frozen=True, repr=False)
class Composite(Displayed):
    """The table of a composite: two architectures joined into one model."""

    name: str
    title: str
    submodels: tuple[str, str]
    classes: Mapping[str, str]
    modules: tuple[ModuleEntry, ...]
    roles: Mapping[str, str]
    """Submodel → its role, which decides its class."""
    configs: Mapping[str, str]
    """Submodel → the field of the configuration that contains its own."""
    config: Mapping[str, Value] = field(default_factory=dict)
    """The fields that its rows use, with their defaults."""
    derived: Mapping[str, Expression] = field(default_factory=dict)
    """Field, after ``encoder.`` or ``decoder.`` of that configuration → what it follows from."""
    prefixed: bool = True
    """If false, names of tensors in files do not start with the submodel."""
    closed: bool = False
    """If true, both submodels' roles name this composite, and they fit no other."""
    models: Mapping[str, Mapping[str, Role]] = field(default_factory=dict)
    """Submodel → the architectures that it may have → how they are used, where that is not as in
    one of their own roles."""
    wrappers: tuple[Wrapper, ...] = ()
    accepts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Submodel → the architectures that it can have, if its classes cannot call all."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Framework → what users of its class should know, a warning."""
    split_note: str = ""
    """What users of its submodels alone should know, a warning."""
    tied_by: str = ""
    """The config field that, if true, ties tensors of the same path in both submodels."""
    unsupported: Mapping[str, UnsupportedConfig] = field(default_factory=dict)
    """Pairs that some frameworks' classes do not support."""
    sha256: str = ""

    @property
    def class_names(self) -> set[str]:
        """All classes of the frameworks."""
        return {*self.classes.values()}.union(*(each.classes.values() for each in self.wrappers))

    @property
    def generates(self) -> bool:
        """If true, one of the submodels is a decoder."""
        return "decoder" in self.roles.values()
