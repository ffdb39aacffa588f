"""Untied heads, factorised embeddings, many layers, 16-bit numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import converter
from converter.errors import UnsupportedError
from converter.options import Dtype
from tests.transformers import oracle_checks
from tests.transformers.models import Size, combined_pytorch, configuration, pytorch_model
from tests.transformers.oracle import Loaded, check, compare, load
from tests.transformers.source_cache import SourceCache
from tests.transformers.submodel_checks import (
    check_decoder,
    check_encoder,
    check_pytorch_values,
    source_model,
    without_source,
)
from tests.transformers.weight_files import configuration as config_of

pytestmark = pytest.mark.peer

ALL = ("safetensors", "h5", "msgpack")


def mentions(report: object, *words: str) -> bool:
    """Return whether the warnings contain all the words."""
    text = str(report.to_dict()).lower()  # type: ignore[attr-defined]
    return all(word in text for word in words)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta", "gpt2", "electra"])
def test_an_untied_head_is_kept(
    source_cache: SourceCache, tmp_path: Path, architecture: str
) -> None:
    """TensorFlow's classes cannot hold one, so TensorFlow is omitted with a warning, or refused."""
    encoder = source_cache.source("bert", size="large")
    decoder = source_cache.source(architecture, "causal", tie_word_embeddings=False)
    kinds = ("safetensors",) if architecture == "electra" else ("safetensors", "msgpack")
    report = converter.compose(encoder, decoder, tmp_path / "out")
    proof = check(tmp_path / "out", only=kinds)
    assert mentions(report, "tensorflow")
    causal = source_model(decoder, architecture, "causal")
    left = check_pytorch_values(proof["safetensors"], source_model(encoder, "bert", "base"), causal)
    assert without_source(left)
    check_decoder(proof["safetensors"], causal, config_of(tmp_path / "out"))
    with pytest.raises(UnsupportedError, match=r"(?i)tensorflow"):
        converter.compose(encoder, decoder, tmp_path / "tf", to=["tensorflow"])
    assert not (tmp_path / "tf").exists()


@pytest.mark.parametrize(
    ("architecture", "head"), [("bert", "mlm"), ("roberta", "mlm"), ("gpt2", "causal")]
)
def test_an_untied_single_model_is_kept(
    source_cache: SourceCache, tmp_path: Path, architecture: str, head: str
) -> None:
    source = source_cache.source(architecture, head, tie_word_embeddings=False)
    report = converter.convert(source, tmp_path / "out")
    proof = check(tmp_path / "out", only=("safetensors", "msgpack"))
    assert mentions(report, "tensorflow")
    [original] = check(source).values()
    for loaded in proof.values():
        assert not compare(original, loaded)
    converter.convert(tmp_path / "out", tmp_path / "back", to=["pytorch"])
    back = load(tmp_path / "back", "safetensors").stored.keys()
    bias = {name for name in back - original.stored.keys() if name.endswith(".decoder.bias")}
    assert back - bias == original.stored.keys()  # which transformers 5 would not tie
    assert len(bias) <= 1


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
@pytest.mark.parametrize("role", ["encoder", "decoder"])
def test_relative_positions_are_never_dropped(
    source_cache: SourceCache, tmp_path: Path, kind: str, role: str
) -> None:
    """TensorFlow and Flax have no ``distance_embedding``: omitted with a warning, or refused."""
    special: dict[str, Any] = {"position_embedding_type": kind}
    encoder = source_cache.source("bert", size="large", **(special if role == "encoder" else {}))
    decoder = source_cache.source("bert", "causal", **(special if role == "decoder" else {}))
    report = converter.compose(encoder, decoder, tmp_path / "out")
    proof = check(tmp_path / "out", only=("safetensors",))
    assert mentions(report, "tensorflow", "flax")
    assert any("distance_embedding" in key for key in proof["safetensors"].stored)
    own, causal = source_model(encoder, "bert", "base"), source_model(decoder, "bert", "causal")
    assert without_source(check_pytorch_values(proof["safetensors"], own, causal))
    check_encoder(proof["safetensors"], own, config_of(tmp_path / "out"))
    check_decoder(proof["safetensors"], causal, config_of(tmp_path / "out"))
    for framework in ("tensorflow", "flax"):
        with pytest.raises(UnsupportedError, match=f"(?i){framework}"):
            converter.compose(encoder, decoder, tmp_path / framework, to=[framework])
        assert not (tmp_path / framework).exists()


