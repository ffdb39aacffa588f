"""Keras HDF5 files: what Keras and h5py write is read, what is written loads, attacks fail."""

from __future__ import annotations

import os
import re
import resource
import shutil
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from writing import same, values, write

from converter.containers import open_container
from converter.containers.files import FileHandle, LocalFile
from converter.containers.keras_hdf5 import CONTAINER
from converter.errors import FormatError
from converter.tensors import TensorSpec

SHAPES = {"embeddings/weight:0": (5, 4), "dense/kernel:0": (4, 6), "dense/bias:0": (6,)}


def spec(name: str, shape: tuple[int, ...] = (2, 3), dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, dtype, shape)


def keras_file(path: Path, layers: dict[str, dict[str, np.ndarray]], **options: object) -> Path:
    """Write a file with the calls that Keras makes."""
    with h5py.File(path, "w", **options) as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        file.attrs["backend"] = b"tensorflow"
        for layer, weights in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [weight.encode() for weight in weights]
            for weight, array in weights.items():
                group.create_dataset(weight, data=array)
        file.create_group("top_level_model_weights").attrs["weight_names"] = []
    return path


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return {name: values(spec(name, shape)) for name, shape in SHAPES.items()}


@pytest.fixture
def path(tmp_path: Path, arrays: dict[str, np.ndarray]) -> Path:
    bert = {f"tf_bert_model/bert/{name}": array for name, array in arrays.items()}
    return keras_file(tmp_path / "tf_model.h5", {"bert": bert})


def refused(path: Path, *words: str) -> None:
    """Assert that opening and reading `path` gives one clear error that holds `words`."""
    with pytest.raises(FormatError) as caught, CONTAINER.open(LocalFile(path)) as reader:
        for tensor in reader.tensors.values():
            tensor.read()
    assert path.name in str(caught.value)
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_reads_what_keras_writes(tmp_path, arrays, libver):
    bert = {f"tf_bert_model/bert/{name}": array for name, array in arrays.items()}
    path = keras_file(tmp_path / "file", {"bert": bert}, libver=libver)
    with open_container(path) as reader:
        assert list(reader.tensors) == [f"bert/{name}" for name in arrays]
        assert reader.metadata == {"scope": "tf_bert_model", "layout": "layers"}
        for name, array in arrays.items():
            assert same(reader.tensors[f"bert/{name}"].read(), array)


def test_combined_files_keep_the_half_in_the_name(tmp_path, arrays):
    layers = {
        half: {f"tf_encoder_decoder_model/{half}/bert/{name}": array * (index + 1)}
        for index, half in enumerate(("encoder", "decoder"))
        for name, array in list(arrays.items())[:1]
    }
    with CONTAINER.open(LocalFile(keras_file(tmp_path / "file", layers))) as reader:
        assert list(reader.tensors) == [
            "encoder/bert/embeddings/weight:0",
            "decoder/bert/embeddings/weight:0",
        ]
        first, second = (tensor.read() for tensor in reader.tensors.values())
        assert same(second, first * 2)


def test_further_copies_of_a_weight_are_duplicates(tmp_path, arrays):
    shared = {"lm/bert/embeddings/weight:0": arrays["embeddings/weight:0"]}
    head = {"lm/cls/bias:0": arrays["dense/bias:0"], **shared}
    with CONTAINER.open(
        LocalFile(keras_file(tmp_path / "file", {"bert": shared, "cls": head}))
    ) as reader:
        assert list(reader.tensors) == ["bert/embeddings/weight:0", "cls/bias:0"]
        (copy,) = reader.duplicates["bert/embeddings/weight:0"]
        assert list(reader.duplicates) == ["bert/embeddings/weight:0"]
        assert same(copy.read(), arrays["embeddings/weight:0"])
        assert copy.location != reader.tensors["bert/embeddings/weight:0"].location


