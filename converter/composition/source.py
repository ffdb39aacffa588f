"""A source understood: its checkpoint, its family, and which of its tensors is which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from converter.checkpoint import Checkpoint
from converter.matching import MatchReport, match
from converter.plan import Stored
from converter.tables.blueprint import BODY, Blueprint, Draftsman, Slot
from converter.tables.config import FamilyConfig
from converter.tables.library import Library
from converter.tables.schema import Family, ModelClass


@dataclass
class Source:
    """A stand-alone checkpoint of one family, matched against all that the family may have."""

    label: str
    """What the plan calls it: ``encoder``, ``decoder`` or ``source``."""
    checkpoint: Checkpoint
    config: FamilyConfig
    report: MatchReport
    known: Blueprint
    """Every tensor that the family may have with this configuration."""

    @classmethod
    def understand(
        cls, label: str, checkpoint: Checkpoint, library: Library, raw: Mapping[str, Any]
    ) -> Source:
        """Match `checkpoint` against the table of its family, `raw` being its configuration.

        Raises:
            UnsupportedError: if there is no table for its family.
            ConfigError: if the configuration cannot be used.
        """
        family = library.family(checkpoint.family)
        config = FamilyConfig(family, raw, str(checkpoint.config_path))
        known = Draftsman(library.vocabulary).model(config)
        report = match(checkpoint, known, library.vocabulary, label)
        return cls(label, checkpoint, config, report, known)

    @property
    def family(self) -> Family:
        """The table."""
        return self.config.family

    def has(self, part: str) -> bool:
        """Whether any tensor of a part or head was found."""
        return any(
            slot.part == part and slot.name in self.report.matched for slot in self.known.slots
        )

    def model(self) -> ModelClass:
        """The class that the checkpoint is of.

        That which the configuration names, if it has every part and head that was found; else the
        smallest class that has.
        """
        named = self.checkpoint.config.get("architectures") or []
        found = {slot.part for slot in self.known.slots if slot.name in self.report.matched}
        found -= {BODY}
        models = self.family.models.values()
        stated = [
            model
            for model in models
            if isinstance(named, list)
            and any(name == model.name or name in model.classes.values() for name in named)
        ]
        fitting = [
            model
            for model in (*stated, *sorted(models, key=lambda m: len(m.parts) + len(m.heads)))
            if found & set(self.family.heads) <= set(model.heads)
        ]
        return (*fitting, *stated, *models)[0]


def required(
    target: Iterable[Slot], found: Mapping[str, Stored], fresh: Iterable[str]
) -> list[Slot]:
    """The slots of `target` that must have been found.

    A part named in `fresh` may be absent as a whole, never in pieces.
    """
    slots = [slot for slot in target if not slot.tied_to]
    present = {slot.part for slot in slots if slot.name in found}
    absent = set(fresh) - present
    return [slot for slot in slots if slot.part not in absent]
