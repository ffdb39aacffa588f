"""TensorFlow bundles: everything a lying index can say, and what TensorFlow itself writes."""

from __future__ import annotations

import contextlib
import os
import random
import struct
import time
from pathlib import Path
from typing import Any

import bundles
import numpy as np
import pytest
from bundles import HEADER, block, entry, message, number, table, varint, write_parts

from converter.containers import CONTAINERS, open_container, recognise
from converter.containers.snappy import decode
from converter.containers.tf_proto import WireError
from converter.containers.tf_slices import slice_key
from converter.containers.tf_table import MAX_FILE, masked_crc32c
from converter.errors import CheckpointError, FormatError

FLOAT, STRING, HALF = 1, 7, 19
W = np.arange(12, dtype=np.float32).reshape(3, 4)


def index(
    path: Path, *entries: tuple[bytes, bytes], header: bytes = HEADER, data: Any = None
) -> Path:
    """An index of entries behind a header, with data files that hold `W`."""
    write_parts(path / "m.index", [(b"", header), *entries], data or [W.tobytes()])
    return path / "m.index"


def one(shape: tuple[int, ...] = (3, 4), dtype: int = FLOAT, **where: Any) -> tuple[bytes, bytes]:
    return b"w", entry(dtype, shape, **{"size": 48, **where})


def refused(path: Path, *parts: str) -> None:
    """The file gives one clear error, at once."""
    began = time.monotonic()
    with pytest.raises(CheckpointError) as caught, open_container(path):
        pass
    for part in (str(path), *parts):
        assert part in str(caught.value)
    assert time.monotonic() - began < 1


def test_reads_a_tensor(tmp_path):
    with open_container(index(tmp_path, one())) as reader:
        assert np.array_equal(reader.tensors["w"].read(), W)
        assert [file.name for file in reader.files] == ["m.index", "m.data-00000-of-00001"]


def test_is_recognised_by_its_end_alone(tmp_path):
    path = index(tmp_path, one()).rename(tmp_path / "weights")
    assert recognise(path).name == "tf-bundle" in CONTAINERS


def test_reads_big_endian_values(tmp_path):
    header = HEADER + number(2, 1)
    with open_container(
        index(tmp_path, one(), header=header, data=[W.astype(">f4").tobytes()])
    ) as r:
        assert np.array_equal(r.tensors["w"].read(), W)


def test_strips_the_suffix_of_object_checkpoints(tmp_path):
    graph = (b"_CHECKPOINTABLE_OBJECT_GRAPH", entry(STRING, ()))
    kernel = (b"model/w/.ATTRIBUTES/VARIABLE_VALUE", one()[1])
    with open_container(index(tmp_path, graph, kernel)) as reader:
        assert list(reader.tensors) == ["model/w"]


def test_reads_tables_of_many_blocks(tmp_path):
    entries = [(b"", HEADER)]
    entries += [
        (f"layer_{n:03}/w".encode(), entry(FLOAT, (), offset=4 * n, size=4)) for n in range(99)
    ]
    parts = [entries[start : start + 10] for start in range(0, 100, 10)]
    (tmp_path / "m.data-00000-of-00001").write_bytes(np.arange(99, dtype="<f4").tobytes())
    (tmp_path / "m.index").write_bytes(table([(part[-1][0], block(part, 4)) for part in parts]))
    with open_container(tmp_path / "m.index") as reader:
        assert [float(t.read()) for t in reader.tensors.values()] == list(range(99))
        assert list(reader.tensors)[7] == "layer_007/w"


@pytest.mark.parametrize(
    ("packed", "plain"),
    [
        (b"\x05\x10hello", b"hello"),
        (b"\x0a\x04ab\x11\x02", b"ab" * 5),  # a short copy into what it writes
        (b"\x0b\x00a\x26\x01\x00", b"a" * 11),
        (b"\x08\x0cabcd\x0f\x04\0\0\0", b"abcdabcd"),
        (b"\x50\xf0\x4f" + b"x" * 80, b"x" * 80),  # a literal whose length takes a byte
        (b"\x00", b""),
    ],
)
def test_decodes_snappy(packed, plain):
    assert decode(packed, 1 << 20) == plain


