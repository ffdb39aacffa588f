"""Hostile torch files: nothing runs, nothing explodes, and every lie is found. Needs no torch."""

from __future__ import annotations

import copyreg
import pickle
import struct
import sys
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest
from writing import values, write

from converter.containers.files import LocalFile
from converter.containers.torch import CONTAINER
from converter.containers.torch_objects import Tensor, TorchBuilder
from converter.containers.torch_pickle import unpickle
from converter.containers.torch_source import ByteSource
from converter.containers.torch_values import Global, Opaque, Pairs
from converter.errors import FormatError
from converter.tensors import TensorSpec

TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloatStorage\n"
    b"X\1\0\0\0000X\3\0\0\0cpuK\4tQK\0(K\4t(K\1t\x89NtR"
)
"""Operations that push four numbers of storage 0."""
KEY = b"X\1\0\0\0w"


def archive(path: Path, listing: bytes, **storages: bytes) -> Path:
    """A torch archive of that pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", listing)
        for key, data in (storages or {"0": bytes(16)}).items():
            file.writestr(f"archive/data/{key.strip('_')}", data)
    return path


def legacy(path: Path, listing: bytes, tail: bytes | None = None) -> Path:
    """A stream of torch's older form."""
    head = b"".join(pickle.dumps(item, 2) for item in (0x1950A86A20F9469CFC6C, 1001, {}))
    if tail is None:
        tail = pickle.dumps(["0"], 2) + struct.pack("<q4f", 4, 1, 2, 3, 4)
    path.write_bytes(head + listing + tail)
    return path


def state(*operations: bytes) -> bytes:
    """A pickled dictionary with the tensor ``w`` and what `operations` push as values."""
    items = b"".join(b"X\1\0\0\0" + bytes([97 + n]) + code for n, code in enumerate(operations))
    return b"\x80\2}(" + items + KEY + TENSOR + b"u."


def load(data: bytes) -> object:
    source = ByteSource(Path("file"), lambda at, n: data[at : at + n], 0, len(data))
    return unpickle(source, TorchBuilder())


def test_the_helper_makes_a_readable_file(tmp_path: Path):
    for path in (archive(tmp_path / "zip", state()), legacy(tmp_path / "old", state())):
        with CONTAINER.open(LocalFile(path)) as reader:
            assert reader.tensors["w"].read().shape == (4,)
    with CONTAINER.open(LocalFile(tmp_path / "old")) as reader:
        assert reader.tensors["w"].read().tolist() == [1, 2, 3, 4]


BOMB = "bomb_for_tests"
NAME, GO = BOMB.encode(), b"c" + BOMB.encode() + b"\ngo\n"
TEXT = {name: b"X" + struct.pack("<I", len(name)) + name for name in (NAME, b"go", b"Victim")}
GADGETS = {
    "import": GO,
    "import from the stack": TEXT[NAME] + TEXT[b"go"] + b"\x93",
    "REDUCE": GO + b")R",
    "REDUCE of a stack global": TEXT[NAME] + TEXT[b"go"] + b"\x93)R",
    "INST": b"(i" + NAME + b"\ngo\n",
    "OBJ": b"(" + GO + b"o",
    "NEWOBJ": b"c" + NAME + b"\nVictim\n)\x81",
    "NEWOBJ_EX": b"c" + NAME + b"\nVictim\n)}\x92",
    "BUILD": b"c" + NAME + b"\nVictim\n)\x81}b",
    "BUILD of a class": b"c" + NAME + b"\nVictim\n)RKAb",
    "EXT1": b"\x82\xf1",
    "EXT2": b"\x83\xf1\x00",
    "EXT4": b"\x84\xf1\x00\x00\x00",
    "EXT1 called": b"\x82\xf1)R",
    "getattr": b"cbuiltins\ngetattr\n(" + GO[:-3] + b"Victim\n" + TEXT[b"go"] + b"tR)R",
    "exec": b"cbuiltins\nexec\n(X"
    + struct.pack("<I", len(BOMB) + 11)
    + f"import {BOMB} #hi".encode()
    + b"tR",
    "copyreg": b"ccopyreg\n_reconstructor\n(c" + NAME + b"\nVictim\ncbuiltins\nobject\nNtR",
    "wrapped parameter": b"ctorch._utils\n_rebuild_parameter\n(" + GO + b")R\x89NtR",
    "wrapped type": b"ctorch._tensor\n_rebuild_from_type_v2\n(" + GO + b"ctorch\nTensor\n)NtR",
}


