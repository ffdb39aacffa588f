"""Whole sequence-to-sequence models: decoders taken out of them, and embeddings they do not tie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import converter
from tests.transformers import oracle_checks as judge
from tests.transformers.tiny import build, tiny

pytestmark = pytest.mark.peer

WHOLE = {
    "bart": "BartForConditionalGeneration",
    "mbart": "MBartForConditionalGeneration",
    "pegasus": "PegasusForConditionalGeneration",
    "blenderbot": "BlenderbotForConditionalGeneration",
    "blenderbot-small": "BlenderbotSmallForConditionalGeneration",
    "plbart": "PLBartForConditionalGeneration",
    "mvp": "MvpForConditionalGeneration",
    "bigbird_pegasus": "BigBirdPegasusForConditionalGeneration",
    "marian": "MarianMTModel",
    "prophetnet": "ProphetNetForConditionalGeneration",
    "xlm-prophetnet": "XLMProphetNetForConditionalGeneration",
}
TOKENS: dict[str, Any] = {"decoder_start_token": 5, "eos_token": 6, "pad_token": 7}


def whole(architecture: str, directory: Path, framework: str = "pytorch", **changes: Any) -> Any:
    """Save a sequence-to-sequence model with transformers in PyTorch."""
    import torch

    spec = tiny(architecture)
    model = build(spec, WHOLE[architecture], {**spec.config, **changes}, seed=3)
    if hasattr(model, "final_logits_bias"):
        torch.manual_seed(0)
        model.final_logits_bias.normal_()
    model.save_pretrained(directory)
    return model


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("encoder")
    build(tiny("bert"), "BertModel", tiny("bert").config).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("untied", [False, True], ids=["tied", "untied"])
@pytest.mark.parametrize("architecture", WHOLE)
def test_a_decoder_is_extracted_from_a_sequence_to_sequence_model(
    tmp_path: Path, encoder: Path, architecture: str, untied: bool
) -> None:
    """Nothing is initialized: it has its own cross-attention and the shared embeddings."""
    fields: dict[str, Any] = {"tie_word_embeddings": False} if untied else {}
    source = whole(architecture, tmp_path / "whole", **fields).state_dict()
    out = tmp_path / "out"
    result = converter.compose(encoder, tmp_path / "whole", out, **TOKENS)
    assert "decoder: its own cross-attention is kept" in result.plan.warnings
    loaded = judge.load(out, "safetensors", "EncoderDecoderModel", None)
    assert not loaded.problems
    values = loaded.model.decoder.state_dict()
    assert values.keys() <= source.keys()
    assert [name for name, value in values.items() if not value.equal(source[name])] == []
    manifest = json.loads((out / "converter-manifest.json").read_text())
    initialized = {
        name for name, entry in manifest["tensors"].items() if entry["origin"] == "initialized"
    }
    assert all("embed_positions" in name for name in initialized if name.startswith("decoder."))


def test_what_only_the_sequence_to_sequence_model_has_is_ignored_with_a_reason(
    tmp_path: Path, encoder: Path
) -> None:
    whole("bart", tmp_path / "whole")
    result = converter.compose(
        encoder, tmp_path / "whole", tmp_path / "out", dry_run=True, **TOKENS
    )
    dropped = result.sources[1].key_match.ignored
    lacks = "not part of BartForCausalLM, which has no"
    assert dropped["final_logits_bias"] == f"{lacks} final_logits_bias"
    assert dropped["model.encoder.layernorm_embedding.weight"] == f"{lacks} encoder"
    assert "model.shared.weight" not in dropped


def test_a_decoder_is_extracted_from_every_framework(tmp_path: Path, encoder: Path) -> None:
    whole("bart", tmp_path / "whole")
    converter.convert(tmp_path / "whole", tmp_path / "all")
    outputs = []
    for kind in ("safetensors", "h5", "msgpack"):
        with judge.oracle.isolated(tmp_path / "all", kind) as alone:
            converter.compose(encoder, alone, tmp_path / kind, to=["pytorch"], **TOKENS)
        outputs.append((tmp_path / kind / "model.safetensors").read_bytes())
    assert outputs[0] == outputs[1] == outputs[2]


@pytest.mark.parametrize("architecture", ["bart", "mbart", "bigbird_pegasus"])
def test_embeddings_that_are_not_tied_on_loading_are_written_for_each_submodel(
    tmp_path: Path, architecture: str
) -> None:
    """Transformers' own file lacks two of the three here, and loads them with random values."""
    import torch

    model = whole(architecture, tmp_path / "whole", tie_word_embeddings=False)
    converter.convert(tmp_path / "whole", tmp_path / "out", to=["pytorch"])
    batch = tiny(architecture).batch("pytorch", model=WHOLE[architecture])
    loaded = judge.load(tmp_path / "out", "safetensors", WHOLE[architecture], batch)
    assert not loaded.problems
    with torch.no_grad():
        expected = model(**{key: torch.from_numpy(value) for key, value in batch.items()}).logits
    assert torch.equal(torch.from_numpy(loaded.outputs["logits"]), expected)


