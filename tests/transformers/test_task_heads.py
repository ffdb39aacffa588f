"""Verify names the damage where transformers is wrong without a warning.

The numbers are those of the measured list: output of transformers, compared with its sources.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import converter
from converter.verification.result import Verification
from tests.transformers.models import EQUAL, LARGE, SMALL, combined_pytorch, configuration
from tests.transformers.source_cache import SourceCache
from tests.transformers.tiny import add_noise, build, tiny
from tests.transformers.weight_files import read_msgpack

pytestmark = pytest.mark.peer

UNRELATED = "is unrelated: newly initialized, or from another checkpoint"


def verdicts(actual: Verification) -> dict[str, str]:
    """Return tensor → what is wrong with it."""
    return {str(problem.tensor): problem.what for problem in actual.problems}


def wrong(actual: Verification) -> dict[str, str]:
    """Return canonical name → what is wrong, by comparison with the sources."""
    return {
        name: origin.verdict
        for name, origin in actual.origins.items()
        if origin.verdict not in ("equal", "initialized")
    }


def by_transformers(framework: str, source: Path, out: Path) -> None:
    """Convert an encoder-decoder PyTorch checkpoint to another framework with transformers."""
    import transformers

    name = {"tensorflow": "TF", "flax": "Flax"}[framework] + "EncoderDecoderModel"
    getattr(transformers, name).from_pretrained(source, from_pt=True).save_pretrained(out)


def combined(encoder: Any, decoder: Any, directory: Path) -> Path:
    """Save an encoder-decoder with transformers in PyTorch."""
    combined_pytorch(encoder, decoder).save_pretrained(directory, safe_serialization=False)
    return directory


MODEL_TYPES = ("xlm-roberta", "camembert", "roberta-prelayernorm", "deberta-v2", "xlnet", "gpt2")


@pytest.mark.parametrize("architecture", MODEL_TYPES)
def test_1_tensorflow_loses_the_encoder(tmp_path: Path, architecture: str) -> None:
    import transformers

    encoder = transformers.AutoConfig.for_model(architecture, **tiny(architecture).config)
    source = combined(encoder, configuration("bert", EQUAL), tmp_path / "source")
    by_transformers("tensorflow", source, tmp_path / "out")
    result = converter.verify(tmp_path / "out", against=[source])
    file = str(tmp_path / "out" / "tf_model.h5")
    first = result.problems[0]
    assert (first.what, first.tensor, first.file) == (
        f"nothing of {source} is in the checkpoint",
        "encoder",
        file,
    )
    broken = wrong(result)
    matrices = {name for name, o in result.origins.items() if o.difference and "norm" not in name}
    lost = {name for name in matrices if name.startswith("encoder.") and "bias" not in name}
    assert len(lost) > 8
    assert {broken[name] for name in lost if "Norm" not in name and "ln_" not in name} == {
        UNRELATED
    }
    assert all(name.startswith("encoder.") for name in broken)


@pytest.mark.parametrize("framework", ["tensorflow", "flax"])
def test_2_shared_submodels_are_lost(tmp_path: Path, framework: str) -> None:
    import transformers

    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        configuration("bert", SMALL), configuration("bert", SMALL), tie_encoder_decoder=True
    )
    transformers.EncoderDecoderModel(config).save_pretrained(tmp_path / "source")
    by_transformers(framework, tmp_path / "source", tmp_path / "out")
    result = converter.verify(tmp_path / "out", against=[tmp_path / "source"])
    broken = wrong(result)
    assert any("query.weight" in name for name in broken)
    assert {name.partition(".")[0] for name in broken} == {"encoder"}
    assert set(broken.values()) == {UNRELATED}
    tied = [p for p in result.problems if "which it is tied to" in str(p.expected)]
    assert any("query" in str(problem.tensor) for problem in tied)


def test_3_tensorflow_loses_the_head(tmp_path: Path) -> None:
    decoder = configuration("bert", EQUAL, tie_word_embeddings=False)
    source = combined(configuration("bert", SMALL), decoder, tmp_path / "source")
    by_transformers("tensorflow", source, tmp_path / "out")
    result = converter.verify(tmp_path / "out", against=[source])
    assert any("cls" in name and "decoder" in name for name in verdicts(result))
    assert any("no class of tensorflow can hold" in what for what in verdicts(result).values())


@pytest.mark.parametrize("architecture", ["bart", "mbart"])
def test_4_a_decoder_loses_its_embeddings(tmp_path: Path, architecture: str) -> None:
    """It is extracted from a model that stores them where encoder and decoder share them."""
    import transformers

    name = {"bart": "Bart", "mbart": "MBart"}[architecture] + "ForConditionalGeneration"
    build(tiny(architecture), name, tiny(architecture).config).save_pretrained(tmp_path / "whole")
    build(tiny("bert"), "BertModel", tiny("bert").config).save_pretrained(tmp_path / "bert")
    sources = (tmp_path / "bert", tmp_path / "whole")
    model = transformers.EncoderDecoderModel.from_encoder_decoder_pretrained(*sources)
    model.save_pretrained(tmp_path / "out")
    result = converter.verify(tmp_path / "out", against=sources)
    assert wrong(result) == {"decoder.decoder.embed_tokens.weight": UNRELATED}
    [problem] = [p for p in result.problems if p.what == UNRELATED]
    assert "shared.weight" in str(problem.expected)
    assert any("final_logits_bias" in note for note in result.notes)
    converter.compose(*sources, tmp_path / "ours", to=["pytorch"])
    assert converter.verify(tmp_path / "ours", against=sources).verified


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
@pytest.mark.parametrize("framework", ["tensorflow", "flax"])
def test_5_relative_positions_are_lost(tmp_path: Path, framework: str, kind: str) -> None:
    encoder = configuration("bert", SMALL, position_embedding_type=kind)
    source = combined(encoder, configuration("bert", EQUAL), tmp_path / "source")
    by_transformers(framework, source, tmp_path / "out")
    result = converter.verify(tmp_path / "out", against=[source])
    lost = [p.tensor for p in result.problems if p.what == "is missing, but the source has it"]
    name = "encoder.encoder.layer.{}.attention.self.distance_embedding.weight"
    assert lost == [name.format(0), name.format(1)]
    reasons = [p.found for p in result.problems if f"no class of {framework}" in p.what]
    assert any("distance_embedding" in str(reason) for reason in reasons)


def test_6_a_missing_projection_is_initialized(tmp_path: Path) -> None:
    import transformers
    from safetensors.numpy import load_file, save_file

    composite, holed = tmp_path / "whole", tmp_path / "holed"
    model = combined_pytorch(configuration("bert", LARGE), configuration("gpt2", SMALL))
    model.save_pretrained(composite)
    model.save_pretrained(holed)
    tensors = load_file(holed / "model.safetensors")
    del tensors["enc_to_dec_proj.weight"]
    save_file(tensors, holed / "model.safetensors", metadata={"format": "pt"})
    transformers.EncoderDecoderModel.from_pretrained(holed).save_pretrained(tmp_path / "out")
    result = converter.verify(tmp_path / "out", against=[composite])
    assert set(verdicts(result)) == {"enc_to_dec_proj.weight"}


def test_6_uninitialized_memory(tmp_path: Path) -> None:
    """New layer norms are uninitialized memory; here it is set to observed values over 1e20."""
    import torch
    import transformers

    build(tiny("bert"), "BertModel", tiny("bert").config).save_pretrained(tmp_path / "bert")
    build(tiny("xglm"), "XGLMForCausalLM", tiny("xglm").config).save_pretrained(tmp_path / "xglm")
    sources = (tmp_path / "bert", tmp_path / "xglm")
    model = transformers.EncoderDecoderModel.from_encoder_decoder_pretrained(*sources)
    norms = {n: p for n, p in model.named_parameters() if "encoder_attn_layer_norm" in n}
    with torch.no_grad():
        for name, parameter in norms.items():
            parameter.uniform_(0.1, 0.3)  # left by another tensor
            if name.endswith("1.encoder_attn_layer_norm.bias"):
                parameter.fill_(1e23)
    model.save_pretrained(tmp_path / "out")
    result = converter.verify(tmp_path / "out", against=sources)
    never = [p.tensor for p in result.problems if "never initialized" in p.what]
    assert never == ["decoder.model.layers.1.encoder_attn_layer_norm.bias"]
    [note] = [note for note in result.notes if "not the constants" in note]
    assert "layers.{0,1}.encoder_attn_layer_norm.weight" in note
    assert "layers.0.encoder_attn_layer_norm.bias" in note
    converter.compose(*sources, tmp_path / "ours", to=["pytorch"])
    ours = converter.verify(tmp_path / "ours", against=sources)
    assert ours.verified
    assert not any("not the constants" in note for note in ours.notes)


def test_8_weights_of_a_wrapped_tree_are_newly_initialized(
    source_cache: SourceCache, tmp_path: Path
) -> None:
    import transformers
    from flax.serialization import msgpack_serialize
    from flax.traverse_util import unflatten_dict

    source = source_cache.source("bert", file_format="msgpack")
    wrapped = tmp_path / "wrapped"
    wrapped.mkdir()
    (wrapped / "config.json").write_bytes((source / "config.json").read_bytes())
    tree = unflatten_dict(read_msgpack(source / "flax_model.msgpack"), sep="/")
    (wrapped / "flax_model.msgpack").write_bytes(msgpack_serialize({"params": tree}))
    transformers.FlaxBertModel.from_pretrained(wrapped).save_pretrained(tmp_path / "out")
    result = converter.verify(tmp_path / "out", against=[source])
    assert len(result.origins) > 30
    assert not any(o.verdict == "equal" for o in result.origins.values())
    assert converter.verify(source, against=[wrapped]).verified


def test_7_a_hidden_size_that_fails_when_the_model_is_called(tmp_path: Path) -> None:
    """It loads, has no projection, and cannot run."""
    decoder = configuration("gpt2", SMALL, cross_attention_hidden_size=LARGE.hidden)
    source = combined(configuration("bert", LARGE), decoder, tmp_path / "source")
    result = converter.verify(source)
    assert not result.verified
    assert any("enc_to_dec_proj" in name for name in verdicts(result))


def test_9_flax_weights_of_roberta_are_correct(tmp_path: Path) -> None:
    """Its positions are wrong by default, its weights are not: nothing is reported."""
    import transformers

    model = transformers.RobertaModel(configuration("roberta", SMALL))
    add_noise(model, 0)
    model.save_pretrained(tmp_path / "source")
    flax = transformers.FlaxRobertaModel.from_pretrained(tmp_path / "source", from_pt=True)
    flax.save_pretrained(tmp_path / "out")
    result = converter.verify(tmp_path / "out", against=[tmp_path / "source"])
    assert result.verified
    assert not wrong(result)


def test_10_initialized_weights_differ_between_frameworks(
    source_cache: SourceCache, tmp_path: Path
) -> None:
    import transformers

    sources = [source_cache.source("bert"), source_cache.source("gpt2", "causal")]
    for prefix in ("", "Flax"):
        order = {"encoder_from_pt": True, "decoder_from_pt": True} if prefix else {}
        cls = getattr(transformers, f"{prefix}EncoderDecoderModel")
        model = cls.from_encoder_decoder_pretrained(*sources, **order)
        model.config.decoder_start_token_id = model.config.pad_token_id = 5
        model.save_pretrained(tmp_path / "out")
    result = converter.verify(tmp_path / "out", against=sources)
    assert not wrong(result)
    flax = str(tmp_path / "out" / "flax_model.msgpack")
    broken = [p for p in result.problems if p.file == flax and p.what == UNRELATED]
    assert len(broken) >= 6
    assert all("crossattention" in str(problem.tensor) for problem in broken)
