"""What a composition computes before it is trained, by how its cross-attention begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter
from converter.options import InitRule
from tests.transformers.oracle import check, inputs
from tests.transformers.rounding import assert_close
from tests.transformers.source_cache import SourceCache
from tests.transformers.submodel_checks import source_model
from tests.transformers.tiny import LIBRARY, MODEL_TYPES, build, model_of, source_fields, tiny
from tests.transformers.weight_files import configuration

pytestmark = pytest.mark.peer

DECODERS = [
    name for name in MODEL_TYPES if "decoder" in LIBRARY.architecture(name).roles and name != "mega"
]
"""Every architecture that can decode, except Mega, whose table names no cross-attention output."""
BUSY = {"big_bird": "its self-attention reads the encoder, see its table"}
"""Decoders that zero-output changes, and why."""
IDS = [[5, 9, 3, 17, 8, 4], [7, 3, 3, 9, 1, 2]]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("encoder")
    build(tiny("bert"), "BertModel", {**tiny("bert").config}, seed=9).save_pretrained(directory)
    return directory


def _language_model(directory: Path, architecture: str) -> Any:
    """Save a decoder whose file has no cross-attention."""
    from safetensors.torch import load_file, save_file

    model = model_of(architecture, "decoder")
    fields = {
        **source_fields(architecture, model, ""),
        "is_decoder": True,
        "add_cross_attention": False,
    }
    own = build(tiny(architecture), model.classes["pytorch"], fields, seed=1)
    own.save_pretrained(directory)
    file = directory / "model.safetensors"
    cross = (
        ".encoder_attn.",
        ".encoder_attn_layer_norm.",
        ".cross_attn.",
        ".cross_attn_layer_norm.",
    )
    kept = {key: v for key, v in load_file(file).items() if not any(mark in key for mark in cross)}
    save_file(kept, file, metadata={"format": "pt"})
    return own.eval()


def _gap(own: Any, encoder: Path, decoder: Path, out: Path, init: InitRule) -> float:
    """Return the difference of the decoder's logits with and without its encoder."""
    import torch
    from transformers import EncoderDecoderModel

    tokens: dict[str, Any] = {"decoder_start_token": 5, "eos_token": 6, "pad_token": 7}
    converter.compose(encoder, decoder, out, to=["pytorch"], init=init, **tokens)
    model = EncoderDecoderModel.from_pretrained(out).eval()
    ids = torch.tensor(IDS)
    with torch.no_grad():
        alone = own(input_ids=ids).logits
        return float((model(input_ids=ids, decoder_input_ids=ids).logits - alone).abs().max())


@pytest.mark.parametrize("architecture", DECODERS)
def test_zero_output_leaves_the_language_model_unchanged(
    encoder: Path, tmp_path: Path, architecture: str
) -> None:
    """Where the branch normalizes its own input; otherwise the sum is normalized once more."""
    own = _language_model(tmp_path / "decoder", architecture)
    models = (encoder, tmp_path / "decoder")
    silent = _gap(own, *models, tmp_path / "silent", "zero-output")
    table = LIBRARY.architecture(architecture).cross_attention_init
    assert table
    if table.norm == "pre" and architecture not in BUSY:
        assert silent <= 1e-5
        assert _gap(own, *models, tmp_path / "normal", "normal") > 1e-3
    else:
        assert silent > 1e-3, "then the table's norm, or BUSY, is no longer true"


def test_zero_output_is_zero_in_every_framework(source_cache: SourceCache, tmp_path: Path) -> None:
    import torch

    encoder = source_cache.source("bert", "base", "large")
    for architecture in ("gpt2", "roberta-prelayernorm"):
        source, out = (
            source_cache.source(architecture, "causal", "small", seed=1),
            tmp_path / architecture,
        )
        converter.compose(encoder, source, out, init="zero-output")
        ids = torch.from_numpy(inputs(configuration(out))["decoder_input_ids"])
        alone = source_model(source, architecture, "causal")

        def run(model: Any = alone, ids: Any = ids) -> np.ndarray:
            with torch.no_grad():
                return np.asarray(model(input_ids=ids).logits)

        for loaded in check(out, only=("safetensors", "h5", "msgpack")).values():
            assert_close(loaded.outputs["logits"], alone, run)


def test_the_projection_follows_transformers_5(source_cache: SourceCache, tmp_path: Path) -> None:
    """Normal with the decoder's deviation, and zero bias; transformers 4 initializes uniformly."""
    from safetensors.numpy import load_file

    encoder = source_cache.source("bert", "base", "large")
    decoder = source_cache.source("gpt2", "causal", "small", seed=1, initializer_range=0.05)
    converter.compose(encoder, decoder, tmp_path / "out", to=["pytorch"])
    stored = load_file(tmp_path / "out" / "model.safetensors")
    weight = stored["enc_to_dec_proj.weight"]
    assert weight.std() == pytest.approx(0.05, rel=0.1)
    assert np.abs(weight).max() > 2.2 * 0.05
    assert not stored["enc_to_dec_proj.bias"].any()


def test_training_equals_that_of_the_composition_by_transformers(
    source_cache: SourceCache, tmp_path: Path
) -> None:
    """With the same initialized weights, the loss of each of 20 steps is the same."""
    import torch
    from transformers import EncoderDecoderModel

    encoder = source_cache.source("bert", "base", "small")
    decoder = source_cache.source("gpt2", "causal", "small", seed=1)
    converter.compose(encoder, decoder, tmp_path / "out", to=["pytorch"])
    ours = EncoderDecoderModel.from_pretrained(tmp_path / "out")
    theirs = EncoderDecoderModel.from_encoder_decoder_pretrained(str(encoder), str(decoder))
    initialized = {
        name: value
        for name, value in ours.state_dict().items()
        if any(mark in name for mark in ("cross", "enc_to_dec_proj"))
    }
    missing, unexpected = theirs.load_state_dict(initialized, strict=False)
    assert not unexpected and not any("cross" in name for name in missing)
    for field in ("decoder_start_token_id", "pad_token_id", "eos_token_id"):
        setattr(theirs.config, field, getattr(ours.config, field))
    losses = [_losses(model, torch) for model in (theirs, ours)]
    assert losses[0] == losses[1]
    assert losses[1][-1] < losses[1][0]


def _losses(model: Any, torch: Any) -> list[float]:
    torch.manual_seed(0)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = torch.tensor([[5, 9, 3, 17, 8, 4], [7, 3, 3, 9, 1, 2]])
    actual = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids.flip(1)).loss
        loss.backward()
        optimizer.step()
        actual.append(float(loss.detach()))
    return actual
