"""Object-based TensorFlow checkpoints: the names that the graph gives, and hostile graphs."""

from __future__ import annotations

import random
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from converter.errors import FormatError
from converter.formats.registry import open_file
from converter.formats.tensorflow_checkpoint import object_graph
from tests.formats import tensorflow_checkpoints
from tests.formats.mutations import mutate
from tests.formats.tensorflow_checkpoint_files import W, index, one, refused
from tests.formats.tensorflow_checkpoints import (
    HEADER,
    VARIABLE_VALUE,
    entry,
    message,
    node,
    number,
    string_tensor,
    varint,
    write_objects,
)
from tests.formats.work import without_old_objects, work_at_most

GRAPH = b"_CHECKPOINTABLE_OBJECT_GRAPH"


def variable(name: str, key: str) -> bytes:
    return node(variable=(name, key + VARIABLE_VALUE.decode()))


def test_variables_have_the_names_of_the_graph(tmp_path: Path) -> None:
    nodes = [
        node({"dense": 1, "twin": 2, "other": 3, "root": 0}),  # a cycle, as Keras writes
        variable("model/dense/kernel", "dense"),
        variable("Variable", "twin"),
        variable("Variable", "other"),
    ]
    keys = ("dense", "twin", "other", "unlisted")
    path = write_objects(tmp_path / "m.index", dict.fromkeys(keys, W), nodes)
    with open_file(path) as reader:
        assert set(reader.tensors) == {"model/dense/kernel", "twin", "other", "unlisted"}
        assert np.array_equal(reader.tensors["model/dense/kernel"].read(), W)
        assert reader.ignored == ()


