"""Hostile pickles in torch files: nothing is executed, and invalid ones are refused."""

from __future__ import annotations

import copyreg
import pickle
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import pytest

from converter.errors import FormatError
from converter.formats.file_handle import LocalFile
from converter.formats.torch import FORMAT
from converter.formats.torch.storages import Tensor
from converter.formats.torch.unpickler import Global, Opaque, Pairs
from converter.tensors import TensorSpec
from tests.formats.torch_files import KEY, TENSOR, archive, legacy, load, long, state
from tests.formats.writing import values, write


def test_the_helper_makes_a_readable_file(tmp_path: Path):
    for path in (archive(tmp_path / "zip", state()), legacy(tmp_path / "old", state())):
        with FORMAT.open(LocalFile(path)) as reader:
            assert reader.tensors["w"].read().shape == (4,)
    with FORMAT.open(LocalFile(tmp_path / "old")) as reader:
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
    """Write a module that creates a file when it is imported or used."""
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
                with FORMAT.open(LocalFile(path)) as reader:
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
    "persistent incomplete": b"(X\7\0\0\0storageNtQ",
}


@pytest.mark.parametrize("case", REFUSED_OPERATIONS)
def test_senseless_operations_are_refused(case: str, tmp_path: Path):
    data = state(REFUSED_OPERATIONS[case])
    for path in (archive(tmp_path / "zip", data), legacy(tmp_path / "old", data)):
        with pytest.raises(FormatError, match="pickle") as caught:
            FORMAT.open(LocalFile(path))
        assert len(str(caught.value)) < 1000


def rebuilt(
    kind: bytes = b"ctorch\nFloatStorage\n",
    key: bytes = b"X\1\0\0\0000",
    numel: bytes = b"K\4",
    offset: bytes = b"K\0",
    shape: bytes = b"(K\4t",
    strides: bytes = b"(K\1t",
    function: bytes = b"_rebuild_tensor_v2",
    metadata: bytes = b"",
) -> bytes:
    """Operations that push a tensor, right but for what is given."""
    storage = b"(X\7\0\0\0storage" + kind + key + b"X\3\0\0\0cpu" + numel + b"tQ"
    call = b"ctorch._utils\n" + function + b"\n("
    return call + storage + offset + shape + strides + b"\x89N" + metadata + b"tR"


def tensor(*args: bytes, **parts: bytes) -> bytes:
    """Return a pickled dictionary with one such tensor."""
    return b"\x80\2}" + KEY + rebuilt(*args, **parts) + b"s."


INVALID = {
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
    "unknown metadata": tensor(metadata=b"}" + KEY + b"\x88s"),
    "metadata that are false": tensor(metadata=b"}X\3\0\0\0neg\x89s"),
    "metadata of a tuple": tensor(metadata=b"})\x88s"),
    "metadata no dictionary": tensor(metadata=b"K\1"),
    "metadata twice": tensor(metadata=b"}}"),
    "conjugate of a real number": tensor(metadata=b"}X\4\0\0\0conj\x88s"),
    "storage in two forms": tensor()[:-1] + b"X\1\0\0\0x" + rebuilt(numel=b"K\3") + b"s.",
}


@pytest.mark.parametrize("case", INVALID)
def test_lying_tensors_are_refused(case: str, tmp_path: Path):
    with FORMAT.open(LocalFile(archive(tmp_path / "good", tensor()))) as reader:
        assert reader.tensors["w"].spec.shape == (4,)
    for path in (archive(tmp_path / "zip", INVALID[case]), legacy(tmp_path / "old", INVALID[case])):
        with pytest.raises(FormatError):
            FORMAT.open(LocalFile(path))


def test_metadata_are_optional(tmp_path: Path):
    for metadata in (b"N", b"}", b"ccollections\nOrderedDict\n)R"):
        path = legacy(tmp_path / "file", tensor(metadata=metadata))
        with FORMAT.open(LocalFile(path)) as reader:
            assert reader.tensors["w"].read().tolist() == [1, 2, 3, 4]


def test_calls_within_one_another_are_limited(tmp_path: Path):
    function, kind = b"ctorch._tensor\n_rebuild_from_type_v2\n", b"ctorch\nTensor\n"
    inner = b"ctorch._utils\n_rebuild_tensor_v2\n"
    arguments = rebuilt().removeprefix(inner)[:-1]
    for depth in (1, 16, 17, 2_000, 100_000):
        calls = function + b"(" + (function + kind + b"(") * (depth - 1) + inner + kind + arguments
        path = archive(tmp_path / "file", b"\x80\2}" + KEY + calls + b"Nt" * depth + b"Rs.")
        if depth <= 16:
            with FORMAT.open(LocalFile(path)) as reader:
                assert reader.tensors["w"].spec.shape == (4,)
        else:
            with pytest.raises(FormatError, match="too many calls"):
                FORMAT.open(LocalFile(path))


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
            FORMAT.open(LocalFile(legacy(tmp_path / "file", state(), tail)))
            pytest.fail(case)


def test_the_oldest_form_says_what_to_do(tmp_path: Path):
    import io
    import tarfile

    with tarfile.open(tmp_path / "file", "w") as tar:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(FormatError, match="save it again"):
        FORMAT.open(LocalFile(tmp_path / "file"))
    assert FORMAT.matches(LocalFile(tmp_path / "file"), (tmp_path / "file").read_bytes()[:64])


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
    with FORMAT.open(LocalFile(legacy(tmp_path / "file", pairs))) as reader:
        assert reader.tensors["w"].read().tolist() == [1, 2, 3, 4]


def test_sealing_writes_every_checksum(tmp_path: Path):
    specs = [TensorSpec(str(n), "float32", (n,)) for n in range(4)]
    arrays = {spec: values(spec) for spec in specs}
    write(FORMAT, tmp_path / "file", arrays)
    with zipfile.ZipFile(tmp_path / "file") as archive:
        assert archive.testzip() is None
        for n, array in enumerate(arrays.values()):
            assert zlib.crc32(array.tobytes()) == archive.getinfo(f"archive/data/{n}").CRC
