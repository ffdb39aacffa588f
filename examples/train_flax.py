"""One training step and a greedy decode in Flax: ``python train_flax.py DIR``.

DIR is the same directory as for PyTorch. Needs flax and transformers 4.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import toy
from transformers import FlaxEncoderDecoderModel


def step_and_decode(directory: Path, learning_rate: float = 1e-2) -> tuple[float, float, list[str]]:
    """Return the loss before and after one gradient step, and the texts generated then."""
    model = FlaxEncoderDecoderModel.from_pretrained(directory)
    reader, writer = toy.tokenizers(directory)
    inputs, outputs = toy.pairs(8)
    encoded = reader(inputs, padding=True, return_tensors="np")
    labels = toy.labels(writer, outputs, model.config.eos_token_id)
    start = np.full((len(labels), 1), model.config.decoder_start_token_id)
    shifted = np.where(labels < 0, model.config.pad_token_id, labels)[:, :-1]
    targets, counted = np.where(labels < 0, 0, labels), labels >= 0

    def loss(params: Any) -> jax.Array:
        logits = model(
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            decoder_input_ids=np.concatenate([start, shifted], 1),
            decoder_attention_mask=np.ones_like(labels),
            params=params,
        ).logits
        each = -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
        return (each * counted).sum() / counted.sum()

    before, slopes = jax.value_and_grad(loss)(model.params)
    params = jax.tree.map(lambda value, slope: value - learning_rate * slope, model.params, slopes)
    after = loss(params)
    ids = model.generate(
        encoded["input_ids"],
        attention_mask=encoded["attention_mask"],
        max_new_tokens=8,
        params=params,
    ).sequences
    return float(before), float(after), writer.batch_decode(ids, skip_special_tokens=True)


if __name__ == "__main__":
    before, after, generated = step_and_decode(Path(sys.argv[1]))
    print(f"loss {before:.4f}, after one step {after:.4f}")
    print("\n".join(map(repr, generated[:3])))
