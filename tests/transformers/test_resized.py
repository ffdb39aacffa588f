"""Embeddings and heads cut or grown to the tokenizer, as every framework computes with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter
from tests.transformers.oracle import check
from tests.transformers.source_cache import SourceCache

pytestmark = pytest.mark.peer

ALL = ("safetensors", "h5", "msgpack")


@pytest.mark.parametrize(
    ("architecture", "untied", "kinds"),
    [
        ("gpt2", False, ALL),
        ("bert", False, ALL),
        ("bert", True, ("safetensors", "msgpack")),
        ("gpt2", True, ("safetensors", "msgpack")),
    ],
)
def test_known_tokens_keep_their_logits_and_new_ones_have_the_mean(
    source_cache: SourceCache,
    tmp_path: Path,
    architecture: str,
    untied: bool,
    kinds: tuple[str, ...],
) -> None:
    changes: dict[str, Any] = {"tie_word_embeddings": False} if untied else {}
    sources = {
        "encoder": source_cache.source("bert", "base", "large"),
        "decoder": source_cache.source(architecture, "causal", "small", seed=1, **changes),
    }
    old = json.loads((sources["decoder"] / "config.json").read_text())["vocab_size"]
    for submodel, size in (("encoder", 140), ("decoder", old + 5)):
        shutil.copytree(sources[submodel], tmp_path / submodel)
        words = "".join(f"w{number}\n" for number in range(size))
        (tmp_path / submodel / "vocab.txt").write_text(words)
    submodels = (tmp_path / "encoder", tmp_path / "decoder")
    tokens: dict[str, Any] = {"decoder_start_token": 5, "eos_token": 6, "pad_token": 7}
    converter.compose(*submodels, tmp_path / "plain", to=["pytorch"], **tokens)
    converter.compose(*submodels, tmp_path / "resized", resize_embeddings=True, **tokens)
    plain = check(tmp_path / "plain", only=("safetensors",))
    resized = check(tmp_path / "resized", only=kinds)
    for loaded in resized.values():
        config = loaded.model.config
        assert (config.encoder.vocab_size, config.decoder.vocab_size) == (140, old + 5)
    # The inputs depend on the vocabularies, so the reference model runs on the same ones.
    import torch

    ids = {"input_ids": torch.arange(5, 14)[None], "decoder_input_ids": torch.arange(8, 15)[None]}
    with torch.no_grad():
        before, after = (
            models["safetensors"].model(**ids).logits.numpy() for models in (plain, resized)
        )
    np.testing.assert_allclose(after[..., :old], before, atol=1e-5)
    mean = before.mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(
        after[..., old:], np.broadcast_to(mean, (*mean.shape[:2], 5)), atol=1e-5
    )
