"""Hostile torch files: pickles, zip archives, legacy streams; see `tests.hostile.attacks`."""

from __future__ import annotations

import io
import itertools
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.formats.torch_files import KEY, TENSOR, archive, legacy, state

Attacks = Iterator[tuple[str, Callable[[Path], object]]]
"""Names, and what writes the files into a directory that holds a configuration."""
NAME = "pytorch_model.bin"


def bytes_of(name: str, data: bytes) -> Callable[[Path], object]:
    """Return what writes a file."""
    return lambda directory: (directory / name).write_bytes(data)


def later(
    function: Callable[..., object], *arguments: Any, **options: Any
) -> Callable[[Any], object]:
    """Return `function` with all arguments but the first, a directory or group."""
    return lambda place: function(place, *arguments, **options)


def _zip(directory: Path, listing: bytes) -> None:
    archive(directory / NAME, listing)


def _legacy(directory: Path, listing: bytes, tail: bytes | None = None) -> None:
    legacy(directory / NAME, listing, tail)


def torch_bombs_attacks() -> Attacks:
    """Yield pickles that use one large object again and again."""
    call = b"cfoo\nbar\n"
    uses = {
        "unknown call": call + b"h\0R",
        "unknown class": call + b"h\0\x81",
        "keywords": call + b"h\0}\x92",
        "call of an object": call + b")R" + b"h\0R",
        "call of a list": call + b"h\1\x85R",
        "ordered dictionary": b"ccollections\nOrderedDict\nh\1\x85R",
        "default dictionary": b"ccollections\ndefaultdict\nh\1\x85R",
        "set": b"cbuiltins\nset\nh\1\x85R",
        "size": b"ctorch\nSize\nh\0\x85R",
        "size of a list": b"ctorch\nSize\nh\1\x85R",
        "state": call + b")Rh\0b",
        "old instance": b"(" + b"h\0" * 20 + b"ifoo\nbar\n",
        "old object": b"(" + call + b"h\0" * 20 + b"o",
        "frozen set": b"(" + b"h\0" * 20 + b"\x91",
        "items": b"](" + b"h\0" * 20 + b"e",
        "parameter": b"ctorch._utils\n_rebuild_parameter\nh\0R",
        "shape": b"ctorch._utils\n_rebuild_tensor_v2\n(" + TENSOR + b"K\0h\0h\0\x89NtR",
        "subclass": b"ctorch._tensor\n_rebuild_from_type_v2\n("
        + b"ctorch._utils\n_rebuild_tensor_v2\nctorch\nTensor\nh\0}tR",
        "persistent": b"h\0Q",
        "text": b"X" + struct.pack("<I", 4000) + b"x" * 4000,
        "storage": b"(X\7\0\0\0storagectorch\nFloatStorage\nh\2X\3\0\0\0cpuK\4tQ",
    }
    for (name, use), count in itertools.product(uses.items(), (3000, 300_000)):
        large = b"(" + b"K\1" * count + b"tq\0" + b"](" + b"K\1" * count + b"eq\1"
        large += b"X" + struct.pack("<I", count) + b"k" * count + b"q\2"
        times = 400_000 // len(use)
        data = b"\x80\2" + large + b"](" + use * times + b"e0" + state()[2:]
        lists = b"\x80\2" + large + b"}(" + (KEY + use) * times + b"u."
        for form, stream in (("list", data), ("dictionary", lists)):
            case = f"{name}, {count}, {form}"
            yield f"{case}, stored", later(_zip, stream)
        yield f"{name}, {count}, legacy", later(_legacy, data)
        yield f"{name}, {count}, deflated", later(_deflated, data)


