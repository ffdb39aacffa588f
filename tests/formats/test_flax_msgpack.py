"""Flax msgpack files: flax's own bytes are written and read, invalid files and bombs refused."""

from __future__ import annotations

import random
import resource
import struct
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from converter.errors import FormatError
from converter.formats.file_handle import FileHandle, LocalFile
from converter.formats.flax_msgpack import FORMAT, writer
from converter.formats.registry import open_file
from converter.system import write_at
from converter.tensors import TensorSpec, numpy_dtype
from tests.formats.work import work_at_most
from tests.formats.writing import same, values, write

MARK = "__msgpack_chunked_array__"


def spec(name: str, shape: tuple[int, ...] = (2, 3), dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, dtype, shape)


def packed(array: np.ndarray, code: int = 1, dtype: str | None = None) -> msgpack.ExtType:
    """Return an array as flax packs it."""
    triple = (array.shape, dtype or array.dtype.name, array.tobytes())
    return msgpack.ExtType(code, msgpack.packb(triple))


def saved(path: Path, tree: object) -> Path:
    path.write_bytes(msgpack.packb(tree))
    return path


def refused(path: Path, content: bytes | object, *words: str) -> None:
    """Assert that the content gives one clear error that holds `words`, quickly."""
    path.write_bytes(content if isinstance(content, bytes) else msgpack.packb(content))
    with work_at_most(80), pytest.raises(FormatError) as caught:
        FORMAT.open(LocalFile(path))
    for word in (path.name, *words):
        assert word in str(caught.value), str(caught.value)
    assert len(str(caught.value)) < 2000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "flax_model.msgpack"


# What is read


@pytest.mark.parametrize(
    "dtype", ["bfloat16", "float16", "float8_e4m3fn", "int8", "bool", "complex64"]
)
def test_reads_arrays_of_every_kind(path, dtype):
    array = values(spec("x", (3, 4), dtype))
    assert array.dtype == numpy_dtype(dtype)
    with open_file(saved(path, {"a": {"b": {"kernel": packed(array)}}})) as reader:
        (tensor,) = reader.tensors.values()
        assert tensor.spec == TensorSpec("a/b/kernel", dtype, (3, 4))
        assert same(tensor.read(), array)
        assert same(tensor.read(1, 1, 3), np.ascontiguousarray(array[:, 1:3]))


def test_names_are_the_joined_keys(path):
    array = np.arange(3, dtype=np.float32)
    tree = {
        "params": {"bert/encoder": {"0": packed(array)}, 7: packed(array + 1)},
        "list": [packed(array + 2), {"x": packed(array + 3)}],
        "empty": {},
        "nothing": None,
        "step": 12,
        "rate": 0.5,
        "text": "hello",
        "long": "x" * 100_000,
        "raw": b"bytes",
        "complex": msgpack.ExtType(2, msgpack.packb((1.0, -2.0))),
        "scalar": packed(np.array(2.5, np.float32), code=3),
        "last": packed(array + 4),
    }
    with FORMAT.open(LocalFile(saved(path, tree))) as reader:
        assert list(reader.tensors) == [
            "params/bert/encoder/0", "params/7", "list/0", "list/1/x", "scalar", "last"
        ]  # fmt: skip
        for name, offset in (("params/7", 1), ("list/1/x", 3), ("last", 4)):
            assert same(reader.tensors[name].read(), array + np.float32(offset))
        assert reader.tensors["scalar"].read() == np.float32(2.5)
        assert reader.metadata == {
            "step": "12", "rate": "0.5", "text": "hello", "complex": "(1-2j)"
        }  # fmt: skip


