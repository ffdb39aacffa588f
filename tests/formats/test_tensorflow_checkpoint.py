"""TensorFlow checkpoints: how they are read."""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest

from converter.errors import FormatError
from converter.formats.file_handle import FileHandle
from converter.formats.registry import FORMATS, detect_format, open_file
from converter.formats.tensorflow_checkpoint.partitioned import slice_key
from converter.formats.tensorflow_checkpoint.sstable import masked_crc32c
from tests.formats import tensorflow_checkpoints
from tests.formats.tensorflow_checkpoint_files import FLOAT, STRING, W, index, one, refused
from tests.formats.tensorflow_checkpoints import (
    HEADER,
    block,
    crc32c,
    entry,
    masked,
    number,
    table,
    varint,
)
from tests.formats.work import work_at_most

CHECKSUM = masked(crc32c(W.tobytes()))


def test_reads_a_tensor(tmp_path):
    with open_file(index(tmp_path, one())) as reader:
        assert np.array_equal(reader.tensors["w"].read(), W)
        assert [file.name for file in reader.files] == ["m.index", "m.data-00000-of-00001"]


def test_is_detected_by_its_end_alone(tmp_path):
    path = index(tmp_path, one()).rename(tmp_path / "weights")
    assert detect_format(path).name == "tensorflow-checkpoint" in FORMATS


def test_reads_big_endian_values(tmp_path):
    header = HEADER + number(2, 1)
    with open_file(index(tmp_path, one(), header=header, data=[W.astype(">f4").tobytes()])) as r:
        assert np.array_equal(r.tensors["w"].read(), W)


def test_strips_the_suffix_of_object_checkpoints(tmp_path):
    kernel = (b"model/w/.ATTRIBUTES/VARIABLE_VALUE", one()[1])
    text = (b"text", entry(STRING, ()))
    with open_file(index(tmp_path, kernel, text)) as reader:
        assert list(reader.tensors) == ["model/w"]


def test_reads_tables_of_many_blocks(tmp_path):
    entries = [(b"", HEADER)]
    entries += [
        (f"layer_{n:03}/w".encode(), entry(FLOAT, (), offset=4 * n, size=4)) for n in range(99)
    ]
    data = np.arange(99, dtype="<f4").tobytes()
    entries = [(key, tensorflow_checkpoints.checksummed(value, [data])) for key, value in entries]
    parts = [entries[start : start + 10] for start in range(0, 100, 10)]
    (tmp_path / "m.data-00000-of-00001").write_bytes(data)
    (tmp_path / "m.index").write_bytes(table([(part[-1][0], block(part, 4)) for part in parts]))
    with open_file(tmp_path / "m.index") as reader:
        assert [float(t.read()) for t in reader.tensors.values()] == list(range(99))
        assert list(reader.tensors)[7] == "layer_007/w"


def test_refuses_an_index_compressed_with_snappy(tmp_path):
    plain = block([(b"", HEADER), one()])
    packed = varint(len(plain)) + bytes([0xF0, len(plain) - 1]) + plain
    path = index(tmp_path, one())
    path.write_bytes(table([(b"w", packed)], kind=1))
    refused(path, "Snappy", "since version 1.2", "tf.compat.v1.train.Saver().save")


def test_checksum_as_published():
    """RFC 3720, appendix B.4: 32 bytes of zeros; LevelDB masks it."""
    assert (
        masked_crc32c(bytes(32))
        == tensorflow_checkpoints.masked(0x8A9136AA)
        == tensorflow_checkpoints.masked(tensorflow_checkpoints.crc32c(bytes(32)))
    )


def pieces(path: Path, *cuts: int, axis: int = 0, leave_out: int = -1) -> Path:
    """Write `W` in parts along an axis, each in a data file of its own."""
    edges = list(zip((0, *cuts), (*cuts, W.shape[axis]), strict=True))
    extents = [[(a, b - a) if own == axis else (0, -1) for own in range(2)] for a, b in edges]
    entries, data = [(b"w", entry(FLOAT, W.shape, more=tensorflow_checkpoints.slices(extents)))], []
    for shard, (extent, (a, b)) in enumerate(zip(extents, edges, strict=True)):
        part = W.take(range(a, b), axis=axis)
        data.append(part.tobytes())
        if shard != leave_out:
            entries.append(
                (slice_key("w", extent), entry(FLOAT, part.shape, shard, 0, part.nbytes))
            )
    return index(path, *sorted(entries), header=number(1, len(data)), data=data)


@pytest.mark.parametrize(
    ("axis", "cuts"), [(0, (1,)), (0, (1, 2)), (1, (3,)), (1, (1, 2)), (0, ())]
)
def test_joins_partitioned_variables(tmp_path, axis, cuts):
    with open_file(pieces(tmp_path, *cuts, axis=axis)) as reader:
        tensor = reader.tensors["w"]
        assert np.array_equal(tensor.read(), W)
        for along in (0, 1):
            for start in range(W.shape[along]):
                for stop in range(start, W.shape[along] + 1):
                    expected = W.take(range(start, stop), axis=along)
                    assert np.array_equal(tensor.read(along, start, stop), expected)
        assert len(reader.tensors) == 1