@pytest.mark.parametrize("name", ["scope/name", "Variable"])
@pytest.mark.parametrize("shape", [(3, 4), (4, 3)])
def test_variables_of_one_name_and_shape_are_copies(
    name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    """As of an output layer that shares the embeddings."""
    nodes = [variable(name, "a"), variable("other", "b"), variable(name, "c")]
    arrays = {"a": W, "b": W + 1, "c": W.reshape(shape)}
    with open_file(write_objects(tmp_path / "m.index", arrays, nodes)) as reader:
        if name == "Variable" or shape != W.shape:
            assert list(reader.tensors) == ["a", "other", "c"] and not reader.duplicates
            return
        assert list(reader.tensors) == [name, "other"]
        (copy,) = reader.duplicates[name]
        assert np.array_equal(copy.read(), W)
        assert copy.location != reader.tensors[name].location


LEGACY = {"iter": 2, "decay": 3}
NEW = {"_variables": 2, "_iterations": 3}


@pytest.mark.parametrize("name", ["optimizer", "opt"])
@pytest.mark.parametrize("own", [LEGACY, NEW], ids=["legacy", "new"])
def test_what_an_optimizer_keeps_is_apart(own: dict[str, int], name: str, tmp_path: Path) -> None:
    """The variables of an optimizer repeat the names of the model's."""
    slot = f"w/.OPTIMIZER_SLOT/{name}/m"
    nodes = [
        node({"w": 4, name: 1, "save_counter": 6}),
        node({**own, "schedule": 7, "self": 1}, slots=[5]),
        node({"1": 4} if own is LEGACY else {"0": 3}),
        variable("model/w", f"{name}/iter"),
        variable("model/w", "w"),
        variable("model/w", slot),
        variable("save_counter", "save_counter"),
        node({"rate": 8}),
        variable("rate", f"{name}/schedule/rate"),
    ]
    if own is LEGACY:
        nodes[2] = variable("Adam/iter", f"{name}/steps")
    keys = {"w", slot, f"{name}/iter", "save_counter", f"{name}/schedule/rate"}
    keys |= {f"{name}/steps"} if own is LEGACY else set()
    path = write_objects(tmp_path / "m.index", dict.fromkeys(keys, W), nodes)
    with open_file(path) as reader:
        assert set(reader.tensors) == {"model/w"}
        slots = f"*/.OPTIMIZER_SLOT/{name}/*"
        assert reader.ignored == (slots, f"{name}/*", "save_counter")


HOSTILE = {
    "a missing object": ([node({"a": 9})], b"", "object 9 of 1 does not exist"),
    "an object before the first": ([node({"a": -1})], b"", "object -1 does not exist"),
    "a missing slot": ([node(slots=[2])], b"", "object 2 of 1 does not exist"),
    "a truncated message": ([], b"\x0a\x09\x08", "exceeds the data"),
    "a number for an object": ([], number(1, 7), "is not a message"),
    "a text for an object's number": ([], message(1, message(1, message(1, b"x"))), "not a number"),
    "a name that is not UTF-8": (
        [message(2, message(1, b"VARIABLE_VALUE") + message(2, b"\xff"))], b"", "not UTF-8"
    ),
    "two names for a variable": ([variable("a", "w"), variable("b", "w")], b"", "two names"),
    "one name as another's key": ([variable("v", "w")], b"", "duplicate name"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_refuses_hostile_graphs(case: str, tmp_path: Path) -> None:
    nodes, tail, finding = HOSTILE[case]
    arrays = {"v": W, "w": W}
    refused(write_objects(tmp_path / "m.index", arrays, nodes, tail), "m.index", finding)


@pytest.mark.parametrize("kind", ["children", "objects", "slots", "in one object each"])
def test_refuses_a_million_references_in_bounded_work(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorflow_checkpoints, "crc32c", google_crc32c.value)
    many = 1_000_000
    nodes = {
        "children": message(1, message(1, b"") * many),
        "objects": message(1, b"") * many,
        "slots": message(1, message(3, b"") * many),
        "in one object each": message(1, message(1, b"")) * many,
    }[kind]
    path = write_objects(tmp_path / "m.index", {"w": W}, [], nodes)
    refused(path, f"more than {object_graph.MAX_REFERENCES} objects and references")


def test_cycles_of_optimizers_take_bounded_work(tmp_path: Path) -> None:
    """Each object is an optimizer that refers to all others."""
    count = 400
    children = {"iter": 0, "decay": 0, **{f"{n}": n for n in range(count)}}
    nodes = [node(children, slots=range(count))] * (count // 2)
    nodes += [node()] * (count // 2)
    path = write_objects(tmp_path / "m.index", {"w": W}, nodes)
    with work_at_most(40), open_file(path) as reader:
        assert list(reader.tensors) == ["w"]


def test_refuses_impossible_string_tensors(tmp_path: Path) -> None:
    data, checksum = string_tensor(b"")
    longer, _ = string_tensor(b"abc")
    wrong = varint(3) + b"\0\0\0\0abc"
    cases = {
        "checksum": (data, entry(7, (), 0, 48, len(data), checksum=checksum ^ 1)),
        "its checksum": (wrong, entry(7, (), 0, 48, len(wrong))),
        "a string of 3 bytes in": (longer, entry(7, (), 0, 48, len(longer) - 1)),
        "a string of 0 bytes in 1": (b"\0", entry(7, (), 0, 48, 1)),
        "exceeds the data": (b"\xff", entry(7, (), 0, 48, 1)),
        "impossible object graph": (data, entry(7, (2,), 0, 48, len(data))),
        "0 bytes": (data, entry(7, (), 0, 48, 0)),
        "-1 bytes": (data, entry(7, (), 0, 48, -1)),
        "99999999999 bytes": (data, entry(7, (), 0, 48, 99999999999)),
        "ends early": (data, entry(7, (), 0, 48, 1 << 20)),
        "data file that does not exist": (data, entry(7, (), 1, 48, len(data))),
    }
    for finding, (stored, listed) in cases.items():
        path = index(tmp_path, (GRAPH, listed), one(), header=HEADER, data=[W.tobytes() + stored])
        refused(path, "_CHECKPOINTABLE_OBJECT_GRAPH", finding)


@pytest.mark.parametrize("seed", range(20))
@without_old_objects()
def test_a_damaged_graph_is_one_error_or_names(seed: int, tmp_path: Path) -> None:
    """The checksum is that of the damaged graph, so that its parser meets it."""
    nodes = [node({"w": 1, "optimizer": 2}), variable("m/w", "w"), node({"iter": 1, "decay": 1})]
    nodes += [node({"": 3}, slots=[1]), node(variable=("m/v", "v"))]
    content = tensorflow_checkpoints.graph(nodes)
    for number_ in range(20):
        damaged = mutate(content, random.Random(f"{seed} {number_}"))
        path = write_objects(tmp_path / "m.index", {"v": W, "w": W}, [], damaged)
        try:
            with work_at_most(40), open_file(path) as reader:
                assert len(reader.tensors) + len(reader.ignored) == 2
        except FormatError as error:
            assert str(path) in str(error)
