"""The configurations of the literature, loaded natively: equal logits, and they generate."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter
from converter.architectures.loader import Preset, load_presets
from tests.environments import TRANSFORMERS_5, interpreter
from tests.reading import FILES, values
from tests.transformers.oracle import check, inputs
from tests.transformers.rounding import assert_close
from tests.transformers.source_cache import SourceCache
from tests.transformers.weight_files import configuration

pytestmark = pytest.mark.peer

NAMES = sorted(load_presets())
NEW_PARTS = ("crossattention", "ln_cross_attn", "enc_to_dec_proj", "pooler")
"""What no source of a recipe has: the pooler where a decoder's checkpoint is the encoder's too."""

FIFTH = """
import sys
from pathlib import Path
import numpy as np, torch
from transformers import EncoderDecoderModel
for home in map(Path, sys.argv[1:]):
    model, info = EncoderDecoderModel.from_pretrained(home, output_loading_info=True)
    assert not any(info.values()), (home, info)
    batch = {key: torch.tensor(value) for key, value in np.load(home / "batch.npz").items()}
    with torch.no_grad():
        logits = model.eval()(**batch).logits.numpy()
    ids = model.generate(batch["input_ids"]).numpy()
    labels = torch.tensor([[7, 8, 9]])
    shifted = model.prepare_decoder_input_ids_from_labels(labels).numpy()
    loss = model(input_ids=batch["input_ids"][:1], labels=labels).loss.item()
    np.savez(home / "fifth.npz", logits=logits, ids=ids, shifted=shifted, loss=loss)
"""


@pytest.fixture(scope="module")
def composed(
    source_cache: SourceCache, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Compose each preset with tiny checkpoints of the architectures of its paper."""
    home, actual = tmp_path_factory.mktemp("recipes"), {}
    for name, recipe in load_presets().items():
        encoder, decoder = _sources(source_cache, recipe)
        small = ["decoder.num_attention_heads=4"] if recipe.set else []
        actual[name] = home / name
        converter.compose(encoder, decoder, actual[name], preset=name, set=small)
    return actual


def _sources(source_cache: SourceCache, recipe: Preset) -> tuple[Path, Path]:
    decoder = source_cache.source(recipe.decoder, "causal", "small", seed=1)
    encoder = decoder if recipe.share else source_cache.source(recipe.encoder, "base", "small")
    return encoder, decoder


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_loads_and_generates_in_every_framework(
    composed: dict[str, Path], name: str
) -> None:
    config = configuration(composed[name])
    ids = inputs(config)["input_ids"]
    first = None
    for kind, loaded in check(composed[name], only=("safetensors", "h5", "msgpack")).items():
        written = _generate(kind, loaded.model, ids)
        first = written if first is None else first
        if not name.startswith("roberta"):  # Flax counts its positions from 0
            assert written[:, :20].tolist() == first[:, :20].tolist()  # PyTorch writes one more
        assert written.shape[0] == len(ids)
        assert set(written[:, 0].tolist()) == {config["decoder_start_token_id"]}
        assert int(written.max()) < config["decoder"]["vocab_size"]
        if kind == "safetensors" and load_presets()[name].share:
            _is_tied(loaded.model)


def _is_tied(model: Any) -> None:
    """PyTorch has one tensor in both submodels wherever both have the path."""
    body = getattr(model.decoder, model.decoder.base_model_prefix)
    own = dict(body.named_parameters())
    pairs = [(value, own[name]) for name, value in model.encoder.named_parameters() if name in own]
    assert len(pairs) > 30
    assert all(one.data_ptr() == other.data_ptr() for one, other in pairs)


