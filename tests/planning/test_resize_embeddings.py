"""Embeddings and heads that grow or are cut to the tokenizer's size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter import UnsupportedError, compose
from tests.factories import make
from tests.reading import FILES, config_of, manifest_of, values

SIZED = {
    "encoder.embeddings.word_embeddings.weight": "embeddings.word_embeddings.weight",
    "decoder.embeddings.word_embeddings.weight": "embeddings.word_embeddings.weight",
    "decoder.cls.predictions.bias": "cls.predictions.bias",
}


def _words(directory: Path, count: int) -> None:
    (directory / "vocab.txt").write_text("".join(f"w{number}\n" for number in range(count)))


def _submodels(home: Path, encoder: int, decoder: int, **changes: Any) -> tuple[Path, Path]:
    first = make(home / "encoder", "bert", vocab_size=50).directory
    second = make(home / "decoder", "bert", "BertLMHeadModel", seed=1, **changes).directory
    _words(first, encoder)
    _words(second, decoder)
    return first, second


@pytest.mark.parametrize("memory", ["512MB", 1])
def test_one_submodel_grows_by_the_mean_and_the_other_is_truncated(
    tmp_path: Path, memory: Any
) -> None:
    sources = _submodels(tmp_path, 40, 70)
    out = tmp_path / "out"
    compose(*sources, out, resize_embeddings=True, memory=memory)
    config = config_of(out)
    assert (config["encoder"]["vocab_size"], config["decoder"]["vocab_size"]) == (40, 70)
    originals = {submodel: values(tmp_path / submodel) for submodel in ("encoder", "decoder")}
    for file in FILES:
        complete = values(out / file)
        for name, key in SIZED.items():
            submodel = name.partition(".")[0]
            own = originals[submodel][key]
            kept = min(len(own), len(complete[name]))
            assert len(complete[name]) == {"encoder": 40, "decoder": 70}[submodel]
            assert np.array_equal(complete[name][:kept], own[:kept]), (file, name)
            mean = own.astype(np.float64).mean(axis=0)
            for row in complete[name][kept:]:
                assert np.allclose(row, mean, rtol=1e-6, atol=1e-9)
        for name, value in originals["decoder"].items():
            if f"decoder.{name}" not in SIZED:
                assert np.array_equal(complete[f"decoder.{name}"], value)
    entry = manifest_of(out)["tensors"]["decoder.embeddings.word_embeddings.weight"]
    assert entry["resized"] == {"from": [61, 24], "rows": "mean"}


def test_new_rows_follow_the_rule_of_the_table_if_requested(tmp_path: Path) -> None:
    sources = _submodels(tmp_path, 50, 200, hidden_size=64)
    compose(*sources, tmp_path / "out", resize_embeddings=True, resize_with="normal", seed=4)
    one, *others = (values(tmp_path / "out" / file) for file in FILES)
    rows = one["decoder.embeddings.word_embeddings.weight"][61:]
    assert rows.std() == pytest.approx(0.02, rel=0.05)
    assert not one["decoder.cls.predictions.bias"][61:].any()
    for other in others:
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_an_added_pad_token_can_be_used(tmp_path: Path) -> None:
    _, decoder = sources = _submodels(tmp_path, 50, 61, pad_token_id=None)
    (decoder / "added_tokens.json").write_text('{"[PAD]": 61}')
    (decoder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    compose(*sources, tmp_path / "out", resize_embeddings=True)
    assert config_of(tmp_path / "out")["pad_token_id"] == 61


def test_without_a_tokenizer_there_is_no_size(tmp_path: Path) -> None:
    encoder, decoder = _submodels(tmp_path, 50, 61)
    (decoder / "vocab.txt").unlink()
    with pytest.raises(UnsupportedError, match="no file states how many tokens"):
        compose(encoder, decoder, tmp_path / "out", resize_embeddings=True)
    _words(decoder, 10_000)
    with pytest.raises(UnsupportedError, match="cannot be resized"):
        compose(encoder, decoder, tmp_path / "out", resize_embeddings=True)
    assert not (tmp_path / "out").exists()
