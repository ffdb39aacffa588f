"""TensorFlow checkpoints: everything an invalid index can contain."""

from __future__ import annotations

import os
import resource
import struct

import google_crc32c
import numpy as np
import pytest

from converter.formats.registry import open_file
from converter.formats.tensorflow_checkpoint import reader
from converter.formats.tensorflow_checkpoint.partitioned import slice_key
from converter.formats.tensorflow_checkpoint.sstable import MAX_FILE, masked_crc32c
from tests.formats import tensorflow_checkpoints
from tests.formats.tensorflow_checkpoint_files import W, index, one, refused
from tests.formats.tensorflow_checkpoints import (
    HEADER,
    block,
    entry,
    message,
    number,
    slices,
    varint,
    write_parts,
)

INVALID = {
    "no header": ([(b"w", one()[1])], "the first entry is not the header"),
    "no data files": ([(b"", b""), one()], "0, for readers"),
    "millions of data files": ([(b"", number(1, 1 << 30)), one()], "1073741824"),
    "negative data files": ([(b"", number(1, -1)), one()], "-1, for readers"),
    "a version to come": ([(b"", HEADER + message(3, number(2, 2))), one()], "version 2"),
    "unknown dtype": ([(b"", HEADER), one(dtype=99)], "DataType 99"),
    "unknown rank": (
        [(b"", HEADER), (b"w", number(1, 1) + message(2, number(3, 1)))],
        "unknown dtype or shape",
    ),
    "negative length": ([(b"", HEADER), one((-3, 4))], "impossible shape"),
    "huge shape": ([(b"", HEADER), one((1 << 40, 1 << 40))], "impossible shape"),
    "many axes": ([(b"", HEADER), one((1,) * 99)], "more than 32 axes"),
    "many pieces": (
        [(b"", HEADER), (b"w", entry(1, (3,), more=message(7, b"") * 20_000))],
        "10000 parts",
    ),
    "pieces of many axes": (
        [(b"", HEADER), (b"w", entry(1, (3,), more=message(7, message(1, b"") * 99)))],
        "more than 32 axes",
    ),
    "too few bytes": ([(b"", HEADER), one(size=44)], "size and shape disagree"),
    "negative size": ([(b"", HEADER), one(size=-48)], "size and shape disagree"),
    "beyond the end": ([(b"", HEADER), one(offset=4)], "the file ends early"),
    "before the start": ([(b"", HEADER), one(offset=-48)], "the file ends early"),
    "far beyond": ([(b"", HEADER), one(offset=(1 << 63) - 1)], "the file ends early"),
    "another data file": ([(b"", HEADER), one(shard=1)], "is in a data file that does not exist"),
    "negative data file": ([(b"", HEADER), one(shard=-1)], "is in a data file that does not exist"),
    "shared bytes": (
        [(b"", HEADER), (b"v", entry(1, (2,), offset=40, size=8)), one()],
        "overlaps another tensor",
    ),
    "one name twice": (
        [(b"", HEADER), (b"w", entry(1, (), size=4)),
         (b"w/.ATTRIBUTES/VARIABLE_VALUE", entry(1, (), offset=4, size=4))],
        "duplicate name",
    ),
    "no UTF-8": ([(b"", HEADER), (b"\xff\xfe", one()[1])], "malformed entry"),
    "no message": ([(b"", HEADER), (b"w", b"\x0a")], "malformed entry"),
    "a group": ([(b"", HEADER), (b"w", b"\x0b")], "unknown wire type 3"),
    "a text for a number": ([(b"", HEADER), (b"w", message(1, b"x"))], "is not a number"),
    "a number for a text": ([(b"", HEADER), (b"w", number(2, 1))], "is not a message"),
    "an endless number": ([(b"", HEADER), (b"w", b"\x08" + b"\xff" * 11)], "64 bits"),
    "keys out of order": ([(b"", HEADER), (b"x", one()[1]), one()], "does not follow"),
    "a key twice": ([(b"", HEADER), one(), one()], "does not follow"),
    "an endless key": ([(b"", HEADER), (b"w" * 5000, one()[1])], "does not fit"),
    "a piece in pieces": (
        [(b"", HEADER), (slice_key("v", [(0, 1)]), entry(1, (1,), more=message(7, b"")))],
        "consists of parts",
    ),
    "pieces of nothing": (
        [(b"", HEADER), (slice_key("v", [(0, 1)]), one()[1])],
        "a part of a variable that is not listed",
    ),
    "pieces across": (
        [(b"", HEADER), (b"w", entry(1, (3, 4), more=message(7, message(1, number(2, 1)) * 2)))],
        "end at 1 of 3",
    ),
    "pieces that are no grid": (
        [(b"", HEADER),
         (b"w", entry(1, (3, 4), more=slices([[(0, 1), (0, 2)], [(1, 2), (2, 2)]])))],
        "2 different parts where a grid has 4",
    ),
    "a piece twice": (
        [(b"", HEADER), (b"w", entry(1, (3,), more=slices([[(0, 3)], [(0, -1)]])))],
        "1 different parts where a grid has 1",
    ),
    "pieces of a scalar": (
        [(b"", HEADER), (b"w", entry(1, (), more=message(7, b"") * 2))],
        "1 different parts where a grid has 1",
    ),
    "overlapping pieces": (
        [(b"", HEADER), (b"w", entry(1, (3,), more=slices([[(0, 2)], [(1, 2)]])))],
        "begins at 1 of axis 0 instead of 2",
    ),
    "pieces with a gap": (
        [(b"", HEADER),
         (b"w", entry(1, (3,), more=message(7, message(1, number(1, 1) + number(2, 2)))))],
        "begins at 1",
    ),
    "pieces that stop short": (
        [(b"", HEADER), (b"w", entry(1, (3,), more=message(7, message(1, number(2, 2)))))],
        "end at 2 of 3",
    ),
    "pieces of another rank": (
        [(b"", HEADER), (b"w", entry(1, (3,), more=message(7, b"")))],
        "other than 1 axes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", INVALID)
def test_refuses_invalid_entries(case, tmp_path):
    entries, finding = INVALID[case]
    write_parts(tmp_path / "m.index", entries, [W.tobytes()])
    refused(tmp_path / "m.index", finding)


def test_names_the_data_files_that_are_missing(tmp_path):
    path = index(tmp_path, one(), header=number(1, 3), data=[W.tobytes(), b"", b""])
    (tmp_path / "m.data-00001-of-00003").unlink()
    refused(path, "1 of 3 data file(s) are missing", "m.data-00001-of-00003")


def test_finds_a_changed_byte_by_its_checksum(tmp_path):
    path = index(tmp_path, one())
    data = bytearray(path.read_bytes())
    data[data.index(b"w")] ^= 1
    path.write_bytes(data)
    refused(path, "checksum")


@pytest.mark.parametrize(
    ("index_block", "finding"),
    [
        (block([(b"w", varint(1 << 40) + varint(9))]), "exceeds the data"),
        (block([(b"w", varint(0) + varint(1 << 63))]), "exceeds the data"),
        (block([(b"w", b"\x80")]), "exceeds the data"),
        (b"\0\0", "a block of 2 bytes"),
        (struct.pack("<I", 1 << 30), "restarts"),
    ],
)
def test_refuses_invalid_blocks(tmp_path, index_block, finding):
    body = index_block + b"\0"
    body += struct.pack("<I", masked_crc32c(body))
    footer = (varint(0) + varint(0) + varint(0) + varint(len(index_block))).ljust(40, b"\0")
    path = tmp_path / "m.index"
    path.write_bytes(body + footer + struct.pack("<Q", tensorflow_checkpoints.MAGIC))
    refused(path, finding)


def test_refuses_blocks_that_are_listed_twice(tmp_path):
    path = index(tmp_path, one())
    first = tensorflow_checkpoints.first_block(path.read_bytes())
    handle = varint(0) + varint(len(first))
    body = bytearray(first + b"\0")
    body += struct.pack("<I", masked_crc32c(bytes(body)))
    listing = block([(b"w", handle), (b"x", handle)]) + b"\0"
    place = varint(len(body)) + varint(len(listing) - 1)
    body += listing + struct.pack("<I", masked_crc32c(listing))
    path.write_bytes(
        bytes(body)
        + (b"\0\0" + place).ljust(40, b"\0")
        + struct.pack("<Q", tensorflow_checkpoints.MAGIC)
    )
    refused(path, "overlaps the one before")


def test_refuses_an_index_that_is_too_large(tmp_path):
    path = index(tmp_path, one())
    with path.open("r+b") as file:
        file.truncate(MAX_FILE + 1)
        file.seek(-8, os.SEEK_END)
        file.write(struct.pack("<Q", tensorflow_checkpoints.MAGIC))
    refused(path, "impossible size of a checkpoint index")


@pytest.mark.parametrize("key", [b"\0", b"w"], ids=["pieces", "variables"])
@pytest.mark.parametrize("slices", [0, 1, 300])
def test_refuses_more_tensors_pieces_and_slices_than_any_model_has(
    tmp_path, key, slices, monkeypatch
):
    """Each of them counts; the limit is lowered, so that the test is quick."""
    monkeypatch.setattr(reader, "MAX_ENTRIES", 500)
    listed = entry(1, (3,), more=message(7, b"") * slices)
    entries = [(key + b"%04d" % n, listed) for n in range(600)]
    write_parts(tmp_path / "m.index", [(b"", HEADER), *entries], [W.tobytes()])
    finding = "consists of parts" if slices and key == b"\0" else "more than 500 tensors and parts"
    refused(tmp_path / "m.index", finding)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["\0", "w"], ids=["pieces", "variables"])