@pytest.mark.parametrize("architecture", ["albert", "electra"])
@pytest.mark.parametrize("embedding", [20, 32])
def test_factorized_embeddings(
    source_cache: SourceCache, tmp_path: Path, architecture: str, embedding: int
) -> None:
    """As wide as the model or not: ELECTRA has a projection only if not, ALBERT always."""
    source = source_cache.source(architecture, embedding_size=embedding)
    converter.compose(source, source_cache.source("bert", "causal"), tmp_path / "out")
    proof = check(tmp_path / "out")
    for loaded in proof.values():
        check_encoder(
            loaded, source_model(source, architecture, "base"), config_of(tmp_path / "out")
        )


def test_albert_with_several_groups(source_cache: SourceCache, tmp_path: Path) -> None:
    source = source_cache.source(
        "albert", num_hidden_layers=4, num_hidden_groups=2, inner_group_num=2
    )
    converter.compose(source, source_cache.source("bert", "causal"), tmp_path / "out")
    for loaded in check(tmp_path / "out", only=ALL).values():
        check_encoder(loaded, source_model(source, "albert", "base"), config_of(tmp_path / "out"))


def test_thirteen_layers(source_cache: SourceCache, tmp_path: Path) -> None:
    """Two-digit layers: 1 and 10 are not mixed up, nor are they sorted as words."""
    converter.compose(
        source_cache.source("bert", num_hidden_layers=13),
        source_cache.source("gpt2", "causal", n_layer=13),
        tmp_path / "out",
    )
    proof = check(tmp_path / "out", only=ALL)
    assert any(".layer.12." in key for key in proof["safetensors"].stored)


