"""The contract of every format's reader and writer: a format is tested by being registered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.errors import CheckpointError, FormatError
from converter.formats.base import FileFormat, Reader
from converter.formats.file_handle import FileHandle
from converter.formats.registry import FORMATS, detect_format, get_format, open_file
from converter.storage.base import RemoteDirectory
from converter.storage.hub_client import HubRangeSource
from converter.tensors import NAMES, TensorSpec
from tests.formats.mutations import examine
from tests.formats.work import without_old_objects
from tests.formats.writing import (
    DIRECTORIES,
    FILE_FORMATS,
    READ_ONLY,
    copy_siblings,
    model,
    same,
    values,
    write,
)
from tests.storage.hub.hub_server import Hub, asked


@pytest.fixture(params=FILE_FORMATS)
def file_format(request: pytest.FixtureRequest) -> FileFormat:
    return get_format(request.param)


@pytest.fixture
def arrays(file_format: FileFormat) -> dict[TensorSpec, np.ndarray]:
    return {spec: values(spec) for spec in model(file_format)}


@pytest.fixture
def path(file_format: FileFormat, arrays: dict[TensorSpec, np.ndarray], tmp_path: Path) -> Path:
    path = tmp_path / "file"
    write(file_format, path, arrays)
    return path


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Hub, str]]:
    with asked() as running:
        yield running


@pytest.fixture(params=["local", "remote"])
def opened(request: pytest.FixtureRequest) -> Callable[[Path], Reader]:
    """Return the function that opens a file, local or on the Hub."""
    if request.param == "local":
        return open_file
    hub, endpoint = request.getfixturevalue("server")
    return lambda path: open_file(remote(hub, endpoint, path))


def remote(hub: Hub, endpoint: str, path: Path) -> FileHandle:
    """Publish the file at `path` and its siblings on the Hub, and return the remote file."""
    files = {file.name: file.read_bytes() for file in path.parent.glob(f"{path.name}*")}
    hub.publish("acme/model", {f"{name}.bin": data for name, data in files.items()})

    def ranges(name: str) -> HubRangeSource:
        url = f"{endpoint}/acme/model/resolve/main/{name}.bin"
        return HubRangeSource("acme/model", name, url, len(files[name]))

    sizes = {name: len(data) for name, data in files.items()}
    return RemoteDirectory(path.parent / "nothing", sizes, ranges).open(path.name)


def test_reads_what_it_writes(opened, file_format, arrays, path):
    assert detect_format(path).name == file_format.name
    with opened(path) as reader:
        assert {tensor.spec for tensor in reader.tensors.values()} == set(arrays)
        assert not reader.duplicates
        for spec, array in arrays.items():
            assert same(reader.tensors[spec.name].read(), array), spec


def test_reads_parts_along_every_axis(opened, arrays, path):
    with opened(path) as reader:
        for spec, array in arrays.items():
            for axis, length in enumerate(spec.shape):
                for start, stop in {(0, length), (length // 2, length), (0, length // 2)}:
                    part = np.moveaxis(np.moveaxis(array, axis, 0)[start:stop], 0, axis)
                    read = reader.tensors[spec.name].read(axis, start, stop)
                    assert same(read, np.ascontiguousarray(part).reshape(read.shape)), spec


def test_reads_parts_of_large_tensors(opened, file_format, tmp_path):
    specs = [
        TensorSpec("m/a/w:0", "float32", (3, 70_000)),
        TensorSpec("m/b/w:0", "int64", (900, 9)),
    ]
    arrays = {spec: values(spec) for spec in specs}
    write(file_format, tmp_path / "file", arrays)
    with opened(tmp_path / "file") as reader:
        for spec, array in arrays.items():
            for axis in (0, 1):
                stop = spec.shape[axis] - 1
                expected = array[1:stop] if axis == 0 else array[:, 1:stop]
                read = reader.tensors[spec.name].read(axis, 1, stop)
                assert same(read, np.ascontiguousarray(expected))


@pytest.fixture
def writer(file_format: FileFormat) -> FileFormat:
    if file_format.name in READ_ONLY:
        pytest.skip("is read-only")
    return file_format


@pytest.mark.parametrize("name", [*READ_ONLY, *DIRECTORIES])
def test_read_only_formats_refuse_to_write(name, tmp_path):
    with pytest.raises(ValueError, match="read-only"):
        get_format(name).create(tmp_path / "new", [])
    assert not list(tmp_path.iterdir())


def test_segments_tile_each_tensor_and_share_no_byte(writer, arrays, tmp_path):
    output = writer.create(tmp_path / "new", list(arrays))
    runs = []
    for spec in arrays:
        offset = 0
        for segment in output.segments[spec.name]:
            assert segment.tensor_offset == offset
            offset += segment.nbytes
            runs.append((segment.file_offset, segment.file_offset + segment.nbytes))
        assert offset == spec.nbytes
    runs = sorted(run for run in runs if run[0] < run[1])
    assert all(end <= start for (_, end), (start, _) in pairwise(runs))


def test_output_is_deterministic(file_format, arrays, path, tmp_path):
    write(file_format, tmp_path / "again", arrays)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_threads_read_at_once(opened, arrays, path):
    with opened(path) as reader, ThreadPoolExecutor(8) as pool:
        specs = [spec for spec in arrays for _ in range(20)]
        read = pool.map(lambda spec: reader.tensors[spec.name].read(), specs)
        for spec, array in zip(specs, read, strict=True):
            assert same(array, arrays[spec])


def test_listing_reads_headers_only(opened, file_format, tmp_path, monkeypatch):
    spec = TensorSpec("model/large/w:0", "float32", (1024, 2048))
    write(file_format, tmp_path / "file", {spec: values(spec)})
    read = 0
    fill = FileHandle.fill

    def count(self: FileHandle, buffer: memoryview, *args: Any) -> None:
        nonlocal read
        read += len(buffer)
        fill(self, buffer, *args)

    monkeypatch.setattr(FileHandle, "fill", count)
    with opened(tmp_path / "file") as reader:
        assert read < 1 << 18
        read = 0
        reader.tensors[spec.name].read(0, 7, 9)
        # a checksum, which only the read-only format has, covers the complete tensor
        assert read < (1 << 18) + (spec.nbytes if file_format.name in READ_ONLY else 0)


def test_equal_locations_mean_shared_bytes(opened, file_format, tmp_path):
    spec = TensorSpec("model/embeddings/w:0", "float32", (4, 3))
    other = TensorSpec("model/other/w:0", "float32", (4, 3))
    arrays = {spec: values(spec), other: values(other)}
    aliases = {"model/head/w:0": spec.name}
    try:
        write(file_format, tmp_path / "file", arrays, aliases=aliases)
    except ValueError:
        assert not file_format.supports_aliases
        write(file_format, (tmp_path / "plain"), arrays)
        with opened(tmp_path / "plain") as reader:
            assert len({tensor.location for tensor in reader.tensors.values()}) == 2
        return
    with opened(tmp_path / "file") as reader:
        alias = reader.tensors["model/head/w:0"]
        assert alias.location == reader.tensors[spec.name].location
        assert alias.location != reader.tensors[other.name].location
        assert same(alias.read(), arrays[spec])


def test_refuses_what_it_cannot_write(writer, tmp_path):
    spec = TensorSpec("model/a/w:0", "float32", (2,))
    with pytest.raises(ValueError):
        writer.create(tmp_path / "twice", [spec, spec])
    for dtype in set(NAMES) - writer.dtypes:
        with pytest.raises(ValueError):
            writer.create(tmp_path / dtype, [TensorSpec("model/a/w:0", dtype, (2,))])
    assert not list(tmp_path.iterdir())
    (tmp_path / "there").write_bytes(b"precious")
    with pytest.raises(OSError):
        writer.create(tmp_path / "there", [spec])
    assert (tmp_path / "there").read_bytes() == b"precious"


def test_no_tensors_at_all(opened, file_format, tmp_path):
    write(file_format, tmp_path / "file", {})
    with opened(tmp_path / "file") as reader:
        assert not reader.tensors


def test_closed_reader_does_not_read(opened, arrays, path):
    with opened(path) as reader:
        tensor = next(t for t in reader.tensors.values() if t.spec.nbytes)
    with pytest.raises((ValueError, FormatError)):
        tensor.read()


def test_targets_that_do_not_fit_are_refused(opened, arrays, path):
    with opened(path) as reader:
        tensor = reader.tensors["model/cube/w:0"]
        for out in (
            np.empty((2, 3, 5), np.float32),
            np.empty((2, 3, 4), np.float64),
            np.empty((2, 3, 8), np.float32)[..., ::2],
            np.empty((2, 3), np.float32),
        ):
            with pytest.raises(ValueError):
                tensor.read_into(out)
        with pytest.raises(ValueError):
            tensor.read_into(np.empty((2, 2, 4), np.float32), 1, 2)


@without_old_objects()
def test_every_truncation_is_an_error(file_format, path, tmp_path):
    data = path.read_bytes()
    cuts = {*range(0, min(len(data), 300), 7), *range(0, len(data), max(1, len(data) // 150))}
    copy_siblings(path, tmp_path / "cut")
    for cut in sorted(cuts | {len(data) - 1, len(data) - 2, len(data) - 22}):
        assert not examine(file_format, tmp_path / "cut", data[:cut]), cut


def test_a_failing_transport_is_not_reported_as_damage(file_format, path):
    left = 0
    files = {file.name: file.read_bytes() for file in path.parent.glob(f"{path.name}*")}

    class Failing:
        """A source that fails after some reads."""

        def __init__(self, name: str) -> None:
            self.data = files[name]
            self.size = len(self.data)

        def read(self, offset: int, nbytes: int) -> bytes:
            nonlocal left
            left -= 1
            if left < 0:
                raise CheckpointError("no connection")
            return self.data[offset : offset + nbytes]

    sizes = {name: len(data) for name, data in files.items()}
    folder = RemoteDirectory(path.parent / "nothing", sizes, Failing)
    failed = 0
    for given in range(100):
        left = given
        try:
            with open_file(folder.open(path.name)):
                break
        except CheckpointError as error:
            assert type(error) is CheckpointError, given
            failed += 1
    assert failed


def test_the_contract_covers_the_registry():
    assert set(FORMATS) - set(FILE_FORMATS) == set(DIRECTORIES)
    assert set(READ_ONLY) <= set(FILE_FORMATS)
    for name in FORMATS:
        file_format = get_format(name)
        assert file_format.name == name
        read_only = type(file_format).preallocate is FileFormat.preallocate
        assert read_only == (name in READ_ONLY or name in DIRECTORIES)
