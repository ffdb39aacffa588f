"""Layer selection and resized embeddings: ``--layers decoder=0,2,4``, ``--resize-embeddings``."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from converter.architectures.cross_references import groups
from converter.architectures.expressions import NamePattern
from converter.architectures.model_config import ModelConfig
from converter.architectures.model_spec import ModelSpecBuilder
from converter.architectures.schema import Architecture, Conventions
from converter.errors import ConfigError, UnsupportedError, UsageError
from converter.models.source_model import SourceModel
from converter.planning.tokenizer_files import TokenizerFiles

LAYER_RULE = re.compile(r"(first|last|even):(\d{1,5})")
LAYER_LIST = re.compile(r"\d{1,5}(,\d{1,5})*")

_MAX_GROWTH = 4
"""A tokenizer with more tokens than this times the embeddings is not the model's."""


def selected_layers(selection: str, count: int) -> list[int]:
    """Return the numbers of the selected layers, of `count`, in their new order.

    ``even:N`` spreads them from the first to the last, as DistilBERT took those of BERT: of 12
    layers 0, 2, 4, 7, 9 and 11 (Sanh et al. 2019). Raise UsageError if there are too few layers, or
    one is given twice.
    """
    rule = LAYER_RULE.fullmatch(selection)
    if rule is None:
        numbers = [int(number) for number in selection.split(",")]
        if len(set(numbers)) < len(numbers):
            raise UsageError(f"layers: {selection} names a layer twice")
        beyond = [str(number) for number in numbers if number >= count]
        if beyond:
            raise UsageError(
                f"layers: there is no layer {', '.join(beyond)}",
                remedy=f"The checkpoint has {count}: 0 to {count - 1}.",
            )
        return numbers
    kind, number = rule[1], int(rule[2])
    if not 1 <= number <= count:
        raise UsageError(f"layers: {selection} is invalid: the checkpoint has {count} layers")
    if kind == "first":
        return list(range(number))
    if kind == "last":
        return list(range(count - number, count))
    steps = max(number - 1, 1)
    return [(2 * step * (count - 1) + steps) // (2 * steps) for step in range(number)]


def select_layers(source: SourceModel, selection: str, conventions: Conventions) -> SourceModel:
    """Return `source` with the selected layers only, renumbered, and a configuration to match.

    The selection is ``0,2,4``, ``first:N``, ``last:N`` or ``even:N``. Raise UsageError if `source`
    does not have these layers, UnsupportedError if the architecture's layers are not one plain
    list, ConfigError if a layer does not fit at its new number.
    """
    architecture, match = source.architecture, source.key_match
    placeholder, field = _layer_placeholder(architecture)
    count = source.config[field]
    layers = selected_layers(selection, count if isinstance(count, int) else 0)
    position = {number: new for new, number in enumerate(layers)}
    changes = {field: len(layers), **_per_layer(source.config, layers)}
    config = ModelConfig(architecture, {**source.config.raw, **changes}, source.config.file)
    spec = ModelSpecBuilder(conventions).model(config, heads=source.heads)
    patterns = _layer_patterns(architecture, placeholder)

    def renamed(name: str) -> str | None:
        """Return the new name of a tensor, ``None`` if its layer is not selected."""
        for pattern in patterns:
            numbers = pattern.match(name)
            if numbers is not None:
                new = position.get(int(numbers[placeholder]))
                return None if new is None else pattern.format({**numbers, placeholder: new})
        return name

    ignored = []
    for name in match.matched:
        new, old = renamed(name), source.spec.by_name[name]
        if new is None:
            ignored.append(name)
        elif new not in spec.by_name or spec.by_name[new].canonical.shape != old.canonical.shape:
            raise ConfigError(
                f"{source.config.file}: {name} does not fit at {new}, where --layers puts it"
            )
    match = match.ignore(ignored, "its layer is not selected by --layers")
    matched = {str(renamed(name)): stored for name, stored in match.matched.items()}
    duplicates = {
        str(renamed(name)): tuple((str(renamed(by)), stored) for by, stored in entries)
        for name, entries in match.duplicates.items()
    }
    match = replace(match, matched=matched, duplicates=duplicates)
    return replace(source, key_match=match, config=config, spec=spec, layers=tuple(layers))


def _per_layer(config: ModelConfig, layers: list[int]) -> dict[str, Any]:
    """Return the fields that have an entry for each layer, with those of the selected layers.

    ``[[["global", "local"], 6]]`` is a list of twelve.
    """
    fields = {}
    for name in config.architecture.per_layer:
        value = config.raw.get(name)
        match value:
            case [[[*entries], int(times)]]:
                fields[name] = [[[(entries * times)[layer] for layer in layers], 1]]
            case [*entries] if len(entries) > max(layers):
                fields[name] = [entries[layer] for layer in layers]
    return fields


def name_before_selection(name: str, source: SourceModel) -> str:
    """Return the name that a tensor had before `select_layers` renumbered the layers."""
    if source.layers is None:
        return name
    placeholder, _ = _layer_placeholder(source.architecture)
    for pattern in _layer_patterns(source.architecture, placeholder):
        numbers = pattern.match(name)
        if numbers is not None:
            return pattern.format(
                {**numbers, placeholder: source.layers[int(numbers[placeholder])]}
            )
    return name


def _layer_placeholder(architecture: Architecture) -> tuple[str, str]:
    """Return the placeholder in paths that numbers the layers, and the field that counts them.

    Raise UnsupportedError if the layers are not counted by one field.
    """
    names = dict.fromkeys(name for row in architecture.modules for name in row.path.places)
    if len(names) == 1:
        (placeholder,) = names
        field = str(architecture.layers[placeholder])
        if type(architecture.config.get(field)) is int:
            return placeholder, field
    raise UnsupportedError(
        f"layers of {architecture.name} cannot be selected: no single field of its config counts "
        "them"
    )


def _layer_patterns(architecture: Architecture, placeholder: str) -> list[NamePattern]:
    """Return the name patterns of all tensors in a layer."""
    return list(
        dict.fromkeys(
            NamePattern(f"{row.path}.{param.name}" if param.name else row.path.text)
            for _, rows in groups(architecture)
            for row in rows
            if placeholder in row.path.places
            for param in row.layer_type.params
        )
    )


def resize_embeddings(source: SourceModel, conventions: Conventions) -> SourceModel:
    """Return `source` with as many embeddings as its tokenizer has tokens.

    What depends on the size of the vocabulary (embeddings, heads, their biases) is truncated or
    extended at its end when it is written. Raise UnsupportedError if the size of the tokenizer is
    unknown, or cannot be the model's.
    """
    architecture, directory = source.architecture, source.checkpoint.directory
    if "vocabulary" not in architecture.attributes:
        return source  # its inputs are images or audio
    field, old = str(architecture.attributes["vocabulary"]), source.config.attribute("vocabulary")
    size = TokenizerFiles(directory).size
    if size is None:
        raise UnsupportedError(
            f"{directory}: no file states how many tokens the tokenizer has",
            remedy="Save a tokenizer.json or a vocabulary there, or omit --resize-embeddings.",
        )
    if size == old:
        return source
    if not isinstance(old, int) or field not in architecture.config or size > _MAX_GROWTH * old:
        raise UnsupportedError(f"{directory}: {old} embeddings cannot be resized to {size}")
    config = ModelConfig(architecture, {**source.config.raw, field: size}, source.config.file)
    spec = ModelSpecBuilder(conventions).model(config, heads=source.heads)
    for name in source.key_match.matched:
        before, after = (each.by_name[name].canonical.shape for each in (source.spec, spec))
        # Only the first axis longer than one can be truncated; it must be the vocabulary's.
        axis = next((n for n, length in enumerate(before) if length != 1), 0)
        if before != after and (
            before[:axis] != after[:axis]
            or before[axis + 1 :] != after[axis + 1 :]
            or before[axis] != old
        ):
            raise UnsupportedError(f"{source.config.file}: {name} cannot be resized")
    return replace(source, config=config, spec=spec)
