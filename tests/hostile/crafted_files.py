"""Hostile msgpack, safetensors, TensorFlow, Orbax files; see `tests.hostile.attacks`."""

from __future__ import annotations

import itertools
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from tests.formats.tensorflow_checkpoints import (
    HEADER,
    block,
    entry,
    message,
    number,
    table,
    varint,
)
from tests.hostile.crafted_torch import Attacks, bytes_of, later

FLAX, SAFE = "flax_model.msgpack", "model.safetensors"


# msgpack


def msgpack_attacks() -> Attacks:
    """Yield nesting, counts, lengths, extension types and keys that no Flax file has."""
    pack: Callable[[object], bytes] = msgpack.packb
    opens = {
        "map": b"\x81\xa1a",
        "list": b"\x91",
        "map16": b"\xde\0\1\xa1a",
        "list32": b"\xdd\0\0\0\1",
    }
    for (name, opening), depth in itertools.product(opens.items(), (33, 1000, 300_000)):
        data = b"\x81\xa1a" + opening * depth + b"\xc0"
        yield f"{name} {depth} deep", bytes_of(FLAX, data)
    for code, width in (
        (0xDE, 2),
        (0xDF, 4),
        (0xDC, 2),
        (0xDD, 4),
        (0xC4, 1),
        (0xC5, 2),
        (0xC6, 4),
    ):
        for count in (1, (1 << 8 * width) - 1):
            data = b"\x81\xa1a" + bytes([code]) + count.to_bytes(width, "big")
            yield f"code {code:#x} of {count}", bytes_of(FLAX, data)
    for code, width in ((0xC7, 1), (0xC8, 2), (0xC9, 4), (0xD9, 1), (0xDA, 2), (0xDB, 4)):
        for count in (1, (1 << 8 * width) - 1):
            data = b"\x81\xa1a" + bytes([code]) + count.to_bytes(width, "big") + b"\1"
            yield f"code {code:#x} of {count}", bytes_of(FLAX, data)
    arrays: tuple[Any, ...] = (
        *(((1 << 40, 4), "float32", b""), ((-1,), "float32", b""), ((2,), "float32", b"1234")),
        *(
            ((2,), "object", b"12345678"),
            ((2,), "O", b""),
            ((2,), "V8", bytes(16)),
            ((2,), "x", b""),
        ),
        *(((1,) * 99, "float32", bytes(4)), ((0, 1 << 62), "float32", b""), ((), "float32", b"")),
        *(
            (2, "float32", b""),
            (("2",), "float32", bytes(8)),
            ((2,), 5, bytes(8)),
            ((2,), "U4", b""),
        ),
        *(((2,), "float32"), (), ((2,), "float32", bytes(8), 1), ((2,), "float32", [1, 2]), None),
        *(
            ((2**63,), "float32", b""),
            ((2.0,), "float32", bytes(8)),
            ((True,), "float32", bytes(4)),
        ),
    )
    for number_, array in enumerate(arrays):
        for code in (1, 3):
            data = pack({"a": msgpack.ExtType(code, pack(array))})
            yield f"array {number_} as {code}", bytes_of(FLAX, data)
    for code in (0, 2, 4, 50, 127, -1 & 0x7F):
        data = pack({"a": msgpack.ExtType(code, b"x" * 20)})
        yield f"extension {code}", bytes_of(FLAX, data)
    chunked = {"__msgpack_chunked_array__": True, "shape": {"0": 4}, "chunks": {}}
    values: tuple[Any, ...] = (
        {},
        {"0": 1 << 62},
        {"0": -1},
        {"x": 1},
        [],
        None,
        7,
        {"1": 4},
        {"0": {"0": 4}},
    )
    for field, value in itertools.product(("shape", "chunks", "__msgpack_chunked_array__"), values):
        data = pack({"a": {**chunked, field: value}})
        yield f"chunks with {field} {value}", bytes_of(FLAX, data)


# safetensors


