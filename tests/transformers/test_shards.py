"""Shards load natively: the frameworks' classes find every tensor through the index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter
from tests.transformers.oracle import inputs
from tests.transformers.rounding import assert_close
from tests.transformers.weight_files import captured

pytestmark = pytest.mark.peer

FIXTURES = Path(__file__).parents[2] / "fixtures"
KINDS = {
    "safetensors": ("model", ""),
    "bin": ("pytorch_model", ""),
    "h5": ("tf_model", "TF"),
    "msgpack": ("flax_model", "Flax"),
}


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "out"
    converter.compose(
        FIXTURES / "bert-tiny",
        FIXTURES / "gpt2-tiny",
        out,
        pytorch_format="both",
        max_shard_size="60kB",
    )
    return out


def _isolated(directory: Path, path: Path, stem: str) -> Path:
    path.mkdir()
    for file in directory.iterdir():
        if (
            file.name.startswith(f"{stem}-0")
            or file.name.startswith(f"{stem}.")
            or (file.name in ("config.json", "generation_config.json"))
        ):
            (path / file.name).symlink_to(file)
    return path


def _logits(model: Any, prefix: str, batch: dict[str, np.ndarray]) -> np.ndarray:
    if prefix == "":
        import torch

        with torch.no_grad():
            actual = model.eval()(**{name: torch.tensor(value) for name, value in batch.items()})
        return np.asarray(actual.logits)
    if prefix == "TF":
        import tensorflow as tf

        tensors = {name: tf.constant(value, tf.int32) for name, value in batch.items()}
        return np.asarray(model(**tensors, training=False).logits)
    return np.asarray(model(**batch).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_shards_load_with_nothing_missing(sharded: Path, tmp_path: Path, kind: str) -> None:
    import json

    import transformers

    stem, prefix = KINDS[kind]
    directory = _isolated(sharded, tmp_path / kind, stem)
    shards = [file for file in directory.iterdir() if file.name.startswith(f"{stem}-0")]
    assert len(shards) >= 3
    requested = getattr(transformers, f"{prefix}EncoderDecoderModel")
    options: dict[str, Any] = {} if prefix == "Flax" else {"output_loading_info": True}
    if prefix != "Flax":
        options["use_safetensors"] = kind == "safetensors"
    with captured() as messages:
        loaded = requested.from_pretrained(directory, **options)
    model, info = loaded if isinstance(loaded, tuple) else (loaded, {})
    assert not info.get("missing_keys") and not info.get("unexpected_keys"), info
    assert not [text for text in messages if "newly initialized" in text]
    batch = inputs(json.loads((sharded / "config.json").read_text()))
    composite = tmp_path / "whole"
    converter.convert(sharded, composite, to=["pytorch"])
    reference = transformers.EncoderDecoderModel.from_pretrained(composite)
    assert_close(_logits(model, prefix, batch), reference, lambda: _logits(reference, "", batch))