def test_ignores_what_is_not_listed(path):
    with h5py.File(path, "r+") as file:
        file["bert/tf_bert_model/bert/extra"] = np.zeros(3, np.float32)
        file["optimizer"] = h5py.ExternalLink("/etc/passwd", "/")
    with CONTAINER.open(LocalFile(path)) as reader:
        assert len(reader.tensors) == len(SHAPES)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "uint8", "complex64", "float32"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (2, 3)},
        {"chunks": (2, 3), "compression": "gzip", "shuffle": True},
        {"chunks": (4, 2), "compression": "lzf", "fletcher32": True},
    ],
)
def test_every_number_and_storage(path, dtype, order, options):
    array = values(spec("x", (7, 5), dtype))
    with h5py.File(path, "r+") as file:
        del file["bert/tf_bert_model/bert/dense/kernel:0"]
        file.create_dataset(
            "bert/tf_bert_model/bert/dense/kernel:0",
            data=array.astype(array.dtype.newbyteorder(order)),
            **options,
        )
    with CONTAINER.open(LocalFile(path)) as reader:
        tensor = reader.tensors["bert/dense/kernel:0"]
        assert same(tensor.read(), array)
        assert same(tensor.read(0, 2, 7), array[2:7])
        assert same(tensor.read(1, 1, 4), np.ascontiguousarray(array[:, 1:4]))
        tensors = reader.tensors.values()
        assert len({tensor.location for tensor in tensors}) == len(tensors)


def test_compact_datasets_and_null_ones(path):
    array = values(spec("x", (3, 2)))
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    with h5py.File(path, "r+") as file:
        group = file["bert/tf_bert_model/bert/dense"]
        del group["bias:0"]
        space, kind = h5py.h5s.create_simple(array.shape), h5py.h5t.IEEE_F32LE
        h5py.h5d.create(group.id, b"bias:0", kind, space, plist).write(
            h5py.h5s.ALL, h5py.h5s.ALL, array
        )
    with CONTAINER.open(LocalFile(path)) as reader:
        assert same(reader.tensors["bert/dense/bias:0"].read(0, 1, 3), array[1:])
    with h5py.File(path, "r+") as file:
        group = file["bert/tf_bert_model/bert/dense"]
        del group["bias:0"]
        group["bias:0"] = h5py.Empty("f4")
    refused(path, "null dataspace", "dense/bias:0")


# What is written


def test_writes_the_structure_of_keras(tmp_path):
    names = ["encoder/bert/a:0", "decoder/bert/b:0", "encoder/bert/c:0", "logits:0"]
    specs = [*map(spec, names), spec("model.shared/embeddings:0")]
    arrays = {s: values(s) for s in specs}
    write(CONTAINER, tmp_path / "file", arrays, metadata={"scope": "tf_x"})
    with h5py.File(tmp_path / "file") as file:
        assert [*file.attrs["layer_names"]] == [b"encoder", b"decoder", b"logits", b"model"]
        assert file.attrs["backend"] == b"tensorflow" and file.attrs["keras_version"]
        assert [*file["encoder"].attrs["weight_names"]] == [
            b"tf_x/encoder/bert/a:0",
            b"tf_x/encoder/bert/c:0",
        ]
        assert [*file["logits"].attrs["weight_names"]] == [b"logits:0"]
        assert [*file["model"].attrs["weight_names"]] == [b"tf_x/model.shared/embeddings:0"]
        assert file["top_level_model_weights"].attrs["weight_names"].shape == (0,)
        assert "top_level_model_weights" not in file.attrs["layer_names"]
        for s, array in arrays.items():
            layer = {"logits:0": "logits", "model.shared/embeddings:0": "model"}.get(
                s.name, s.name.split("/")[0]
            )
            scope = "" if "/" not in s.name else "tf_x/"
            assert same(file[f"{layer}/{scope}{s.name}"][()], array)
    with CONTAINER.open(LocalFile(tmp_path / "file")) as reader:
        assert {t.spec for t in reader.tensors.values()} == set(specs)
        assert reader.metadata["scope"] == "tf_x"


def test_a_layer_may_list_what_another_holds(tmp_path):
    weight, bias = spec("bert/embeddings:0"), spec("cls/bias:0")
    arrays = {weight: values(weight), bias: values(bias)}
    metadata = {"scope": "lm", "layout": "layers", "shared": '{"cls": ["bert/embeddings:0"]}'}
    write(CONTAINER, tmp_path / "file", arrays, metadata=metadata)
    with h5py.File(tmp_path / "file") as file:
        listed = [*file["cls"].attrs["weight_names"]]
        assert listed == [b"lm/cls/bias:0", b"lm/bert/embeddings:0"]
        assert same(file["cls/lm/bert/embeddings:0"][()], arrays[weight])
    with CONTAINER.open(LocalFile(tmp_path / "file")) as reader:
        assert reader.metadata == metadata
        (copy,) = reader.duplicates[weight.name]
        assert copy.location == reader.tensors[weight.name].location
    for bad in ('{"cls": ["bert/other:0"]}', '{"bert": ["bert/embeddings:0"]}', "["):
        with pytest.raises((ValueError, KeyError)):
            CONTAINER.create(tmp_path / "bad", list(arrays), metadata={"shared": bad})


