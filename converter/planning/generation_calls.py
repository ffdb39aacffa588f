"""The calls with which transformers' encoder-decoder classes generate, and Flax's as PyTorch's do.

Facts of transformers 4.57.6, the last release with Flax. `FlaxEncoderDecoderModel.encode` passes
the positions as the encoder's third argument, which in some modules is ``token_type_ids``: the
embedding of a type that does not exist is NaN. `generate` calls `encode`, and counts the decoder's
positions from 0, or from the sum of ``decoder_attention_mask`` minus 1. In PyTorch, `generate`
makes an ``attention_mask`` for the encoder if it gets no ``encoder_outputs``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from converter.architectures.model_config import ModelConfig
from converter.architectures.schema import Composite

_FLAX, _PYTORCH = "flax", "pytorch"


@dataclass(frozen=True)
class PytorchCalls:
    """What has to be passed to `generate` of the PyTorch class of an encoder-decoder model."""

    uncached: str | None = None
    """Why it fails with a cache."""
    unmasked: str | None = None
    """Why it fails with the encoder's mask."""

    @classmethod
    def of(cls, configs: Mapping[str, ModelConfig], composite: Composite | None) -> PytorchCalls:
        """Return the calls of the class of `composite` whose submodels have these configurations.

        A stand-alone model, and one that does not generate, needs none.
        """
        if composite is None or not composite.generates or {*configs} != {*composite.roles}:
            return cls()
        roles = [
            config.architecture.roles.get(composite.roles[name]) for name, config in configs.items()
        ]
        masks = [each.unmasked.get(_PYTORCH, {}).get(composite.name) for each in roles if each]
        caches = [each.uncached.get(_PYTORCH) for each in roles if each]
        return cls(next(filter(None, caches), None), next(filter(None, masks), None))

    @property
    def warnings(self) -> list[str]:
        """The calls as warnings."""
        needs = {
            "use_cache=False": self.uncached,
            "encoder_outputs=model.encoder(**inputs) instead of the inputs": self.unmasked,
        }
        return [f"pytorch: generate() needs {need}: {why}" for need, why in needs.items() if why]

    def imports(self, name: str) -> Iterator[str]:
        """Yield the line of Python that imports the class `name`."""
        yield f"from transformers import {name}"

    def example(self) -> Iterator[str]:
        """Yield the lines of Python that call ``model``; none if nothing has to be passed."""
        if self.uncached or self.unmasked:
            inputs = "encoder_outputs=model.encoder(**inputs)" if self.unmasked else "**inputs"
            yield "# `inputs` are what the tokenizer or processor returns."
            yield f"written = model.generate({inputs}{', use_cache=False' * bool(self.uncached)})"


