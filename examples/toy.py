"""A toy task that all three examples share: summarize a text by leaving out its small words."""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import numpy as np

SMALL = ("a", "has", "that", "the")
WORDS = ("checkpoint", "holds", "learned", "model", "numbers", *SMALL)
LENGTHS = {"input": 6, "output": 28}
"""Tokens of the longest text and summary: equal shapes let TensorFlow and Flax compile once."""


def arguments(steps: int) -> argparse.Namespace:
    """Parse the command line of an example: MODEL, OUTPUT and how many steps to train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path, help="directory that `converter compose` wrote")
    parser.add_argument("output", type=Path, help="directory for the trained model")
    parser.add_argument("--steps", type=int, default=steps)
    given = parser.parse_args()
    if not (given.model / "config.json").is_file():
        parser.error(f"{given.model} is not the directory of a model")
    return given


def texts(count: int, seed: int, words: int = 4) -> tuple[list[str], list[str]]:
    """Return `count` texts of `words` different words each, and their summaries."""
    generator = random.Random(seed)
    inputs = [generator.sample(WORDS, words) for _ in range(count)]
    outputs = [[word for word in text if word not in SMALL] for text in inputs]
    return [*map(" ".join, inputs)], [*map(" ".join, outputs)]


def tokenizers(directory: Path) -> tuple[Any, Any]:
    """Return the tokenizers of encoder and decoder, which may be the same.

    SystemExit says which one is missing.
    """
    from transformers import AutoConfig, AutoTokenizer

    alone = directory / "encoder_tokenizer"  # where converter puts it if the decoder has none
    own = directory / "decoder_tokenizer"
    place = alone if alone.is_dir() else directory
    if not (place / "tokenizer_config.json").is_file():
        raise SystemExit(f"{directory} has no tokenizer of the encoder: save it there")
    encoder = AutoTokenizer.from_pretrained(place)
    if own.is_dir():
        return encoder, AutoTokenizer.from_pretrained(own)
    config = AutoConfig.from_pretrained(directory)
    if alone.is_dir() or config.encoder.vocab_size != config.decoder.vocab_size:
        raise SystemExit(
            f"{directory} has no tokenizer of the decoder, and the encoder's is another: save the "
            f"decoder's in {own}"
        )
    return encoder, encoder


def batch(encoder: Any, decoder: Any, config: Any, count: int, seed: int) -> dict[str, np.ndarray]:
    """Return the arguments of a composed model for `count` pairs of texts.

    Labels are the ids of the summaries without special tokens, ended by the model's end token, and
    -100 behind it. The decoder reads its start token, then the labels but the last.
    """
    inputs, outputs = texts(count, seed)
    encoded = encoder(
        inputs, padding="max_length", max_length=LENGTHS["input"], return_tensors="np"
    )
    labels = np.full((count, LENGTHS["output"]), -100)
    for row, text in zip(labels, outputs, strict=True):
        ids = [*decoder(text, add_special_tokens=False)["input_ids"], config.eos_token_id]
        row[: len(ids)] = ids
    start = np.full((count, 1), config.decoder_start_token_id)
    shifted = np.where(labels < 0, config.pad_token_id, labels)[:, :-1]
    return {
        "input_ids": encoded["input_ids"],
        "attention_mask": encoded["attention_mask"],
        "decoder_input_ids": np.concatenate([start, shifted], 1),
        # Without it, transformers masks every pad token. GPT-2 has no pad token and is padded with
        # its start token, which generate() does not mask: nothing would be learned.
        "decoder_attention_mask": np.ones_like(labels),
        "labels": labels,
    }


def accuracy(generated: list[str], inputs: list[str], outputs: list[str]) -> float:
    """Return the share of generated texts that are the summaries; print the first three."""
    generated = [text.strip() for text in generated]
    for text, right, own in [*zip(inputs, outputs, generated, strict=True)][:3]:
        print(f"{text!r} → {own!r}" + ("" if own == right else f", should be {right!r}"))
    return sum(own == right for own, right in zip(generated, outputs, strict=True)) / len(outputs)


def save(model: Any, encoder: Any, decoder: Any, directory: Path, output: Path) -> None:
    """Save a model, its generation settings and both tokenizers as `converter compose` does.

    License and base models are those of the card of `directory`, the model before training.
    """
    model.save_pretrained(output)
    encoder.save_pretrained(output)
    if decoder is not encoder:
        decoder.save_pretrained(output / "decoder_tokenizer")
    card = directory / "README.md"
    if card.is_file() and (text := card.read_text("utf-8")).startswith("---"):
        metadata = text.split("---")[1]
        about = f"# {output.name}\n\nFine-tuned from {directory.name}.\n"
        (output / "README.md").write_text(f"---{metadata}---\n\n{about}", "utf-8")
    print(f"saved in {output}")
