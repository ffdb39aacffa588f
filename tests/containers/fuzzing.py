"""Seeded mutations of checkpoint files, and what a reader may do with the result."""

from __future__ import annotations

import io
import os
import random
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import bundles

from converter.containers import Container
from converter.containers.registry import recognise
from converter.errors import CheckpointError

CASES = int(os.environ.get("FUZZ_CASES", "300"))
"""Mutated files per container; 20,000 take about a minute each."""
SECONDS = 2.0
_EDGES = (
    0,
    1,
    2,
    7,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0xFFFFFFFF,
    2**63 - 1,
    2**64 - 1,
)


def mutate(data: bytes, rng: random.Random, structure: str | None = None) -> bytes:
    """`data` with a few faults.

    Args:
        data: a good file.
        rng: decides on everything.
        structure: name of the container, whose outer shell is then kept intact every second time,
            so that faults reach the parts behind it.
    """
    shell = _SHELLS.get(structure or "")
    if shell is not None and rng.random() < 0.5:
        return shell(data, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_FAULTS)(data, rng)
    return data


def examine(container: Container, path: Path, data: bytes) -> bool:
    """Read a mutated file; whether it could be read.

    Fails unless the outcome is an error of this project or values of the listed shapes, in time
    and within the size of the file.
    """
    path.write_bytes(data)
    began = time.monotonic()
    try:
        assert recognise(path)
        with container.open(path) as reader:
            for tensor in reader.tensors.values():
                assert tensor.spec.nbytes <= max(len(data) * 64, 1 << 22), tensor.spec
                whole = tensor.read()
                assert whole.shape == tensor.spec.shape
                if whole.ndim and len(whole) > 1:
                    assert tensor.read(0, 1).tobytes() == whole[1:].tobytes()
        return True
    except CheckpointError as error:
        assert str(path) in str(error), error
        return False
    finally:
        assert time.monotonic() - began < SECONDS


def _place(data: bytes, rng: random.Random) -> int:
    """A position, mostly near the start or the end, where headers lie."""
    where, size = rng.random(), max(1, len(data))
    if where < 0.4:
        return rng.randrange(min(size, 512))
    if where < 0.6:
        return size - 1 - rng.randrange(min(size, 512))
    return rng.randrange(size)


def _flip(data: bytes, rng: random.Random) -> bytes:
    place, changed = _place(data, rng), bytearray(data)
    if changed:
        changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _number(data: bytes, rng: random.Random) -> bytes:
    width, place = rng.choice((1, 2, 4, 8)), _place(data, rng)
    edge = rng.choice((*_EDGES, len(data))) % (1 << 8 * width)
    number = edge.to_bytes(width, rng.choice(("little", "big")))
    return data[:place] + number + data[place + width :]


def _digit(data: bytes, rng: random.Random) -> bytes:
    places = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    if not places:
        return data
    place = rng.choice(places)
    digits = rng.choice((b"0", b"9", b"-1", b"1e3", b"99999999999999999999", b"NaN", b"null"))
    return data[:place] + digits + data[place + 1 :]


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: _place(data, rng)]


def _remove(data: bytes, rng: random.Random) -> bytes:
    place = _place(data, rng)
    return data[:place] + data[place + rng.randrange(1, 64) :]


def _insert(data: bytes, rng: random.Random) -> bytes:
    place = _place(data, rng)
    return data[:place] + rng.randbytes(rng.randrange(1, 32)) + data[place:]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    place, length = _place(data, rng), rng.randrange(1, 128)
    chunk = data[place : place + length]
    return data[:place] + chunk * rng.choice((2, 2, 50)) + data[place + length :]


def _swap(data: bytes, rng: random.Random) -> bytes:
    a, b = sorted((_place(data, rng), _place(data, rng)))
    length = min(rng.randrange(1, 32), b - a, len(data) - b)
    first, second = data[a : a + length], data[b : b + length]
    return data[:a] + second + data[a + length : b] + first + data[b + length :]


_FAULTS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip,
    _flip,
    _number,
    _number,
    _digit,
    _cut,
    _remove,
    _insert,
    _repeat,
    _swap,
)


def _in_header(data: bytes, rng: random.Random) -> bytes:
    """A fault in the JSON header of a safetensors file whose length is right again."""
    length = int.from_bytes(data[:8], "little")
    header = mutate(data[8 : 8 + length], rng)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def _in_record(data: bytes, rng: random.Random) -> bytes:
    """A fault in one record of a zip archive whose directory and checksums are right again."""
    if not data.startswith(b"PK"):
        return rng.choice(_FAULTS)(data, rng)
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(packed, "w") as new:
        names = old.namelist()
        chosen = rng.choice((names[0], names[0], names[0], rng.choice(names)))
        for name in names:
            content = old.read(name)
            new.writestr(name, mutate(content, rng) if name == chosen else content)
    return packed.getvalue()


def _in_block(data: bytes, rng: random.Random) -> bytes:
    """A fault in the entries of a TensorFlow bundle's index whose checksums are right again."""
    block = mutate(bundles.first_block(data), rng)
    return bundles.table([(b"\xff", block)])


_SHELLS = {"safetensors": _in_header, "torch": _in_record, "tf-bundle": _in_block}
