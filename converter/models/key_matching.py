"""Which stored tensor is which of the model's, and everything that does not fit."""

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

MAX_WRAPPERS = 3
"""Wrappers around one another: a compiled model in a data-parallel one in a Lightning module."""


@dataclass(frozen=True)
class KeyNormalizer:
    """A way to read stored names as a dialect's own."""

    known: int = -1
    """How many names are known when they are read so."""
    lead: str = ""
    """What stands before the names."""
    separators: tuple[str, str] | None = None
    """What flat files have for the dialect's separator, and that."""
    inside: tuple[str, ...] = ()
    """What wrappers of single modules put before the names of what they hold."""
    submodels: Mapping[str, str] = field(default_factory=dict)
    """The file's own name of a half of a combined model → the half."""

    def bare(self, name: str) -> str:
        """A stored name as the dialect's own."""
        return self.plain(name).removeprefix(self.lead)

    def plain(self, name: str) -> str:
        """A stored name as the dialect's own, but for what stands before all names."""
        if self.separators:
            name = name.replace(*self.separators)
        for each in self.inside:
            while f".{each}" in name:
                name = name.replace(f".{each}", ".")
        for own, submodel in self.submodels.items():
            if name.startswith(own):
                return submodel + name[len(own) :]
        return name


def detect_prefixes(
    names: Sequence[str], dialect: Dialect, index: Collection[str], submodels: Sequence[str] = ()
) -> KeyNormalizer:
    """How to read `names` so that most of them are known; the plainer way among equals.

    Args:
        names: as stored, in the order of the file.
        dialect: the dialect that they may be in.
        index: the names that are known.
        submodels: of a combined model, the names of its halves.

    """
    separators = None
    if dialect.flat_separator and not any(dialect.separator in name for name in names):
        separators = (dialect.flat_separator, dialect.separator)
    best = KeyNormalizer()
    for renamed in _renamings(names, dialect.separator, index, submodels):
        plain = KeyNormalizer(
            separators=separators, inside=dialect.inner_prefixes, submodels=renamed
        )
        read = [plain.bare(name) for name in names]
        for lead, known in _leads(read, dialect.prefixes, index).items():
            if known > best.known:
                best = replace(plain, known=known, lead=lead)
    return best


def _leads(names: Iterable[str], wrappers: Sequence[str], index: Collection[str]) -> dict[str, int]:
    """What may stand before the names → how many are known without it, the shortest first."""
    plain, below, lost = 0, Counter[str](), Counter[str]()
    for name in names:
        known = name in index
        plain += known
        for lead in _own_leads(name, wrappers):
            below[lead] += name[len(lead) :] in index
            lost[lead] += known
    counts = {lead: plain + found - lost[lead] for lead, found in below.items()}
    return {"": plain, **{lead: counts[lead] for lead in sorted(counts, key=len)}}


def _own_leads(name: str, wrappers: Sequence[str]) -> Iterator[str]:
    """Every run of up to `MAX_WRAPPERS` wrappers that `name` begins with."""
    leads = [""]
    for _ in range(MAX_WRAPPERS):
        leads = [lead + each for lead in leads for each in wrappers if name.startswith(lead + each)]
        yield from leads


def _renamings(
    names: Iterable[str], separator: str, index: Iterable[str], submodels: Sequence[str]
) -> Iterator[dict[str, str]]:
    """The file's names of halves that it does not call by theirs, in every order.

    A TensorFlow model that is made of two others calls them ``tf_bert_model`` and
    ``tf_bert_lm_head_model``, whatever its attributes are called.
    """
    yield {}
    if not submodels:
        return
    known = {name.partition(separator)[0] for name in index}
    firsts = dict.fromkeys(name.partition(separator)[0] for name in names if separator in name)
    absent = [submodel for submodel in submodels if submodel not in firsts]
    strange = [first for first in firsts if first not in known]
    if absent and len(strange) == len(absent):
        for order in permutations(absent):
            pairs = zip(strange, order, strict=True)
            yield {first + separator: submodel + separator for first, submodel in pairs}


_log = logging.getLogger(__name__)

_FORMATS = {"pt": "pytorch", "tf": "tensorflow", "flax": "flax"}
_DIALECTS = {
    "torch": "pytorch",
    "keras-hdf5": "tensorflow",
    "flax-msgpack": "flax",
    "tensorflow-checkpoint": "google",
    "orbax": "flax",
}


