"""Key matching: which stored tensor is which parameter of the model, and all that does not fit."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from glob import escape
from itertools import permutations
from shlex import quote

from converter.architectures.model_spec import BODY, ModelSpec, ParamSpec
from converter.architectures.schema import Conventions, Dialect
from converter.checkpoint.opening import Checkpoint
from converter.checkpoint.weight_states import is_packed, recognize_weights
from converter.display import Displayed
from converter.errors import MatchError, Problem
from converter.initializers import COMPUTED
from converter.plan import SourceTensor
from converter.recognition import Recognition
from converter.tensors import Rearrangement, TensorSpec
from converter.text import collapse_ranges, summarize_names

_log = logging.getLogger(__name__)

TRAINING_STATE = "not part of the model in a training checkpoint"

OVERRIDDEN = "the class that saved it uses another copy of this tensor, which may differ"

MAX_PREFIX = 8
"""Components of a prefix: a compiled model in a data-parallel one in a module of a trainer …"""

_METADATA_DIALECTS = {"pt": "pytorch", "tf": "tensorflow", "flax": "flax"}
_FORMAT_DIALECTS = {
    "torch": ("pytorch",),
    "keras-hdf5": ("tensorflow",),
    "flax-msgpack": ("flax",),
    "tensorflow-checkpoint": ("google", "tensorflow"),
    "orbax": ("flax",),
}
"""Format → the dialects that its names may have, likeliest first."""


@dataclass(frozen=True)
class KeyNormalizer:
    """A way to translate the names in a file to a dialect's own."""

    recognized: tuple[int, int] = (0, 0)
    """How many parameters have a tensor by name and shape, and by name."""
    prefix: str = ""
    """Prefix of the model's names, which wrappers and trainers add."""
    separators: tuple[str, str] | None = None
    """The separator of a flat file, and the dialect's."""
    inner_prefixes: tuple[str, ...] = ()
    """Prefixes that wrappers of single modules add within names."""
    leaf: str = ""
    """The end of the names in a file that keeps every value in an object of its own."""
    submodels: Mapping[str, str] = field(default_factory=dict)
    """The file's name of a submodel → its canonical name."""
    suffix: str = ""
    """The end of the dialect's names, if those in the file lack it."""
    unscoped: Mapping[str, str] = field(default_factory=dict)
    """Stored names without the prefix, such as ``shared/shared/…`` → the dialect's own."""

    def stored_prefix(self, prefix: str) -> str:
        """Return a prefix as it is stored."""
        flat, own = self.separators or ("", "")
        return prefix.replace(own, flat) if own else prefix

    def normalize(self, name: str) -> str | None:
        """Return a stored name as the dialect's own, ``None`` if it does not have the prefix."""
        path = self.normalize_path(name)
        if path in self.unscoped:
            return self.unscoped[path]
        return path[len(self.prefix) :] if path.startswith(self.prefix) else None

    def normalize_path(self, name: str) -> str:
        """Return a stored name as the dialect's own, with `prefix` kept."""
        if self.separators:
            name = name.replace(*self.separators)
        for inner in self.inner_prefixes:
            while f".{inner}" in name:
                name = name.replace(f".{inner}", ".")
        name = name.removesuffix(self.leaf)
        for stored, submodel in self.submodels.items():
            if name.startswith(stored):
                return submodel + name[len(stored) :] + self.suffix
        return name + self.suffix


@dataclass
class _Recognized:
    """What a file holds of a model below one prefix."""

    example: str
    """One name of a tensor, without the prefix."""
    params: dict[str, bool] = field(default_factory=dict)
    """Canonical name of a parameter → whether a tensor with its name has its shape."""
    tensors: set[int] = field(default_factory=set)
    """The positions of the tensors in the file."""

    @property
    def count(self) -> tuple[int, int]:
        """How many parameters have a tensor by name and shape, and by name."""
        return sum(self.params.values()), len(self.params)