def test_joins_variables_that_are_partitioned_along_several_axes(tmp_path):
    values = np.arange(210, dtype=np.float32).reshape(5, 6, 7)
    cuts = [[(0, 2), (2, 3)], [(0, -1)], [(0, 1), (1, 4), (5, 0), (5, 2)]]
    extents = list(product(*cuts))[::-1]  # in the opposite order
    entries, data = [], bytearray()
    for part in extents:
        index_ = tuple(slice(a, None if n == -1 else a + n) for a, n in part)
        raw = values[index_].tobytes()
        place = entry(FLOAT, values[index_].shape, 0, len(data), len(raw))
        entries.append((slice_key("w", part), place))
        data += raw
    listed = (b"w", entry(FLOAT, values.shape, more=tensorflow_checkpoints.slices(extents)))
    with open_file(index(tmp_path, *sorted(entries), listed, data=[bytes(data)])) as reader:
        tensor = reader.tensors["w"]
        assert np.array_equal(tensor.read(), values)
        for axis in (0, 1, 2):
            for start, stop in combinations(range(values.shape[axis] + 1), 2):
                expected = values.take(range(start, stop), axis=axis)
                assert np.array_equal(tensor.read(axis, start, stop), expected)


def test_refuses_a_variable_with_a_piece_missing(tmp_path):
    refused(pieces(tmp_path, 1, 2, leave_out=1), "a part of a partitioned variable is missing", "w")


def test_one_tensor_of_a_large_checkpoint_costs_its_own_bytes(tmp_path):
    """Two data files of 2 GiB each, almost all of them holes; a part costs its tensor."""
    size, small = 1 << 31, 1 << 26
    zeros = masked(google_crc32c.value(bytes(small)))
    entries = [(f"w{n}".encode(), entry(FLOAT, (size // 4,), n, 0, size)) for n in range(2)]
    entries.append((b"x", entry(FLOAT, (small // 4,), 1, size, small, checksum=zeros)))
    entries.append((b"z", entry(FLOAT, (3, 4), 1, size + small, 48, checksum=CHECKSUM)))
    path = index(tmp_path, *entries, header=number(1, 2), data=[b"", b""])
    for shard, length, more in ((0, size, b""), (1, size + small, W.tobytes())):
        with (tmp_path / f"m.data-{shard:05}-of-00002").open("r+b") as file:
            file.seek(length)
            file.write(more)
            file.truncate(length + len(more))
    with work_at_most(20), open_file(path) as reader:
        assert np.array_equal(reader.tensors["z"].read(), W)
        assert not reader.tensors["x"].read(0, small // 4 - 5).any()


def damaged(path: Path, place: int) -> Path:
    """Flip one bit of a data file of the checkpoint at `path`; return the path."""
    (data,) = path.parent.glob("m.data-*")
    content = bytearray(data.read_bytes())
    content[place] ^= 4
    data.write_bytes(content)
    return path


@pytest.mark.parametrize("header", [HEADER, HEADER + number(2, 1)], ids=["little", "big"])
@pytest.mark.parametrize("place", [0, 21, 47])
@pytest.mark.parametrize("part", [(), (0, 0, 1), (0, 2, 3), (1, 1, 2)])
def test_a_flipped_bit_is_found_before_a_value_is_returned(tmp_path, header, place, part):
    """Also where the part that is read does not hold the bit."""
    with open_file(damaged(index(tmp_path, one(), header=header), place)) as reader:
        for _ in range(2):
            with pytest.raises(FormatError) as caught:
                reader.tensors["w"].read(*part)
            for word in ("m.data-00000-of-00001", "w: the values", "checksum", f"{CHECKSUM:#x}"):
                assert word in str(caught.value)


def test_a_flipped_bit_in_a_piece_is_found(tmp_path):
    extents = [[(0, 1), (0, -1)], [(1, 2), (0, -1)]]
    listed = (b"w", entry(FLOAT, (3, 4), more=tensorflow_checkpoints.slices(extents)))
    parts = [
        (slice_key("w", extents[0]), entry(FLOAT, (1, 4), 0, 0, 16)),
        (slice_key("w", extents[1]), entry(FLOAT, (2, 4), 0, 16, 32)),
    ]
    path = damaged(index(tmp_path, *sorted([listed, *parts])), 40)
    with open_file(path) as reader:
        assert np.array_equal(reader.tensors["w"].read(0, 0, 1), W[:1])
        for part in ((), (0, 1, 2), (1, 3, 4)):
            with pytest.raises(FormatError, match="w: the values do not have the checksum"):
                reader.tensors["w"].read(*part)


def test_a_tensor_read_in_parts_is_verified_once(tmp_path, monkeypatch):
    read: list[int] = []
    with open_file(index(tmp_path, one())) as reader:
        fill = FileHandle.fill

        def record(self: FileHandle, buffer: memoryview, *args: Any) -> None:
            read.append(len(buffer))
            fill(self, buffer, *args)

        monkeypatch.setattr(FileHandle, "fill", record)
        for row in range(3):
            assert np.array_equal(reader.tensors["w"].read(0, row, row + 1), W[row : row + 1])
    assert read == [48, 16, 16, 16]