@pytest.mark.parametrize(
    "packed",
    [b"", b"\x05", b"\x05\x10hell", b"\x04\x10hello", b"\x06\x10hello", b"\x0a\x04ab\x11\x03",
     b"\x0a\x04ab\x11", b"\x0a\x04ab\x11\x00", b"\xff\xff\xff\xff\x0f\x00a", b"\x05\xf0",
     b"\x05\xfc\xff\xff\xff\xff"],
)  # fmt: skip
def test_refuses_broken_snappy(packed):
    with pytest.raises(WireError):
        decode(packed, 1 << 20)


def test_reads_compressed_blocks(tmp_path):
    plain = block([(b"", HEADER), one()])
    packed = varint(len(plain)) + bytes([0xF0, len(plain) - 1]) + plain
    index(tmp_path, one()).write_bytes(table([(b"w", packed)], kind=1))
    with open_container(tmp_path / "m.index") as reader:
        assert np.array_equal(reader.tensors["w"].read(), W)


def test_checksum_as_published():
    """RFC 3720, appendix B.4: 32 bytes of zeros; LevelDB masks it."""
    assert (
        masked_crc32c(bytes(32))
        == bundles.masked(0x8A9136AA)
        == bundles.masked(bundles.crc32c(bytes(32)))
    )


def pieces(path: Path, *cuts: int, axis: int = 0, leave_out: int = -1) -> Path:
    """`W` in pieces along an axis, each in a data file of its own."""
    edges = list(zip((0, *cuts), (*cuts, W.shape[axis]), strict=True))
    extents = [[(a, b - a) if own == axis else (0, -1) for own in range(2)] for a, b in edges]
    entries, data = [(b"w", entry(FLOAT, W.shape, more=bundles.slices(extents)))], []
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
    with open_container(pieces(tmp_path, *cuts, axis=axis)) as reader:
        tensor = reader.tensors["w"]
        assert np.array_equal(tensor.read(), W)
        for along in (0, 1):
            for start in range(W.shape[along]):
                for stop in range(start, W.shape[along] + 1):
                    wanted = W.take(range(start, stop), axis=along)
                    assert np.array_equal(tensor.read(along, start, stop), wanted)
        assert len(reader.tensors) == 1


def test_refuses_a_variable_with_a_piece_missing(tmp_path):
    refused(
        pieces(tmp_path, 1, 2, leave_out=1), "a piece of a partitioned variable is missing", "w"
    )


LIES = {
    "no header": ([(b"w", one()[1])], "does not begin with the bundle's header"),
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
        "10000 pieces",
    ),
    "pieces of many axes": (
        [(b"", HEADER), (b"w", entry(1, (3,), more=message(7, message(1, b"") * 99)))],
        "more than 32 axes",
    ),
    "too few bytes": ([(b"", HEADER), one(size=44)], "size and shape disagree"),
    "negative size": ([(b"", HEADER), one(size=-48)], "size and shape disagree"),
    "beyond the end": ([(b"", HEADER), one(offset=4)], "the data file ends early"),
    "before the start": ([(b"", HEADER), one(offset=-48)], "the data file ends early"),
    "far beyond": ([(b"", HEADER), one(offset=(1 << 63) - 1)], "the data file ends early"),
    "another data file": ([(b"", HEADER), one(shard=1)], "lies in a data file that there is not"),
    "negative data file": ([(b"", HEADER), one(shard=-1)], "lies in a data file that there is not"),
    "shared bytes": (
        [(b"", HEADER), (b"v", entry(1, (2,), offset=40, size=8)), one()],
        "overlaps another tensor",
    ),
    "one name twice": (
        [(b"", HEADER), (b"w", entry(1, (), size=4)),
         (b"w/.ATTRIBUTES/VARIABLE_VALUE", entry(1, (), offset=4, size=4))],
        "a name stands twice",
    ),
    "no UTF-8": ([(b"", HEADER), (b"\xff\xfe", one()[1])], "malformed entry"),
    "no message": ([(b"", HEADER), (b"w", b"\x0a")], "malformed entry"),
    "a group": ([(b"", HEADER), (b"w", b"\x0b")], "unknown wire type 3"),
    "a text for a number": ([(b"", HEADER), (b"w", message(1, b"x"))], "is no number"),
    "a number for a text": ([(b"", HEADER), (b"w", number(2, 1))], "is no message"),
    "an endless number": ([(b"", HEADER), (b"w", b"\x08" + b"\xff" * 11)], "64 bits"),
    "keys out of order": ([(b"", HEADER), (b"x", one()[1]), one()], "does not follow"),
    "a key twice": ([(b"", HEADER), one(), one()], "does not follow"),
    "an endless key": ([(b"", HEADER), (b"w" * 5000, one()[1])], "does not fit"),
    "pieces of nothing": (
        [(b"", HEADER), (slice_key("v", [(0, 1)]), one()[1])],
        "a piece of no listed variable",
    ),
    "pieces across": (
        [(b"", HEADER), (b"w", entry(1, (3, 4), more=message(7, message(1, number(2, 1)) * 2)))],
        "more than one axis",
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


@pytest.mark.parametrize("lie", LIES)
def test_refuses_lies(lie, tmp_path):
    entries, finding = LIES[lie]
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
        (block([(b"w", varint(1 << 40) + varint(9))]), "passes the end"),
        (block([(b"w", varint(0) + varint(1 << 63))]), "passes the end"),
        (block([(b"w", b"\x80")]), "passes the end"),
        (b"\0\0", "a block of 2 bytes"),
        (struct.pack("<I", 1 << 30), "restarts"),
    ],
)
def test_refuses_lies_about_blocks(tmp_path, index_block, finding):
    body = index_block + b"\0"
    body += struct.pack("<I", masked_crc32c(body))
    footer = (varint(0) + varint(0) + varint(0) + varint(len(index_block))).ljust(40, b"\0")
    path = tmp_path / "m.index"
    path.write_bytes(body + footer + struct.pack("<Q", bundles.MAGIC))
    refused(path, finding)


