"""Listing the tensors of a remote file takes three requests, and one for its address."""

from __future__ import annotations

import mmap
import pickle
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from converter.errors import FormatError
from converter.formats import range_reader
from converter.formats.base import Reader
from converter.formats.file_handle import LocalFile
from converter.formats.range_reader import RangedFile
from converter.formats.registry import get_format, open_file
from tests.formats.test_lazy import SMALL, VALUES, sparse
from tests.formats.torch_files import archive, legacy, state

MOST = 3
LAYERS, SHAPE = 40, (256, 260)
ARRAYS = {f"layer_{n}": np.random.default_rng(n).random(SHAPE, np.float32) for n in range(LAYERS)}


class Server:
    """The files of a directory, whose requests are counted."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.requests: dict[str, list[int]] = {}
        """Name → the bytes of each request."""
        self.in_turn = 0
        """How many requests were not sent together with others."""

    def open(self, name: str) -> RangedFile:
        path = self.directory / name
        self.requests[name] = []
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

        class Ranges:
            size = len(content)

            def read(ranges, offset: int, nbytes: int) -> bytes:  # noqa: N805
                self.requests[name].append(nbytes)
                self.in_turn += threading.current_thread() is threading.main_thread()
                return content[offset : offset + nbytes]

        def sibling(other: str) -> RangedFile | None:
            return self.open(other) if (self.directory / other).is_file() else None

        return RangedFile(path, Ranges(), sibling)

    def list_tensors(self, name: str) -> Reader:
        """Open a file, and check the number of requests for it and for its siblings."""
        reader = open_file(self.open(name))
        counts = {name: len(requests) for name, requests in self.requests.items()}
        assert max(counts.values()) <= MOST, counts
        return reader


@pytest.mark.parametrize("name", ["safetensors", "torch", "keras-hdf5"])
def test_large_files_of_this_project(name: str, tmp_path: Path) -> None:
    sparse(get_format(name), tmp_path / "file")
    server = Server(tmp_path)
    with server.list_tensors("file") as reader:
        assert (reader.tensors[SMALL.name].read() == VALUES).all()
    assert sum(map(sum, server.requests.values())) < 1 << 20


HEADER = {"name": (30, b"X"), "size": (22, b"\x11"), "length of the extra field": (28, b"\x40")}
"""Part of the header of a record → its offset in it, and what is put there."""


@pytest.mark.parametrize("part", HEADER)
def test_headers_next_to_values_are_checked_when_these_are_read(part: str, tmp_path: Path) -> None:
    data = bytearray(archive(tmp_path / "zip", state()).read_bytes())
    offset, replacement = HEADER[part]
    at = data.rindex(b"PK\3\4") + offset
    data[at : at + len(replacement)] = replacement
    (tmp_path / "zip").write_bytes(data)
    tail = pickle.dumps(["0"], 2) + struct.pack("<q4f", 3, 1, 2, 3, 4)
    legacy(tmp_path / "legacy", state(), tail)
    for name in ("zip", "legacy"):
        with pytest.raises(FormatError):
            open_file(LocalFile(tmp_path / name))
        with Server(tmp_path).list_tensors(name) as reader:
            assert reader.tensors["w"].spec.shape == (4,)
            with pytest.raises(FormatError, match=r"disagrees|overlaps|another length"):
                reader.tensors["w"].read()


def _torch(path: Path, **form: bool) -> None:
    import torch

    state = {name: torch.from_numpy(array) for name, array in ARRAYS.items()}
    torch.save({"state_dict": state, "epoch": 3}, path, **form)


def _safetensors(path: Path) -> None:
    from safetensors.numpy import save_file

    save_file(ARRAYS, path)


def _flax(path: Path) -> None:
    from flax.serialization import to_bytes

    layers: dict[str, dict[str, np.ndarray]] = {str(n): {} for n in range(LAYERS // 5)}
    for n, array in enumerate(ARRAYS.values()):
        layers[str(n // 5)][f"kernel_{n % 5}"] = array
    path.write_bytes(to_bytes({"params": {"layer": layers}}))


def _tensorflow(path: Path) -> None:
    import tensorflow

    variables = {name: tensorflow.Variable(array) for name, array in ARRAYS.items()}
    tensorflow.train.Checkpoint(**variables).write(str(path.with_suffix("")))


def _keras(path: Path) -> None:
    import tf_keras

    inputs = tf_keras.Input(SHAPE[:1])
    layers = [tf_keras.layers.Dense(SHAPE[1], use_bias=False, name=name) for name in ARRAYS]
    model = tf_keras.Model(inputs, [layer(inputs) for layer in layers])
    model.set_weights([*ARRAYS.values()])
    model.save_weights(path)


WRITERS: dict[str, Callable[[Path], None]] = {
    "zip.bin": _torch,
    "legacy.bin": lambda path: _torch(path, _use_new_zipfile_serialization=False),
    "file.safetensors": _safetensors,
    "file.msgpack": _flax,
    "file.index": _tensorflow,
    "file.h5": _keras,
}
SCATTERED = ("file.msgpack", "file.h5")


@pytest.mark.peer
@pytest.mark.parametrize("name", WRITERS)
def test_files_of_the_frameworks(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS[name](tmp_path / name)
    server = Server(tmp_path)
    with server.list_tensors(name) as reader:
        fetched = sum(map(sum, server.requests.values()))
        read = [t.read() for t in reader.tensors.values() if t.spec.shape == SHAPE]
        assert len(read) == LAYERS
        assert {array.tobytes() for array in read} == {each.tobytes() for each in ARRAYS.values()}
    sizes = [(tmp_path / each).stat().st_size for each in server.requests]
    if name in SCATTERED:
        assert fetched <= 1.01 * sum(sizes)
        monkeypatch.setattr(range_reader, "WHOLE", 1 << 20)  # as if it were too large for that
        server.in_turn = 0
        with open_file(server.open(name)):
            fetched = sum(server.requests[name])
            assert MOST < len(server.requests[name]) < 2 * LAYERS
        if name == "file.msgpack":  # the headers of a layer are where those of the one before are
            assert server.in_turn < LAYERS / 4
    assert fetched < 0.1 * sum(sizes), (fetched, sizes)
