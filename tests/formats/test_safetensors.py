"""safetensors against its own library, and every rule of the format broken once."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from converter.errors import CheckpointError, FormatError
from converter.formats.file_handle import LocalFile
from converter.formats.safetensors import FORMAT
from converter.tensors import TensorSpec
from tests.formats.work import work_at_most
from tests.formats.writing import same, values, write

SPECS = [
    *(TensorSpec(f"z.{name}", name, (2, 3)) for name in sorted(FORMAT.dtypes)),
    TensorSpec("scalar", "float32", ()),
    TensorSpec("empty", "int64", (0, 3)),
    TensorSpec("b", "float32", (5,)),
    TensorSpec("a", "float32", (1, 1)),
    TensorSpec('ümlaut "quoted"\\\n\x01\x7f/', "float16", (3,)),
]
ARRAYS = {spec: values(spec) for spec in SPECS}


def test_bytes_equal_the_library_s(tmp_path: Path):
    # The library for numpy names the 8-bit floats of "fnuz" as we do.
    named = {spec.name: array for spec, array in ARRAYS.items() if "fnuz" not in spec.dtype}
    arrays = {spec: array for spec, array in ARRAYS.items() if spec.name in named}
    for number, metadata in enumerate((None, {"format": "pt"}, {})):
        ours, theirs = tmp_path / f"ours{number}", tmp_path / f"theirs{number}"
        write(FORMAT, ours, arrays, metadata=metadata)
        safetensors.numpy.save_file(named, theirs, metadata=metadata)
        assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.peer
def test_bytes_equal_those_of_torch(tmp_path: Path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    tensors = {}
    for spec, array in ARRAYS.items():
        flat = torch.frombuffer(bytearray(array.tobytes() or b"\0" * 8), dtype=torch.uint8)
        flat = flat[: spec.nbytes].view(getattr(torch, spec.dtype))
        tensors[spec.name] = flat.reshape(spec.shape).clone()
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    write(FORMAT, tmp_path / "ours", ARRAYS, metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert load_file(tmp_path / "ours").keys() == tensors.keys()


def test_reads_what_the_library_writes(tmp_path: Path):
    arrays = {spec.name: array for spec, array in ARRAYS.items()}
    safetensors.numpy.save_file(arrays, tmp_path / "file", metadata={"format": "tf", "ü": "\n"})
    with FORMAT.open(LocalFile(tmp_path / "file")) as reader:
        assert reader.metadata == {"format": "tf", "ü": "\n"}
        assert reader.tensors.keys() == arrays.keys()
        for name, array in arrays.items():
            assert same(reader.tensors[name].read(), array)


def test_lists_in_file_order(tmp_path: Path):
    write(FORMAT, tmp_path / "file", ARRAYS)
    with FORMAT.open(LocalFile(tmp_path / "file")) as reader:
        places = [t.location for t in reader.tensors.values() if t.spec.nbytes]
        assert places == sorted(places, key=lambda place: place[:2])


def test_aliases_and_reserved_names_are_refused(tmp_path: Path):
    spec = TensorSpec("a", "float32", (1,))
    with pytest.raises(ValueError, match="share"):
        FORMAT.create(tmp_path / "file", [spec], aliases={"b": "a"})
    with pytest.raises(ValueError, match="__metadata__"):
        FORMAT.create(tmp_path / "file", [TensorSpec("__metadata__", "float32", (1,))])
    assert not (tmp_path / "file").exists()


def raw(
    header: str | bytes | dict[str, Any], data: bytes = b"", length: int | None = None
) -> bytes:
    """Return a file with that header, valid or not."""
    text = json.dumps(header) if isinstance(header, dict) else header
    encoded = text.encode() if isinstance(text, str) else text
    size = len(encoded) if length is None else length
    return size.to_bytes(8, "little") + encoded + data


def entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


ENTRY = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
FOUR = b"\0" * 4
BAD = {
    "nothing": (b"", "ends early"),
    "cut length": (b"\x08\0\0", "ends early"),
    "cut header": (raw('{"a"', length=40), "ends early"),
    "header too long": (raw("{}", length=100_000_001), "header too long"),
    "header of all bits": (b"\xff" * 8 + b"{", "header too long"),
    "no object": (raw("[]"), "malformed header"),
    "space alone": (raw(" " * 99), "malformed header"),
    "metadata null and more": (raw('{"__metadata__":nullx}'), "malformed header"),
    "not UTF-8": (raw(b'{"\xff": 1}'), "UTF-8"),
    "lone surrogate": (raw('{"\\ud800": {}}'), "malformed header"),
    "trailing text": (raw("{} x"), "malformed header"),
    "zeros": (raw("{" + "\0" * 99), r"expected a string; found \\x00 \(40 times\)"),
    "trailing comma": (raw(f'{{"a":{ENTRY},}}', FOUR), "malformed header"),
    "key twice": (raw(f'{{"a":{ENTRY},"a":{ENTRY}}}', FOUR), "duplicate"),
    "field twice": (
        raw('{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', FOUR),
        "malformed entry",
    ),
    "metadata twice": (raw('{"__metadata__":{"a":"b","a":"c"}}'), "duplicate"),
    "metadata number": (raw('{"__metadata__":{"a":1}}'), "malformed header"),
    "field missing": (raw({"a": {"dtype": "F32", "shape": [1]}}, FOUR), "malformed entry"),
    "field too many": (raw({"a": {**entry(), "x": 1}}, FOUR), "malformed entry"),
    "entry no object": (raw({"a": 1}), "malformed entry"),
    "deep entry": (raw('{"a":{"shape":' + "[" * 4000 + "}}"), "malformed entry"),
    "long entry": (raw({"a": entry(shape=[1] * 5000)}, FOUR), "malformed entry"),
    "unknown dtype": (raw({"a": entry("F3")}, FOUR), "unknown dtype"),
    "no complete bytes": (raw({"a": entry("F4", (7,))}, FOUR), "does not end with a byte"),
    "dtype no text": (raw({"a": entry(["F32"])}, FOUR), "unknown dtype"),
    "negative length": (raw({"a": entry(shape=[-1])}, FOUR), "impossible shape"),
    "float length": (raw({"a": entry(shape=[1.0])}, FOUR), "impossible shape"),
    "true length": (raw({"a": entry(shape=[True])}, FOUR), "impossible shape"),
    "many axes": (raw({"a": entry(shape=[1] * 33)}, FOUR), "impossible shape"),
    "huge shape": (raw({"a": entry(shape=[2**40, 2**40])}, FOUR), "impossible shape"),
    "huge empty shape": (
        raw({"a": entry(shape=[0, 2**62, 8], offsets=(0, 0))}),
        "impossible shape",
    ),
    "shape no list": (raw({"a": entry(shape="1")}, FOUR), "shape"),
    "offsets reversed": (raw({"a": entry(offsets=(4, 0))}, FOUR), "impossible offsets"),
    "offsets negative": (raw({"a": entry(offsets=(-4, 0))}, FOUR), "impossible offsets"),
    "three offsets": (raw({"a": entry(offsets=(0, 4, 8))}, FOUR), "impossible offsets"),
    "float offsets": (raw({"a": entry(offsets=(0.0, 4.0))}, FOUR), "impossible offsets"),
    "size disagrees": (raw({"a": entry(shape=[2])}, FOUR), "disagree"),
    "overlap": (raw({"a": entry(), "b": entry(offsets=(2, 6))}, FOUR * 2), "overlaps"),
    "same place": (raw({"a": entry(), "b": entry()}, FOUR), "overlaps"),
    "hole": (raw({"a": entry(), "b": entry(offsets=(8, 12))}, FOUR * 3), "a hole before"),
    "hole at start": (raw({"a": entry(offsets=(4, 8))}, FOUR * 2), "a hole before"),
    "bytes behind": (raw({"a": entry()}, FOUR * 2), "trailing bytes"),
    "data cut": (raw({"a": entry()}, b"\0\0\0"), "ends early"),
}


@pytest.mark.parametrize("case", BAD)
def test_every_broken_rule_is_named(case: str, tmp_path: Path):
    data, message = BAD[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=message) as caught:
        FORMAT.open(LocalFile(path))
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].file == "model.safetensors"
    if message in ("disagree", "overlaps", "a hole before", "unknown dtype", "impossible shape"):
        assert caught.value.problems[0].tensor in ("a", "b")


def test_large_headers_take_no_time(tmp_path: Path):
    path = tmp_path / "file"
    for header in ("{" + " " * 30_000_000 + "x", '{"' + "\\n" * 10_000_000, "{" * 20_000_000):
        path.write_bytes(raw(header))
        with work_at_most(80), pytest.raises(FormatError):
            FORMAT.open(LocalFile(path))


HEAVY = {
    "a name": '{"😀' + "n" * 60_000_000 + '":',
    "characters of four bytes": '{"' + "😀" * 15_000_000 + '":',
    "a value": '{"__metadata__":{"a":"😀' + "n" * 60_000_000 + '"}}',
    "values": '{"__metadata__":{'
    + ",".join(f'"{n}":"😀{"n" * 7_000_000}"' for n in range(8))
    + "}}",
    "spaces": "{" + " " * 60_000_000 + "x",
}


@pytest.mark.parametrize("case", HEAVY)
def test_large_headers_take_little_memory(case: str, tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(raw(HEAVY[case]))
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            FORMAT.open(LocalFile(path))
        assert tracemalloc.get_traced_memory()[1] < 190 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_headers_longer_than_what_is_read_at_once(tmp_path: Path):
    rng = np.random.default_rng(0)
    names = ["ü" * int(n) + str(k) for k, n in enumerate(rng.integers(0, 40, 60_000))]
    names[30_000] = "long" * 1_000_000
    metadata = {"large": "😀" * 1_000_000, "empty": "", 'quoted "\\': "\\" * 99_999 + "\n"}
    tensors = {name: np.full(1 + k % 2, k % 256, np.uint8) for k, name in enumerate(names)}
    safetensors.numpy.save_file(tensors, tmp_path / "file", metadata=metadata)
    with FORMAT.open(LocalFile(tmp_path / "file")) as reader:
        assert reader.metadata == metadata
        assert reader.tensors.keys() == tensors.keys()
        for name in (*names[:9], names[30_000], *names[-9:]):
            assert same(reader.tensors[name].read(), tensors[name])


def test_a_file_that_is_none(tmp_path: Path):
    with pytest.raises(CheckpointError, match="No such file"):
        LocalFile(tmp_path / "none")
    with pytest.raises(CheckpointError, match="not a regular file"):
        LocalFile(tmp_path)


def test_a_file_cut_after_it_was_listed(tmp_path: Path):
    spec = TensorSpec("a", "float32", (1000,))
    write(FORMAT, tmp_path / "file", {spec: values(spec)})
    with FORMAT.open(LocalFile(tmp_path / "file")) as reader:
        with (tmp_path / "file").open("r+b") as file:
            file.truncate(500)
        with pytest.raises(FormatError, match="a: the file ends early"):
            reader.tensors["a"].read()
        assert reader.tensors["a"].read(0, 0, 10).shape == (10,)


def test_peculiar_reads_agree_with_numpy(tmp_path: Path):
    rng = np.random.default_rng(0)
    shapes = [(64, 20_000), (20_000, 7), (3, 5, 7, 11), (2, 300, 40)]
    arrays = {}
    for number, shape in enumerate(shapes):
        arrays[TensorSpec(str(number), "uint16", shape)] = rng.integers(0, 9999, shape, np.uint16)
    write(FORMAT, tmp_path / "file", arrays)
    with FORMAT.open(LocalFile(tmp_path / "file")) as reader:
        for spec, array in arrays.items():
            for axis, length in enumerate(spec.shape):
                start, stop = sorted(rng.integers(0, length + 1, 2).tolist())
                index = (slice(None),) * axis + (slice(start, stop),)
                read = reader.tensors[spec.name].read(axis, start, stop)
                assert np.array_equal(read, array[index])