def _deflated(directory: Path, listing: bytes) -> None:
    with zipfile.ZipFile(directory / NAME, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", listing)
        file.writestr(zipfile.ZipInfo("archive/data/0"), bytes(16))


def torch_recursion_attacks() -> Attacks:
    """Yield pickles of deep and of circular objects."""
    wraps = {
        "tuple": (b"", b"\x85"),
        "list": (b"](", b"e"),
        "dictionary": (b"}" + KEY, b"s"),
        "ordered": (b"ccollections\nOrderedDict\n(](", b"etR"),
        "unknown": (b"cfoo\nbar\n", b"\x85R"),
        "state": (b"cfoo\nbar\n)R", b"b"),
        "parameter": (b"ctorch._utils\n_rebuild_parameter\n(", b"\x89}tR"),
        "parameter with state": (b"ctorch._utils\n_rebuild_parameter_with_state\n(", b"\x89}}tR"),
        "subclass": (b"ctorch._tensor\n_rebuild_from_type_v2\n(", b"cfoo\nbar\n)}tR"),
        "subclass's arguments": (
            b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_parameter\n"
            b"cfoo\nbar\n",
            b"\x85}tR",
        ),
        "reduced": (b"ccopyreg\n_reconstructor\n(cfoo\nbar\n", b"NtR"),
        "persistent": (b"", b"Q"),
    }
    depths = (50, 1500, 20_000)
    for (name, (before, after)), depth in itertools.product(wraps.items(), depths):
        for kind, core in (("none", b"N"), ("tensor", TENSOR)):
            stream = state(before * depth + core + after * depth)
            yield f"{name}, {depth}, {kind}", later(_without_key, stream)
    circles = {
        "list": b"]q\0h\0a",
        "dictionary": b"}q\0" + KEY + b"h\0s",
        "ordered": b"ccollections\nOrderedDict\n)Rq\0" + KEY + b"h\0s",
        "object": b"cfoo\nbar\n)Rq\0h\0b",
        "two": b"]q\0]q\1h\0a0h\1a",
        "state dict": b"}q\0X\n\0\0\0state_dicth\0s",
        "model": b"}q\0X\5\0\0\0modelh\0s",
    }
    for name, stream in circles.items():
        yield f"circle, {name}", later(_zip, b"\x80\2" + stream + b".")


def _without_key(at: Path, stream: bytes) -> Path:
    """Write a state dict in which the nested value is all there is."""
    return archive(at / NAME, stream.replace(KEY + TENSOR, b""))


def torch_zip_attacks() -> Attacks:
    """Yield archives whose directory, names or sizes are false."""
    good = io.BytesIO()
    names = ("../../x", "/etc/passwd", "archive/../x", "archive/data/../../x", "archive\\x", "\0x")
    with zipfile.ZipFile(good, "w") as file:
        file.writestr("archive/data.pkl", state())
        file.writestr("archive/data/0", bytes(16))
    data = good.getvalue()
    edges = (0, 1, 7, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0xFFFFFFFF)
    fields = {
        "local": (b"PK\3\4", {"flags": 6, "method": 8, "crc": 14, "packed": 18, "size": 22}),
        "name": (b"PK\3\4", {"length": 26, "extra": 28}),
        "entry": (b"PK\1\2", {"flags": 8, "method": 10, "crc": 16, "packed": 20, "size": 24}),
        "lengths": (b"PK\1\2", {"name": 28, "extra": 30, "comment": 32, "disk": 34, "at": 42}),
        "end": (b"PK\5\6", {"disk": 4, "disks": 6, "here": 8, "all": 10, "long": 12, "at": 16}),
    }
    for kind, (signature, places) in fields.items():
        for (field, place), edge in itertools.product(places.items(), edges):
            width = 4 if field in ("crc", "packed", "size", "at", "long") else 2
            at = data.rindex(signature) + place
            new = (edge % (1 << 8 * width)).to_bytes(width, "little")
            if data[at : at + width] != new and field not in ("flags", "disks", "disk"):
                changed = data[:at] + new + data[at + width :]
                yield f"{kind} {field} {edge:#x}", bytes_of(NAME, changed)
    for name in names:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as file:
            file.writestr(zipfile.ZipInfo(name), state())
        yield f"name {name!r}", bytes_of(NAME, packed.getvalue())
    for at in (0, 20, len(data) // 2, len(data) - 30, len(data) - 4):
        yield f"cut at {at}", bytes_of(NAME, data[:at] or b"PK\3\4")
        yield f"doubled at {at}", bytes_of(NAME, data[:at] + data)
    start = data.index(b"PK\1\2")
    for count, tail in itertools.product((1000, 60_000), (b"", b"x" * 200)):
        entries = data[start : data.index(b"PK\1\2", start + 1)] * count
        end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(entries), start, 0)
        yield f"{count} entries, {len(tail)}", bytes_of(NAME, data[:start] + entries + tail + end)
    for count, length, at in itertools.product((2, 1 << 40), (0, 1 << 62), (start, 1 << 63)):
        long = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, at)
        locator = struct.pack("<4sIQI", b"PK\6\7", 0, data.rindex(b"PK\5\6"), 1)
        end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 65535, 65535, *(0xFFFFFFFF,) * 2, 0)
        case = data[: data.rindex(b"PK\5\6")] + long + locator + end
        yield f"zip64 {count} {length} {at}", bytes_of(NAME, case)


def torch_legacy_attacks() -> Attacks:
    """Yield legacy streams whose lists of storages or lengths are false."""
    keys: tuple[Any, ...] = (
        *([], ["0", "0"], ["1"], [["0"]], ["0", "1"], "0", None, {}, ["0"] * 5000, [-1]),
        *(["../x"], ["\0"], [10**300], [("0",)]),
    )
    lengths = (0, 3, 5, 1 << 20, 1 << 40, (1 << 63) - 1, -1, -(1 << 63))
    for key in keys:
        tail = pickle.dumps(key, 2) + struct.pack("<q4f", 4, 1, 2, 3, 4)
        yield f"keys {str(key)[:30]}", later(_legacy, state(), tail)
    for length, cut in itertools.product(lengths, (0, 4, 8, 20)):
        tail = pickle.dumps(["0"], 2) + struct.pack("<q4f", length, 1, 2, 3, 4)[: 24 - cut]
        yield f"{length} numbers, {cut}", later(_legacy, state(), tail)
    magics: tuple[Any, ...] = (0, 1, -1, 1 << 70, 10**30, None, "x", [], {})
    for magic in magics:
        for place in range(2):
            items: list[Any] = [0x1950A86A20F9469CFC6C, 1001, {}]
            items[place] = magic
            data = b"".join(pickle.dumps(item, 2) for item in items) + state()
            yield f"magic {place} {magic}", bytes_of(NAME, data)
    header = io.BytesIO()
    for name in ("storages", "tensors", "pickle", "../x", "/etc/passwd"):
        with tarfile.open(fileobj=header, mode="w") as file:
            file.addfile(tarfile.TarInfo(name))
        yield f"tar of {name}", bytes_of(NAME, header.getvalue())
