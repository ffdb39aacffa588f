"""Fine-tune and save a composed model in TensorFlow: ``train_tensorflow.py MODEL OUTPUT``.

MODEL is the same directory as for PyTorch. Needs tensorflow, tf-keras and transformers 4.
"""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf
import tf_keras
import toy
from transformers import TFEncoderDecoderModel


def train(
    directory: Path, output: Path, steps: int = 400, rate: float = 6e-3
) -> tuple[list[float], float]:
    """Train and save; return the loss of every step and the accuracy on new texts."""
    tf.random.set_seed(0)
    # transformers 4 prefers safetensors to h5 and cannot load them here
    model = TFEncoderDecoderModel.from_pretrained(directory, use_safetensors=False)
    encoder, decoder = toy.tokenizers(directory)
    schedule = tf_keras.optimizers.schedules.PolynomialDecay(rate, steps, 0.05 * rate)
    optimizer = tf_keras.optimizers.AdamW(schedule, 0.01, epsilon=1e-8, global_clipnorm=1.0)

    @tf.function
    def step_with(batch: dict[str, tf.Tensor]) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = model(**batch, training=True).loss
        slopes = tape.gradient(loss, model.trainable_variables)
        pairs = zip(slopes, model.trainable_variables, strict=True)
        # BERT's pooler takes no part in generation
        optimizer.apply_gradients([(slope, weight) for slope, weight in pairs if slope is not None])
        return loss

    losses = []
    for step in range(steps):
        batch = toy.batch(encoder, decoder, model.config, 16, step)
        loss = step_with({name: tf.constant(value) for name, value in batch.items()})
        losses.append(float(tf.squeeze(loss)))
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step:3d}  loss {losses[-1]:.3f}", flush=True)
    toy.save(model, encoder, decoder, directory, output)
    inputs, outputs = toy.texts(64, seed=10**6)
    encoded = encoder(inputs, padding=True, return_tensors="tf")
    ids = model.generate(
        encoded.input_ids, attention_mask=encoded.attention_mask, max_new_tokens=28
    )
    generated = decoder.batch_decode(ids, skip_special_tokens=True)
    return losses, toy.accuracy(generated, inputs, outputs)


if __name__ == "__main__":
    given = toy.arguments(steps=400)
    _, share = train(given.model, given.output, given.steps)
    print(f"{share:.0%} of 64 new texts are summarized correctly")