@dataclass
class KeyMatch:
    """How the tensors of a source relate to the slots of a blueprint; complete, never partial."""

    source: str
    files: str
    dialect: str
    reading: KeyNormalizer = field(default_factory=KeyNormalizer)
    """How the stored names were read as the dialect's."""
    matched: dict[str, SourceTensor] = field(default_factory=dict)
    """Canonical name → where its values lie."""
    copies: dict[str, list[tuple[str, SourceTensor]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """Canonical name → further places that claim to hold the same values, each with the slot
    (the same, or one tied to it) that claims so."""
    missing: list[ParamSpec] = field(default_factory=list)
    """Slots that nothing was found for."""
    unmatched: list[TensorSpec] = field(default_factory=list)
    """Stored tensors that the table does not know."""
    dropped: dict[str, str] = field(default_factory=dict)
    """Stored tensors that are left out, with the reason."""
    mismatched: list[tuple[TensorSpec, ParamSpec, tuple[int, ...]]] = field(default_factory=list)
    """Stored tensor, its slot, and the shape that the configuration asks for."""

    def problems(self, required: Iterable[ParamSpec]) -> list[Problem]:
        """Everything wrong, given the slots that must be there."""
        found = [
            Problem(
                "wrong shape",
                self.files,
                spec.name,
                expected=f"{list(shape)} by the configuration",
                found=str(list(spec.shape)),
            )
            for spec, _, shape in self.mismatched
        ]
        wrong = {param.name for _, param, _ in self.mismatched}
        absent = [
            param.stored_as.get(self.dialect, param.canonical).name
            for param in required
            if param.name not in self.matched and param.name not in wrong
        ]
        found += [Problem("missing tensor", self.files, name) for name in collapse_ranges(absent)]
        found += [
            Problem("the mapping table does not know this tensor", self.files, name)
            for name in collapse_ranges(spec.name for spec in self.unmatched)
        ]
        return found

    def drop(self, names: Iterable[str], reason: str) -> None:
        """Give up what was found for some canonical names, for a reason."""
        for name in names:
            for stored in (self.matched.pop(name), *(s for _, s in self.copies.pop(name, ()))):
                self.dropped[stored.tensor.spec.name] = reason

    def require(self, required: Iterable[ParamSpec]) -> None:
        """Make sure that everything fits and that all of `required` was found.

        Raises:
            MatchError: with every problem, layers folded.

        """
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
    """Relate the tensors of `checkpoint` to the slots of `model_spec`.

    The dialect is told by the container where it can be, and else by which dialect knows most of
    the names.

    Args:
        checkpoint: the opened source.
        model_spec: what the tensors may be; a blueprint of all parts and heads of a family.
        conventions: the dialects.
        source: what the plan calls the source: ``encoder``, ``decoder`` or ``source``.
        submodels: of a combined model, the names of its halves.

    """
    names = list(checkpoint.tensors)
    reading, chosen, index = KeyNormalizer(), "", dict[str, ParamSpec]()
    for dialect in _candidates(checkpoint, conventions):
        known = model_spec.index(dialect.name)
        found = detect_prefixes(names, dialect, known, submodels)
        if found.known > reading.known:
            reading, chosen, index = found, dialect.name, known
    report = KeyMatch(source, _files(checkpoint), chosen, reading)
    tied: list[tuple[ParamSpec, SourceTensor]] = []
    for name, tensor in checkpoint.tensors.items():
        bare = reading.bare(name)
        param = index.get(bare)
        if param is None:
            reason = model_spec.ignore_reason(chosen, bare)
            if reason is None:
                report.unmatched.append(tensor.spec)
            else:
                report.dropped[name] = reason
            continue
        spelling = param.stored_as[chosen]
        copies = (tensor, *checkpoint.duplicates.get(name, ()))
        for number, copy in enumerate(copies):
            if copy.spec.shape != spelling.shape:
                report.mismatched.append((copy.spec, param, spelling.shape))
                continue
            stored = SourceTensor(source, copy, Rearrangement(spelling.axes, param.canonical.axes))
            if param.tied_to:
                tied.append((param, stored))
            elif number or param.name in report.matched:
                report.copies[param.name].append((param.name, stored))
            else:
                report.matched[param.name] = stored
    for key in filter(None, checkpoint.metadata.get("ignored", "").split(", ")):
        report.dropped.setdefault(key, "stands beside the model in a training checkpoint")
    _settle_ties(report, model_spec, tied)
    _log.info(
        "%s: %d of %d tensors known, in the names of %s",
        checkpoint.reference,
        len(checkpoint.tensors) - len(report.unmatched),
        len(checkpoint.tensors),
        chosen or "nobody",
    )
    report.missing = [
        param
        for param in model_spec.params
        if param.name not in report.matched and not param.tied_to
    ]
    return report


def _settle_ties(
    report: KeyMatch, model_spec: ModelSpec, tied: Sequence[tuple[ParamSpec, SourceTensor]]
) -> None:
    """Tied tensors prove the values of what they are tied to, or provide them."""
    for param, stored in tied:
        target = model_spec.resolve(param).name
        if target in report.matched:
            report.copies[target].append((param.name, stored))
        else:
            report.matched[target] = stored


def _candidates(checkpoint: Checkpoint, conventions: Conventions) -> list[Dialect]:
    """The dialects that the files may speak, likeliest first."""
    if checkpoint.file_format in _DIALECTS:
        return [conventions.dialects[_DIALECTS[checkpoint.file_format]]]
    claimed = _FORMATS.get(checkpoint.metadata.get("format", ""))
    return sorted(conventions.dialects.values(), key=lambda dialect: dialect.name != claimed)


def _files(checkpoint: Checkpoint) -> str:
    if len(checkpoint.files) == 1:
        return str(checkpoint.files[0])
    return str(checkpoint.directory / summarize_names(path.name for path in checkpoint.files))


def dominant_dtype(stored: Mapping[str, SourceTensor]) -> str:
    """The floating-point dtype that most values have; ``float32`` if there are none."""
    sizes: dict[str, int] = defaultdict(int)
    for entry in stored.values():
        sizes[entry.tensor.spec.dtype] += entry.tensor.spec.size
    return max(sizes, key=lambda dtype: (sizes[dtype], dtype), default="float32")
