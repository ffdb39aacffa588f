"""Seeded mutations of checkpoint files, and what a reader may do with the result."""

from __future__ import annotations

import io
import json
import random
import re
import zipfile
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from converter.errors import CheckpointError
from converter.formats.base import FileFormat
from converter.formats.file_handle import LocalFile
from converter.formats.registry import detect_format
from tests.formats import tensorflow_checkpoints
from tests.formats.work import work_at_most

UNITS = 80
"""Work that one file may take, see `tests.formats.work`."""
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
    """Return `data` with a few faults.

    Args:
        data: a valid file.
        rng: source of all choices.
        structure: name of the format, whose outer structure is then kept valid every second time,
            so that faults reach the inner parts.

    """
    shell = _SHELLS.get(structure or "")
    if shell is not None and rng.random() < 0.5:
        return shell(data, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_FAULTS)(data, rng)
    return data


@dataclass(frozen=True)
class ValidCheckpoint:
    """A valid checkpoint, of which one file at a time is damaged."""

    file_format: FileFormat
    entry: Path
    """The file to open."""
    parts: Mapping[Path, bytes]
    """Every file → its content."""

    @classmethod
    def of(cls, file_format: FileFormat, entry: Path, *others: Path) -> ValidCheckpoint:
        """Return the checkpoint of existing files."""
        return cls(file_format, entry, {path: path.read_bytes() for path in (entry, *others)})

    def case(self, seed: str) -> tuple[Path, bytes]:
        """Return a file and its damaged content, determined by `seed` alone."""
        rng = random.Random(seed)
        part = self.entry if rng.random() < 0.5 else rng.choice(list(self.parts))
        shell = self.file_format.name if part == self.entry else None
        return part, mutate(self.parts[part], rng, shell)

    def try_out(self, seed: str) -> bool:
        """Read the checkpoint with one damaged file, see `read_all`; then restore the file."""
        part, data = self.case(seed)
        size = sum(map(len, self.parts.values())) + len(data)
        part.write_bytes(data)
        try:
            return read_all(self.file_format, self.entry, size)
        finally:
            if part != self.entry:
                part.write_bytes(self.parts[part])


def examine(file_format: FileFormat, path: Path, data: bytes) -> bool:
    """Read a file of content `data`, see `read_all`."""
    path.write_bytes(data)
    return read_all(file_format, path, len(data))


def read_all(file_format: FileFormat, path: Path, size: int) -> bool:
    """Read a damaged checkpoint, and return whether it could be read.

    Fails unless the outcome is an error of this project or values of the listed shapes, with work
    and memory bounded by the `size` of its files.
    """
    with work_at_most(UNITS):
        return _read_all(file_format, path, size)


def _read_all(file_format: FileFormat, path: Path, size: int) -> bool:
    try:
        assert detect_format(path)
        with file_format.open(LocalFile(path)) as reader:
            for tensor in reader.tensors.values():
                assert tensor.spec.nbytes <= max(size * 64, 1 << 22), tensor.spec
                array = tensor.read()
                assert array.shape == tensor.spec.shape
                if array.ndim and len(array) > 1:
                    assert tensor.read(0, 1).tobytes() == array[1:].tobytes()
        return True
    except CheckpointError as error:
        assert str(path.parent) in str(error), error
        return False


def _place(data: bytes, rng: random.Random) -> int:
    """Return a position, mostly near the start or the end, where headers are."""
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
    places = _places_of_digits(data)
    if not places:
        return data
    place = rng.choice(places)
    digits = rng.choice((b"0", b"9", b"-1", b"1e3", b"99999999999999999999", b"NaN", b"null"))
    return data[:place] + digits + data[place + 1 :]


@lru_cache(maxsize=64)
def _places_of_digits(data: bytes) -> list[int]:
    return [match.start() for match in re.finditer(rb"[0-9]", data)]


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
    """Damage the JSON header of a safetensors file, and correct its length."""
    length = int.from_bytes(data[:8], "little")
    header = mutate(data[8 : 8 + length], rng)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def _in_record(data: bytes, rng: random.Random) -> bytes:
    """Damage one record of a zip archive, and correct its directory and checksums."""
    if not data.startswith(b"PK"):
        return rng.choice(_FAULTS)(data, rng)
    records = _records(data)
    names = list(records)
    chosen = rng.choice((names[0], names[0], names[0], rng.choice(names)))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as new:
        for name, content in records.items():
            info = zipfile.ZipInfo(name)
            new.writestr(info, mutate(content, rng) if name == chosen else content)
    return packed.getvalue()


@lru_cache(maxsize=64)
def _records(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _in_block(data: bytes, rng: random.Random) -> bytes:
    """Damage the entries of a TensorFlow checkpoint's index, and correct its checksums."""
    block = mutate(_first_block(data), rng)
    return tensorflow_checkpoints.table([(b"\xff", block)])


def _in_tree(data: bytes, rng: random.Random) -> bytes:
    """Change numbers of an HDF5 B-tree node, among them sizes, places and addresses of chunks."""
    nodes = [match.start() for match in re.finditer(b"TREE", data)]
    if not nodes:
        return rng.choice(_FAULTS)(data, rng)
    changed, node = bytearray(data), rng.choice(nodes)
    for _ in range(rng.choice((1, 1, 2))):
        width, place = rng.choice((1, 4, 8)), node + rng.randrange(4, 200, 4)
        number = rng.choice((*_EDGES, *nodes, len(data), rng.randrange(len(data))))
        changed[place : place + width] = (number % (1 << 8 * width)).to_bytes(width, "little")
    return bytes(changed)


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Return a JSON document with a few of its values or keys changed."""
    document = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        document = _changed(document, rng)
    return json.dumps(document).encode()


def _changed(value: Any, rng: random.Random) -> Any:
    """`value` with one change, somewhere in it."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return deepcopy(rng.choice(_ODD_VALUES))
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key, what = rng.choice(keys), rng.random()
    if what < 0.15:
        del value[key]
    elif what < 0.25 and isinstance(value, dict):
        value[rng.choice((*keys, "", "model_type", "../x", "é" * 300))] = value.pop(key)
    elif what < 0.3 and isinstance(value, list):
        value.append(deepcopy(value[key]))
    else:
        value[key] = _changed(value[key], rng)
    return value


_ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2**31, 2**63, 10**30, 1e308, -0.5, float("nan"), float("inf")),
    *("", "x", "../../etc/passwd", "/dev/zero", "\0", "\ud800", "9" * 5000, "bert", "[PAD]"),
    *(10**400, -(10**4000), "²", [[[[[[[["x"]]]]]]]], [{"a": 10**400}], "a\n" * 100),
    *([], {}, [[]], [0] * 1000, {"a": {"b": {}}}, {"content": 5}, [None], ["model.safetensors"]),
)

_first_block = lru_cache(maxsize=64)(tensorflow_checkpoints.first_block)

_SHELLS = {
    "safetensors": _in_header,
    "torch": _in_record,
    "tensorflow-checkpoint": _in_block,
    "keras-hdf5": _in_tree,
    "orbax": mutate_json,
}