def detect_prefixes(
    shapes: Mapping[str, tuple[int, ...]],
    dialect: Dialect,
    spec: ModelSpec,
    submodels: Sequence[str] = (),
) -> tuple[KeyNormalizer, list[str]]:
    """Return the normalizer that lets most of a model's parameters be recognized, and its rivals.

    `shapes` are those of the tensors by stored name. Names count with their shapes; among equals
    the shortest prefix is taken. A rival is the prefix of another complete base model in the file.
    """
    index = spec.index(dialect.name)
    separators = None
    if dialect.flat_separator and not any(dialect.separator in name for name in shapes):
        separators = (dialect.flat_separator, dialect.separator)
    suffix = "" if any(name.endswith(dialect.suffix) for name in shapes) else dialect.suffix
    leaves = [leaf for leaf in dialect.leaves if any(name.endswith(leaf) for name in shapes)]
    unscoped = dict[str, str]()
    if dialect.unscoped:  # a layer that is built before its model has its own name as its scope
        scoped = {dialect.join(n.partition(dialect.separator)[0], n): n for n in index}
        unscoped = {path: name for path, name in scoped.items() if path not in index}
        free = (n for n in index if n.startswith(dialect.unscoped) or dialect.separator not in n)
        unscoped |= {name: name for name in free}
        nameless = dialect.separator * 2
        own_scope = {n.partition(nameless)[2]: n for n in index if nameless in n}
        unscoped |= {v.partition(dialect.separator)[2] or v: n for v, n in own_scope.items()}
    best, rivals = KeyNormalizer(), list[str]()
    for renamed in _submodel_names(shapes, dialect.separator, index, submodels):
        for leaf in ("", *leaves):
            normalizer = KeyNormalizer(
                separators=separators,
                inner_prefixes=dialect.inner_prefixes,
                leaf=leaf,
                submodels=renamed,
                suffix=suffix,
                unscoped=unscoped,
            )
            paths = [(normalizer.normalize_path(name), shape) for name, shape in shapes.items()]
            recognized = _recognize(paths, dialect, index)
            prefixes = _rank(recognized, dialect, spec)
            if prefixes and recognized[prefixes[0]].count > best.recognized:
                count, rivals = recognized[prefixes[0]].count, prefixes[1:]
                best = replace(normalizer, prefix=prefixes[0], recognized=count)
    return best, rivals


def _recognize(
    paths: Iterable[tuple[str, tuple[int, ...]]], dialect: Dialect, index: Mapping[str, ParamSpec]
) -> dict[str, _Recognized]:
    """Return each possible prefix → what the file holds below it.

    `paths` are names and shapes of its tensors, `index` has the model's names in the dialect.
    """
    recognized: dict[str, _Recognized] = {}
    longest = max(map(len, index), default=0)
    for number, (path, shape) in enumerate(paths):
        start = 0
        for _ in range(MAX_PREFIX + 1):
            name = path[start:] if len(path) - start <= longest else ""
            if param := index.get(name):
                below = recognized.setdefault(path[:start], _Recognized(name))
                fits = param.stored_as[dialect.name].shape == shape
                below.params[param.name] = fits or below.params.get(param.name, False)
                below.tensors.add(number)
            start = path.find(dialect.separator, start) + 1
            if not start:
                break
    return recognized


def _rank(recognized: Mapping[str, _Recognized], dialect: Dialect, spec: ModelSpec) -> list[str]:
    """Return the best prefix, followed by those of other complete base models in the file."""
    body = {
        param.name
        for param in spec.params
        if param.part == BODY and not param.tied_to and param.rule not in COMPUTED
        if dialect.name in param.stored_as
    }

    def is_ignored(prefix: str) -> bool:  # such as an optimizer's moments, of the same shapes
        name = prefix + recognized[prefix].example
        return bool(prefix) and spec.ignore_reason(dialect.name, name) is not None

    def is_complete(prefix: str) -> bool:
        return bool(body) and all(recognized[prefix].params.get(name) for name in body)

    ranked = sorted(recognized, key=lambda p: (*(-n for n in recognized[p].count), len(p)))
    best = [next((p for p in ranked if not is_ignored(p)), *ranked[:1])] if ranked else []
    if best and is_complete(best[0]):
        claimed = set(recognized[best[0]].tensors)
        for prefix in ranked:
            tensors = recognized[prefix].tensors
            if tensors.isdisjoint(claimed) and is_complete(prefix) and not is_ignored(prefix):
                claimed |= tensors
                best.append(prefix)
    return best


