"""Keras HDF5 files as we write them: the structure of Keras, its split lists, shards, links."""

from __future__ import annotations

import resource
import time
from typing import Any

import h5py
import numpy as np
import pytest

from converter.formats.file_handle import FileHandle, LocalFile
from converter.formats.keras_hdf5 import FORMAT
from converter.system import write_at
from tests.formats.keras_files import spec
from tests.formats.work import work_at_most
from tests.formats.writing import same, values, write


def test_writes_the_structure_of_keras(tmp_path):
    names = ["encoder/bert/a:0", "decoder/bert/b:0", "encoder/bert/c:0", "logits:0"]
    specs = [*map(spec, names), spec("model.shared/embeddings:0")]
    arrays = {s: values(s) for s in specs}
    write(FORMAT, tmp_path / "file", arrays, metadata={"scope": "tf_x"})
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
    with FORMAT.open(LocalFile(tmp_path / "file")) as reader:
        assert {t.spec for t in reader.tensors.values()} == set(specs)
        assert reader.metadata["scope"] == "tf_x"


def test_shared_embeddings_and_names_without_a_scope_belong_to_the_layer_before_the_dot(tmp_path):
    names = ["led/encoder/a:0", "led.shared/embeddings:0", "led.a.token:0", "classifier.1/b:0"]
    arrays = {s: values(s) for s in map(spec, names)}
    write(FORMAT, tmp_path / "file", arrays, metadata={"scope": "tf_led"})
    with h5py.File(tmp_path / "file") as file:
        assert [*file.attrs["layer_names"]] == [b"led", b"classifier.1"]
        assert [*file["led"].attrs["weight_names"]] == [
            b"tf_led/led/encoder/a:0",
            b"tf_led/led.shared/embeddings:0",
            b"led.a.token:0",
        ]


def test_a_layer_may_list_what_another_holds(tmp_path):
    weight, bias = spec("bert/embeddings:0"), spec("cls/bias:0")
    arrays = {weight: values(weight), bias: values(bias)}
    metadata = {"scope": "lm", "layout": "layers"}
    repeated = {"cls": ["bert/embeddings:0"]}
    write(FORMAT, tmp_path / "file", arrays, metadata=metadata, repeated=repeated)
    with h5py.File(tmp_path / "file") as file:
        listed = [*file["cls"].attrs["weight_names"]]
        assert listed == [b"lm/cls/bias:0", b"lm/bert/embeddings:0"]
        assert same(file["cls/lm/bert/embeddings:0"][()], arrays[weight])
    with FORMAT.open(LocalFile(tmp_path / "file")) as reader:
        assert reader.metadata == metadata
        assert reader.repeated == repeated
        (copy,) = reader.duplicates[weight.name]
        assert copy.location == reader.tensors[weight.name].location
    for bad in ({"cls": ["bert/other:0"]}, {"bert": ["bert/embeddings:0"]}):
        with pytest.raises((ValueError, KeyError)):
            FORMAT.create(tmp_path / "bad", list(arrays), repeated=bad)


@pytest.mark.parametrize("count", [900, 1000, 1900])
def test_long_lists_of_names_are_split_as_keras_does(tmp_path, count):
    specs = [spec(f"layer/{'x' * 60}/{index:04}:0", (1,)) for index in range(count)]
    write(FORMAT, tmp_path / "file", {s: values(s) for s in specs})
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
    with FORMAT.open(LocalFile(tmp_path / "file")) as reader:
        assert list(reader.tensors) == [s.name for s in specs]


def test_shards_lie_flat(tmp_path):
    specs = [spec("encoder/bert/a:0"), spec("model.shared/embeddings:0"), spec("logits:0")]
    arrays = {s: values(s) for s in specs}
    write(FORMAT, tmp_path / "file", arrays, metadata={"layout": "flat"})
    with h5py.File(tmp_path / "file") as file:
        assert [*file.attrs["layer_names"]] == [
            b"encoder/bert/a:0",
            b"model.shared/model.shared/embeddings:0",
            b"logits:0",
        ]
        assert same(file["encoder/bert/a:0"][()], arrays[specs[0]])
    with FORMAT.open(LocalFile(tmp_path / "file")) as reader:
        assert [t.spec for t in reader.tensors.values()] == specs
        assert reader.metadata["layout"] == "flat"
        for s, array in arrays.items():
            assert same(reader.tensors[s.name].read(), array)


@pytest.mark.slow
def test_same_bytes_at_another_time(tmp_path):
    arrays = {s: values(s) for s in (spec("a/b/c:0"), spec("a/d:0", ()))}
    write(FORMAT, tmp_path / "one", arrays)
    time.sleep(1.1)
    write(FORMAT, tmp_path / "two", arrays)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize(
    "names",
    [
        ["a/b:0", "a/b:0/c:0"],
        ["a///b:0"],
        ["a/\0:0"],
        ["a/./b:0"],
        [""],
        ["x" * 70_000],
        ["a/b:0", "a/b:0"],
    ],
)
def test_refuses_impossible_names(tmp_path, names):
    with pytest.raises(ValueError):
        FORMAT.create(tmp_path / "file", [spec(name) for name in names])
    assert not list(tmp_path.iterdir())


def test_large_files_are_sparse_lazy_and_quick(tmp_path, monkeypatch):
    specs = [spec(f"m/layer_._{i}/kernel:0", (1024, 1024)) for i in range(2000)]  # 8 GB
    with work_at_most(80):
        output = FORMAT.create(tmp_path / "file", specs)
    status = (tmp_path / "file").stat()
    assert status.st_size > 8e9 and status.st_blocks * 512 < 16 << 20
    (segment,) = output.segments[specs[1234].name]
    with (tmp_path / "file").open("r+b") as file:
        write_at(file.fileno(), np.arange(8, dtype="<f4").tobytes(), segment.file_offset + 4096)
    read = 0
    fill = FileHandle.fill

    def count(self: FileHandle, buffer: memoryview, *args: Any) -> None:
        nonlocal read
        read += len(buffer)
        fill(self, buffer, *args)

    monkeypatch.setattr(FileHandle, "fill", count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with FORMAT.open(LocalFile(tmp_path / "file")) as reader:
        row = reader.tensors[specs[1234].name].read(0, 1, 2)
    assert row[0, :8].tolist() == list(range(8)) and not row[0, 8:].any()
    assert read < 8192 + 256 * len(specs)  # headers and B-trees of the groups
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10
