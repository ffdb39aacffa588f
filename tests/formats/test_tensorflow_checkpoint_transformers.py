"""TensorFlow checkpoints that TensorFlow itself writes, against its own reader."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.errors import FormatError
from converter.formats.registry import open_file
from tests.formats.tensorflow_checkpoint_files import index, one


def names_in_graph(reader: Any) -> dict[str, str]:
    """Return the name of each variable by its key, parsed by TensorFlow's own protobuf class."""
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    if not reader.has_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"):
        return {}
    graph.ParseFromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
    pairs = [(each.checkpoint_key, each.full_name) for n in graph.nodes for each in n.attributes]
    counts = Counter(name for _, name in pairs)
    suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
    return {
        key: name if counts[name] == 1 or "/" in name else key.removesuffix(suffix)
        for key, name in pairs
    }


def same_as_tensorflow(prefix: Path) -> dict[str, np.ndarray]:
    """Return every numeric tensor, after comparing TensorFlow's reader with ours.

    What training keeps may be left out.
    """
    import tensorflow as tf

    theirs = tf.train.load_checkpoint(str(prefix))
    names = names_in_graph(theirs)
    expected = {
        names.get(key, key): np.asarray(theirs.get_tensor(key))
        for key, dtype in theirs.get_variable_to_dtype_map().items()
        if dtype != tf.string
    }
    with open_file(prefix.with_name(prefix.name + ".index")) as reader:
        training = set(reader.ignored) & {"save_counter"}
        assert reader.tensors.keys() == expected.keys() - training
        for name in reader.tensors:
            array = expected[name]
            read = reader.tensors[name].read()
            assert read.dtype == array.dtype and read.shape == array.shape, name
            assert read.tobytes() == array.tobytes(), name
    return expected


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
    module.named = tf.Variable([1.0, 2.0, 3.0], name="scope/its_name")
    tf.train.Checkpoint(model=module).save(str(tmp_path / "m"))
    read = same_as_tensorflow(tmp_path / "m-1")
    assert {"model/kernel", "model/below/0", "scope/its_name"} < read.keys()


@pytest.mark.peer
def test_reads_parts_along_two_axes_as_tensorflow_does(tmp_path):
    tf = pytest.importorskip("tensorflow")
    values = np.random.default_rng(0).standard_normal((70, 300)).astype(np.float32)
    rows, columns = [(0, 64), (64, 6)], [(0, 1), (1, 255), (256, 44)]
    cells = [(row, column) for column in columns for row in rows]
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "m"),
        tensor_names=["w"] * len(cells),
        shape_and_slices=[f"70 300 {r[0]},{r[1]}:{c[0]},{c[1]}" for r, c in cells],
        tensors=[values[r[0] : sum(r), c[0] : sum(c)] for r, c in cells],
    )
    assert np.array_equal(same_as_tensorflow(tmp_path / "m")["w"], values)


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
        open_file(index(tmp_path, one(size=44)))
    (problem,) = caught.value.problems
    assert problem.to_dict() == {
        "what": "size and shape disagree",
        "file": "m.index",
        "tensor": "w",
        "expected": "48 bytes for float32 [3, 4]",
        "found": "44 bytes",
    }