def _generate(kind: str, model: Any, ids: Any) -> Any:
    """Call ``generate()`` with only the input, in each framework."""
    if kind == "safetensors":
        import torch

        return model.generate(torch.from_numpy(ids)).numpy()
    if kind == "h5":
        return np.asarray(model.generate(ids))
    # zeros: the encoders, BERT and RoBERTa, get these as token types; a loop is slow to compile
    return np.asarray(model.generate(ids, position_ids=np.zeros_like(ids), trace=False).sequences)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_initializes_and_shares_as_its_paper_does(
    composed: dict[str, Path], source_cache: SourceCache, name: str
) -> None:
    recipe, out = load_presets()[name], composed[name]
    tensors = json.loads((out / "converter-manifest.json").read_text())["tensors"]
    initialized = {key for key, entry in tensors.items() if entry["origin"] == "initialized"}
    stored = values(out)
    for submodel in ("encoder", "decoder"):
        own = {key for key in tensors if key.startswith(f"{submodel}.")}
        new_tensors = {key for key in own if any(mark in key for mark in NEW_PARTS)}
        if submodel in recipe.random:
            assert own <= initialized
        elif submodel == "encoder" and not recipe.share:
            assert not own & initialized
        else:
            assert own & initialized == new_tensors
    for submodel, source in zip(
        ("encoder", "decoder"), _sources(source_cache, recipe), strict=True
    ):
        originals = values(source)
        for key in {key for key in stored if key.startswith(f"{submodel}.")} - initialized:
            assert np.array_equal(stored[key], originals[key.removeprefix(f"{submodel}.")]), key
    if recipe.share:
        assert configuration(out)["tie_encoder_decoder"]
        for file in FILES:
            composite = values(out / file)
            twins = [
                key.removeprefix("encoder.") for key in composite if key.startswith("encoder.")
            ]
            twins = [key for key in twins if f"decoder.{key}" in composite]
            assert len(twins) > 30
            assert all(
                np.array_equal(composite[f"encoder.{k}"], composite[f"decoder.{k}"]) for k in twins
            )


@pytest.mark.parametrize("name", ["bert2gpt", "robertashare"])
def test_the_submodels_load_separately(
    composed: dict[str, Path], tmp_path: Path, name: str
) -> None:
    converter.split(composed[name], tmp_path / "halves")
    for submodel in ("encoder", "decoder"):
        check(tmp_path / "halves" / submodel, only=("safetensors", "h5", "msgpack"))


@pytest.fixture(scope="module")
def start_transformers_5(composed: dict[str, Path]) -> dict[str, Any]:
    """Return what transformers 5 computes with each preset."""
    for directory in composed.values():
        batch: dict[str, Any] = inputs(configuration(directory))
        np.savez(directory / "batch.npz", **batch)
    command = [str(interpreter(TRANSFORMERS_5)), "-c", FIFTH, *map(str, composed.values())]
    subprocess.run(command, check=True, capture_output=True)
    return {name: np.load(directory / "fifth.npz") for name, directory in composed.items()}


@pytest.mark.parametrize("name", NAMES)
def test_transformers_5_computes_and_generates_the_same(
    composed: dict[str, Path], start_transformers_5: dict[str, Any], name: str
) -> None:
    import torch
    from transformers import EncoderDecoderModel

    model = EncoderDecoderModel.from_pretrained(composed[name]).eval()
    batch = {key: torch.tensor(v) for key, v in inputs(configuration(composed[name])).items()}
    labels = torch.tensor([[7, 8, 9]])

    def run(**tensors: Any) -> Any:
        with torch.no_grad():
            return model(**tensors)

    assert_close(start_transformers_5[name]["logits"], model, lambda: run(**batch).logits.numpy())
    single = {"input_ids": batch["input_ids"][:1], "labels": labels}
    assert_close(start_transformers_5[name]["loss"], model, lambda: run(**single).loss.numpy())
    assert start_transformers_5[name]["ids"].tolist() == model.generate(batch["input_ids"]).tolist()
    shifted = model.prepare_decoder_input_ids_from_labels(labels)
    assert start_transformers_5[name]["shifted"].tolist() == shifted.tolist()
