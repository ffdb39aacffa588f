"""A toy task that all three examples share: write the words of the input in reverse order."""

from __future__ import annotations

import random
from pathlib import Path

WORDS = ("a", "checkpoint", "holds", "the", "numbers", "that", "model", "has", "learned")


def pairs(count: int, seed: int = 0, words: int = 3) -> tuple[list[str], list[str]]:
    """Return `count` inputs of `words` different words each, and the same words reversed."""
    generator = random.Random(seed)
    inputs = [generator.sample(WORDS, words) for _ in range(count)]
    return [" ".join(text) for text in inputs], [" ".join(reversed(text)) for text in inputs]


def tokenizers(directory: Path):
    """Return the tokenizers of inputs and outputs, which may be the same."""
    from transformers import AutoTokenizer

    own = directory / "decoder_tokenizer"
    encoder = AutoTokenizer.from_pretrained(directory)
    decoder = AutoTokenizer.from_pretrained(own if own.is_dir() else directory)
    return encoder, decoder


def labels(tokenizer, texts: list[str], end: int, ignored: int = -100):
    """Return the ids of the outputs without special tokens, ended by `end`, padded by `ignored`."""
    import numpy as np

    ids = [[*tokenizer(text, add_special_tokens=False)["input_ids"], end] for text in texts]
    length = max(map(len, ids))
    return np.array([row + [ignored] * (length - len(row)) for row in ids])