def safetensors_attacks() -> Attacks:
    """Yield headers with false offsets, shapes, dtypes, names and lengths."""

    def file(header: object, rest: int = 64, length: int | None = None) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        size = len(text) if length is None else length
        return struct.pack("<Q", size % (1 << 64)) + text + bytes(rest)

    def one(**changes: object) -> dict[str, object]:
        return {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **changes}}

    offsets: tuple[Any, ...] = (
        *(
            [0, 15],
            [0, 17],
            [-16, 0],
            [16, 0],
            [60, 76],
            [1 << 62, (1 << 62) + 16],
            [0],
            [0, 16, 32],
        ),
        *([0.0, 16.0], ["0", "16"], None, {}, [True, 16], [0, 10**400], [[0], [16]], [0, None]),
    )
    for value in offsets:
        yield f"offsets {str(value)[:30]}", bytes_of(SAFE, file(one(data_offsets=value)))
    shapes: tuple[Any, ...] = (
        *(
            [5],
            [-4],
            [-2, -2],
            [1 << 62],
            [1 << 40, 1 << 40],
            [0],
            [4] * 99,
            "4",
            None,
            [4.0],
            [[4]],
        ),
        *([True] * 4, {}, [10**400], [0, 1 << 63], [1 << 64, 0]),
    )
    for value in shapes:
        yield f"shape {str(value)[:30]}", bytes_of(SAFE, file(one(shape=value)))
    dtypes: tuple[Any, ...] = (
        *("F31", "", None, 5, [], "f32", "F" * 9000, "\x1b[31m", "O", "F32\0"),
    )
    for dtype in dtypes:
        yield f"dtype {str(dtype)[:20]!r}", bytes_of(SAFE, file(one(dtype=dtype)))
    for second in ([0, 16], [8, 24], [15, 31], [17, 33], [1, 17], [48, 64]):
        entries = one() | {"b": one(data_offsets=second)["a"]}
        yield f"second at {second}", bytes_of(SAFE, file(entries, max(32, second[1])))
    for rest in (0, 15, 17, 4000):
        yield f"{rest} bytes", bytes_of(SAFE, file(one(), rest))
    for length in (0, 1, 1 << 20, 100_000_001, 1 << 31, 1 << 62, 1 << 63, -1):
        yield f"length {length}", bytes_of(SAFE, file(one(), 16, length))
    texts = (
        *(
            b"",
            b"{",
            b"[]",
            b"null",
            b"5",
            b'"a"',
            b"{}{}",
            b'{"a":1}',
            b'{"a":null}',
            b"\xff\xfe{}",
        ),
        *(
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b'{"a":{"b":' * 50_000,
            b"\0" * 10_000,
            b"9" * 10_000,
        ),
        *(b'{"a":NaN}', b'{"\\ud800":{}}', b'{"a":{},"a":{}}', b'{"__metadata__":5}', b"{'a':1}"),
        *(
            b'{"__metadata__":{"a":[]}}',
            b'{"a":' + b"9" * 5000 + b"}",
            b'{"a"',
            b'{"a":tru}',
            b"{,}",
        ),
        *(b'{"' + b"a" * 200_000 + b'":1}', b"{" + b'"a":1,' * 50_000 + b'"b":1}'),
    )
    for text in texts:
        yield f"header {text[:20]!r} {len(text)}", bytes_of(SAFE, file(text))


# TensorFlow checkpoints


def tensorflow_attacks() -> Attacks:
    """Yield indexes of false blocks, keys, slices, shapes and places."""

    def write(index: bytes, data: bytes = bytes(64)) -> Callable[[Path], object]:
        def make(at: Path) -> None:
            (at / "model.ckpt.index").write_bytes(index)
            (at / "model.ckpt.data-00000-of-00001").write_bytes(data)

        return make

    def of(*entries: tuple[bytes, bytes]) -> bytes:
        return table([(b"\xff", block([(b"", HEADER), *entries]))])

    edges = (-1, 1, 17, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63))
    for field, edge in itertools.product(("shape", "shard", "offset", "size"), edges):
        given: dict[str, Any] = {"shape": (4,), "size": 16, field: edge}
        if field == "shape":
            given["shape"] = (edge,)
        yield f"{field} {edge}", write(of((b"w", entry(1, **given))))
    for dtype in (0, 7, 20, 21, 27, 99, 101, -1, 1 << 31):
        yield f"dtype {dtype}", write(of((b"w", entry(dtype, (4,), size=16))))
    for count, prefix in itertools.product((10, 3000, 40_000), (b"\0", b"w", b"\0\1\2")):
        keys = sorted(prefix + b"%06d" % each for each in range(count))
        for kind, value in (
            ("pieces", message(7, b"")),
            ("slices", message(7, message(1, b"")) * 9),
        ):
            stored = entry(1, (4,), size=16, more=value)
            yield f"{count} {kind} of {prefix!r}", write(of(*((key, stored) for key in keys)))
    for count in (100, 10_000, 300_000):
        stored = entry(1, (4,), size=16, more=message(7, b"") * count)
        yield f"a tensor of {count} slices", write(of((b"w", stored)))
        axes = entry(1, (), size=16, more=message(2, message(2, b"") * count))
        yield f"{count} axes", write(of((b"w", axes)))
        unknown = entry(1, (4,), size=16, more=number(99, 1) * count)
        yield f"{count} unknown fields", write(of((b"v", b""), (b"w", unknown)))
    body = block([(b"", HEADER), (b"w", entry(1, (4,), size=16))])
    for at, byte in itertools.product(range(0, len(body), 3), (0x7F, 0xFF)):
        changed = body[:at] + bytes([byte]) + body[at + 1 :]
        if changed != body:
            yield f"block {at} {byte:#x}", write(table([(b"\xff", changed)]), b"")
    for compression in (1, 2, 255):
        yield f"compression {compression}", write(table([(b"\xff", body)], compression))
    for count in (2, 500):
        yield f"a block {count} times", write(table([(b"\xff", body)] * count))
    good = table([(b"\xff", body)])
    for handle in (0, 1, 1 << 31, 1 << 62, len(good), len(good) - 48):
        footer = (varint(handle) * 2 + varint(handle) * 2).ljust(40, b"\0")[:40]
        yield f"footer {handle}", write(good[:-48] + footer + good[-8:])
    for cut in (1, 9, 48, 60, len(good) - 60):
        yield f"cut by {cut}", write(good[:-cut])
    for length in (0, 15, 1):
        yield f"data of {length} bytes", write(of((b"w", entry(1, (4,), size=16))), bytes(length))