SMALL = {"vocab_size": 61, "hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 40}
PER_LAYER: dict[str, tuple[dict[str, Any], str, Any]] = {
    "longformer": (
        {"num_hidden_layers": 3, "attention_window": [2, 4, 6], "max_position_embeddings": 50},
        "attention_window",
        [6, 2],
    ),
    "gpt_neo": (
        {"num_layers": 4, "num_heads": 4, "attention_types": [[["global", "local"], 2]]},
        "attention_layers",
        ["global", "global"],
    ),
    "qwen2": (
        {"num_hidden_layers": 3, "layer_types": ["full_attention", *2 * ["sliding_attention"]]},
        "layer_types",
        ["sliding_attention", "full_attention"],
    ),
}
"""Architecture → its configuration, and a field of layers 2 and 0."""


@pytest.mark.parametrize("architecture", PER_LAYER)
def test_selected_layers_keep_their_entries_in_the_configuration(
    tmp_path: Path, architecture: str
) -> None:
    from transformers import AutoConfig, AutoModel

    fields, name, expected = PER_LAYER[architecture]
    config = AutoConfig.for_model(architecture, **{**SMALL, **fields})
    AutoModel.from_config(config).save_pretrained(tmp_path / "source")
    gpt2 = Path(__file__).parents[2] / "fixtures" / "gpt2-tiny"
    options: dict[str, Any] = {"layers": ["encoder=2,0"], "to": ["pytorch"]}
    converter.compose(tmp_path / "source", gpt2, tmp_path / "out", **options)
    loaded = oracle_checks.load(tmp_path / "out", "safetensors", "EncoderDecoderModel", None)
    assert not loaded.problems
    assert getattr(AutoConfig.from_pretrained(tmp_path / "out").encoder, name) == expected


DEEP = Size(8, 2, 12, 48, 131, 16, 2, 4)


def test_long_h5_attributes_are_split_as_keras_splits_them(tmp_path: Path) -> None:
    """48 layers of GPT-2 have more weight names than one HDF5 attribute can store."""
    combined_pytorch(
        configuration("bert", Size(8, 2, 12, 1, 131, 16, 2, 4)), configuration("gpt2", DEEP)
    ).save_pretrained(tmp_path / "source")
    converter.convert(tmp_path / "source", tmp_path / "out", to=["pytorch", "tensorflow"])
    with h5py.File(tmp_path / "out" / "tf_model.h5") as file:
        assert "weight_names" not in file["decoder"].attrs
        assert "weight_names1" in file["decoder"].attrs
        chunks = (value for key, value in file["decoder"].attrs.items() if "weight_names" in key)
        assert all(value.nbytes <= 64512 for value in chunks)
    proof = check(tmp_path / "out", only=("safetensors", "h5"))
    proof["h5"].model.save_pretrained(tmp_path / "saved")
    converter.convert(tmp_path / "saved", tmp_path / "back", to=["pytorch"])
    back = load(tmp_path / "back", "safetensors")
    assert not compare(proof["safetensors"], back)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("file_format", ["safetensors", "bin"])
def test_16_bit_dtypes_are_kept(
    source_cache: SourceCache, tmp_path: Path, dtype: str, file_format: str
) -> None:
    """HDF5 has no bfloat16: there, and only there, the same values are stored as float32."""
    encoder = source_cache.source("bert", size="large", file_format=file_format, dtype=dtype)
    decoder = source_cache.source("gpt2", "causal", file_format=file_format, dtype=dtype)
    converter.compose(encoder, decoder, tmp_path / "out")
    proof = check(tmp_path / "out", only=ALL)
    assert proof["safetensors"].dtypes == {dtype}
    assert proof["msgpack"].dtypes == {dtype}
    assert proof["h5"].dtypes == {"float32" if dtype == "bfloat16" else dtype}
    for loaded in proof.values():
        check_encoder(loaded, source_model(encoder, "bert", "base"), config_of(tmp_path / "out"))
    converter.convert(tmp_path / "out", tmp_path / "again")
    again = check(tmp_path / "again", only=ALL)
    for kind in ALL:
        assert not compare(proof["safetensors"], again[kind])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bit_flax_files_are_read(
    source_cache: SourceCache, tmp_path: Path, dtype: str
) -> None:
    import jax.numpy as jnp
    import transformers

    source = source_cache.source("bert", "mlm", file_format="msgpack")
    model = transformers.FlaxBertForMaskedLM.from_pretrained(source)
    submodel = {"float16": model.to_fp16, "bfloat16": model.to_bf16}[dtype]
    model.params = submodel(model.params)
    model.save_pretrained(tmp_path / "source")
    converter.convert(tmp_path / "source", tmp_path / "out")
    proof = check(tmp_path / "out", only=ALL)
    assert proof["safetensors"].dtypes == {dtype}
    assert not compare(load(tmp_path / "source", "msgpack"), proof["safetensors"])
    assert jnp.dtype(dtype).itemsize == 2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("origin", ["float32", "bfloat16"])
def test_casts_round_as_torch_rounds(
    source_cache: SourceCache, tmp_path: Path, dtype: Dtype, origin: str
) -> None:
    import torch

    source = source_cache.source("bert", "mlm", dtype=origin)
    converter.convert(source, tmp_path / "out", dtype=dtype)
    proof = check(tmp_path / "out", only=ALL)
    assert proof["safetensors"].dtypes == {dtype}
    for key, value in load(source, "safetensors").stored.items():
        expected = torch.from_numpy(value).to(getattr(torch, dtype)).float().numpy()
        assert np.array_equal(proof["safetensors"].stored[key], expected), key


def test_two_dtypes_in_one_model_are_kept(source_cache: SourceCache, tmp_path: Path) -> None:
    converter.compose(
        source_cache.source("bert", dtype="bfloat16"),
        source_cache.source("gpt2", "causal"),
        tmp_path / "out",
    )
    proof: dict[str, Loaded] = check(tmp_path / "out", only=ALL)
    assert proof["safetensors"].dtypes == {"bfloat16", "float32"}


def test_old_buffers_are_ignored(tmp_path: Path) -> None:
    """``position_ids`` of old BERT files and the causal masks of old GPT-2 files."""
    import torch

    for architecture, head, extra in (
        ("bert", "base", {"embeddings.position_ids": torch.arange(40)[None]}),
        (
            "gpt2",
            "causal",
            {
                "transformer.h.0.attn.bias": torch.ones(1, 1, 40, 40, dtype=torch.uint8).tril(),
                "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
                "transformer.h.1.attn.bias": torch.ones(1, 1, 40, 40, dtype=torch.bool).tril(),
            },
        ),
    ):
        model = pytorch_model(architecture, head)
        state = {**model.state_dict(), **extra}
        model.save_pretrained(tmp_path / architecture, state_dict=state, safe_serialization=False)
    converter.compose(tmp_path / "bert", tmp_path / "gpt2", tmp_path / "out")
    check(tmp_path / "out", only=ALL)


@pytest.mark.parametrize("old", ["encoder", "decoder", "both"])
def test_old_configurations_have_torch_dtype(
    source_cache: SourceCache, tmp_path: Path, old: str
) -> None:
    """The field was renamed ``dtype`` in transformers 4.56; older files must compose as well."""
    parts = {
        "encoder": source_cache.source("bert"),
        "decoder": source_cache.source("gpt2", "causal"),
    }
    for role, source in parts.items():
        if old in (role, "both"):
            parts[role] = tmp_path / role
            parts[role].mkdir()
            for file in source.iterdir():
                text = file.read_bytes()
                if file.name == "config.json":
                    text = text.replace(b'"dtype"', b'"torch_dtype"')
                (parts[role] / file.name).write_bytes(text)
    converter.compose(parts["encoder"], parts["decoder"], tmp_path / "out")
    check(tmp_path / "out", only=ALL)
