"""What is asked of the two halves, a configuration of the literature taken into account."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.architectures.model_config import ModelConfig
from converter.architectures.presets import Preset, get_preset
from converter.architectures.registry import ArchitectureRegistry
from converter.checkpoint.opening import Checkpoint, open_config, open_files
from converter.errors import CheckpointError, UnsupportedError, UsageError
from converter.models.detection import detect_model_type, select_submodel
from converter.models.source_model import SourceModel
from converter.options import apply_overrides, parse_settings
from converter.planning.encoder_decoder import EncoderDecoderPair
from converter.planning.generation_config import TOKEN_FIELDS, is_setting
from converter.planning.layer_selection import parse_layers, take_layers
from converter.planning.resize_embeddings import resize
from converter.storage.hub_client import parse_repo_id
from converter.storage.url import same_location_key, url_of

SUBMODELS = ("encoder", "decoder")


@dataclass(frozen=True)
class ComposeOptions:
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
    recipe: Preset | None = None

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
    ) -> ComposeOptions:
        """The wishes that options say; see `converter.commands.compose.compose` for each.

        Raises:
            UsageError: for what cannot be meant.

        """
        recipe = get_preset(like) if like else None
        own = recipe.settings if recipe else ()
        wishes = cls(
            references=dict(zip(SUBMODELS, (encoder, decoder), strict=True)),
            configs=dict(zip(SUBMODELS, configs, strict=True)),
            drawn=frozenset((*random, *(recipe.random if recipe else ()))),
            share=share or bool(recipe and recipe.share),
            layers=parse_layers(layers, SUBMODELS),
            resized=resized,
            changes=parse_settings((*own, *settings), SUBMODELS),
            recipe=recipe,
        )
        wishes._check()
        return wishes

    def _check(self) -> None:
        for submodel in self.drawn:
            if submodel not in SUBMODELS:
                raise UsageError(f"random: {submodel!r} is none of {', '.join(SUBMODELS)}")
        if not self.share:
            return
        if self.drawn:
            raise UsageError("share: weights that are drawn anew are not shared")
        if len({same_location_key(reference) for reference in self.references.values()}) > 1:
            raise UsageError(
                "share: the halves can share their weights only if both are one checkpoint",
                remedy="Give the same checkpoint twice.",
            )
        if len({self.layers.get(submodel) for submodel in SUBMODELS}) > 1:
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

    def configuration(self, submodel: str, registry: ArchitectureRegistry) -> ModelConfig | None:
        """The configuration of a half, read without its weights; ``None`` if they are needed to
        tell its family, or it cannot be read without them.

        Args:
            submodel: ``encoder`` or ``decoder``.
            registry: the mapping tables.

        Raises:
            CheckpointError: if it cannot be fetched from the Hub.
            UnsupportedError: if it is a combined model, or there is no table for its family.

        """
        reference = self.references[submodel]
        try:
            opened = open_config(reference, self.configs[submodel])
        except CheckpointError:
            if parse_repo_id(reference) or url_of(reference):
                raise
            return None  # whoever opens the weights tells it better
        with opened as checkpoint:
            if "model_type" not in checkpoint.config:
                return None
            checkpoint = self._select_submodel(checkpoint, submodel, registry)
            raw = apply_overrides(checkpoint.config, self.changes[submodel])
            return ModelConfig(
                registry.architecture(checkpoint.architecture), raw, str(checkpoint.config_path)
            )

    def source(
        self, submodel: str, registry: ArchitectureRegistry, stack: ExitStack, headers: bool = False
    ) -> SourceModel:
        """The checkpoint of a half as it is wanted: with its changes, its layers, its size.

        Args:
            submodel: ``encoder`` or ``decoder``.
            registry: the mapping tables.
            stack: keeps it open.
            headers: whether no values will be read; see `open_files`.

        Raises:
            UnsupportedError: if it is a combined model, or cannot be had as it is wanted.

        """
        reference, config = self.references[submodel], self.configs[submodel]
        checkpoint = stack.enter_context(
            open_config(reference, config)
            if submodel in self.drawn
            else open_files(reference, config, headers=headers)
        )
        checkpoint = self._select_submodel(
            detect_model_type(checkpoint, registry), submodel, registry
        )
        raw = apply_overrides(checkpoint.config, self.changes[submodel])
        source = SourceModel.from_checkpoint(submodel, checkpoint, registry, raw)
        if submodel in self.layers:
            source = take_layers(source, self.layers[submodel], registry.conventions)
        return resize(source, registry.conventions) if self.resized else source

    def _select_submodel(
        self, checkpoint: Checkpoint, submodel: str, registry: ArchitectureRegistry
    ) -> Checkpoint:
        """The checkpoint, read as the model within it that can play the half."""
        checkpoint = select_submodel(checkpoint, registry, submodel)
        if registry.is_composite(checkpoint.architecture):
            raise UnsupportedError(
                f"{checkpoint.reference}: is an encoder-decoder model itself",
                remedy="Take it apart first: `converter split`.",
            )
        return checkpoint

    def preset_mismatch_warnings(self, joined: EncoderDecoderPair) -> Iterator[str]:
        """What to say where a recipe is followed with other families than the paper's."""
        if self.recipe is None:
            return
        wanted = {"encoder": self.recipe.encoder, "decoder": self.recipe.decoder}
        for submodel in joined.submodels:
            if submodel.source.architecture.name != wanted[submodel.name]:
                yield (
                    f"{self.recipe.name} of {self.recipe.paper} has {wanted[submodel.name]} as "
                    f"{submodel.name}; this is {submodel.source.architecture.name}"
                )