# What is no checkpoint


def unknown_attacks() -> Attacks:
    """Yield files of one byte, and starts of other formats that end early or go on with noise."""
    for byte in range(256):
        yield f"byte {byte:#x}", bytes_of(FLAX, bytes([byte]))
    starts = (
        *(b"PK\3\4", b"PK\5\6", b"\x1f\x8b\x08", b"\x89HDF\r\n\x1a\n", b"GGUF", b"\x80\2", b"BZh9"),
        *(
            b"\x08\x07\x12",
            b"\x93NUMPY\1\0",
            b"\xfd7zXZ\0",
            b"Rar!\x1a\x07",
            b"7z\xbc\xaf",
            b"<!DOCTYPE",
        ),
        *(
            b"version https://git-lfs.github.com/spec/v1\n",
            b'{"tree_metadata"',
            b"\x28\xb5\x2f\xfd",
        ),
    )
    for start, length in itertools.product(starts, (1, 2, 300, 100_000)):
        for fill in (b"\0", b"\xff", b"0", b"\x1b["):
            tail = (fill * length)[:length]
            yield f"{start[:9]!r} and {length} of {fill!r}", bytes_of(FLAX, start + tail)
        yield f"{length} of {start[:9]!r}", bytes_of(FLAX, start[:length])


# Orbax


def orbax_attacks() -> Attacks:
    """Yield names, links, special files and layouts that lead out of the directory or do not end.

    Raise ImportError if TensorStore, which writes the valid part, is not installed.
    """
    import tensorstore  # noqa: F401

    keys: tuple[Any, ...] = (
        "..",
        ".",
        "...",
        "/etc",
        "../x",
        "a/../../x",
        "\0",
        "",
        "a" * 300,
        "a\n",
        5,
        None,
        [],
    )
    for ocdbt, key in itertools.product((False, True), keys):
        yield f"key {str(key)[:20]!r}, {ocdbt}", later(_with_key, ocdbt, key)
    targets = ("/etc/passwd", "/dev/zero", "/etc", "..", "/proc/self/mem", "_METADATA", "x" * 200)
    files = ("params.a", "params.a/.zarray", "params.a/0.0", "params.b/1.0")
    shared = ("manifest.ocdbt", "d")
    for target, kind in itertools.product((*targets, "pipe", "directory", "empty"), range(6)):
        name = (*files, *shared)[kind]
        yield f"{name} is {target[:20]}", later(_replaced, name, target)
    layouts: dict[str, tuple[Any, ...]] = {
        "shape": (
            [1 << 40, 4],
            [-1, 4],
            [5],
            [5] * 40,
            "5",
            [1 << 62, 1 << 62],
            None,
            [0, 4],
            [5.5],
        ),
        "chunks": (
            [1 << 40, 4],
            [1 << 31, 1 << 31],
            [0, 4],
            [-3, 4],
            [3],
            None,
            [1 << 62, 1 << 62],
        ),
        "dtype": (
            "|O",
            "<f3",
            ">f4",
            "|S1000000000",
            "<U4",
            [["a", "<f4"]],
            None,
            "<f4" * 99,
            "|V9",
        ),
        "compressor": (
            *({"id": "blosc", "cname": "lz4"}, {"id": "zlib", "level": 99}, {"id": "x"}, "x", 5),
            *({"id": "gzip"}, {"id": "bz2"}, {"id": "zstd", "level": 10**9}),
        ),
        "dimension_separator": ("/", "..", 5, "../"),
        "fill_value": ("x", [], {}, "NaN", 10**400, "A" * 99),
        "order": ("F", "x", 5),
        "filters": ([{"id": "delta"}], "x", [[]]),
        "zarr_format": (1, 3, "2", 10**30),
    }
    for field, values in layouts.items():
        for value in values:
            case = f"{field} {str(value)[:30]}"
            yield case, later(_with_layout, field, value)
    for text in (b"", b"{}", b"[" * 100_000, b"\xff", b'{"shape":' * 9999, b"null"):
        yield f"layout {text[:9]!r}", later(_replaced, "params.a/.zarray", text)
        yield f"manifest {text[:9]!r}", later(_replaced, "manifest.ocdbt", text)
        yield f"chunk {text[:9]!r}", later(_replaced, "params.a/0.0", text)
    for prefix in ("../", "..", "//", "/t", "./", "d\0", "\xff\xff"):
        yield f"data in {prefix!r}", later(move_data, prefix.encode("latin-1"))