@pytest.mark.parametrize("count", [1 << 15, 1 << 16])
def test_refuses_many_entries_in_bounded_memory(tmp_path, start, count, monkeypatch):
    """Up to two megabytes in blocks of 4,096, which the C library checksums."""
    value = bytes(entry(1, (1,), size=4))
    listed = [(f"{start}{n:07}".encode(), value) for n in range(count)]
    blocks = [[(b"", HEADER)]]
    blocks += (listed[at : at + 4096] for at in range(0, len(listed), 4096))
    monkeypatch.setattr(tensorflow_checkpoints, "crc32c", google_crc32c.value)
    table = tensorflow_checkpoints.table([(part[-1][0], bytes(block(part))) for part in blocks])
    (tmp_path / "m.data-00000-of-00001").write_bytes(b"")
    (tmp_path / "m.index").write_bytes(table)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(tmp_path / "m.index", "m.index")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


@pytest.mark.parametrize("target", ["/dev/zero", "/etc/passwd", "fifo"])
def test_data_files_are_regular_files_of_the_size_that_the_index_asks_for(tmp_path, target):
    path = index(tmp_path, one((1 << 20,), size=1 << 22), data=[b""])
    data = tmp_path / "m.data-00000-of-00001"
    data.unlink()
    if target == "fifo":
        os.mkfifo(data)
    else:
        data.symlink_to(target)
    refused(path)


def test_data_files_may_be_links_as_in_a_download_cache(tmp_path):
    """They are looked for where the index's own link is, not where it leads."""
    (tmp_path / "blobs").mkdir()
    snapshot = tmp_path / "snapshots" / "revision"
    snapshot.mkdir(parents=True)
    index(tmp_path / "blobs", one())
    for name, file in enumerate(sorted((tmp_path / "blobs").iterdir())):
        (snapshot / file.name).symlink_to(file.rename(file.with_name(f"{name}")))
    with open_file(snapshot / "m.index") as opened:
        assert np.array_equal(opened.tensors["w"].read(), W)
    refused(tmp_path / "blobs" / "1", "1 of 1 data file(s) are missing", "1.data-00000-of-00001")
