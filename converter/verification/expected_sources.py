"""What a manifest says was meant: layers left out, halves drawn anew, copies, other sizes.

Only which source tensor a tensor is measured by comes from the manifest. Whether it holds its
values, the files themselves tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from converter.initializers import Initializer
from converter.plan import ResizedTensor, SourceTensor
from converter.planning.tokenizer_files import non_negative_int

Sources = Mapping[str, tuple[str, SourceTensor]]
"""Canonical name → the source that has it, and where it lies."""


@dataclass(frozen=True)
class ExpectedSources:
    """The source tensors by which a finished checkpoint is to be measured."""

    sources: Sources
    drawn: frozenset[str] = frozenset()
    """Names that a source has as well, but that were asked to be drawn anew."""


def expected_sources(sources: Sources, manifest: Mapping[str, Any] | None) -> ExpectedSources:
    """`sources` as the manifest says that they were used.

    Args:
        sources: by the names that their tensors would have if all were taken over.
        manifest: of the finished checkpoint, if it has one.

    """
    entries = manifest.get("tensors") if manifest else None
    if manifest is None or not isinstance(entries, dict):
        return ExpectedSources(sources)
    by_key = {
        (_half(name), stored.tensor.spec.name): (reference, stored)
        for name, (reference, stored) in sources.items()
    }
    random = manifest.get("random")
    anew = tuple(submodel for submodel in random if isinstance(submodel, str)) if random else ()
    found, drawn = dict(sources), set()
    for name, entry in entries.items():
        if not isinstance(entry, dict):
            continue
        submodel, key = str(entry.get("source")), str(entry.get("key"))
        if entry.get("origin") == "initialised" and _half(name) in anew:
            drawn |= {name} & found.keys()
            found.pop(name, None)
        place = by_key.get((submodel, key))
        if place is None and manifest.get("share") is True:
            place = next((by_key[h, k] for h, k in by_key if k == key), None)
        if place is not None:
            found[name] = (place[0], _resized(name, place[1], entry.get("resized")))
    return ExpectedSources(found, frozenset(drawn))


def _half(name: str) -> str:
    return name.partition(".")[0]


def _resized(name: str, stored: SourceTensor, entry: object) -> SourceTensor:
    """A source tensor as it is after rows were cut off or put to it."""
    if not isinstance(entry, dict):
        return stored
    rows = entry.get("rows")
    rule = None
    if isinstance(rows, dict) and non_negative_int(rows.get("seed")) is not None:
        try:
            rule = Initializer(str(rows["rule"]), float(rows["scale"]), int(rows["seed"]), name)
        except (KeyError, TypeError, ValueError):
            return stored
    return ResizedTensor(stored.source, stored.tensor, stored.rearrangement, rule)
