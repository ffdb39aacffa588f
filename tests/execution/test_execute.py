"""The engine: against numpy's transposition and casting, in any blocks and threads."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import threading
import time
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from converter import system
from converter.errors import CheckpointError, FormatError, MatchError, OutputError
from converter.execution import executor, file_writer, tensor_copy
from converter.execution.executor import execute
from converter.execution.rows import blocks, cast, count_non_finite
from converter.formats.base import PreallocatedFile, Segment, StoredTensor
from converter.formats.registry import get_format, open_file
from converter.initializers import Initializer
from converter.plan import (
    FileEntry,
    InitializedTensor,
    OutputFile,
    Plan,
    SourceTensor,
    TargetTensor,
)
from converter.tensors import Axes, Rearrangement, TensorSpec, numpy_dtype

HEAD = 64
SEGMENT = 1000


class RawOutput(PreallocatedFile):
    """Tensors in pieces of `SEGMENT` bytes, each behind an eight-byte marker; wants CRC-32."""

    def __init__(self, path: Path, tensors) -> None:
        self.path, self.needs_crc32, self.segments, self.packed = path, True, {}, {}
        at = HEAD
        for spec in tensors:
            segments = []
            for offset in range(0, spec.nbytes, SEGMENT) or (0,):
                size = min(SEGMENT, spec.nbytes - offset)
                segments.append(Segment(offset, at + 8, size))
                at += 8 + size
            self.segments[spec.name] = tuple(segments)
        path.write_bytes(b"\x5a" * at)
        self.crc32: Mapping[str, int] = {}

    def finalize(self, crc32: Mapping[str, int]) -> None:
        self.crc32 = dict(crc32)


class RawFormat:
    def __init__(self) -> None:
        self.files: dict[str, RawOutput] = {}

    def create(self, path, tensors, *, metadata=None, aliases=None, repeated=None) -> RawOutput:
        self.files[path.name] = RawOutput(path, tensors)
        return self.files[path.name]

    def read(self, path: Path, spec: TensorSpec) -> np.ndarray:
        data = path.read_bytes()
        content = b"".join(
            data[s.file_offset : s.file_offset + s.nbytes]
            for s in self.files[path.name].segments[spec.name]
        )
        return np.frombuffer(content, numpy_dtype(spec.dtype)).reshape(spec.shape)


@pytest.fixture
def raw(monkeypatch) -> RawFormat:
    file_format = RawFormat()
    monkeypatch.setattr(
        executor, "get_format", lambda n: file_format if n == "raw" else get_format(n)
    )
    return file_format


class Memory(StoredTensor):
    """A stored tensor whose values are in memory."""

    def __init__(self, name: str, values: np.ndarray, location: tuple = ()) -> None:
        self.spec = TensorSpec(name, values.dtype.name, values.shape)
        self.path = Path("source.bin")
        self.values = values
        self._location = location or ("source.bin", id(values))
        self.reads: list[tuple] = []

    @property
    def location(self):
        return self._location

    def read_into(self, out, axis=0, start=0):
        assert out.flags.c_contiguous
        assert out.dtype == self.values.dtype
        self.reads.append(out.shape)
        part = [slice(None)] * out.ndim
        if out.ndim:
            part[axis] = slice(start, start + out.shape[axis])
        expected = self.values[tuple(part)]
        assert expected.shape == out.shape
        out[...] = expected


def noise(shape, dtype="float32", seed=0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(shape)
    return np.asarray(values * (100 if dtype.startswith("int") else 1)).astype(numpy_dtype(dtype))


def axes(text: str) -> Axes:
    return Axes.parse(text)


CASES = {
    # stored layout, canonical layout, file layouts, sizes
    "matrix": ("in out", "out in", ("out in", "in out"), {"out": 300, "in": 70}),
    "same": ("out in", "out in", ("out in", "in out"), {"out": 301, "in": 33}),
    "vector": ("out", "out", ("out", "1 out"), {"out": 5000}),
    "row": ("1 out", "out", ("out 1", "out"), {"out": 501}),
    "conv": ("k in out", "out in k", ("in k out", "out k in"), {"out": 90, "in": 40, "k": 3}),
    "conv of one": (
        "k in out",
        "out in k",
        ("in k out", "k out in"),
        {"out": 90, "in": 40, "k": 1},
    ),
    "deep": ("a b c d", "d b a c", ("c 1 a d b", "b d a c"), {"a": 5, "b": 6, "c": 7, "d": 30}),
    "scalar": ("", "", ("", "1"), {}),
    "short": ("b a", "a b", ("a b", "b a"), {"a": 1, "b": 4000}),
    "empty": ("b a", "a b", ("a b", "b a"), {"a": 0, "b": 4}),
}


def case_plan(dtype="float32", target=None, file_dtype=None):
    """Return a plan with each of `CASES`, written to two raw files, and the expected values."""
    tensors: list[TargetTensor] = []
    entries: tuple[list[FileEntry], list[FileEntry]] = ([], [])
    canonical = {}
    for number, (name, (stored, canon, files, sizes)) in enumerate(CASES.items()):
        values = noise(axes(stored).shape(sizes), dtype, number)
        names = [axis for axis in axes(stored).order if axis != "1"]
        flat = values.reshape([sizes[axis] for axis in names])
        order = axes(canon).order
        expected = flat.transpose([names.index(axis) for axis in order])
        canonical[name] = expected.astype(numpy_dtype(target or dtype))
        rearrangement = Rearrangement(axes(stored), axes(canon))
        spec = TensorSpec(name, target or dtype, expected.shape)
        tensors.append(
            TargetTensor(spec, SourceTensor("source", Memory(f"s {name}", values), rearrangement))
        )
        for layout, into in zip(files, entries, strict=True):
            rearrangement = Rearrangement(axes(canon), axes(layout))
            in_file = TensorSpec(
                f"f {name}", file_dtype or spec.dtype, rearrangement.shape(spec.shape)
            )
            into.append(FileEntry(name, in_file, rearrangement))
    planned = [OutputFile(f"{i}.raw", "x", "raw", into) for i, into in enumerate(entries)]
    return Plan("test", tensors, planned), canonical


def expected_in(entry: FileEntry, canonical: np.ndarray) -> bytes:
    rearrangement = entry.rearrangement
    lengths = dict(zip(rearrangement.source.order, canonical.shape, strict=True))
    names = [axis for axis in rearrangement.source.order if axis != "1"]
    flat = canonical.reshape([lengths[axis] for axis in names])
    there = flat.transpose([names.index(axis) for axis in rearrangement.target.names])
    return there.astype(numpy_dtype(entry.spec.dtype)).tobytes()


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("block", [64, 5000, 40_000, 1 << 24])
@pytest.mark.parametrize(
    ("dtype", "target", "file_dtype"),
    [
        ("float32", None, None),
        ("float32", "bfloat16", "float32"),
        ("bfloat16", "float16", None),
        ("int64", None, None),
    ],
)
def test_every_layout_in_any_blocks(
    tmp_path, raw, monkeypatch, jobs, block, dtype, target, file_dtype
):
    monkeypatch.setattr(executor, "_MIN_BLOCK", block)
    monkeypatch.setattr(executor, "_MAX_BLOCK", block)
    plan, canonical = case_plan(dtype, target, file_dtype)
    done = execute(plan, tmp_path, jobs=jobs)
    assert list(done.sha256) == list(canonical)
    for name, values in canonical.items():
        assert done.sha256[name] == hashlib.sha256(values.tobytes()).hexdigest(), name
    for file in plan.files:
        for entry in file.entries:
            written = raw.read(tmp_path / file.path, entry.spec).tobytes()
            assert written == expected_in(entry, canonical[entry.tensor]), entry
            assert raw.files[file.path].crc32[entry.spec.name] == zlib.crc32(written), entry
    for tensor in plan.tensors:  # every value is read once
        stored = tensor.origin.tensor
        assert sum(np.prod(shape, dtype=int) for shape in stored.reads) == stored.values.size
    gaps = (tmp_path / "0.raw").read_bytes()
    assert gaps[: HEAD + 8] == b"\x5a" * (HEAD + 8)
    assert done.bytes_written == plan.nbytes
    assert not done.non_finite
    assert not done.overflowed


@pytest.mark.parametrize("block", [4096, 1 << 24])
def test_initialized_tensors_depend_on_position_alone(tmp_path, raw, monkeypatch, block):
    monkeypatch.setattr(executor, "_MIN_BLOCK", block)
    monkeypatch.setattr(executor, "_MAX_BLOCK", block)
    initializer = Initializer("normal", 0.02, 3, "w")
    expected = np.empty((77, 90), np.float32)
    initializer.fill(expected)
    tensor = TargetTensor(
        TensorSpec("w", "float32", (77, 90)), InitializedTensor(initializer, "missing")
    )
    rearrangement = Rearrangement(axes("out in"), axes("in out"))
    entry = FileEntry("w", TensorSpec("k", "float32", (90, 77)), rearrangement)
    plan = Plan("test", [tensor], [OutputFile("a.raw", "x", "raw", [entry])])
    done = execute(plan, tmp_path)
    assert np.array_equal(raw.read(tmp_path / "a.raw", entry.spec), expected.T)
    assert done.sha256["w"] == hashlib.sha256(expected.tobytes()).hexdigest()


SAME = Rearrangement(axes("out in"), axes("out in"))
TRANSPOSED = Rearrangement(axes("in out"), axes("out in"))


def one(values: np.ndarray, dtype: str | None = None, copies=(), file_format="raw") -> Plan:
    spec = TensorSpec("w", dtype or values.dtype.name, values.shape)
    tensor = TargetTensor(spec, SourceTensor("source", Memory("s", values), SAME), tuple(copies))
    entry = FileEntry("w", TensorSpec("f", spec.dtype, spec.shape), SAME)
    return Plan("test", [tensor], [OutputFile("a.raw", "x", file_format, [entry])])


def test_equal_copies_pass_and_the_same_place_is_not_read_again(tmp_path, raw):
    values = noise((40, 30))
    values[0, 0] = np.nan
    transposed = Memory("kernel", np.ascontiguousarray(values.T))
    plan = one(values, copies=[SourceTensor("source", transposed, TRANSPOSED)])
    execute(plan, tmp_path)
    assert transposed.reads
    origin = plan.tensors[0].origin
    assert isinstance(origin, SourceTensor)
    again = Memory("again", values, origin.tensor.location)
    (tmp_path / "b").mkdir()
    execute(one(values, copies=[]), tmp_path / "b")
    tensor = TargetTensor(
        plan.tensors[0].spec, plan.tensors[0].origin, (SourceTensor("source", again, SAME),)
    )
    (tmp_path / "c").mkdir()
    execute(Plan("test", [tensor], plan.files), tmp_path / "c")
    assert not again.reads


@pytest.mark.parametrize("block", [1024, 1 << 24])
def test_differing_copies_are_all_named(tmp_path, raw, monkeypatch, block):
    monkeypatch.setattr(executor, "_MIN_BLOCK", block)
    monkeypatch.setattr(executor, "_MAX_BLOCK", block)
    values = noise((40, 30))
    other = values.T.copy()
    other[3, 5] += 0.5
    other[7, 39] += 0.25
    zero = values.copy()
    zero[0, 0] = np.nextafter(zero[0, 0], np.float32(9))
    copies = [
        SourceTensor("source", Memory("kernel", other), TRANSPOSED),
        SourceTensor("source", Memory("near", zero), SAME),
    ]
    with pytest.raises(MatchError) as caught:
        execute(one(values, copies=copies), tmp_path)
    first, second = caught.value.problems
    assert first.tensor == "kernel"
    assert first.found == "2 different elements, by up to 0.5"
    assert "s in source.bin" in str(first.expected)
    assert str(second.found).startswith("1 different elements")


def test_copies_of_another_dtype_are_compared_by_value(tmp_path, raw):
    values = noise((4, 3), "bfloat16")
    wide = Memory("wide", values.astype(np.float32))
    execute(one(values, copies=[SourceTensor("source", wide, SAME)]), tmp_path)
    wide.values[1, 1] += 1
    (tmp_path / "b").mkdir()
    with pytest.raises(MatchError, match="1 different"):
        execute(one(values, copies=[SourceTensor("source", wide, SAME)]), tmp_path / "b")


def test_what_is_not_finite_and_what_overflows_is_counted(tmp_path, raw):
    values = noise((50, 40))
    values[0, 0], values[1, 1], values[2, 2] = np.nan, np.inf, -np.inf
    values[3, 3], values[4, 4], values[5, 5] = 65504.0, 65519.9, -65520.0
    done = execute(one(values, "float16"), tmp_path)
    assert done.non_finite == {"w": 3}
    assert done.overflowed == {"w": 1}


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "float8_e5m2"])
def test_non_finite_counts(dtype):
    values = noise(200_000, dtype)
    assert count_non_finite(values) == 0
    values[[0, 70_000, 199_999]] = np.array([np.nan, np.inf, -np.inf]).astype(values.dtype)
    assert count_non_finite(values) == 3
    assert count_non_finite(np.arange(10)) == 0
    assert count_non_finite(np.full(9, 3e38, np.float32)) == 0  # the sum overflows, no term does


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_pattern_of_two_bytes_is_finite_or_not(dtype: str) -> None:
    infinity = 0x7C00 if dtype == "float16" else 0x7F80
    near = [infinity + step for step in (-1, 0, 1)]
    patterns = np.array([*range(0, 1 << 16, 37), *near, *(0x8000 | each for each in near)])
    expected = ~np.isfinite(patterns.astype(np.uint16).view(numpy_dtype(dtype)).astype(np.float32))
    values = np.zeros(3, numpy_dtype(dtype))
    for pattern, count in zip(patterns, expected, strict=True):
        values.view(np.uint16)[1] = pattern
        assert count_non_finite(values) == count


def test_casts_round_once_to_nearest_even():
    bf16 = numpy_dtype("bfloat16")
    # Just above a tie: rounding to float32 first would land on the tie and go to even, down.
    values = np.array([1 + 2**-8 + 2**-40, -(1 + 2**-8 + 2**-40), 1 + 2**-8, 1 + 3 * 2**-8, 3e300])
    out = np.empty(5, bf16)
    cast(values, out)
    assert out.astype(float).tolist() == [1 + 2**-7, -(1 + 2**-7), 1.0, 1 + 2**-6, np.inf]
    fractions = np.random.default_rng(0).standard_normal(20_000)
    out = np.empty(fractions.size, bf16)
    cast(fractions, out)
    mantissa, exponent = np.frexp(fractions)
    assert np.array_equal(out.astype(float), np.ldexp(np.rint(mantissa * 256) / 256, exponent))
    half = np.empty(fractions.size, np.float16)
    cast(fractions.astype(bf16), half)
    assert np.array_equal(half, fractions.astype(bf16).astype(np.float32).astype(np.float16))


class Failing(Memory):
    def __init__(self, error: BaseException, after: int = 0) -> None:
        super().__init__("bad", noise((4, 4)))
        self._error, self._after = error, after

    def read_into(self, out, axis=0, start=0):
        raise self._error


class Slow(Memory):
    count = 0

    def read_into(self, out, axis=0, start=0):
        Slow.count += 1
        time.sleep(0.01)
        super().read_into(out, axis, start)


def many(first: StoredTensor, count: int = 2000) -> Plan:
    tensors = [TargetTensor(TensorSpec("0", "float32", (4, 4)), SourceTensor("s", first, SAME))]
    values = noise((4, 4))
    for number in range(1, count):
        spec = TensorSpec(str(number), "float32", (4, 4))
        origin = SourceTensor("s", Slow(str(number), values, ("z", number)), SAME)
        tensors.append(TargetTensor(spec, origin))
    entries = [FileEntry(t.spec.name, t.spec, SAME) for t in tensors]
    return Plan("test", tensors, [OutputFile("a.raw", "x", "raw", entries)])


@pytest.mark.parametrize(
    ("error", "expected", "text"),
    [
        (FormatError("bad: the file ends early"), FormatError, "ends early"),
        (OSError(errno.EIO, "Input/output error"), CheckpointError, r"source.bin: cannot be read"),
        (MemoryError("no room"), MemoryError, "no room"),
    ],
)
def test_one_failure_stops_all(tmp_path, raw, error, expected, text):
    Slow.count = 0
    with pytest.raises(expected, match=text):
        execute(many(Failing(error)), tmp_path, jobs=3)
    assert Slow.count < 600  # of 2,000
    assert not [t for t in threading.enumerate() if t.name.startswith("converter")]


def test_an_interrupt_stops_promptly(tmp_path, raw):
    def interrupt(done: int, total: int, name: str) -> None:
        raise KeyboardInterrupt

    Slow.count = 0
    with pytest.raises(KeyboardInterrupt):
        execute(many(Memory("s", noise((4, 4)))), tmp_path, jobs=2, progress=interrupt)
    assert Slow.count < 600  # of 2,000
    assert not [t for t in threading.enumerate() if t.name.startswith("converter")]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES])
def test_refused_writes_name_file_and_room(tmp_path, raw, monkeypatch, number):
    def refuse(fd, values, offset):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(file_writer, "_pwrite_all", refuse)
    with pytest.raises(OutputError, match=os.strerror(number)) as caught:
        execute(one(noise((10, 10))), tmp_path)
    (problem,) = caught.value.problems
    assert problem.file == str(tmp_path / "a.raw")
    assert problem.expected == "400 bytes of space"
    assert str(problem.found).endswith("bytes free")


def test_files_that_cannot_be_created(tmp_path, raw):
    (tmp_path / "a.raw").mkdir()
    with pytest.raises(OutputError, match=r"a\.raw cannot be written"):
        execute(one(noise((10, 10))), tmp_path)


def test_progress_ends_with_everything(tmp_path, raw):
    seen: list[tuple[int, int, str]] = []
    plan, _ = case_plan()
    execute(plan, tmp_path, progress=lambda *call: seen.append(call))
    assert seen[-1][:2] == (plan.nbytes, plan.nbytes)
    assert seen[-1][2] in CASES


def test_documents_and_copied_files(tmp_path, raw):
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    plan = Plan("test", [], [], {"config.json": b"{}"}, {"sub/vocab.txt": tmp_path / "vocab.txt"})
    (tmp_path / "out").mkdir()
    execute(plan, tmp_path / "out")
    assert (tmp_path / "out" / "config.json").read_bytes() == b"{}"
    assert (tmp_path / "out" / "sub" / "vocab.txt").read_text() == "a\nb\n"
    gone = Plan("test", [], [], {}, {"vocab.txt": tmp_path / "gone"})
    with pytest.raises(CheckpointError, match="gone: cannot be read"):
        execute(gone, tmp_path / "out")


def test_blocks_cover_all_rows_evenly():
    for shape in ((), (1,), (0, 4), (10, 3), (1000, 7), (17, 100_000)):
        parts = list(blocks(shape, 4, 4096))
        assert parts[0][0] == 0
        assert parts[-1][1] == (shape[0] if shape else 1)
        assert all(a[1] == b[0] for a, b in itertools.pairwise(parts))
    assert list(blocks((1024, 4096), 4, 1 << 24)) == [(0, 1024)]


@pytest.mark.parametrize("file_format", ["safetensors", "flax-msgpack"])
def test_real_formats_read_back(tmp_path, file_format):
    values = noise((64, 48))
    plan = one(values, file_format=file_format)
    execute(plan, tmp_path)
    with open_file(tmp_path / "a.raw") as reader:
        assert np.array_equal(reader.tensors["f"].read(), values)


def test_threads_write_to_a_file_in_turns(tmp_path, raw, monkeypatch):
    plan, _ = case_plan()
    writing, together = set(), []

    def watched(fd: int, values: memoryview, offset: int) -> int:
        together.append(fd in writing)
        writing.add(fd)
        time.sleep(1e-4)  # lets another thread run
        writing.discard(fd)
        return system.write_at(fd, values, offset)

    monkeypatch.setattr(file_writer, "write_at", watched)
    execute(plan, tmp_path, jobs=4)
    assert together and not any(together)


@pytest.mark.parametrize("busy", [False, True])
def test_hashes_while_a_file_is_busy(monkeypatch, busy):
    steps = []

    class Lock:
        def acquire(self, blocking: bool = True) -> bool:
            return blocking or not busy

        def release(self) -> None:
            pass

    class Writer:
        lock = Lock()

        def write_rows(self, name, values, rows, start, stop, check) -> None:
            steps.append("write")

    class Digest(tensor_copy._Digest):
        def catch_up(self) -> bool:
            if waited := super().catch_up():
                steps.append("hash")
            return waited

    monkeypatch.setattr(tensor_copy, "_Digest", Digest)
    plan, canonical = case_plan()
    [tensor] = [each for each in plan.tensors if each.spec.name == "matrix"]
    entry = plan.files[0].entries[0]
    outputs: dict = {"matrix": [(Writer(), entry)]}
    digest = tensor_copy.TensorCopier(outputs, 1 << 20).copy(tensor).sha256
    assert steps == (["hash", "write"] if busy else ["write", "hash"])
    assert digest == hashlib.sha256(canonical["matrix"].tobytes()).hexdigest()


def test_one_thread_begins_with_newly_initialized_tensors():
    plan, _ = case_plan()
    stored, spec = plan.tensors[:3], TensorSpec("new", "float32", (2,))
    new = [
        TargetTensor(spec, InitializedTensor(Initializer("normal", 1.0, seed, "new"), "new"))
        for seed in range(3)
    ]
    queue = executor._Queue([*stored, *new], {})
    from_end = queue.from_end()
    taken = [next(queue), next(from_end), next(from_end), next(queue)]
    assert taken == [stored[0], new[2], new[1], stored[1]]
    assert [*from_end] == [new[0], stored[2]]
    assert [*queue] == []
