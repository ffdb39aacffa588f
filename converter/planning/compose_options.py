"""What is asked of the two halves, a configuration of the literature taken into account."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from converter.architectures.model_config import ModelConfig
from converter.architectures.presets import Preset, get_preset
from converter.architectures.registry import ArchitectureRegistry
from converter.checkpoint.opening import Checkpoint, open_config, open_files
from converter.errors import CheckpointError, UnsupportedError, UsageError
from converter.models.detection import detect_model_type, select_submodel
from converter.models.source_model import SourceModel
from converter.options import (
    SUBMODELS,
    ComposeOptions,
    Reference,
    apply_overrides,
    parse_settings,
)
from converter.planning.encoder_decoder import EncoderDecoderPair
from converter.planning.generation_config import TOKEN_FIELDS, is_setting
from converter.planning.layer_selection import parse_layers, take_layers
from converter.planning.resize_embeddings import resize
from converter.storage.hub_client import parse_repo_id
from converter.storage.url import same_location_key, url_of


@dataclass(frozen=True)
class ComposeSettings:
    """What `compose` does with each submodel, the preset taken into account."""

    references: Mapping[str, Reference]
    """Submodel → its checkpoint."""
    configs: Mapping[str, Reference | None]
    """Submodel → its configuration, if given."""
    random: frozenset[str]
    """The submodels whose weights are all newly initialized."""
    share: bool
    """If true, the submodels share their weights."""
    layers: Mapping[str, str]
    """Submodel → which of its layers, if not all."""
    resized: bool
    """If true, embeddings are resized to the tokenizers."""
    changes: Mapping[str, Mapping[str, Any]]
    """Submodel, or ``""`` for the pair → configuration fields that are set."""
    preset: Preset | None = None

    @classmethod
    def of(cls, options: ComposeOptions) -> ComposeSettings:
        """Return the settings that options ask for.

        Raises:
            UsageError: if options contradict each other.

        """
        preset = get_preset(options.preset) if options.preset else None
        random = {*options.random, *(preset.random if preset else ())}
        settings = cls(
            references={"encoder": options.encoder, "decoder": options.decoder},
            configs={"encoder": options.encoder_config, "decoder": options.decoder_config},
            random=frozenset(SUBMODELS if "both" in random else random),
            share=options.share or bool(preset and preset.share),
            layers=parse_layers(options.layers, SUBMODELS),
            resized=options.resize_embeddings,
            changes=parse_settings((*(preset.settings if preset else ()), *options.set), SUBMODELS),
            preset=preset,
        )
        if settings.share:
            settings._check_share()
        return settings

    def _check_share(self) -> None:
        if self.random:
            raise UsageError("share: newly initialized weights cannot be shared")
        if len({same_location_key(reference) for reference in self.references.values()}) > 1:
            raise UsageError(
                "share: encoder and decoder can share weights only if they are the same checkpoint",
                remedy="Give the same checkpoint twice.",
            )
        if len({self.layers.get(submodel) for submodel in SUBMODELS}) > 1:
            raise UsageError("share: encoder and decoder that share weights have the same layers")

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
            if submodel in self.random
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
        if self.preset is None:
            return
        wanted = {"encoder": self.preset.encoder, "decoder": self.preset.decoder}
        for submodel in joined.submodels:
            if submodel.source.architecture.name != wanted[submodel.name]:
                yield (
                    f"{self.preset.name} of {self.preset.paper} has {wanted[submodel.name]} as "
                    f"{submodel.name}; this is {submodel.source.architecture.name}"
                )