@pytest.mark.parametrize(("architecture", "width"), [("pegasus", 48), ("marian", 54)])
def test_fixed_positions_are_computed_as_transformers_does(
    tmp_path: Path, architecture: str, width: int
) -> None:
    """Flax keeps no table of positions; coming from there, it is the very table of PyTorch."""
    model = whole(architecture, tmp_path / "whole", d_model=width, decoder_attention_heads=6)
    converter.convert(tmp_path / "whole", tmp_path / "flax", to=["flax"])
    converter.convert(tmp_path / "flax", tmp_path / "back", to=["pytorch"])
    loaded = judge.load(tmp_path / "back", "safetensors", WHOLE[architecture], None)
    for submodel in ("encoder", "decoder"):
        name = f"model.{submodel}.embed_positions.weight"
        assert loaded.stored[name].tobytes() == model.state_dict()[name].numpy().tobytes()


def test_a_decoder_may_make_its_cross_attention_as_wide_as_the_encoder(
    tmp_path: Path, encoder: Path
) -> None:
    spec = tiny("trocr")
    for width in (tiny("bert").config["hidden_size"], 40):
        fields = {**spec.config, "d_model": 36, "cross_attention_hidden_size": width}
        build(spec, "TrOCRForCausalLM", fields).save_pretrained(tmp_path / f"{width}")
    converter.compose(encoder, tmp_path / "48", tmp_path / "out", **TOKENS)
    loaded = judge.load(tmp_path / "out", "safetensors", "EncoderDecoderModel", None)
    assert not loaded.problems
    assert not hasattr(loaded.model, "enc_to_dec_proj")
    with pytest.raises(converter.ConverterError, match="cross_attention_hidden_size is 40"):
        converter.compose(encoder, tmp_path / "40", tmp_path / "refused", **TOKENS)


def test_initialized_cross_attention_has_ordinary_values(tmp_path: Path, encoder: Path) -> None:
    """Transformers leaves the new layer norms of XGLM as uninitialized memory."""
    spec = tiny("xglm")
    build(spec, "XGLMForCausalLM", spec.config).save_pretrained(tmp_path / "xglm")
    converter.compose(encoder, tmp_path / "xglm", tmp_path / "out", to=["pytorch"], **TOKENS)
    stored = judge.load(tmp_path / "out", "safetensors", "EncoderDecoderModel", None).stored
    norms = {key: value for key, value in stored.items() if "encoder_attn_layer_norm" in key}
    assert len(norms) == 4
    for key, value in norms.items():
        assert (value == (1.0 if key.endswith("weight") else 0.0)).all(), key
    initialized = stored["decoder.model.layers.0.encoder_attn.k_proj.weight"]
    assert 0.015 < initialized.std() < 0.025