def test_chunks_are_joined_in_the_order_of_their_numbers(path):
    array = values(spec("x", (6, 5)))
    flat = array.reshape(-1)
    starts = list(range(0, 30, 2))
    random.Random(0).shuffle(starts)
    chunks = {str(start // 2): packed(flat[start : start + 2]) for start in starts}
    tree = {"w": {"chunks": chunks, "shape": {"1": 5, "0": 6}, MARK: True}}
    with FORMAT.open(LocalFile(saved(path, tree))) as reader:
        tensor = reader.tensors["w"]
        assert same(tensor.read(), array)
        assert same(tensor.read(0, 1, 4), array[1:4])
        assert same(tensor.read(1, 2, 5), np.ascontiguousarray(array[:, 2:]))


# What is written


def test_keys_keep_the_order_of_first_appearance(path):
    specs = [spec("b/y"), spec("a"), spec("b/x"), spec("c/d/e")]
    arrays = {s: values(s) for s in specs}
    write(FORMAT, path, arrays)
    tree = {
        "b": {"y": packed(arrays[specs[0]]), "x": packed(arrays[specs[2]])},
        "a": packed(arrays[specs[1]]),
        "c": {"d": {"e": packed(arrays[specs[3]])}},
    }
    assert path.read_bytes() == msgpack.packb(tree)


@pytest.mark.parametrize(
    "names",
    [["a", "a/b"], ["a/b", "a"], ["a/b/c", "a/b"], ["a", "a"], [f"a/{MARK}"], [f"{MARK}/a"]],
)
def test_refuses_impossible_names(path, names):
    with pytest.raises(ValueError):
        FORMAT.create(path, [spec(name) for name in names])
    assert not path.exists()


def test_refuses_aliases(path):
    with pytest.raises(ValueError):
        FORMAT.create(path, [spec("a")], aliases={"b": "a"})


def test_sizes_take_the_shortest_form(path):
    """Every boundary of msgpack's length encodings, compared with the msgpack library."""
    lengths = [0, 1, 2, 3, 8, 13, 200, 240, 255, 256, 65_500, 65_535, 65_536]
    specs = [spec(f"{'k' * (i * 7 + 1)}/{i}", (n,), "uint8") for i, n in enumerate(lengths)]
    specs += [spec(f"map/{i}", (1,) * (i % 33), "uint8") for i in range(70_000 // 700)]
    specs += [spec(f"axis/{n}", (0, n)) for n in (127, 128, 255, 256, 65_535, 65_536, 1 << 32)]
    arrays = {s: values(s) if s.size else np.empty(s.shape, s.dtype) for s in specs}
    write(FORMAT, path, arrays)
    tree: dict = {}
    for s in specs:
        first, last = s.name.split("/")
        tree.setdefault(first, {})[last] = packed(arrays[s])
    assert path.read_bytes() == msgpack.packb(tree)
    with FORMAT.open(LocalFile(path)) as reader:
        for s, array in arrays.items():
            assert same(reader.tensors[s.name].read(), array)


def test_large_arrays_are_chunked_sparse_and_lazy(path, monkeypatch):
    big, small = spec("a/big", (700_001, 1024)), spec("b/small", (2, 3))  # 2.87 GB
    with work_at_most(20):
        output = FORMAT.create(path, [big, small])
    assert [segment.nbytes for segment in output.segments["a/big"]] == [
        1 << 30, 1 << 30, big.nbytes - (2 << 30)
    ]  # fmt: skip
    assert path.stat().st_size > big.nbytes and path.stat().st_blocks * 512 < 1 << 20
    last = output.segments["a/big"][2]
    with path.open("r+b") as file:
        end = last.file_offset + last.nbytes
        write_at(file.fileno(), np.arange(1024, dtype="<f4").tobytes(), end - 4096)
    read = 0
    fill = FileHandle.fill

    def count(self: FileHandle, buffer: memoryview, *args: Any) -> None:
        nonlocal read
        read += len(buffer)
        fill(self, buffer, *args)

    monkeypatch.setattr(FileHandle, "fill", count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with FORMAT.open(LocalFile(path)) as reader:
        assert [t.spec for t in reader.tensors.values()] == [big, small]
        assert read < 1 << 15
        row = reader.tensors["a/big"].read(0, 700_000, 700_001)
    assert np.array_equal(row[0], np.arange(1024, dtype=np.float32))
    assert read < 1 << 16
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10


# What is refused


ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ([1, 2], "not a map"),
        (5, "not a map"),
        ({"a": packed(ARRAY, code=9)}, "extension type"),
        ({"a": packed(ARRAY, dtype="V2")}, "unknown dtype"),
        ({"a": packed(ARRAY, dtype="void16")}, "save the model again"),
        ({"a": packed(ARRAY, dtype="object")}, "unknown dtype"),
        ({"a": packed(ARRAY, dtype="float64")}, "48 bytes"),
        ({"a": msgpack.ExtType(1, msgpack.packb(((2, 3), "float32")))}, "not an array"),
        ({"a": msgpack.ExtType(1, msgpack.packb(((2, -3), "float32", b"")))}, "shape"),
        ({"a": msgpack.ExtType(1, msgpack.packb(((True,), "bool", b"1")))}, "shape"),
        ({"a": msgpack.ExtType(1, msgpack.packb(((2**40, 2**40), "bool", b"")))}, "shape"),
        ({"a": msgpack.ExtType(1, msgpack.packb(((1,) * 40, "bool", b"1")))}, "shape"),
        ({"a": msgpack.ExtType(1, msgpack.packb(((1,), "bool", b"1")) + b"x")}, "extension header"),
        ({"a": msgpack.ExtType(1, msgpack.packb(((1,), "bool", [1])))}, "disagree"),
        ({"a": msgpack.ExtType(1, msgpack.packb(((1,), None, b"1")))}, "text"),
        ({"a": msgpack.ExtType(2, msgpack.packb((1.0, None)))}, "complex"),
        ({"a": {MARK: True}}, "chunk"),
        ({"a": {MARK: True, "shape": {"0": 3}, "chunks": {}}}, "chunk"),
        ({"a": {MARK: True, "shape": {"0": 7}, "chunks": {"0": packed(ARRAY)}}}, "chunk"),
        ({"a": {MARK: True, "shape": {"1": 6}, "chunks": {"0": packed(ARRAY)}}}, "chunk"),
        ({"a": {MARK: True, "shape": {"0": -6}, "chunks": {"0": packed(ARRAY)}}}, "shape"),
        ({"a": {MARK: 1, "shape": {"0": 6}, "chunks": {"0": packed(ARRAY), "2": 1}}}, "chunk"),
        ({"a/b": packed(ARRAY), "a": {"b": packed(ARRAY)}}, "duplicate"),
        ({1: packed(ARRAY), "1": packed(ARRAY)}, "duplicate"),
        ({"k" * 5000: 1}, "text"),
        ({None: 1}, "text"),
    ],
)
def test_what_does_not_hold_is_refused(path, tree, words):
    refused(path, tree, words)


def test_invalid_lengths_are_refused(path):
    array = packed(ARRAY)
    refused(path, b"\x82" + msgpack.packb("a") + msgpack.packb(array) * 2, "text")
    refused(path, b"\x82" + (msgpack.packb("a") + msgpack.packb(array)) * 2, "duplicate", "a")
    refused(path, msgpack.packb({"a": array}) + b"\0", "after the end")
    for kind in (0xDF, 0xDD):
        refused(path, b"\x81\xa1a" + struct.pack(">BI", kind, 1 << 31), "more entries")
    for head in (b"\xc6", b"\xdb", b"\xc9"):
        refused(path, b"\x81\xa1a" + head + b"\xff" * 9, "ends early")
    refused(path, b"\x81\xa1a\xc1", "not msgpack")
    refused(path, b"\x81\xa2\xff\xfea", "UTF-8")
    refused(path, b"", "ends early")


def test_depth_and_number_are_bounded(path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, b"\x81\xa1a" * 100_000 + b"\xc0", "nested too deeply")
    refused(path, b"\x81\xa1a" + b"\x91" * 100_000 + b"\xc0", "nested too deeply")
    refused(path, b"\x81\xa1a\xdd" + struct.pack(">I", 1 << 20) + b"\xc0" * (1 << 20), "too many")
    long = msgpack.packb("k" * 4000)
    refused(path, b"\x81" + long + b"\x81" + long + b"\xc0", "too long")
    many = b"".join(msgpack.packb(index) + b"\x01" for index in range(20_000))
    refused(path, b"\x81" + long + b"\xdf" + struct.pack(">I", 20_000) + many, "too long")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150 << 10


@pytest.mark.parametrize(
    "head",
    [b"", b"\x80\x02}q\x00", b"\x80\x04", b"PK\x03\x04", b"\x93NUMPY", b"\x81", b"{}", b"\xde"],
)
def test_other_files_are_not_taken_for_msgpack(path, head):
    path.write_bytes(head)
    assert not FORMAT.matches(LocalFile(path), head)


# What flax and transformers write and load


@pytest.mark.peer
@pytest.mark.parametrize("limit", [1 << 30, 100, 7, 1])
def test_writes_the_bytes_of_flax(path, monkeypatch, limit):
    serialization = pytest.importorskip("flax.serialization")
    traverse = pytest.importorskip("flax.traverse_util")
    monkeypatch.setattr(writer, "MAX_CHUNK_SIZE", limit)
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", limit)
    dtypes = ["float32", "float16", "bfloat16", "int64", "bool", "complex64"]
    shapes = [(), (1,), (7,), (0, 4), (3, 5), (2, 3, 4), (40, 9)]
    specs = [
        spec(f"{'abc'[i % 3]}/{dtype}/{'x' * 31}{i}", shape, dtype)
        for i, shape in enumerate(shapes)
        for dtype in dtypes
    ]
    arrays = {s: values(s) for s in specs}
    write(FORMAT, path, arrays)
    tree = traverse.unflatten_dict({s.name: arrays[s] for s in specs}, sep="/")
    data = path.read_bytes()
    assert data == serialization.msgpack_serialize(tree, in_place=True)
    restored = traverse.flatten_dict(serialization.msgpack_restore(data), sep="/")
    with FORMAT.open(LocalFile(path)) as reader:
        assert list(reader.tensors) == list(restored)
        for s, array in arrays.items():
            assert same(np.asarray(restored[s.name]), array)
            assert same(reader.tensors[s.name].read(), array)


@pytest.mark.peer
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shard", ["1GB", "8KB"])
def test_reads_and_writes_as_transformers_does(tmp_path, dtype, shard):
    pytest.importorskip("flax")
    peer = pytest.importorskip("transformers")
    jax = pytest.importorskip("jax")
    config = peer.BertConfig(
        vocab_size=37, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=20,
    )  # fmt: skip
    model = peer.FlaxBertModel(config)
    rng = np.random.default_rng(0)
    model.params = jax.tree_util.tree_map(
        lambda old: rng.standard_normal(old.shape).astype(numpy_dtype(dtype)), model.params
    )
    flatten = pytest.importorskip("flax.traverse_util").flatten_dict
    expected = {name: np.asarray(a) for name, a in flatten(model.params, sep="/").items()}
    model.save_pretrained(tmp_path, max_shard_size=shard)
    files = sorted(tmp_path.glob("*.msgpack"))
    assert (len(files) == 1) == (shard == "1GB")
    seen: dict[str, Any] = {}
    for file in files:
        with FORMAT.open(LocalFile(file)) as reader:
            arrays = {tensor.spec: tensor.read() for tensor in reader.tensors.values()}
        seen |= {s.name: array for s, array in arrays.items()}
        theirs = file.read_bytes()
        file.unlink()
        write(FORMAT, file, arrays)
        assert file.read_bytes() == theirs
    assert set(seen) == set(expected)
    assert all(same(seen[name], expected[name]) for name in expected)
    loaded = peer.FlaxBertModel.from_pretrained(tmp_path, dtype=jax.numpy.dtype(dtype))
    for name, array in flatten(loaded.params, sep="/").items():
        assert same(np.asarray(array), expected[name]), name