def _submodel_names(
    names: Iterable[str], separator: str, index: Iterable[str], submodels: Sequence[str]
) -> Iterator[dict[str, str]]:
    """Yield each way to map the file's own names of submodels to the canonical ones.

    A TensorFlow model that is made of two others calls them ``tf_bert_model`` and
    ``tf_bert_lm_head_model``, whatever its attributes are called.
    """
    yield {}
    if not submodels:
        return
    modules = {name.partition(separator)[0] for name in index}
    stored = dict.fromkeys(name.partition(separator)[0] for name in names if separator in name)
    absent = [submodel for submodel in submodels if submodel not in stored]
    unknown = [name for name in stored if name not in modules]
    if absent and len(unknown) == len(absent):
        for order in permutations(absent):
            pairs = zip(unknown, order, strict=True)
            yield {name + separator: submodel + separator for name, submodel in pairs}


@dataclass(frozen=True, repr=False)
class KeyMatch(Displayed):
    """How the tensors of a source relate to the parameters of a model."""

    files: str
    dialect: str
    normalizer: KeyNormalizer = field(default_factory=KeyNormalizer)
    """How stored names were translated to the dialect's."""
    matched: Mapping[str, SourceTensor] = field(default_factory=dict)
    """Canonical name → the tensor with its values."""
    duplicates: Mapping[str, tuple[tuple[str, SourceTensor], ...]] = field(default_factory=dict)
    """Canonical name → further tensors that should hold the same values, each with the name of its
    parameter: the same one, or one tied to it."""
    unmatched: tuple[TensorSpec, ...] = ()
    """Stored tensors that the mapping table does not describe."""
    ignored: Mapping[str, str] = field(default_factory=dict)
    """Stored tensors that are not used → the reason."""
    mismatched: tuple[tuple[TensorSpec, ParamSpec, tuple[int, ...]], ...] = ()
    """Stored tensor, its parameter, and the shape that the configuration asks for."""
    foreign: tuple[str, ...] = ()
    """The unmatched ones that cannot belong to the model: a loss, a head of another task."""
    state: Recognition | None = None
    """Why the weights cannot be read as parameters, if they are quantized, partitioned or so."""

    @property
    def prefix(self) -> str:
        """The prefix of the stored names in front of the model's own; ``""`` if they have none."""
        return self.normalizer.stored_prefix(self.normalizer.prefix)

    def ignore(self, names: Iterable[str], reason: str) -> KeyMatch:
        """Return the match without the tensors of some canonical names, ignored for `reason`."""
        matched, duplicates, ignored = dict(self.matched), dict(self.duplicates), {}
        for name in names:
            for stored in (matched.pop(name), *(each for _, each in duplicates.pop(name, ()))):
                ignored[stored.tensor.spec.name] = reason
        return replace(
            self, matched=matched, duplicates=duplicates, ignored={**self.ignored, **ignored}
        )

    def problems(self, required: Iterable[ParamSpec]) -> list[Problem]:
        """Return everything that does not fit, given the required parameters.

        If the weights are in a state that explains all of it, that is the only problem.
        """
        if self.state:
            return [Problem(self.state.what, self.files, remedy=self.state.step)]
        problems = [
            Problem(
                "wrong shape",
                self.files,
                spec.name,
                expected=f"{list(shape)} by the configuration",
                found=str(list(spec.shape)),
            )
            for spec, _, shape in self.mismatched
        ]
        present = {*self.matched, *(param.name for _, param, _ in self.mismatched)}
        absent = [
            param.stored_as.get(self.dialect, param.canonical).name
            for param in required
            if param.name not in present
        ]
        problems += [
            Problem("missing tensor", self.files, name) for name in collapse_ranges(absent)
        ]
        unknown = [spec.name for spec in self.unmatched if spec.name not in self.foreign]
        for what, names in (
            ("the mapping table does not know this tensor", unknown),
            ("is outside the model that the mapping table describes", self.foreign),
        ):
            problems += [Problem(what, self.files, name) for name in collapse_ranges(names)]
        return problems

    def require(self, required: Iterable[ParamSpec]) -> None:
        """Raise MatchError with every problem, layers folded, unless all tensors fit.

        If the weights are in a state that explains the problems, that is the error.
        """
        if self.state:
            raise MatchError(f"{self.files}: {self.state.what}", remedy=self.state.step)
        problems = self.problems(required)
        if not problems:
            return
        remedy = (
            "`converter inspect` lists what was found. A model of another architecture, or a head "
            "of your own, needs a table of its own: --mapping FILE."
        )
        if self.foreign:
            patterns = " ".join(f"--ignore {quote(p)}" for p in self.foreign_patterns()[:8])
            remedy = f"To leave out what is not part of the model: {patterns}. {remedy}"
        raise MatchError(
            f"{self.files}: the tensors do not fit the configuration and its mapping table",
            problems,
            remedy=remedy,
        )

    def foreign_patterns(self) -> list[str]:
        """Return patterns that match the foreign tensors and no others, modules folded."""
        stored = (each.tensor.spec.name for each in self.matched.values())
        others = {*stored, *(spec.name for spec in self.unmatched)} - {*self.foreign}
        modules = {name[:end] for name in others for end in _module_ends(name)}
        patterns = dict[str, None]()
        for name in self.foreign:
            own = (name[:end] for end in _module_ends(name) if name[:end] not in modules)
            module = next(own, None)
            patterns[f"{escape(module)}*" if module else escape(name)] = None
        return list(patterns)


