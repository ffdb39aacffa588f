"""What is asked of the two halves, a configuration of the literature taken into account."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.checkpoint import Checkpoint, open_checkpoint, open_configuration
from converter.composition.generation import TOKEN_FIELDS, is_setting
from converter.composition.joining import Joined
from converter.composition.layers import parse_layers, take_layers
from converter.composition.options import parse_settings, updated
from converter.composition.resize import resize
from converter.composition.source import Source
from converter.errors import CheckpointError, UnsupportedError, UsageError
from converter.hub.reference import hub_id
from converter.identification import enter, identify
from converter.remote.url import place_of, url_of
from converter.tables.config import FamilyConfig
from converter.tables.library import Library
from converter.tables.recipes import Recipe, recipe_named

HALVES = ("encoder", "decoder")


@dataclass(frozen=True)
class Wishes:
    """How the halves of a composition are wanted."""

    references: Mapping[str, str | Path]
    """Half → its checkpoint."""
    configs: Mapping[str, str | Path | None]
    """Half → its configuration, where none lies beside it."""
    drawn: frozenset[str]
    """The halves whose weights are all drawn anew."""
    share: bool
    """Whether the halves share their weights."""
    layers: Mapping[str, str]
    """Half → which of its layers, if not all."""
    resized: bool
    """Whether embeddings are to be as large as the tokenizers."""
    changes: Mapping[str, Mapping[str, Any]]
    """Half, or ``""`` for the whole → configuration fields that are set."""
    recipe: Recipe | None = None

    @classmethod
    def of(
        cls,
        encoder: str | Path,
        decoder: str | Path,
        *,
        like: str | None,
        random: Sequence[str],
        share: bool,
        layers: Sequence[str],
        resized: bool,
        settings: Sequence[str],
        configs: tuple[str | Path | None, str | Path | None],
    ) -> Wishes:
        """The wishes that options say; see `converter.composition.compose.compose` for each.

        Raises:
            UsageError: for what cannot be meant.
        """
        recipe = recipe_named(like) if like else None
        own = recipe.settings if recipe else ()
        wishes = cls(
            references=dict(zip(HALVES, (encoder, decoder), strict=True)),
            configs=dict(zip(HALVES, configs, strict=True)),
            drawn=frozenset((*random, *(recipe.random if recipe else ()))),
            share=share or bool(recipe and recipe.share),
            layers=parse_layers(layers, HALVES),
            resized=resized,
            changes=parse_settings((*own, *settings), HALVES),
            recipe=recipe,
        )
        wishes._check()
        return wishes

    def _check(self) -> None:
        for half in self.drawn:
            if half not in HALVES:
                raise UsageError(f"random: {half!r} is none of {', '.join(HALVES)}")
        if not self.share:
            return
        if self.drawn:
            raise UsageError("share: weights that are drawn anew are not shared")
        if len({place_of(reference) for reference in self.references.values()}) > 1:
            raise UsageError(
                "share: the halves can share their weights only if both are one checkpoint",
                remedy="Give the same checkpoint twice.",
            )
        if len({self.layers.get(half) for half in HALVES}) > 1:
            raise UsageError("share: halves that share their weights have the same layers")

    @property
    def settings(self) -> dict[str, Any]:
        """What is set of the whole that ``generation_config.json`` holds."""
        return {key: value for key, value in self.changes[""].items() if is_setting(key)}

    @property
    def fields(self) -> dict[str, Any]:
        """What is set of the whole besides, special tokens left aside."""
        others = {*TOKEN_FIELDS.values(), *self.settings}
        return {key: value for key, value in self.changes[""].items() if key not in others}

    def tokens(self, asked: Mapping[str, str | int | None]) -> dict[str, str | int | None]:
        """Role → id or text of the special token that is asked for, by an option or as a field.

        Args:
            asked: by options.

        Raises:
            UsageError: if both ask for different ones.
        """
        found = dict(asked)
        for role, field in TOKEN_FIELDS.items():
            wanted = self.changes[""].get(field)
            if wanted is None:
                continue
            if found.get(role) not in (None, wanted, str(wanted)):
                raise UsageError(f"set: {field}={wanted} is not what the option asks for")
            if not isinstance(wanted, int | str) or isinstance(wanted, bool):
                raise UsageError(f"set: {field}={wanted!r} is no token")
            found[role] = wanted
        return found

    def configuration(self, half: str, library: Library) -> FamilyConfig | None:
        """The configuration of a half, read without its weights; ``None`` if they are needed to
        tell its family, or it cannot be read without them.

        Args:
            half: ``encoder`` or ``decoder``.
            library: the mapping tables.

        Raises:
            CheckpointError: if it cannot be fetched from the Hub.
            UnsupportedError: if it is a combined model, or there is no table for its family.
        """
        reference = self.references[half]
        try:
            opened = open_configuration(reference, self.configs[half])
        except CheckpointError:
            if hub_id(reference) or url_of(reference):
                raise
            return None  # whoever opens the weights tells it better
        with opened as checkpoint:
            if "model_type" not in checkpoint.config:
                return None
            raw = updated(self._entered(checkpoint, half, library).config, self.changes[half])
            return FamilyConfig(library.family(checkpoint.family), raw, str(checkpoint.config_path))

    def source(
        self, half: str, library: Library, stack: ExitStack, headers: bool = False
    ) -> Source:
        """The checkpoint of a half as it is wanted: with its changes, its layers, its size.

        Args:
            half: ``encoder`` or ``decoder``.
            library: the mapping tables.
            stack: keeps it open.
            headers: whether no values will be read; see `open_checkpoint`.

        Raises:
            UnsupportedError: if it is a combined model, or cannot be had as it is wanted.
        """
        reference, config = self.references[half], self.configs[half]
        checkpoint = stack.enter_context(
            open_configuration(reference, config)
            if half in self.drawn
            else open_checkpoint(reference, config, headers=headers)
        )
        identify(checkpoint, library)
        raw = updated(self._entered(checkpoint, half, library).config, self.changes[half])
        source = Source.understand(half, checkpoint, library, raw)
        if half in self.layers:
            source = take_layers(source, self.layers[half], library.vocabulary)
        return resize(source, library.vocabulary) if self.resized else source

    def _entered(self, checkpoint: Checkpoint, half: str, library: Library) -> Checkpoint:
        """The checkpoint, read as the model within it that can play the half."""
        enter(checkpoint, library, half)
        if library.is_composite(checkpoint.family):
            raise UnsupportedError(
                f"{checkpoint.reference}: is an encoder-decoder model itself",
                remedy="Take it apart first: `converter split`.",
            )
        return checkpoint

    def other_families(self, joined: Joined) -> Iterator[str]:
        """What to say where a recipe is followed with other families than the paper's."""
        if self.recipe is None:
            return
        wanted = {"encoder": self.recipe.encoder, "decoder": self.recipe.decoder}
        for half in joined.halves:
            if half.source.family.name != wanted[half.name]:
                yield (
                    f"{self.recipe.name} of {self.recipe.paper} has {wanted[half.name]} as "
                    f"{half.name}; this is {half.source.family.name}"
                )