def write_orbax(at: Path, ocdbt: bool, **config: Any) -> None:
    """Write arrays of (5, 4) numbers as ``params.a`` and ``params.b`` with TensorStore."""
    import tensorstore

    for name in ("a", "b"):
        store = {"driver": "ocdbt", "base": f"file://{at}/", "path": f"params.{name}/", **config}
        if not ocdbt:
            store = {"driver": "file", "path": f"{at}/params.{name}/"}
        compressor = {"id": "zstd", "level": 1} if name == "a" else None
        layout = {"dtype": "<f4", "shape": [5, 4], "chunks": [3, 4], "compressor": compressor}
        spec = {"driver": "zarr", "kvstore": store, "metadata": layout}
        array = np.arange(1, 21, dtype=np.float32).reshape(5, 4)
        tensorstore.open(spec, create=True).result().write(array).result()
    write_listing(at, ocdbt, "a", "b")


def write_listing(at: Path, ocdbt: bool, *names: object) -> None:
    """Write the ``_METADATA`` of arrays below ``params``."""
    tree = {}
    for number_, name in enumerate(names):
        keys = [{"key": key, "key_type": 2} for key in ("params", name)]
        value = {"value_type": "jax.Array", "skip_deserialize": False}
        tree[str(number_)] = {"key_metadata": keys, "value_metadata": value}
    listing = {"tree_metadata": tree, "use_ocdbt": ocdbt, "use_zarr3": False}
    listing["store_array_data_equal_to_fill_value"] = True
    (at / "_METADATA").write_text(json.dumps(listing))


def _with_key(at: Path, ocdbt: bool, key: object) -> None:
    write_orbax(at, ocdbt)
    write_listing(at, ocdbt, key)


def _replaced(at: Path, name: str, target: str | bytes) -> None:
    """Put a link, a special file or other content in place of a file or directory."""
    write_orbax(at, name in ("manifest.ocdbt", "d"))
    path = at / name
    if path.is_dir():
        path.rename(at.parent / f"moved-{os.urandom(4).hex()}")
    else:
        path.unlink()
    if isinstance(target, bytes):
        path.write_bytes(target)
    elif target == "pipe":
        os.mkfifo(path)
    elif target == "directory":
        path.mkdir()
    elif target == "empty":
        path.touch()
    else:
        path.symlink_to(target)


def _with_layout(at: Path, field: str, value: object) -> None:
    write_orbax(at, False)
    path = at / "params.a" / ".zarray"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))


def move_data(at: Path, prefix: bytes) -> None:
    """Write an OCDBT store whose manifest, uncompressed, has `prefix` in place of ``d/``.

    The files are where it says, so that it would read if that were allowed.
    """
    import google_crc32c

    write_orbax(at, True, config={"compression": None, "max_inline_value_bytes": 0})
    manifest = at / "manifest.ocdbt"
    data = manifest.read_bytes()[:-4]
    files = sorted((at / "d").iterdir())
    assert data.count(b"d/") == 1  # the paths after the first lack what they share with it
    data = data.replace(b"d/", prefix[:2])
    for file in files:
        old = file.name.encode()
        new = prefix[2:] + old[len(prefix) - 2 :]
        data = data.replace(old, new)
        if b"\0" not in prefix and not prefix.startswith(b"/"):
            path = at / os.fsdecode(prefix[:2] + new)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(file.read_bytes())
    manifest.write_bytes(data + struct.pack("<I", google_crc32c.value(data)))
