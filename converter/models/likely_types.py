"""The likely ``model_type`` of weights without a configuration, by the names of their tensors."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from converter.architectures.model_spec import BODY, ModelSpecBuilder
from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.sample_configs import base_config
from converter.architectures.schema import Architecture
from converter.options import SUBMODELS

_MAX_PREFIX = 4
"""Modules in front of a model's own names, which wrappers and trainers add."""
_LIKELY = 0.6
"""Agreement from which an architecture is likely; 1 if all names of both sides agree."""
_ALMOST = 0.02
"""Agreement within which architectures are not told apart: many share nearly all names."""
_MAX_NAMED = 6
_MAX_FOLDED = 10_000
"""Names, layers counted once; the largest model of the tables has some hundred."""


@dataclass(frozen=True)
class LikelyTypes:
    """The architectures whose names the tensors have."""

    model_types: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Submodel, ``""`` for a stand-alone model → architectures, the likeliest first."""
    dialect: str = ""
    """The dialect of the names, if there are any such architectures."""


def likely_types(names: Collection[str], registry: ArchitectureRegistry) -> LikelyTypes:
    """Return the architectures that tensors called `names` are likely of.

    Layers are not counted: one layer is enough to recognize an architecture.
    """
    folded = {_fold(name) for name in names}
    if len(folded) > _MAX_FOLDED:
        return LikelyTypes()
    signatures = list(_signatures(registry))
    dialect, types, agreement = _best(folded, signatures)
    if agreement < 1 - _ALMOST:
        parts = {
            submodel: _best({name for name in folded if submodel in name}, signatures)
            for submodel in SUBMODELS
        }
        if all(each > max(agreement, _LIKELY) for _, _, each in parts.values()):
            found = {submodel: types for submodel, (_, types, _) in parts.items()}
            return LikelyTypes(found, parts["encoder"][0])
    return LikelyTypes({"": types}, dialect) if types else LikelyTypes()


@dataclass(frozen=True)
class _Signature:
    """The folded names of an architecture in a dialect."""

    architecture: str
    depth: int
    """How many tables its own extends, one by way of the other."""
    dialect: str
    params: Mapping[str, str]
    """Each name, and each alternative, with those of heads and optional parts → parameter."""
    body: Collection[str]
    """The parameters of the base model."""
    base: str
    """The prefix of the base model's names in models with a head."""

    def agreement(self, folded: Collection[str]) -> tuple[float, bool]:
        """Return from 0 to 1 how well names agree, and whether they have the base's prefix."""
        matched = defaultdict[str, set[str]](set)
        for name in folded:
            for prefix in _prefixes(name):
                if (param := self.params.get(name[len(prefix) :])) is not None:
                    matched[prefix].add(param)
        if not matched:
            return 0.0, False
        best = max(matched, key=lambda prefix: (len(matched[prefix]), -len(prefix)))
        precision = len(matched[best]) / len(folded)
        recall = len(matched[best] & set(self.body)) / len(self.body)
        has_base = bool(self.base) and any(self.base in name for name in folded)
        return 2 * precision * recall / ((precision + recall) or 1), has_base


_SIGNATURES: dict[str, tuple[Architecture, tuple[_Signature, ...]]] = {}
"""Name of a table → its architecture, and the signatures of that."""


def _signatures(registry: ArchitectureRegistry) -> Iterator[_Signature]:
    """Yield the signature of every architecture in each dialect, made once in a process."""
    for name in registry.names:
        if not registry.is_composite(name):
            architecture = registry.architecture(name)
            previous, signatures = _SIGNATURES.get(name, (None, ()))
            if previous is not architecture:
                signatures = tuple(_signatures_of(architecture, registry))
                _SIGNATURES[name] = architecture, signatures
            yield from signatures


def _signatures_of(
    architecture: Architecture, registry: ArchitectureRegistry
) -> Iterator[_Signature]:
    if (config := base_config(architecture)) is None:
        return
    spec = ModelSpecBuilder(registry.conventions).model(config)
    depth = _depth(architecture.name, registry)
    for dialect in registry.conventions.dialects.values():
        params = {_fold(key): _fold(p.name) for key, p in spec.index(dialect.name).items()}
        body = {_fold(param.name) for param in spec.params if param.part == BODY}
        base = architecture.base_model_prefix.get(dialect.name)
        body &= {*params.values()}
        if body:
            prefix = f"{base}{dialect.separator}" if base else ""
            yield _Signature(architecture.name, depth, dialect.name, params, body, prefix)


def _depth(name: str, registry: ArchitectureRegistry) -> int:
    parent = registry.contents(name)[0].get("extends")
    return 1 + _depth(str(parent), registry) if parent else 0


def _best(
    folded: Collection[str], signatures: Iterable[_Signature]
) -> tuple[str, tuple[str, ...], float]:
    """Return the dialect and the architectures that agree best with names, and how well."""
    if not folded:
        return "", (), 0.0
    scored = [(each.agreement(folded), each) for each in signatures]
    (agreement, has_base), best = max(scored, key=lambda pair: pair[0])
    if agreement < _LIKELY:
        return "", (), agreement
    same = [
        (each.depth, -other, each.architecture)
        for (other, base), each in scored
        if other >= agreement - _ALMOST and base == has_base and each.dialect == best.dialect
    ]
    return best.dialect, tuple(name for *_, name in sorted(same)[:_MAX_NAMED]), agreement


def _fold(name: str) -> str:
    """Return a name with every number as ``#``, which makes all layers one."""
    return re.sub(r"\d+", "#", name)


def _prefixes(name: str) -> list[str]:
    """Return the first modules of a name, from none to `_MAX_PREFIX`, separator included."""
    ends = [match.end() for match in re.finditer(r"[./]", name)]
    return ["", *(name[:end] for end in ends[:_MAX_PREFIX])]
