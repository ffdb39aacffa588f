"""Every architecture in every role, composed, loaded natively, and compared with its sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter
from converter.errors import UnsupportedError
from tests.transformers.models import DECODERS, STEMS
from tests.transformers.oracle import check, inputs, load
from tests.transformers.source_cache import SourceCache
from tests.transformers.submodel_checks import (
    DECODER_KINDS,
    ENCODER_KINDS,
    check_decoder,
    check_encoder,
    check_native_values,
    check_pytorch_values,
    expected_kinds,
    source_model,
    without_source,
)
from tests.transformers.weight_files import configuration

pytestmark = pytest.mark.peer

PAIRS = [
    *((encoder, "large", "gpt2" if encoder != "gpt2" else "bert", "small") for encoder in STEMS),
    *(("bert", "small", decoder, "equal") for decoder in DECODERS),
    ("electra", "large", "electra", "small"),
    ("roberta", "small", "roberta", "small"),
]


@pytest.mark.parametrize(("encoder", "size", "decoder", "other"), PAIRS)
def test_a_composition_is_its_sources_and_new_cross_attention(
    source_cache: SourceCache, tmp_path: Path, encoder: str, size: str, decoder: str, other: str
) -> None:
    first = source_cache.source(encoder, "base", size)
    second = source_cache.source(decoder, "causal", other, seed=1)
    out = tmp_path / "composed"
    converter.compose(first, second, out, seed=3)

    proof = check(out, only=expected_kinds(encoder, decoder))
    config = configuration(out)
    assert config["encoder"]["model_type"] == encoder
    assert config["decoder"]["model_type"] == decoder
    own, causal = source_model(first, encoder, "base"), source_model(second, decoder, "causal")
    for loaded in proof.values():
        check_encoder(loaded, own, config)
        if loaded.kind == "safetensors":
            check_decoder(loaded, causal, config)
            left = check_pytorch_values(loaded, own, causal)
        else:
            left = check_native_values(
                loaded, source_cache, (first, encoder), (second, decoder, "causal")
            )
        assert left, "a composition has new cross-attention"
        assert without_source(left), sorted(left)
        projected = any("enc_to_dec_proj" in name for name in left)
        assert projected == (size == "large"), "a projection where, and only where, widths differ"
    _generate(proof["safetensors"].model, config)


def _generate(model: Any, config: dict[str, Any]) -> None:
    """``generate()`` runs without a start token as an argument."""
    import torch

    ids = torch.from_numpy(inputs(config)["input_ids"])
    with torch.no_grad():
        produced = model.generate(ids, max_new_tokens=4, min_new_tokens=2)
    assert produced.shape[0] == 2
    assert produced.shape[1] >= 3
    assert int(produced.max()) < config["decoder"]["vocab_size"]


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [
        *((encoder, "bert") for encoder in STEMS if "msgpack" not in ENCODER_KINDS[encoder]),
        *(("bert", decoder) for decoder in DECODERS if "msgpack" not in DECODER_KINDS[decoder]),
    ],
)
def test_a_framework_without_the_class_is_refused(
    source_cache: SourceCache, tmp_path: Path, encoder: str, decoder: str
) -> None:
    out = tmp_path / "composed"
    with pytest.raises(UnsupportedError, match=r"(?i)flax"):
        converter.compose(
            source_cache.source(encoder),
            source_cache.source(decoder, "causal"),
            out,
            to=["pytorch", "flax"],
        )
    assert not out.exists()


@pytest.mark.parametrize("decoder", ["distilbert", "albert"])
def test_an_architecture_without_a_decoder_is_refused(
    source_cache: SourceCache, tmp_path: Path, decoder: str
) -> None:
    with pytest.raises(UnsupportedError, match=decoder):
        converter.compose(
            source_cache.source("bert"), source_cache.source(decoder, "mlm"), tmp_path / "composed"
        )


def test_the_seed_changes_only_the_initialized_tensors(
    source_cache: SourceCache, tmp_path: Path
) -> None:
    first, second = source_cache.source("bert", size="large"), source_cache.source("gpt2", "causal")
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        converter.compose(first, second, tmp_path / name, to=["pytorch"], seed=seed)
    one, same, other = (
        load(tmp_path / name, "safetensors").stored for name in ("one", "same", "other")
    )
    assert one.keys() == same.keys() == other.keys()
    changed = {key for key in one if not np.array_equal(one[key], other[key])}
    assert all(np.array_equal(one[key], same[key]) for key in one)
    assert without_source(changed)
    initialized = {
        key
        for key in one
        if without_source({key}) and "ln_" not in key and "c_attn.bias" not in key
    }
    assert {key for key in initialized if key.endswith("weight")} <= changed


@pytest.mark.parametrize("decoder", DECODERS)
def test_initialized_tensors_follow_the_initializer_of_their_architecture(
    source_cache: SourceCache, tmp_path: Path, decoder: str
) -> None:
    """Norms are 1 and 0, biases 0, weights normal with the decoder's own deviation."""
    converter.compose(
        source_cache.source("bert", size="large"),
        source_cache.source(decoder, "causal", initializer_range=0.05),
        tmp_path / "composed",
        to=["pytorch"],
        init="normal",
    )
    stored = load(tmp_path / "composed", "safetensors").stored
    layers = 2
    for key, value in stored.items():
        if not without_source({key}) or "enc_to_dec_proj" in key:
            continue
        if "LayerNorm" in key or "ln_" in key:
            assert np.array_equal(value, np.full_like(value, float(key.endswith("weight")))), key
        elif key.endswith("bias"):
            assert not value.any(), key
        else:
            deviation = 0.05
            if decoder == "gpt2" and "c_proj" in key:
                deviation /= np.sqrt(2 * layers)
            assert value.std() == pytest.approx(deviation, rel=0.12), key
            assert abs(value.mean()) < deviation / 5, key
