"""One training step and a greedy decode in TensorFlow: ``python train_tensorflow.py DIR``.

DIR is the same directory as for PyTorch. Needs tensorflow, tf-keras and transformers 4.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
import toy
from transformers import TFEncoderDecoderModel


def step_and_decode(directory: Path, learning_rate: float = 1e-2) -> tuple[float, float, list[str]]:
    """Return the loss before and after one gradient step, and the texts generated then."""
    # transformers 4 prefers safetensors to h5 and cannot load them here
    model = TFEncoderDecoderModel.from_pretrained(directory, use_safetensors=False)
    reader, writer = toy.tokenizers(directory)
    inputs, outputs = toy.pairs(8)
    encoded = reader(inputs, padding=True, return_tensors="np")
    labels = toy.labels(writer, outputs, model.config.eos_token_id)
    start = np.full((len(labels), 1), model.config.decoder_start_token_id)
    shifted = np.where(labels < 0, model.config.pad_token_id, labels)[:, :-1]
    targets = tf.constant(np.where(labels < 0, 0, labels))
    counted = tf.constant(labels >= 0, tf.float32)

    def loss() -> tf.Tensor:
        logits = model(
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            decoder_input_ids=np.concatenate([start, shifted], 1),
            decoder_attention_mask=np.ones_like(labels),
        ).logits
        each = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
        return tf.reduce_sum(each * counted) / tf.reduce_sum(counted)

    with tf.GradientTape() as tape:
        before = loss()
    variables = model.trainable_variables
    for variable, slope in zip(variables, tape.gradient(before, variables), strict=True):
        if slope is not None:
            variable.assign_sub(learning_rate * tf.convert_to_tensor(slope))
    after = loss()
    ids = model.generate(
        encoded["input_ids"], attention_mask=encoded["attention_mask"], max_new_tokens=8
    )
    return float(before), float(after), writer.batch_decode(ids, skip_special_tokens=True)


if __name__ == "__main__":
    before, after, generated = step_and_decode(Path(sys.argv[1]))
    print(f"loss {before:.4f}, after one step {after:.4f}")
    print("\n".join(map(repr, generated[:3])))