@dataclass(frozen=True)
class FlaxCalls:
    """What has to be passed to the Flax class of an encoder-decoder model."""

    reads_text: bool = False
    """If true, the encoder's inputs are token ids."""
    positions_as_types: bool = False
    """If true, `generate` passes positions as the encoder's token types."""
    first_positions: Mapping[str, int] = field(default_factory=dict)
    """Submodel → position id of the first token, if any is not 0; the classes count from 0."""
    obstacle: str | None = None
    """Why the class cannot generate."""

    @classmethod
    def of(cls, configs: Mapping[str, ModelConfig], composite: Composite | None) -> FlaxCalls:
        """Return the calls of the class of `composite` whose submodels have these configurations.

        A stand-alone model, and one that does not generate, needs none.
        """
        if composite is None or not composite.generates or _FLAX not in composite.classes:
            return cls()
        encoder = configs["encoder"]
        roles = {name: each.architecture.roles[name] for name, each in configs.items()}
        first = {
            name: int(str(config.attribute("first_position") or 0))
            for name, config in configs.items()
        }
        return cls(
            encoder.attribute("vocabulary") is not None,
            _FLAX in roles["encoder"].positions_as_types,
            first if any(first.values()) else {},
            roles["decoder"].cannot_generate.get(_FLAX, {}).get(composite.name),
        )

    @property
    def warnings(self) -> list[str]:
        """The calls as warnings."""
        decoder, encoder = (self.first_positions.get(name, 0) for name in ("decoder", "encoder"))
        if self.obstacle:
            return [f"flax: generate() fails with this decoder: {self.obstacle}"]
        warnings = []
        if encoder:
            warnings.append(
                "flax: generate() gives the encoder wrong positions and token types: pass it the "
                f"encoder_outputs of a call with position_ids from {encoder}, as in the model card"
            )
        elif self.positions_as_types:
            warnings.append(
                "flax: generate() passes position ids as token types to the encoder, which gives "
                "NaN: pass it position_ids=np.zeros_like(input_ids)"
            )
        if decoder:
            warnings.append(
                f"flax: generate() counts the decoder's positions from 0, not {decoder}: pass it "
                f"decoder_attention_mask=np.array([[{decoder + 1}]])"
            )
        return warnings

    @property
    def _needed(self) -> bool:
        return self.positions_as_types or bool(self.first_positions)

    def imports(self, name: str) -> Iterator[str]:
        """Yield the lines of Python that import the class `name`, and what `example` uses."""
        yield from ["import numpy as np"] if self._needed else ()
        yield f"from transformers import {name}"
        if self.first_positions.get("encoder"):
            yield "from transformers.modeling_flax_outputs import FlaxBaseModelOutput"

    def example(self) -> Iterator[str]:
        """Yield the lines of Python that call ``model``; none if nothing has to be passed."""
        encoder, decoder = (self.first_positions.get(name, 0) for name in ("encoder", "decoder"))
        inputs = "ids" if self.reads_text else "inputs"
        yield from [""] if self._needed or self.obstacle else ()
        if self._needed:
            yield "ids = np.array([[0, 4, 2]])"
            if not self.reads_text:
                yield "inputs = processor(image)  # what the processor of images or audio returns"
        if self.first_positions:
            yield "positions = np.arange(ids.shape[1])[None]"
            yield "# Flax counts positions from 0 unless they are given, which this model does not."
            yield "outputs = model("
            yield f"    {inputs},"
            yield "    decoder_input_ids=ids,"
            yield from [f"    position_ids=positions + {encoder},"] if encoder else ()
            yield from [f"    decoder_position_ids=positions + {decoder},"] if decoder else ()
            yield ")"
        if self.obstacle:
            yield f"# model.generate() fails: {self.obstacle}."
        elif self._needed:
            yield from self._generate(inputs, encoder, decoder)

    def _generate(self, inputs: str, encoder: int, decoder: int) -> Iterator[str]:
        yield "written = model.generate("
        yield f"    {inputs},"
        if encoder:
            yield "    # generate() has no argument for the encoder's positions: pass its outputs."
            yield "    encoder_outputs=FlaxBaseModelOutput(outputs.encoder_last_hidden_state),"
        elif self.positions_as_types:
            yield "    # generate() passes these to the encoder as token types."
            yield "    position_ids=np.zeros_like(ids),"
        if decoder:
            yield "    # generate() counts the decoder's positions from this number minus 1."
            yield f"    decoder_attention_mask=np.array([[{decoder + 1}]]),"
        yield ").sequences"


CALLS: Mapping[str, type[PytorchCalls] | type[FlaxCalls]] = {
    _PYTORCH: PytorchCalls,
    _FLAX: FlaxCalls,
}
"""The frameworks in which some models need further arguments."""


def generation_warnings(
    configs: Mapping[str, ModelConfig], composite: Composite | None, frameworks: Collection[str]
) -> list[str]:
    """Return what users have to pass to `generate` of each of the frameworks."""
    return [
        warning
        for framework, each in CALLS.items()
        if framework in frameworks
        for warning in each.of(configs, composite).warnings
    ]
