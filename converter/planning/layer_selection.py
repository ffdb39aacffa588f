"""Some of a source's layers instead of all: ``--layers decoder=0,2,4``."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from converter.architectures.cross_references import groups
from converter.architectures.model_config import ModelConfig
from converter.architectures.model_spec import ModelSpecBuilder
from converter.architectures.name_patterns import NamePattern
from converter.architectures.schema import Architecture, Conventions
from converter.errors import ConfigError, UnsupportedError, UsageError
from converter.models.source_model import SourceModel

_RULE = re.compile(r"(first|last|even):(\d{1,5})")
_LIST = re.compile(r"\d{1,5}(,\d{1,5})*")
_HOW = "Write decoder=0,2,4, or decoder=first:6, last:6 or even:6."


def parse_layers(wishes: Iterable[str], submodels: Sequence[str]) -> dict[str, str]:
    """Half → which layers, from texts such as ``decoder=0,2,4`` and ``encoder=even:6``.

    Raises:
        UsageError: for anything that is not of this form, and a half that is named twice.

    """
    found: dict[str, str] = {}
    for wish in wishes:
        submodel, _, which = wish.partition("=")
        which = which.replace(" ", "")
        if submodel not in submodels or not (_RULE.fullmatch(which) or _LIST.fullmatch(which)):
            raise UsageError(f"layers: {wish!r} does not say which layers of a half", remedy=_HOW)
        if submodel in found:
            raise UsageError(f"layers: those of the {submodel} are given twice")
        found[submodel] = which
    return found


def selected_layers(which: str, count: int) -> list[int]:
    """The numbers of the layers to take, of `count`, in their new order.

    ``even:N`` spreads them from the first to the last, as DistilBERT took those of BERT: of 12
    layers 0, 2, 4, 7, 9 and 11 (Sanh et al. 2019).

    Raises:
        UsageError: if there are not so many, or one is named twice.

    """
    rule = _RULE.fullmatch(which)
    if rule is None:
        numbers = [int(number) for number in which.split(",")]
        if len(set(numbers)) < len(numbers):
            raise UsageError(f"layers: {which} names a layer twice")
        beyond = [str(number) for number in numbers if number >= count]
        if beyond:
            raise UsageError(
                f"layers: there is no layer {', '.join(beyond)}",
                remedy=f"The checkpoint has {count}: 0 to {count - 1}.",
            )
        return numbers
    how, wanted = rule[1], int(rule[2])
    if not 1 <= wanted <= count:
        raise UsageError(f"layers: {which} cannot be: the checkpoint has {count} layers")
    if how == "first":
        return list(range(wanted))
    if how == "last":
        return list(range(count - wanted, count))
    steps = max(wanted - 1, 1)
    return [(2 * step * (count - 1) + steps) // (2 * steps) for step in range(wanted)]


def take_layers(source: SourceModel, which: str, conventions: Conventions) -> SourceModel:
    """`source` with some of its layers only, numbered anew, and a configuration to match.

    Args:
        source: matched with all its layers.
        which: ``0,2,4``, ``first:N``, ``last:N`` or ``even:N``.
        conventions: the dialects and kinds.

    Raises:
        UsageError: if `source` has no such layers.
        UnsupportedError: if the family's layers are not a plain list.
        ConfigError: if a layer does not fit where it would come to stand.

    """
    architecture, report = source.architecture, source.report
    place, field = _place(architecture)
    count = source.config[field]
    numbers = selected_layers(which, count if isinstance(count, int) else 0)
    position = {number: new for new, number in enumerate(numbers)}
    config = ModelConfig(
        architecture, {**source.config.raw, field: len(numbers)}, source.config.file
    )
    known = ModelSpecBuilder(conventions).model(config)
    templates = _templates(architecture, place)

    def renamed(name: str) -> str | None:
        """What the tensor is called from now on; ``None`` if its layer is left out."""
        for template in templates:
            found = template.match(name)
            if found is not None:
                new = position.get(int(found[place]))
                return None if new is None else template.format({**found, place: new})
        return name

    for name in list(report.matched):
        new, old = renamed(name), source.known.by_name[name]
        if new is None:
            report.drop([name], "its layer is left out, as asked for")
        elif new not in known.by_name or (
            known.by_name[new].canonical.shape != old.canonical.shape
        ):
            raise ConfigError(
                f"{source.config.file}: {name} does not fit at {new}, where --layers puts it"
            )
    report.matched = {str(renamed(name)): stored for name, stored in report.matched.items()}
    copies = defaultdict(list)
    for name, entries in report.copies.items():
        copies[str(renamed(name))] = [(str(renamed(by)), stored) for by, stored in entries]
    report.copies = copies
    report.missing = [
        param for param in known.params if param.name not in report.matched and not param.tied_to
    ]
    return SourceModel(source.label, source.checkpoint, report, config, known)


def _place(architecture: Architecture) -> tuple[str, str]:
    """The place in paths that numbers the layers, and the field that counts them.

    Raises:
        UnsupportedError: if the layers are not counted by one field.

    """
    places = dict.fromkeys(name for row in architecture.modules for name in row.path.places)
    if len(places) == 1:
        (place,) = places
        field = str(architecture.layers[place])
        if type(architecture.config.get(field)) is int:
            return place, field
    raise UnsupportedError(
        f"layers of {architecture.name} cannot be chosen: no single field of its config counts them"
    )


def _templates(architecture: Architecture, place: str) -> list[NamePattern]:
    """The names of all tensors that stand in a layer."""
    return list(
        dict.fromkeys(
            NamePattern(f"{row.path}.{leaf.name}" if leaf.name else row.path.text)
            for _, rows in groups(architecture)
            for row in rows
            if place in row.path.places
            for leaf in row.layer_type.params
        )
    )