def _module_ends(name: str) -> list[int]:
    """Return where the first modules in a stored name end, separator included."""
    return [n for n, character in enumerate(name, 1) if character in "./"][: MAX_PREFIX + 1]


def match_keys(
    checkpoint: Checkpoint,
    model_spec: ModelSpec,
    conventions: Conventions,
    source: str,
    submodels: Sequence[str] = (),
) -> KeyMatch:
    """Match the tensors of `checkpoint` to the parameters of `model_spec`.

    The dialect is that of the file format if it implies one, or else that with most of the names.
    `source` is the plan's label of the source; `submodels` are those of a combined model.
    """
    normalizer, dialect, rivals = KeyNormalizer(), "", list[str]()
    shapes = {name: tensor.spec.shape for name, tensor in checkpoint.tensors.items()}
    for candidate in _candidates(checkpoint, conventions):
        detected, others = detect_prefixes(shapes, candidate, model_spec, submodels)
        if detected.recognized > normalizer.recognized:
            normalizer, dialect, rivals = detected, candidate.name, others
    index = model_spec.index(dialect) if dialect else {}
    if rivals:
        raise _ambiguous(checkpoint, normalizer, rivals)
    matched: dict[str, SourceTensor] = {}
    duplicates = defaultdict[str, list[tuple[str, SourceTensor]]](list)
    tied: list[tuple[ParamSpec, SourceTensor]] = []
    unmatched, ignored, mismatched = [], dict(checkpoint.excluded), []
    copied = {p.tied_to: p.name for p in model_spec.params if p.tied_to and dialect in p.copied_in}
    named = {name: normalizer.normalize(name) for name in checkpoint.tensors}
    prefixed = {name for name in named.values() if name is not None}
    for name, tensor in checkpoint.tensors.items():
        normalized = named[name]
        if normalized is None and normalizer.normalize_path(name) in prefixed:
            normalized = normalizer.normalize_path(name)  # a copy, which must be equal
        param = None if normalized is None else index.get(normalized)
        if param is None:
            path = normalizer.normalize_path(name) if normalized is None else normalized
            reason = model_spec.ignore_reason(dialect, path)
            if reason is None and _in_sibling(checkpoint.mappings, name, normalizer.prefix):
                reason = TRAINING_STATE
            if reason is None:
                unmatched.append(tensor.spec)
            else:
                ignored[name] = reason
            continue
        layout = param.stored_as[dialect]
        for number, each in enumerate((tensor, *checkpoint.duplicates.get(name, ()))):
            if each.spec.shape != layout.shape:
                mismatched.append((each.spec, param, layout.shape))
                continue
            stored = SourceTensor(source, each, Rearrangement(layout.axes, param.canonical.axes))
            if param.tied_to:
                tied.append((param, stored))
            elif number or param.name in matched:
                by = copied.get(param.name, param.name) if number else param.name
                duplicates[param.name].append((by, stored))
            else:
                matched[param.name] = stored
    files = str(checkpoint.directory / summarize_names(path.name for path in checkpoint.files))
    if len(checkpoint.files) == 1:  # may be below the directory
        files = str(checkpoint.files[0])
    for key in checkpoint.ignored:
        ignored.setdefault(key, TRAINING_STATE)
    overridden = set[str]()
    for param, stored in tied:  # provides the values of what it is tied to, or duplicates them
        root = model_spec.resolve(param).name
        if dialect in param.overrides_in and root in matched and root not in overridden:
            overridden.add(root)
            ignored[matched.pop(root).tensor.spec.name] = OVERRIDDEN
            duplicates.pop(root, None)
        if matched.setdefault(root, stored) is not stored:
            duplicates[root].append((param.name, stored))
    _log.info(
        "%s: %d of %d tensors recognized, in the names of %s",
        checkpoint.reference,
        len(checkpoint.tensors) - len(unmatched),
        len(checkpoint.tensors),
        dialect or "no dialect",
    )
    packed = [stored.tensor.spec for stored in matched.values() if is_packed(stored.tensor.spec)]
    return KeyMatch(
        files,
        dialect,
        normalizer,
        matched,
        {name: tuple(entries) for name, entries in duplicates.items()},
        tuple(unmatched),
        ignored,
        tuple(mismatched),
        state=recognize_weights(
            [*unmatched, *(spec for spec, _, _ in mismatched), *packed],
            len(checkpoint.tensors),
            checkpoint.config,
            checkpoint.quantization,
            checkpoint.directory,
        ),
    )


