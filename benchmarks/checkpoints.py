"""BERT checkpoints of any size, filled with seeded noise, written without a framework."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from converter.formats.registry import get_format
from converter.initializers import Initializer
from converter.tensors import TensorSpec


@dataclass(frozen=True)
class Bert:
    """The sizes of a BERT model; the defaults are bert-base's."""

    hidden: int = 768
    layers: int = 12
    heads: int = 12
    vocabulary: int = 30522
    positions: int = 512

    @property
    def config(self) -> dict[str, object]:
        return {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": 4 * self.hidden,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.positions,
            "type_vocab_size": 2,
            "hidden_act": "gelu",
            "initializer_range": 0.02,
            "layer_norm_eps": 1e-12,
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "pad_token_id": 0,
            "bos_token_id": 101,
            "eos_token_id": 102,
        }

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield canonical names and shapes of a BertModel."""
        h = self.hidden
        yield "embeddings.word_embeddings.weight", (self.vocabulary, h)
        yield "embeddings.position_embeddings.weight", (self.positions, h)
        yield "embeddings.token_type_embeddings.weight", (2, h)
        yield from _norm("embeddings.LayerNorm", h)
        for layer in range(self.layers):
            at = f"encoder.layer.{layer}"
            yield from _attention(f"{at}.attention", h)
            yield from _linear(f"{at}.intermediate.dense", h, 4 * h)
            yield from _linear(f"{at}.output.dense", 4 * h, h)
            yield from _norm(f"{at}.output.LayerNorm", h)
        yield from _linear("pooler.dense", h, h)

    def write(self, directory: Path, seed: int) -> Path:
        """Write ``config.json`` and ``model.safetensors`` into the new `directory`."""
        directory.mkdir(parents=True)
        (directory / "config.json").write_text(json.dumps(self.config, indent=2))
        specs = [TensorSpec(name, "float32", shape) for name, shape in self.shapes()]
        output = get_format("safetensors").create(
            directory / "model.safetensors", specs, metadata={"format": "pt"}
        )
        with output.path.open("r+b") as file:
            for spec in specs:
                values = np.empty(spec.shape, np.float32)
                Initializer("normal", 0.05, seed, spec.name).fill(values)
                (segment,) = output.segments[spec.name]
                file.seek(segment.file_offset)
                file.write(values.astype("<f4").tobytes())
        output.finalize({})
        return directory


def _linear(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (size,)
    yield f"{name}.bias", (size,)


def _attention(name: str, size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for part in ("self.query", "self.key", "self.value", "output.dense"):
        yield from _linear(f"{name}.{part}", size, size)
    yield from _norm(f"{name}.output.LayerNorm", size)
