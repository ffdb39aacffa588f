"""Hostile Keras HDF5 files: chunks, links, other files, names; see `tests.hostile.attacks`."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.formats.valid_files import FILTERS
from tests.hostile.crafted_torch import Attacks, later

NAME = "tf_model.h5"


def _hdf5(directory: Path, fill: Callable[[h5py.Group], object], **options: Any) -> bytes:
    path = directory / NAME
    with h5py.File(path, "w", **options) as file:
        file.attrs["layer_names"] = [b"bert"]
        group = file.create_group("bert")
        group.attrs["weight_names"] = [b"m/bert/a:0"]
        fill(group.create_group("m/bert"))
    return path.read_bytes()


def hdf5_chunks_attacks() -> Attacks:
    """Yield every combination of filters with a false size, place or address of one chunk."""
    sizes = ("size", (0, 1, 3, 5, 1 << 31, (1 << 32) - 1))
    masks = ("mask", (1, 0xFF, 0xFFFFFFFF))
    rows = ("row", (0, 1, 16, 24, 1 << 40, (1 << 64) - 1))
    places = ("address", (0, 8, 96, 1 << 20, 1 << 63, (1 << 64) - 1))
    for number_, filters in enumerate(FILTERS):
        for field, values in (sizes, masks, rows, places):
            for value in values:
                if field == "mask" and number_ == 0:
                    continue  # without filters a mask has no effect
                name = f"filters {number_}, {field} {value:#x}"
                yield name, later(_chunk, filters, field, value)


def _chunk(directory: Path, filters: Mapping[str, Any], field: str, value: int) -> None:
    array = np.arange(24 * 16, dtype=np.float32).reshape(24, 16)
    made: list[Any] = []

    def fill(group: h5py.Group) -> None:
        dataset = group.create_dataset("a:0", data=array, chunks=(8, 16), **filters)
        dataset.file.flush()
        made.append(dataset.id.get_chunk_info(1))

    data = _hdf5(directory, fill)
    info = made[0]
    stored = {"size": info.size, "mask": info.filter_mask, "row": 8, "column": 0, "item": 0}
    stored["address"] = info.byte_offset
    old = struct.pack("<IIQQQQ", *stored.values())
    assert data.count(old) == 1
    new = struct.pack("<IIQQQQ", *{**stored, field: value}.values())
    (directory / NAME).write_bytes(data.replace(old, new))


def hdf5_objects_attacks() -> Attacks:
    """Yield links, other files, virtual datasets, and numbers that no weight has."""
    targets = ("/etc/passwd", "tf_model.h5", "../x.h5", "/dev/zero", "/proc/self/mem", "\x01", "")
    for target in targets:
        yield (
            f"external link to {target!r}",
            _filled(later(h5py.Group.__setitem__, "a:0", h5py.ExternalLink(target or ".", "/a"))),
        )
        for length in (16, 1 << 40, h5py.h5f.UNLIMITED):
            storage = [(target or ".", 0, length)]
            yield (
                f"external storage in {target!r}, {length}",
                _filled(later(h5py.Group.create_dataset, "a:0", (16,), "u1", external=storage)),
            )
        yield f"virtual of {target!r}", _filled(later(_virtual, target))
    links = ("/bert/m/bert/a:0", "/", ".", "/bert", "b", "/bert/m/bert/a:0/" * 50, "../../x", "")
    for link in links:
        yield (
            f"soft link to {link[:40]!r}",
            _filled(later(h5py.Group.__setitem__, "a:0", h5py.SoftLink(link or "none"))),
        )
    for kind in (
        "S5",
        h5py.string_dtype(),
        "V3",
        h5py.ref_dtype,
        h5py.special_dtype(vlen=np.float32),
        "c8",
    ):
        for lengths in ((), (0,), (4,), (1 << 20,)):
            yield (
                f"{kind} of {lengths}",
                _filled(later(h5py.Group.create_dataset, "a:0", lengths, kind)),
            )
    for shape, chunks in itertools.product(
        ((1 << 40,), (1 << 20, 1 << 20), (1 << 60,), (1 << 31, 2)), (None, 1, 1 << 20)
    ):
        size = None if chunks is None else (chunks,) + (1,) * (len(shape) - 1)
        yield (
            f"{shape} in {chunks}",
            _filled(later(h5py.Group.create_dataset, "a:0", shape, "f4", chunks=size)),
        )
    for depth in (2, 100, 2000):
        yield (
            f"group {depth} deep",
            _filled(later(h5py.Group.create_group, "a:0/" + "/".join("g" * depth))),
        )


def _filled(fill: Callable[[h5py.Group], object]) -> Callable[[Path], object]:
    return lambda directory: _hdf5(directory, fill)


def _virtual(group: h5py.Group, target: str) -> None:
    layout = h5py.VirtualLayout((1 << 10, 1 << 10), "f4")
    layout[:] = h5py.VirtualSource(target or ".", "a", (1 << 10, 1 << 10))
    group.create_virtual_dataset("a:0", layout)


def hdf5_names_attacks() -> Attacks:
    """Yield lists of names that lead elsewhere or do not end."""
    names = (
        *(b"..", b".", b"/", b"//", b"../../x", b"/etc/passwd", b"bert", b"a" * 60_000, b"\xff"),
        *(b"", b"m", b"m/bert", b"m/bert/a:0/x", b"m//bert/a:0/", b"\x1b[31m", b"./m/bert/b:0"),
    )
    for name, place in itertools.product(names, ("layer_names", "weight_names")):
        for count in (1, 500):
            yield (f"{place} {name[:20]!r} {count}", _filled(later(_named, place, name, count)))


def _named(group: h5py.Group, place: str, name: bytes, count: int) -> None:
    target = group.file if place == "layer_names" else group.file["bert"]
    del target.attrs[place]
    count = min(count, 60_000 // max(1, len(name)))
    target.attrs[place] = [name] * count if len(name) else np.array([b""] * count, "S1")