@pytest.mark.parametrize("count", [900, 1000, 1900])
def test_long_lists_of_names_are_split_as_keras_does(tmp_path, count):
    specs = [spec(f"layer/{'x' * 60}/{index:04}:0", (1,)) for index in range(count)]
    write(CONTAINER, tmp_path / "file", {s: values(s) for s in specs})
    names = np.array([f"model/{s.name}".encode() for s in specs])
    parts, pieces = 1, [names]
    while any(piece.nbytes > 64512 for piece in pieces):
        parts += 1
        pieces = np.array_split(names, parts)
    with h5py.File(tmp_path / "file") as file:
        attributes = file["layer"].attrs
        keys = [f"weight_names{i}" for i in range(parts)] if parts > 1 else ["weight_names"]
        assert sorted(attributes) == sorted(keys)
        for key, piece in zip(keys, pieces, strict=True):
            assert np.array_equal(attributes[key], piece)
    with CONTAINER.open(LocalFile(tmp_path / "file")) as reader:
        assert list(reader.tensors) == [s.name for s in specs]


def test_shards_lie_flat(tmp_path):
    specs = [spec("encoder/bert/a:0"), spec("model.shared/embeddings:0"), spec("logits:0")]
    arrays = {s: values(s) for s in specs}
    write(CONTAINER, tmp_path / "file", arrays, metadata={"layout": "flat"})
    with h5py.File(tmp_path / "file") as file:
        assert [*file.attrs["layer_names"]] == [
            b"encoder/bert/a:0",
            b"model.shared/model.shared/embeddings:0",
            b"logits:0",
        ]
        assert same(file["encoder/bert/a:0"][()], arrays[specs[0]])
    with CONTAINER.open(LocalFile(tmp_path / "file")) as reader:
        assert [t.spec for t in reader.tensors.values()] == specs
        assert reader.metadata["layout"] == "flat"
        for s, array in arrays.items():
            assert same(reader.tensors[s.name].read(), array)


def test_same_bytes_at_another_time(tmp_path):
    arrays = {s: values(s) for s in (spec("a/b/c:0"), spec("a/d:0", ()))}
    write(CONTAINER, tmp_path / "one", arrays)
    time.sleep(1.1)
    write(CONTAINER, tmp_path / "two", arrays)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize(
    "names",
    [
        ["a/b:0", "a/b:0/c:0"],
        ["a//b:0"],
        ["a/\0:0"],
        ["a/./b:0"],
        [""],
        ["x" * 70_000],
        ["a/b:0", "a/b:0"],
    ],
)
def test_refuses_impossible_names(tmp_path, names):
    with pytest.raises(ValueError):
        CONTAINER.create(tmp_path / "file", [spec(name) for name in names])
    assert not list(tmp_path.iterdir())