def test_refuses_blocks_that_are_listed_twice(tmp_path):
    path = index(tmp_path, one())
    first = bundles.first_block(path.read_bytes())
    handle = varint(0) + varint(len(first))
    body = bytearray(first + b"\0")
    body += struct.pack("<I", masked_crc32c(body))
    listing = block([(b"w", handle), (b"x", handle)]) + b"\0"
    place = varint(len(body)) + varint(len(listing) - 1)
    body += listing + struct.pack("<I", masked_crc32c(listing))
    path.write_bytes(
        bytes(body) + (b"\0\0" + place).ljust(40, b"\0") + struct.pack("<Q", bundles.MAGIC)
    )
    refused(path, "overlaps the one before")


def test_refuses_an_index_that_is_too_large(tmp_path):
    path = index(tmp_path, one())
    with path.open("r+b") as file:
        file.truncate(MAX_FILE + 1)
        file.seek(-8, os.SEEK_END)
        file.write(struct.pack("<Q", bundles.MAGIC))
    refused(path, "no size of a bundle's index")


def test_snappy_never_decodes_without_end():
    rng = random.Random(0)
    for _ in range(2000):
        data = varint(rng.randrange(200)) + rng.randbytes(rng.randrange(40))
        with contextlib.suppress(WireError):
            assert len(decode(data, 1 << 20)) < 200