def _in_sibling(mappings: Collection[str], name: str, prefix: str) -> bool:
    """Return whether a tensor is in another mapping of the file than those below `prefix`.

    `mappings` are the paths of the mappings in a torch file, such as ``weights.``: a prefix that is
    one of them separates the model from the other objects of a training checkpoint.
    """
    ends = [n for n, character in enumerate(prefix, 1) if character == "."]
    outer = [prefix[:end] for end in ends if prefix[:end] in mappings]
    return bool(outer) and not name.startswith(outer[-1])


def _ambiguous(
    checkpoint: Checkpoint, normalizer: KeyNormalizer, rivals: Sequence[str]
) -> MatchError:
    """Return the error for a file with several complete models, by their prefixes."""
    prefixes = sorted(map(normalizer.stored_prefix, (normalizer.prefix, *rivals)), key=len)
    patterns = [f"--ignore {quote(escape(prefix) + '*')}" for prefix in prefixes[1:10]]
    return MatchError(
        f"{checkpoint.files[0]}: holds {len(prefixes)} models that fit the configuration",
        [Problem("may be the model", tensor=f"{prefix}*") for prefix in prefixes[:10]],
        remedy=f"Leave out all but one: {' '.join(patterns)} keeps the first.",
    )


def _candidates(checkpoint: Checkpoint, conventions: Conventions) -> list[Dialect]:
    """Return the dialects that the files may use, likeliest first."""
    if checkpoint.file_format in _FORMAT_DIALECTS:
        return [conventions.dialects[each] for each in _FORMAT_DIALECTS[checkpoint.file_format]]
    stated = _METADATA_DIALECTS.get(checkpoint.metadata.get("format", ""))
    return sorted(conventions.dialects.values(), key=lambda dialect: dialect.name != stated)


def dominant_dtype(stored: Mapping[str, SourceTensor]) -> str:
    """Return the dtype that most values have; ``float32`` if there are none."""
    sizes: dict[str, int] = defaultdict(int)
    for entry in stored.values():
        sizes[entry.tensor.spec.dtype] += entry.tensor.spec.size
    return max(sizes, key=lambda dtype: (sizes[dtype], dtype), default="float32")