def test_large_files_are_sparse_lazy_and_quick(tmp_path, monkeypatch):
    specs = [spec(f"m/layer_._{i}/kernel:0", (1024, 1024)) for i in range(2000)]  # 8 GB
    began = time.monotonic()
    output = CONTAINER.create(tmp_path / "file", specs)
    assert time.monotonic() - began < 2
    status = (tmp_path / "file").stat()
    assert status.st_size > 8e9 and status.st_blocks * 512 < 16 << 20
    (segment,) = output.segments[specs[1234].name]
    with (tmp_path / "file").open("r+b") as file:
        os.pwrite(file.fileno(), np.arange(8, dtype="<f4").tobytes(), segment.file_offset + 4096)
    read = 0
    fill = FileHandle.fill

    def count(self: FileHandle, buffer: memoryview, *args: object) -> None:
        nonlocal read
        read += len(buffer)
        fill(self, buffer, *args)

    monkeypatch.setattr(FileHandle, "fill", count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with CONTAINER.open(LocalFile(tmp_path / "file")) as reader:
        row = reader.tensors[specs[1234].name].read(0, 1, 2)
    assert row[0, :8].tolist() == list(range(8)) and not row[0, 8:].any()
    assert read < 8192
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10


# What is refused


def replace(path: Path, name: str, make: object) -> None:
    """Put something else where a listed dataset lies."""
    with h5py.File(path, "r+") as file:
        group = file["bert/tf_bert_model/bert"]
        del group[name]
        make(group, name)  # type: ignore[operator]


def test_links_are_not_followed(path, tmp_path):
    other = keras_file(tmp_path / "other.h5", {"b": {"x": np.ones((4, 6), np.float32)}})
    good = path.read_bytes()
    links = (h5py.ExternalLink(other.name, "/b/x"), h5py.SoftLink("/bert"), h5py.SoftLink("/no"))
    for link in links:
        for name in ("dense/kernel:0", "dense", "embeddings"):
            path.write_bytes(good)
            replace(path, name, lambda group, name, link=link: group.__setitem__(name, link))
            refused(path, "link")


def test_values_in_other_files_are_refused(path, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 96)
    replace(
        path,
        "dense/kernel:0",
        lambda group, name: group.create_dataset(
            name, (4, 6), "f4", external=[(str(secret), 0, 96)]
        ),
    )
    refused(path, "external storage", "dense/kernel:0")
    layout = h5py.VirtualLayout((4, 6), "f4")
    layout[:] = h5py.VirtualSource(str(secret), "x", (4, 6))
    replace(path, "dense/kernel:0", lambda group, name: group.create_virtual_dataset(name, layout))
    refused(path, "virtual", "dense/kernel:0")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 6), "V2"), "bfloat16"),
        (np.zeros((4, 6), "S3"), "text"),
        (np.zeros((4, 6), [("a", "f4"), ("b", "i4")]), "numeric"),
        (np.zeros((4, 6), h5py.ref_dtype), "references"),
        (np.zeros((4, 6), h5py.vlen_dtype(np.float32)), "numeric"),
        (np.zeros((4, 6), h5py.string_dtype()), "text"),
    ],
)
def test_other_things_than_numbers_are_refused(path, array, words):
    replace(path, "dense/kernel:0", lambda g, n: g.create_dataset(n, array.shape, array.dtype))
    refused(path, words, "dense/kernel:0")


@pytest.mark.parametrize(
    "options",
    [
        {"shape": (1 << 20, 1 << 20)},
        {"shape": (1 << 20, 1 << 20), "chunks": (1024, 1024), "compression": "gzip"},
        {"shape": (1 << 12, 1 << 12), "chunks": (1 << 12, 1 << 12), "fill": 0},
        {"shape": (1 << 12, 1 << 12), "chunks": (1 << 10, 1 << 10), "fill": 1},
        {"shape": (64, 64), "chunks": (8, 8), "compression": "gzip", "scaleoffset": 2},
    ],
)
def test_bombs_are_refused(path, options):
    fill = options.pop("fill", None)

    def make(group: h5py.Group, name: str) -> None:
        if fill is None:
            dataset = group.create_dataset(name, dtype="f4", **options)
            if dataset.size < 1 << 20:
                dataset[...] = 1
        else:
            group.create_dataset(
                name, dtype="f4", data=np.full(options["shape"], fill, "f4"), compression="gzip",
                chunks=options["chunks"],
            )  # fmt: skip

    replace(path, "dense/kernel:0", make)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, "dense/kernel:0")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 << 10


def test_missing_chunks_are_refused(path):
    def make(group: h5py.Group, name: str) -> None:
        group.create_dataset(name, (8, 8), "f4", chunks=(4, 4))[:4] = 1

    replace(path, "dense/kernel:0", make)
    refused(path, "chunks are missing")


def test_a_damaged_heap_of_names_cannot_loop(path):
    """With this fault the HDF5 library itself never returns."""
    data = path.read_bytes()
    heap = data.index(b"GCOL")
    for place in range(heap, heap + 200):
        for byte in (0, 0xFF):
            path.write_bytes(data[:place] + bytes([byte]) + data[place + 1 :])
            began = time.monotonic()
            try:
                CONTAINER.open(LocalFile(path)).close()
            except FormatError as error:
                assert path.name in str(error)
            assert time.monotonic() - began < 1


