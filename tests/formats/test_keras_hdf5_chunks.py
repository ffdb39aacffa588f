"""Keras HDF5 files: chunks and B-trees that make the HDF5 library itself crash are refused.

Without the checks, most of these files end the process with a segmentation fault.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from converter.errors import FormatError
from converter.formats.file_handle import LocalFile
from converter.formats.keras_hdf5 import FORMAT
from converter.formats.keras_hdf5.chunks import _lzf_size
from tests.formats.keras_files import keras_file
from tests.formats.valid_files import FILTERS, write_chunked

PARTS = [(), (0, 3, 21), (1, 5, 30)]
GZIP: dict[str, Any] = {"compression": "gzip"}
LZF: dict[str, Any] = {"compression": "lzf"}


def dataset(path: Path, chunk: bytes | None = None, skipped: int = 0, **options: Any) -> Path:
    """Write a file of one dataset in chunks of (8, 16), the second of which holds `chunk`."""
    keras_file(path, {"layer": {"m/a:0": np.zeros(1)}})
    array = np.arange(24 * 16, dtype=np.float32).reshape(24, 16)
    with h5py.File(path, "r+") as file:
        del file["layer/m/a:0"]
        made = file.create_dataset("layer/m/a:0", data=array, chunks=(8, 16), **options)
        if chunk is not None:
            made.id.write_direct_chunk((8, 0), chunk, skipped)
    return path


def refused(path: Path, *words: str) -> None:
    """Assert that opening or reading gives one clear error that names file and tensor."""
    with pytest.raises(FormatError) as caught, FORMAT.open(LocalFile(path)) as reader:
        for tensor in reader.tensors.values():
            tensor.read(0, 9, 10)
    for word in (path.name, "a:0", *words):
        assert word in str(caught.value), str(caught.value)


def patched(path: Path, old: bytes, new: bytes) -> Path:
    """Replace the only occurrence of `old`."""
    data = path.read_bytes()
    assert data.count(old) == 1 and len(old) == len(new)
    path.write_bytes(data.replace(old, new))
    return path


def record(path: Path, **changes: int) -> Path:
    """Change size, filter mask, place or address of the second chunk in the B-tree."""
    with h5py.File(path) as file:
        info = file["layer/m/a:0"].id.get_chunk_info(1)
    stored = {"size": info.size, "mask": info.filter_mask, "row": 8, "column": 0, "item": 0}
    stored["address"] = info.byte_offset
    form = "<IIQQQQ"
    new = struct.pack(form, *{**stored, **changes}.values())
    return patched(path, struct.pack(form, *stored.values()), new)


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_every_combination_of_filters_is_read(tmp_path, libver):
    names = write_chunked(tmp_path / "model.h5", libver=libver)
    with h5py.File(tmp_path / "model.h5") as file:
        arrays = {name.removeprefix("m/"): file[f"layer/{name}"][:] for name in names}
    with FORMAT.open(LocalFile(tmp_path / "model.h5")) as reader:
        for name, array in arrays.items():
            for part in PARTS:
                expected = array.take(range(*part[1:]), axis=part[0]) if part else array
                assert np.array_equal(reader.tensors[name].read(*part), expected)
    assert len(names) == len(FILTERS) == 12


@pytest.mark.parametrize("options", FILTERS, ids=str)
@pytest.mark.parametrize("size", [0, 3, 4, 1 << 31])
def test_chunks_of_impossible_sizes_are_refused(tmp_path, options, size):
    if size not in (3, 4) or options["fletcher32"] or not options["compression"]:
        path = record(dataset(tmp_path / "tf.h5", **options), size=size)
        refused(path, "the chunk at [8, 0]" if size < 9 else "few bytes claim to be many")


@pytest.mark.parametrize("options", FILTERS, ids=str)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"address": 1 << 40}, "invalid extent"),
        ({"address": (1 << 64) - 2}, "invalid extent"),
        ({"row": 0}, "the chunk at [0, 0] is listed twice"),
        ({"row": 9}, "bad coordinate offset"),
        ({"column": 16}, "the chunk at [8, 16] is not on the chunk grid"),
        ({"row": 1 << 62}, "is not on the chunk grid"),
    ],
    ids=str,
)
def test_chunks_outside_the_file_or_the_grid_are_refused(tmp_path, options, change, words):
    refused(record(dataset(tmp_path / "tf.h5", **options), **change), words)


@pytest.mark.parametrize("more", [{}, {"shuffle": True}, {"fletcher32": True}], ids=str)
@pytest.mark.parametrize(
    "content", [b"", bytes(40), bytes(511), bytes(513), bytes(1 << 20)], ids=len
)
def test_inflated_chunks_of_another_size_are_refused(tmp_path, more, content):
    chunk = zlib.compress(content) + (b"abcd" if "fletcher32" in more else b"")
    path = dataset(tmp_path / "tf.h5", chunk, **GZIP, **more)
    refused(path, "decodes wrongly", "expected 51")


@pytest.mark.parametrize("cut", [1, 4, 10])
def test_truncated_streams_are_refused(tmp_path, cut):
    path = dataset(tmp_path / "tf.h5", zlib.compress(bytes(512))[:-cut], **GZIP)
    refused(path, "decodes wrongly")


@pytest.mark.parametrize("options", [GZIP, LZF, {"shuffle": True}, {}], ids=str)
@pytest.mark.parametrize("size", [8, 511, 513, 5000])
def test_unfiltered_chunks_of_another_size_are_refused(tmp_path, options, size):
    """The filter mask of the chunk skips every filter."""
    refused(dataset(tmp_path / "tf.h5", bytes(size), 3, **options), "the chunk at [8, 0]")


@pytest.mark.parametrize(
    "chunk", [b"\x00a", b"\x1f" + bytes(31), b"\x00a\xe0\xff\x05", b"\xe0", b"a"]
)
def test_lzf_chunks_of_another_size_are_refused(tmp_path, chunk):
    refused(dataset(tmp_path / "tf.h5", chunk, **LZF), "decodes wrongly")


def test_the_size_of_an_lzf_stream_is_what_the_library_decodes(tmp_path):
    rng = np.random.default_rng(0)
    for levels in (1, 2, 5, 50):
        array = rng.integers(0, levels, (64, 300)).astype("u1")
        with h5py.File(tmp_path / "x", "w") as file:
            made = file.create_dataset("x", data=array, chunks=array.shape, compression="lzf")
            mask, stored = made.id.read_direct_chunk((0, 0))
        assert mask or _lzf_size(memoryview(stored), array.size) == array.size


def test_filters_that_ask_for_memory_are_refused(tmp_path):
    """LZF allocates what its third option says."""
    path = dataset(tmp_path / "tf.h5", **LZF)
    refused(
        patched(path, struct.pack("<III", 4, 261, 512), struct.pack("<III", 4, 261, 1 << 31)),
        "a filter asks for",
    )


def test_two_compressions_are_refused(tmp_path):
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((8, 16))
    plist.set_deflate(1)
    plist.set_filter(h5py.h5z.FILTER_LZF, h5py.h5z.FLAG_OPTIONAL)
    path = dataset(tmp_path / "tf.h5")
    with h5py.File(path, "r+") as file:
        del file["layer/m/a:0"]
        space = h5py.h5s.create_simple((24, 16))
        h5py.h5d.create(file["layer/m"].id, b"a:0", h5py.h5t.IEEE_F32LE, space, plist).write(
            h5py.h5s.ALL, h5py.h5s.ALL, np.zeros((24, 16), "f4")
        )
    refused(path, "unsupported filters", "not both compressions")


@pytest.mark.parametrize("kind", [0, 1], ids=["links of a group", "chunks of a dataset"])
@pytest.mark.parametrize("target", ["itself", "its child twice", "nothing"])
def test_damaged_trees_are_refused(tmp_path, kind, target):
    """The library follows a circle until its stack is full."""
    names = ["m/a:0", *(f"m/b{number:03}:0" for number in range(300))]
    path = keras_file(tmp_path / "tf.h5", {"layer": dict.fromkeys(names, np.zeros(2, "f4"))})
    with h5py.File(path, "r+") as file:
        del file["layer/m/a:0"]
        file["layer/m"].create_dataset("a:0", data=np.zeros((500, 4), "f4"), chunks=(1, 4))
    data = bytearray(path.read_bytes())
    nodes = [at for at in range(len(data)) if data[at : at + 5] == b"TREE" + bytes([kind])]
    (root,) = (at for at in nodes if data[at + 5] == 1)
    key = 32 if kind else 8
    first, second = root + 24 + key, root + 24 + 2 * key + 8
    child = data[second : second + 8]
    address = {"itself": root.to_bytes(8, "little"), "its child twice": child, "nothing": bytes(8)}
    data[first : first + 8] = address[target]
    path.write_bytes(data)
    with pytest.raises(FormatError, match="damaged B-tree"):
        FORMAT.open(LocalFile(path))
