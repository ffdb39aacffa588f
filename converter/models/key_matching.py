"""Key matching: which stored tensor is which parameter of the model, and all that does not fit."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations

from converter.architectures.model_spec import ModelSpec, ParamSpec
from converter.architectures.schema import Conventions, Dialect
from converter.checkpoint.opening import Checkpoint
from converter.errors import MatchError, Problem
from converter.name_ranges import collapse_ranges, summarize_names
from converter.plan import SourceTensor
from converter.tensors import Rearrangement, TensorSpec

_log = logging.getLogger(__name__)

MAX_WRAPPERS = 3
"""Nested wrappers: a compiled model in a data-parallel one in a Lightning module."""

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

    recognized: int = -1
    """How many names the model has once they are translated."""
    prefix: str = ""
    """Prefix of all names, which wrappers and trainers add."""
    separators: tuple[str, str] | None = None
    """The separator of a flat file, and the dialect's."""
    inner_prefixes: tuple[str, ...] = ()
    """Prefixes that wrappers of single modules add within names."""
    submodels: Mapping[str, str] = field(default_factory=dict)
    """The file's name of a submodel → its canonical name."""
    suffix: str = ""
    """The end of the dialect's names, if those in the file lack it."""

    def normalize(self, name: str) -> str:
        """Return a stored name as the dialect's own."""
        return self.normalize_path(name).removeprefix(self.prefix)

    def normalize_path(self, name: str) -> str:
        """Return a stored name as the dialect's own, with `prefix` kept."""
        if self.separators:
            name = name.replace(*self.separators)
        for inner in self.inner_prefixes:
            while f".{inner}" in name:
                name = name.replace(f".{inner}", ".")
        for stored, submodel in self.submodels.items():
            if name.startswith(stored):
                return submodel + name[len(stored) :] + self.suffix
        return name + self.suffix


def detect_prefixes(
    names: Sequence[str], dialect: Dialect, index: Collection[str], submodels: Sequence[str] = ()
) -> KeyNormalizer:
    """Return the normalizer that lets most of `names` be recognized; the simplest among equals.

    `index` has the names of the model in `dialect`.
    """
    separators = None
    if dialect.flat_separator and not any(dialect.separator in name for name in names):
        separators = (dialect.flat_separator, dialect.separator)
    suffix = "" if any(name.endswith(dialect.suffix) for name in names) else dialect.suffix
    best = KeyNormalizer()
    for renamed in _submodel_names(names, dialect.separator, index, submodels):
        normalizer = KeyNormalizer(
            separators=separators,
            inner_prefixes=dialect.inner_prefixes,
            submodels=renamed,
            suffix=suffix,
        )
        paths = [normalizer.normalize(name) for name in names]
        for prefix, recognized in _prefixes(paths, dialect.prefixes, index).items():
            if recognized > best.recognized:
                best = replace(normalizer, recognized=recognized, prefix=prefix)
    return best


def _prefixes(
    names: Iterable[str], wrappers: Sequence[str], index: Collection[str]
) -> dict[str, int]:
    """Return each possible prefix → how many names are recognized without it, shortest first."""
    unprefixed, gained, lost = 0, Counter[str](), Counter[str]()
    for name in names:
        recognized = name in index
        unprefixed += recognized
        for prefix in _wrapper_prefixes(name, wrappers):
            gained[prefix] += name[len(prefix) :] in index
            lost[prefix] += recognized
    counts = {prefix: unprefixed + count - lost[prefix] for prefix, count in gained.items()}
    return {"": unprefixed, **{prefix: counts[prefix] for prefix in sorted(counts, key=len)}}


def _wrapper_prefixes(name: str, wrappers: Sequence[str]) -> Iterator[str]:
    """Yield every sequence of up to `MAX_WRAPPERS` wrappers that `name` starts with."""
    prefixes = [""]
    for _ in range(MAX_WRAPPERS):
        prefixes = [
            prefix + wrapper
            for prefix in prefixes
            for wrapper in wrappers
            if name.startswith(prefix + wrapper)
        ]
        yield from prefixes


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


@dataclass(frozen=True)
class KeyMatch:
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
        """Return everything that does not fit, given the required parameters."""
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
        problems += [
            Problem("the mapping table does not know this tensor", self.files, name)
            for name in collapse_ranges(spec.name for spec in self.unmatched)
        ]
        return problems

    def require(self, required: Iterable[ParamSpec]) -> None:
        """Raise MatchError with every problem, layers folded, unless all tensors fit."""
        problems = self.problems(required)
        if problems:
            raise MatchError(
                f"{self.files}: the tensors do not fit the configuration and its mapping table",
                problems,
                remedy="`converter inspect` lists what was found. A model of another "
                "architecture, or a head of your own, needs a table of its own: --mapping FILE.",
            )


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
    normalizer, dialect, index = KeyNormalizer(), "", dict[str, ParamSpec]()
    for candidate in _candidates(checkpoint, conventions):
        names = model_spec.index(candidate.name)
        detected = detect_prefixes(list(checkpoint.tensors), candidate, names, submodels)
        if detected.recognized > normalizer.recognized:
            normalizer, dialect, index = detected, candidate.name, names
    matched: dict[str, SourceTensor] = {}
    duplicates = defaultdict[str, list[tuple[str, SourceTensor]]](list)
    tied: list[tuple[ParamSpec, SourceTensor]] = []
    unmatched, ignored, mismatched = [], {}, []
    for name, tensor in checkpoint.tensors.items():
        normalized = normalizer.normalize(name)
        param = index.get(normalized)
        if param is None:
            reason = model_spec.ignore_reason(dialect, normalized)
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
                duplicates[param.name].append((param.name, stored))
            else:
                matched[param.name] = stored
    files = str(checkpoint.directory / summarize_names(path.name for path in checkpoint.files))
    if len(checkpoint.files) == 1:  # may be below the directory
        files = str(checkpoint.files[0])
    for key in checkpoint.ignored:
        ignored.setdefault(key, "not part of the model in a training checkpoint")
    for param, stored in tied:  # provides the values of what it is tied to, or duplicates them
        root = model_spec.resolve(param).name
        if matched.setdefault(root, stored) is not stored:
            duplicates[root].append((param.name, stored))
    _log.info(
        "%s: %d of %d tensors recognized, in the names of %s",
        checkpoint.reference,
        len(checkpoint.tensors) - len(unmatched),
        len(checkpoint.tensors),
        dialect or "no dialect",
    )
    return KeyMatch(
        files,
        dialect,
        normalizer,
        matched,
        {name: tuple(entries) for name, entries in duplicates.items()},
        tuple(unmatched),
        ignored,
        tuple(mismatched),
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