def test_one_tensor_of_a_large_bundle_costs_its_own_bytes(tmp_path):
    """Two data files of 2 GiB each, almost all of them holes."""
    size = 1 << 31
    entries = [(f"w{n}".encode(), entry(FLOAT, (size // 4,), n, 0, size)) for n in range(2)]
    entries.append((b"z", entry(FLOAT, (3, 4), 1, size, 48)))
    path = index(tmp_path, *entries, header=number(1, 2), data=[b"", b""])
    for shard, more in ((0, b""), (1, W.tobytes())):
        with (tmp_path / f"m.data-{shard:05}-of-00002").open("r+b") as file:
            file.seek(size)
            file.write(more)
            file.truncate(size + len(more))
    began = time.monotonic()
    with open_container(path) as reader:
        assert np.array_equal(reader.tensors["z"].read(), W)
        assert not reader.tensors["w1"].read(0, size // 4 - 5).any()
    assert time.monotonic() - began < 0.5


# What TensorFlow itself writes, against its own reader.


def same_as_tensorflow(prefix: Path) -> dict[str, np.ndarray]:
    """Every tensor of a bundle that is numbers, the same by TensorFlow's reader and by ours."""
    import tensorflow as tf

    theirs = tf.train.load_checkpoint(str(prefix))
    wanted = {
        name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE"): np.asarray(theirs.get_tensor(name))
        for name, dtype in theirs.get_variable_to_dtype_map().items()
        if dtype != tf.string
    }
    with open_container(prefix.with_name(prefix.name + ".index")) as reader:
        assert reader.tensors.keys() == wanted.keys()
        for name, array in wanted.items():
            read = reader.tensors[name].read()
            assert read.dtype == array.dtype and read.shape == array.shape, name
            assert read.tobytes() == array.tobytes(), name
    return wanted


@pytest.mark.peer
def test_reads_what_a_session_saved(tmp_path):
    tf = pytest.importorskip("tensorflow")
    v1, rng = tf.compat.v1, np.random.default_rng(0)
    dtypes = "float32 float64 int32 uint8 int16 int8 complex64 int64 bool bfloat16 uint16 "
    dtypes += "complex128 float16 uint32 uint64 float8_e5m2 float8_e4m3fn"
    with tf.Graph().as_default(), v1.Session() as session:
        for dtype in dtypes.split():
            values = tf.cast(rng.integers(0, 50, (3, 5)).astype("float32"), dtype)
            v1.get_variable(f"all/{dtype}", initializer=values)
        v1.get_variable("global_step", initializer=tf.constant(1 << 40, tf.int64))
        v1.get_variable("text", initializer=tf.constant("hello"))
        v1.get_variable("empty", initializer=tf.zeros((0, 4)))
        for axis, parts in ((0, 3), (1, 7)):
            v1.get_variable(
                f"partitioned/along_{axis}",
                shape=(1000, 70),
                partitioner=v1.fixed_size_partitioner(parts, axis=axis),
                initializer=tf.random_normal_initializer(),
            )
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path / "m.ckpt"))
    read = same_as_tensorflow(tmp_path / "m.ckpt")
    assert len(read) == 21 and int(read["global_step"]) == 1 << 40
    assert (tmp_path / "m.ckpt.meta").is_file()


@pytest.mark.peer
def test_reads_what_an_object_saved(tmp_path):
    tf = pytest.importorskip("tensorflow")
    module = tf.Module()
    module.kernel = tf.Variable(np.random.default_rng(0).standard_normal((4, 6)))
    module.below = [tf.Variable([1.0, 2.0]), tf.Variable(3, dtype=tf.int64)]
    tf.train.Checkpoint(model=module).save(str(tmp_path / "m"))
    read = same_as_tensorflow(tmp_path / "m-1")
    assert {"model/kernel", "model/below/0", "save_counter"} <= read.keys()


@pytest.mark.peer
@pytest.mark.parametrize("shards", [1, 2, 5])
def test_reads_many_tensors_in_several_data_files(tmp_path, shards):
    tf = pytest.importorskip("tensorflow")
    rng = np.random.default_rng(0)
    parts = []
    for shard in range(shards):
        names = [f"model/layer_{n}/kernel_of_some_length" for n in range(shard, 3000, shards)]
        parts.append(str(tmp_path / f"part{shard}"))
        tensors = [tf.constant(rng.standard_normal((n % 5, 3))) for n in range(len(names))]
        tf.raw_ops.SaveV2(
            prefix=parts[-1],
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=tensors,
        )
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=parts, destination_prefix=str(tmp_path / "m"), delete_old_dirs=False
    )
    assert len(list(tmp_path.glob("m.data-*"))) == shards
    assert len(same_as_tensorflow(tmp_path / "m")) == 3000


@pytest.mark.peer
def test_spells_the_keys_of_pieces_as_tensorflow_does(tmp_path):
    """Starts and lengths of one byte and of several, in all their codes' lengths."""
    tf = pytest.importorskip("tensorflow")
    rows = [1, 62, 1, 64, 8000, 200, 1_100_000]
    total = sum(rows)
    starts = np.cumsum([0, *rows[:-1]])
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "m"),
        tensor_names=["w"] * len(rows),
        shape_and_slices=[
            f"{total} 2 {start},{length}:-" for start, length in zip(starts, rows, strict=True)
        ],
        tensors=[tf.fill((length, 2), float(n)) for n, length in enumerate(rows)],
    )
    assert same_as_tensorflow(tmp_path / "m")["w"].shape == (total, 2)


def test_reports_are_one_error_of_the_format(tmp_path):
    with pytest.raises(FormatError) as caught:
        open_container(index(tmp_path, one(size=44)))
    (problem,) = caught.value.problems
    assert problem.to_dict() == {
        "what": "size and shape disagree",
        "file": "m.index",
        "tensor": "w",
        "expected": "48 bytes for float32 [3, 4]",
        "found": "44 bytes",
    }
