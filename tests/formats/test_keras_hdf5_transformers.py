"""Keras HDF5 files that transformers' own classes write, and load."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
import pytest

from converter.formats.file_handle import LocalFile
from converter.formats.keras_hdf5 import FORMAT
from tests.formats.keras_files import spec
from tests.formats.writing import same, values, write

SIZES = {
    "vocab_size": 37,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}


@pytest.fixture(scope="module")
def peer():
    pytest.importorskip("tensorflow")
    pytest.importorskip("tf_keras")
    return pytest.importorskip("transformers")


def peer_model(peer, kind: str, seed: int = 0):
    """Return a tiny model whose weights are all different."""
    encoder = peer.BertConfig(**SIZES)
    decoder = peer.BertConfig(**SIZES, is_decoder=True, add_cross_attention=True)
    both = peer.EncoderDecoderConfig.from_encoder_decoder_configs
    deep = peer.GPT2Config(vocab_size=9, n_positions=8, n_embd=4, n_layer=48, n_head=1)
    bart = peer.BartConfig(
        vocab_size=19, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1,
        decoder_attention_heads=1, encoder_ffn_dim=12, decoder_ffn_dim=12,
        max_position_embeddings=20,
    )  # fmt: skip
    model = {
        "bert": lambda: peer.TFBertModel(encoder),
        "masked": lambda: peer.TFBertForMaskedLM(encoder),
        "combined": lambda: peer.TFEncoderDecoderModel(both(encoder, decoder)),
        "bart": lambda: peer.TFBartForConditionalGeneration(bart),
        "deep": lambda: peer.TFEncoderDecoderModel(both(encoder, gpt2_decoder(deep))),
    }[kind]()
    model.build_in_name_scope()
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(rng.standard_normal(weight.shape).astype(np.float32))
    return model


def gpt2_decoder(config):
    config.is_decoder = config.add_cross_attention = True
    return config


def stored(weight) -> str:
    """Return the name that loading matches."""
    return weight.name.partition("/")[2] or weight.name


KINDS = ["bert", "masked", "combined", "bart", "deep"]


@pytest.mark.peer
@pytest.mark.parametrize("kind", KINDS)
def test_reads_and_writes_as_transformers_does(peer, tmp_path, kind):
    from transformers.modeling_tf_utils import load_tf_weights

    model = peer_model(peer, kind)
    model.save_pretrained(tmp_path)
    path = tmp_path / "tf_model.h5"
    expected = {stored(weight): weight.numpy() for weight in model.weights}
    with FORMAT.open(LocalFile(path)) as reader:
        assert set(reader.tensors) == set(expected)
        for name, tensor in reader.tensors.items():
            assert same(tensor.read(), expected[name]), name
            for copy in reader.duplicates.get(name, ()):
                assert same(copy.read(), expected[name]), name
        assert bool(reader.duplicates) == (kind == "masked")
        arrays = {tensor.spec: tensor.read() for tensor in reader.tensors.values()}
        metadata, repeated = {**reader.metadata, "scope": "model"}, reader.repeated
    write(FORMAT, tmp_path / "ours.h5", arrays, metadata=metadata, repeated=repeated)

    other = peer_model(peer, kind, seed=1)
    missing, unexpected, mismatched = load_tf_weights(other, str(tmp_path / "ours.h5"))
    assert not unexpected and not mismatched
    assert not [name for name in missing if name not in ("", "final_logits_bias")]
    for weight in other.weights:
        assert same(weight.numpy(), expected[stored(weight)]), weight.name
    if kind in ("bert", "masked", "combined"):
        path.unlink()
        (tmp_path / "ours.h5").rename(path)
        loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
        assert not any(map(list, info.values())), info
        for weight in loaded.weights:
            assert same(weight.numpy(), expected[stored(weight)]), weight.name


@pytest.mark.peer
@pytest.mark.parametrize("kind", ["masked", "bart"])
def test_reads_and_writes_shards_as_transformers_does(peer, tmp_path, kind):
    from transformers.modeling_tf_utils import load_tf_sharded_weights

    model = peer_model(peer, kind)
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    expected = {stored(weight): weight.numpy() for weight in model.weights}
    shards = sorted(tmp_path.glob("tf_model-*.h5"))
    assert len(shards) > 1
    seen: dict[str, Any] = {}
    for shard in shards:
        with FORMAT.open(LocalFile(shard)) as reader:
            assert reader.metadata["layout"] == "flat"
            arrays = {tensor.spec: tensor.read() for tensor in reader.tensors.values()}
        seen |= {s.name: array for s, array in arrays.items()}
        shard.unlink()
        write(FORMAT, shard, arrays, metadata={"layout": "flat"})
    assert set(seen) == set(expected)
    for name, array in seen.items():
        assert same(array, expected[name]), name
    other = peer_model(peer, kind, seed=1)
    load_tf_sharded_weights(other, [str(shard) for shard in shards], strict=True)
    for weight in other.weights:
        assert same(weight.numpy(), expected[stored(weight)]), weight.name


@pytest.mark.peer
def test_splits_lists_where_keras_does(peer, tmp_path):
    from tf_keras.src.saving.legacy import hdf5_format

    names = [f"layer/{'x' * 70}/{index}:0" for index in range(1000)]
    write(FORMAT, tmp_path / "ours", {s: values(s) for s in (spec(n, (1,)) for n in names)})
    with h5py.File(tmp_path / "theirs", "w") as theirs, h5py.File(tmp_path / "ours") as ours:
        full = [f"model/{name}".encode() for name in names]
        hdf5_format.save_attributes_to_hdf5_group(theirs, "weight_names", full)
        assert sorted(theirs.attrs) == sorted(ours["layer"].attrs) and len(theirs.attrs) > 1
        for key in theirs.attrs:
            assert np.array_equal(theirs.attrs[key], ours["layer"].attrs[key])
        listed = hdf5_format.load_attributes_from_hdf5_group(ours["layer"], "weight_names")
        assert listed == [f"model/{name}" for name in names]