def test_one_long_text_cannot_become_many(path):
    """A megabyte in the heap, referred to by every name."""
    with h5py.File(path, "r+") as file:
        file["bert"].attrs["weight_names"] = ["x" * (1 << 20)] + ["y"] * 2000
    data = bytearray(path.read_bytes())
    heaps = [match.start() for match in re.finditer(b"GCOL", data)]
    lengths = ((1 << 20).to_bytes(4, "little") + heap.to_bytes(8, "little") for heap in heaps)
    (place,) = (data.index(length) for length in lengths if length in data)
    reference = bytes(data[place : place + 16])
    for index in range(1, 2000):
        data[place + 16 * index : place + 16 * (index + 1)] = reference
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, "weight_names")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 << 10


def test_lists_that_do_not_hold_are_refused(path):
    good = path.read_bytes()
    for change, words in (
        (lambda file: file.attrs.__delitem__("layer_names"), "layer_names"),
        (lambda file: file.attrs.__setitem__("layer_names", 3.5), "names"),
        (lambda file: file.attrs.__setitem__("layer_names", np.array([b"\xff"])), "damaged"),
        (lambda file: file.attrs.__setitem__("layer_names", [b"bert", b"bert"]), "twice"),
        (lambda file: file.attrs.__setitem__("layer_names", [b"roberta"]), "roberta"),
        (lambda file: file["bert"].attrs.__delitem__("weight_names"), "list its weights"),
        (lambda file: file["bert"].attrs.__setitem__("weight_names", [b"q/w"]), "not in the file"),
        (lambda file: file["bert"].attrs.__setitem__("weight_names", [b"tf_bert_model"]), "datas"),
        (lambda file: file["bert"].attrs.__setitem__("weight_names", [b"a/" * 3000]), "too long"),
    ):
        path.write_bytes(good)
        with h5py.File(path, "r+") as file:
            change(file)
        refused(path, words)


def test_parts_of_larger_files_are_refused(path, tmp_path):
    data = path.read_bytes()
    shutil.copy(path, tmp_path / "copy")
    with h5py.File(tmp_path / "block", "w", userblock_size=512) as file:
        file.attrs["layer_names"] = [b"a"]
    refused(tmp_path / "block", "not an HDF5 file")
    (tmp_path / "cut").write_bytes(data[: len(data) // 2])
    refused(tmp_path / "cut", "ends early", str(len(data)))
    with h5py.File(tmp_path / "family%d", "w", driver="family", memb_size=1 << 20) as file:
        file.attrs["layer_names"] = [b"a"]
    refused(tmp_path / "family0", "several files")


# What transformers' own classes write and load


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
    """A tiny model whose weights are all different."""
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
    """The name by which loading goes."""
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
    with CONTAINER.open(LocalFile(path)) as reader:
        assert set(reader.tensors) == set(expected)
        for name, tensor in reader.tensors.items():
            assert same(tensor.read(), expected[name]), name
            for copy in reader.duplicates.get(name, ()):
                assert same(copy.read(), expected[name]), name
        assert bool(reader.duplicates) == (kind == "masked")
        arrays = {tensor.spec: tensor.read() for tensor in reader.tensors.values()}
        metadata = {**reader.metadata, "scope": "model"}
    write(CONTAINER, tmp_path / "ours.h5", arrays, metadata=metadata)

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
    seen = {}
    for shard in shards:
        with CONTAINER.open(LocalFile(shard)) as reader:
            assert reader.metadata["layout"] == "flat"
            arrays = {tensor.spec: tensor.read() for tensor in reader.tensors.values()}
        seen |= {s.name: array for s, array in arrays.items()}
        shard.unlink()
        write(CONTAINER, shard, arrays, metadata={"layout": "flat"})
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
    write(CONTAINER, tmp_path / "ours", {s: values(s) for s in (spec(n, (1,)) for n in names)})
    with h5py.File(tmp_path / "theirs", "w") as theirs, h5py.File(tmp_path / "ours") as ours:
        full = [f"model/{name}".encode() for name in names]
        hdf5_format.save_attributes_to_hdf5_group(theirs, "weight_names", full)
        assert sorted(theirs.attrs) == sorted(ours["layer"].attrs) and len(theirs.attrs) > 1
        for key in theirs.attrs:
            assert np.array_equal(theirs.attrs[key], ours["layer"].attrs[key])
        listed = hdf5_format.load_attributes_from_hdf5_group(ours["layer"], "weight_names")
        assert listed == [f"model/{name}" for name in names]