@pytest.fixture
def bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A module that leaves a crater when it is imported or used."""
    crater = tmp_path / "crater"
    code = f"""
import pathlib
pathlib.Path({str(crater)!r}).touch()
def go(*args): return 1
class Victim:
    go = go
"""
    (tmp_path / f"{BOMB}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    copyreg.add_extension(BOMB, "go", 0xF1)
    yield crater
    copyreg.remove_extension(BOMB, "go", 0xF1)
    sys.modules.pop(BOMB, None)


@pytest.mark.parametrize("gadget", GADGETS)
def test_no_operation_runs_anything(gadget: str, bomb: Path, tmp_path: Path):
    code = GADGETS[gadget]
    places = {
        "value": state(code),
        "root": b"\x80\2" + code + b".",
        "key": b"\x80\2}(" + code + b"N" + KEY + TENSOR + b"u.",
        "persistent id": b"\x80\2(X\7\0\0\0storage" + code + KEY + KEY + b"K\4tQ.",
        "popped": b"\x80\2" + code + b"0" + state()[2:],
    }
    for data in places.values():
        for path in (archive(tmp_path / "zip", data), legacy(tmp_path / "old", data)):
            try:
                with CONTAINER.open(LocalFile(path)) as reader:
                    assert list(reader.tensors) == ["w"]
                    reader.tensors["w"].read()
            except FormatError:
                pass
            path.unlink()
    assert not bomb.exists() and BOMB not in sys.modules
    if not gadget.startswith("wrapped"):  # these need torch to explode
        with pytest.raises(Exception) if "of a class" in gadget else _nothing():
            pickle.loads(b"\x80\2" + code + b".")
        assert bomb.exists()  # Python's own unpickler does run it


class _nothing:  # noqa: N801
    def __enter__(self) -> None: ...
    def __exit__(self, *exc: object) -> None: ...


REFUSED_OPERATIONS = {
    "PERSID": b"Pstorage\n",
    "EXT1": b"\x82\1",
    "NEXT_BUFFER": b"\x97",
    "READONLY_BUFFER": b"N\x98",
    "unknown": b"\xff",
    "protocol 6": b"\x80\6",
    "memo": b"h\5",
    "no mark": b"t",
    "empty stack": b"0" * 9,
    "call of a number": b"K\1)R",
    "arguments no tuple": GO + b"]R",
    "state for a list": b"]}b",
    "items for a tuple": b")K\1a",
    "items for a number": b"K\1K\1K\1s",
    "odd items": b"}(K\1u",
    "mark as value": b"((\x85",
    "name no text": b"K\1K\2\x93",
    "endless line": b"c" + b"a" * 5000 + b"\n\n",
    "long text": b"\x8d" + b"\xff" * 8,
    "long bytes": b"\x8e" + struct.pack("<Q", 1 << 40),
    "long integer": b"\x8b" + struct.pack("<I", 1 << 20) + b"\1" * (1 << 20),
    "long digits": b"I" + b"9" * 4000 + b"\n",
    "no digits": b"Iabc\n",
    "bad UTF-8": b"X\1\0\0\0\xff",
    "huge memo": b"Np" + b"9" * 30 + b"\n",
    "persistent text": b"X\1\0\0\0aQ",
    "persistent nothing": b")Q",
    "persistent half": b"(X\7\0\0\0storageNtQ",
}


@pytest.mark.parametrize("case", REFUSED_OPERATIONS)
def test_senseless_operations_are_refused(case: str, tmp_path: Path):
    data = state(REFUSED_OPERATIONS[case])
    for path in (archive(tmp_path / "zip", data), legacy(tmp_path / "old", data)):
        with pytest.raises(FormatError, match="pickle") as caught:
            CONTAINER.open(LocalFile(path))
        assert len(str(caught.value)) < 1000


def rebuilt(
    kind: bytes = b"ctorch\nFloatStorage\n",
    key: bytes = b"X\1\0\0\0000",
    numel: bytes = b"K\4",
    offset: bytes = b"K\0",
    shape: bytes = b"(K\4t",
    strides: bytes = b"(K\1t",
    function: bytes = b"_rebuild_tensor_v2",
) -> bytes:
    """Operations that push a tensor, right but for what is given."""
    storage = b"(X\7\0\0\0storage" + kind + key + b"X\3\0\0\0cpu" + numel + b"tQ"
    call = b"ctorch._utils\n" + function + b"\n("
    return call + storage + offset + shape + strides + b"\x89NtR"


def tensor(*args: bytes, **parts: bytes) -> bytes:
    """A pickled dictionary with one such tensor."""
    return b"\x80\2}" + KEY + rebuilt(*args, **parts) + b"s."


def long(value: int) -> bytes:
    return b"\x8a\x0a" + value.to_bytes(10, "little", signed=True)


LIES = {
    "unknown storage": tensor(b"ctorch\nQInt8Storage\n"),
    "foreign storage": tensor(b"cevil\nFloatStorage\n"),
    "storage no class": tensor(b"N"),
    "missing storage": tensor(key=b"X\1\0\0\0009"),
    "path as key": tensor(key=b"X\x0b\0\0\0../data.pkl"),
    "key no text": tensor(key=b"N"),
    "storage too short": tensor(numel=b"K\5", shape=b"(K\5t"),
    "storage too long": tensor(numel=b"K\3", shape=b"(K\3t"),
    "storage below zero": tensor(numel=long(-4)),
    "huge storage": tensor(numel=long(1 << 62), shape=b"(" + long(1 << 62) + b"t"),
    "beyond the storage": tensor(shape=b"(K\5t"),
    "offset beyond": tensor(offset=b"K\1"),
    "huge offset": tensor(offset=long(1 << 63)),
    "offset below zero": tensor(offset=long(-1)),
    "offset no number": tensor(offset=b"N"),
    "offset true": tensor(offset=b"\x88"),
    "stride beyond": tensor(strides=b"(K\2t"),
    "stride below zero": tensor(strides=b"(" + long(-1) + b"t"),
    "huge stride": tensor(strides=b"(" + long((1 << 64) - 3) + b"t"),
    "strides missing": tensor(strides=b")"),
    "length below zero": tensor(shape=b"(" + long(-4) + b"t"),
    "shape no tuple": tensor(shape=b"K\4"),
    "shape of text": tensor(shape=b"(" + KEY + b"t"),
    "many axes": tensor(shape=b"(" + b"K\1" * 40 + b"t", strides=b"(" + b"K\0" * 40 + b"t"),
    "repeated": tensor(shape=b"(" + long(1 << 40) + b"t", strides=b"(K\0t"),
    "repeated often": tensor(shape=b"(" + long(1 << 32) * 2 + b"t", strides=b"(K\0K\0t"),
    "unknown rebuild": tensor(function=b"_rebuild_anything"),
    "few arguments": b"\x80\2}" + KEY + b"ctorch._utils\n_rebuild_tensor_v2\n)Rs.",
    "storage in two forms": tensor()[:-1] + b"X\1\0\0\0x" + rebuilt(numel=b"K\3") + b"s.",
}


@pytest.mark.parametrize("case", LIES)
def test_lying_tensors_are_refused(case: str, tmp_path: Path):
    with CONTAINER.open(LocalFile(archive(tmp_path / "good", tensor()))) as reader:
        assert reader.tensors["w"].spec.shape == (4,)
    for path in (archive(tmp_path / "zip", LIES[case]), legacy(tmp_path / "old", LIES[case])):
        with pytest.raises(FormatError):
            CONTAINER.open(LocalFile(path))


BOMBS = {
    "operations": b"\x80\2" + b"N" * 5_000_000 + b".",
    "lists": b"\x80\2" + b"]" * 5_000_000 + b".",
    "marks": b"\x80\2" + b"(" * 5_000_000 + b".",
    "doubling": b"\x80\2]q\0" + b"(h\0h\0lq\0" * 200_000 + b"0" + state()[2:],
    "doubled tensors": b"\x80\2" + TENSOR + b"q\0" + b"0(h\0h\0lq\0" * 64 + b"0}" + KEY + b"h\0s.",
    "doubled names": b"\x80\2"
    + TENSOR
    + b"q\0"
    + b"0(h\0h\0lq\0" * 50
    + b"0}"
    + (b"X" + struct.pack("<I", 1 << 20) + b"n" * (1 << 20))
    + b"h\0s.",
    "tuples as keys": b"\x80\2)q\0" + b"0h\0h\0\x86q\0" * 100 + b"0}h\0Ns.",
    "deep key": b"\x80\2)" + b"\x85" * 1_000_000 + b"q\0}h\0Ns.",
    "cycle": b"\x80\2}q\0" + KEY + b"h\0s" + b"X\1\0\0\0x" + TENSOR + b"s.",
    "deep lists": b"\x80\2]" + b"q\0](h\0e" * 200_000 + b"q\1}" + KEY + b"h\1s.",
    "integers that collide": b"\x80\2}("
    + b"".join(long(n * (2**61 - 1)) + b"N" for n in range(50_000))
    + b"u.",
}


@pytest.mark.parametrize("case", BOMBS)
def test_bombs_take_neither_time_nor_memory(case: str, tmp_path: Path):
    path = archive(tmp_path / "zip", BOMBS[case])
    began = time.process_time()
    try:
        with CONTAINER.open(LocalFile(path)) as reader:
            assert len(reader.tensors) < 3
    except FormatError:
        pass
    assert time.process_time() - began < 5


def test_a_compressed_bomb_is_not_unpacked(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\x80\2" + b"N" * 300_000_000)
    tracemalloc.start()
    with pytest.raises(FormatError, match="too long"):
        CONTAINER.open(LocalFile(tmp_path / "bomb"))
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_compressed_listings_are_read_and_compressed_storages_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "listing", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", state())
        file.writestr("archive/data/0", bytes(16), zipfile.ZIP_STORED)
    with CONTAINER.open(LocalFile(tmp_path / "listing")) as reader:
        assert reader.tensors["w"].read().tolist() == [0] * 4
    with zipfile.ZipFile(tmp_path / "storage", "w") as file:
        file.writestr("archive/data.pkl", state())
        file.writestr("archive/data/0", bytes(16), zipfile.ZIP_DEFLATED)
    with pytest.raises(FormatError, match="compressed storage"):
        CONTAINER.open(LocalFile(tmp_path / "storage"))


def patched(data: bytes, old: bytes, new: bytes, place: int = 0) -> bytes:
    """`data` with `new` over what comes `place` bytes after the last `old`."""
    at = data.rindex(old) + place
    return data[:at] + new + data[at + len(new) :]


ZIP_LIES = {
    "no directory": (lambda d: d[:-22], "no directory"),
    "bytes behind": (lambda d: d + b"x", "bytes behind|no directory"),
    "bytes before": (lambda d: b"PK\3\4" + d, "impossible zip directory"),
    "entries": (lambda d: patched(d, b"PK\5\6", b"\7\0\7\0", 8), "zip directory"),
    "fewer entries": (lambda d: patched(d, b"PK\5\6", b"\1\0\1\0", 8), "zip directory"),
    "disks": (lambda d: patched(d, b"PK\5\6", b"\1\0", 4), "several disks"),
    "directory offset": (lambda d: patched(d, b"PK\5\6", b"\1\0\0\0", 16), "zip directory"),
    "zip64 missing": (lambda d: patched(d, b"PK\5\6", b"\xff" * 4, 16), "zip64"),
    "local offset": (lambda d: patched(d, b"PK\1\2", b"\1\0\0\0", 42), "overlap|disagrees"),
    "local offset far": (lambda d: patched(d, b"PK\1\2", b"\0\0\0\x7f", 42), "ends early"),
    "local name": (lambda d: patched(d, b"PK\3\4", b"X", 31), "disagrees"),
    "local size": (lambda d: patched(d, b"PK\3\4", b"\x08", 22), "disagrees"),
    "local crc": (lambda d: patched(d, b"PK\3\4", b"\1\2\3\4", 14), "disagrees"),
    "local method": (lambda d: patched(d, b"PK\3\4", b"\x08", 8), "disagrees"),
    "two sizes": (lambda d: patched(d, b"PK\1\2", b"\x08", 20), "two sizes"),
    "size": (lambda d: patched(d, b"PK\1\2", b"\x11\0\0\0\x11\0\0\0", 20), "disagrees|reaches"),
    "encrypted": (lambda d: patched(d, b"PK\1\2", b"\1", 8), "not write"),
    "method": (lambda d: patched(d, b"PK\1\2", b"\x0e", 10), "not write"),
    "zip64 size missing": (lambda d: patched(d, b"PK\1\2", b"\xff" * 8, 20), "zip64 size"),
    "listing": (lambda d: patched(d, b"X\1\0\0\0w", b"v", 5), "CRC-32"),
}


@pytest.mark.parametrize("case", ZIP_LIES)
def test_lying_zip_directories_are_refused(case: str, tmp_path: Path):
    change, message = ZIP_LIES[case]
    good = archive(tmp_path / "good", state()).read_bytes()
    (tmp_path / "bad").write_bytes(change(good))
    with pytest.raises(FormatError, match=message):
        CONTAINER.open(LocalFile(tmp_path / "bad"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_record_twice_is_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "file", "w") as file:
        for _ in range(2):
            file.writestr("archive/data.pkl", state())
        file.writestr("archive/data/0", bytes(16))
    with pytest.raises(FormatError, match="stands twice"):
        CONTAINER.open(LocalFile(tmp_path / "file"))


def test_two_entries_for_the_same_bytes_are_refused(tmp_path: Path):
    """The overlap of which zip bombs are made."""
    data = archive(tmp_path / "file", state()).read_bytes()
    start = data.index(b"PK\1\2")
    last = data.rindex(b"PK\1\2")
    end = data.rindex(b"PK\5\6")
    twin = data[last:end].replace(b"data/0", b"data/1")
    tail = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 3, 3, end - start + len(twin), start, 0)
    (tmp_path / "bad").write_bytes(data[:end] + twin + tail)
    with pytest.raises(FormatError, match="overlaps"):
        CONTAINER.open(LocalFile(tmp_path / "bad"))


def test_legacy_streams_that_lie(tmp_path: Path):
    one = pickle.dumps(["0"], 2)
    tails = {
        "no list": pickle.dumps(None, 2),
        "keys no text": pickle.dumps([None], 2),
        "key twice": pickle.dumps(["0", "0"], 2),
        "unknown key": pickle.dumps(["0", "1"], 2) + struct.pack("<q4fq", 4, 1, 2, 3, 4, 0),
        "key missing": pickle.dumps([], 2),
        "no count": one,
        "short": one + struct.pack("<q3f", 4, 1, 2, 3),
        "count": one + struct.pack("<q4f", 3, 1, 2, 3, 4),
        "huge count": one + struct.pack("<Q4f", 2**64 - 1, 1, 2, 3, 4),
    }
    for case, tail in tails.items():
        with pytest.raises(FormatError):
            CONTAINER.open(LocalFile(legacy(tmp_path / "file", state(), tail)))
            pytest.fail(case)


def test_the_oldest_form_says_what_to_do(tmp_path: Path):
    import io
    import tarfile

    with tarfile.open(tmp_path / "file", "w") as tar:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(FormatError, match="save it again"):
        CONTAINER.open(LocalFile(tmp_path / "file"))
    assert CONTAINER.recognises(LocalFile(tmp_path / "file"), (tmp_path / "file").read_bytes()[:64])


def test_the_result_holds_nothing_but_descriptions():
    """Every value that any opcode can make is of these types."""
    things = [1, 2.5, "text", b"bytes", None, True, [1], (2,), {"a": {1}}, frozenset({3}), range(3)]
    allowed = (bool, int, float, str, bytes, list, tuple, Pairs, Opaque, Global, Tensor, type(None))
    for protocol in range(2, 6):
        waiting = [load(pickle.dumps(things, protocol))]
        while waiting:
            value = waiting.pop()
            assert type(value) in allowed
            if isinstance(value, Pairs):
                waiting += [part for pair in value.items for part in pair]
            elif isinstance(value, Opaque):
                waiting += value.parts
            elif isinstance(value, list | tuple):
                waiting += value


def test_python_2_dictionaries(tmp_path: Path):
    """Strings of bytes, and an OrderedDict made from pairs."""
    pairs = b"\x80\2ccollections\nOrderedDict\n]](U\1w" + TENSOR + b"ea\x85R."
    with CONTAINER.open(LocalFile(legacy(tmp_path / "file", pairs))) as reader:
        assert reader.tensors["w"].read().tolist() == [1, 2, 3, 4]


def test_sealing_writes_every_checksum(tmp_path: Path):
    specs = [TensorSpec(str(n), "float32", (n,)) for n in range(4)]
    arrays = {spec: values(spec) for spec in specs}
    write(CONTAINER, tmp_path / "file", arrays)
    with zipfile.ZipFile(tmp_path / "file") as archive:
        assert archive.testzip() is None
        for n, array in enumerate(arrays.values()):
            assert zlib.crc32(array.tobytes()) == archive.getinfo(f"archive/data/{n}").CRC
