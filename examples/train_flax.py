"""Fine-tune and save a composed model in Flax: ``train_flax.py MODEL OUTPUT``.

MODEL is the same directory as for PyTorch. Needs flax, optax and transformers 4.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import toy
from transformers import FlaxEncoderDecoderModel


def train(
    directory: Path, output: Path, steps: int = 400, rate: float = 6e-3
) -> tuple[list[float], float]:
    """Train and save; return the loss of every step and the accuracy on new texts."""
    model = FlaxEncoderDecoderModel.from_pretrained(directory)
    encoder, decoder = toy.tokenizers(directory)
    schedule = optax.linear_schedule(rate, 0.05 * rate, steps)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.01)
    )

    def loss_of(params: Any, batch: dict[str, Any], random: Any) -> jax.Array:
        labels = batch.pop("labels")
        logits = model(**batch, params=params, dropout_rng=random, train=True).logits
        each = optax.softmax_cross_entropy_with_integer_labels(logits, labels.clip(0))
        return (each * (labels >= 0)).sum() / (labels >= 0).sum()

    @jax.jit
    def step_with(params: Any, state: Any, batch: dict[str, Any], random: Any) -> Any:
        loss, slopes = jax.value_and_grad(loss_of)(params, batch, random)
        updates, state = optimizer.update(slopes, state, params)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    params, state = model.params, optimizer.init(model.params)
    for step in range(steps):
        batch = toy.batch(encoder, decoder, model.config, 16, step)
        params, state, loss = step_with(params, state, batch, jax.random.key(step))
        losses.append(float(loss))
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step:3d}  loss {losses[-1]:.3f}", flush=True)
    model.params = params
    toy.save(model, encoder, decoder, directory, output)
    inputs, outputs = toy.texts(64, seed=10**6)
    encoded = encoder(inputs, padding=True, return_tensors="np")
    ids = model.generate(
        encoded.input_ids,
        attention_mask=encoded.attention_mask,
        # passed to BERT as token types, NaN without; the model card has the call of other encoders
        position_ids=np.zeros_like(encoded.input_ids),
        max_new_tokens=28,
    ).sequences
    generated = decoder.batch_decode(ids, skip_special_tokens=True)
    return losses, toy.accuracy(generated, inputs, outputs)


if __name__ == "__main__":
    given = toy.arguments(steps=400)
    _, share = train(given.model, given.output, given.steps)
    print(f"{share:.0%} of 64 new texts are summarized correctly")
