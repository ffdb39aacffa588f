"""The object graph of a TensorFlow 2 checkpoint, which holds the names of its variables.

``save_weights(path)``, ``tf.train.Checkpoint`` and SavedModels store a variable under the path of
attributes that leads to it. Its own name, that of ``tf_model.h5`` without ``:0``, is in the graph,
a serialized ``TrackableObjectGraph`` in a tensor of strings. Source:
``trackable_object_graph.proto`` and ``WriteStringTensor`` in ``tensor_bundle.cc`` of tensorflow
2.20.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile

import google_crc32c

from converter.formats.tensorflow_checkpoint.protobuf import (
    WireError,
    as_integer,
    as_message,
    as_text,
    fields_of,
    read_varint,
)
from converter.formats.tensorflow_checkpoint.sstable import mask, masked_crc32c

GRAPH_KEY = b"_CHECKPOINTABLE_OBJECT_GRAPH"
"""Key of the graph among the tensors."""
VARIABLE_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
"""End of the key of every variable."""
OPTIMIZER_SLOT = "/.OPTIMIZER_SLOT/"
"""Precedes the optimizer's name in the key of what a legacy optimizer keeps of a variable."""
MAX_GRAPH_BYTES = 64 << 20
MAX_REFERENCES = 1 << 18
"""Objects, children, attributes and slots together. Keras lists a variable some 20 times."""
_OPTIMIZERS = ({b"_variables", b"_iterations"}, {b"iter", b"decay"})
"""Attributes that only Keras' optimizers have: those since 2.11, and the legacy ones."""
_EVIDENCE = frozenset().union(*_OPTIMIZERS)
_TRAINING = ("save_counter", "keras_api/metrics/")
"""Starts of further keys that are not the model's, as ``tf.train.Checkpoint`` and SavedModels
write them."""


@dataclass(frozen=True)
class ObjectGraph:
    """What the graph says about the variables, by their keys without `VARIABLE_VALUE`."""

    names: Mapping[str, str] = field(default_factory=dict)
    """Key → the variable's own name, which other variables may share."""
    training: frozenset[str] = frozenset()
    """Keys of what training keeps: the optimizer's variables, counters, metrics."""


def decode_string(data: bytes, checksum: int) -> bytes:
    """Return the only string of a string tensor that is stored as `data`.

    Raise WireError if it has another length, or not the masked CRC-32C `checksum`.
    """
    length, at = read_varint(data, 0)
    content = data[at + 4 :]
    if len(data) < at + 4 or len(content) != length:
        raise WireError(f"a string of {length} bytes in {len(data)}")
    size = length.to_bytes(4 if length < 1 << 32 else 8, "little")
    if masked_crc32c(size) != int.from_bytes(data[at : at + 4], "little"):
        raise WireError("the length of a string does not have its checksum")
    crc = google_crc32c.extend(google_crc32c.value(size + data[at : at + 4]), content)
    if mask(crc) != checksum:
        raise WireError(f"a string does not have the checksum {checksum:#010x}")
    return content


def parse_object_graph(data: bytes) -> ObjectGraph:
    """Decode a ``TrackableObjectGraph``.

    Raise WireError if it is malformed, refers to missing objects or has too many references. Work
    and memory are linear in `data`; a graph may have cycles.
    """
    return _Parser(data).graph()


def group_keys(keys: Iterable[str]) -> tuple[str, ...]:
    """Return patterns for keys of what training keeps: slots by optimizer, others by object."""
    slots: dict[str, None] = {}
    objects: dict[str, list[list[str]]] = {}
    for key in keys:
        _, slot, names = key.partition(OPTIMIZER_SLOT)
        path = key.split("/")
        if slot:
            slots[f"*{slot}{names.partition('/')[0]}/*"] = None
        else:
            objects.setdefault(path[0], []).append(path)
    groups = []
    for paths in objects.values():
        same = takewhile(lambda names: len({*names}) == 1, zip(*paths, strict=False))
        groups.append([*(name for name, *_ in same), "*"] if len(paths) > 1 else paths[0])
    return (*slots, *map("/".join, groups))


class _Parser:
    """The references between the objects of a graph, as numbers of few bytes each."""

    def __init__(self, data: bytes) -> None:
        self._first = array("L", [0])
        """For each object the position of its first child; of the next one, behind its last."""
        self._children = array("L")
        self._variables: list[tuple[int, str, str]] = []
        """Object, key and name of each variable."""
        self._optimizers: list[int] = []
        """Objects that are optimizers, or belong to one."""
        self._count = 0
        self._highest = 0
        for number, content in fields_of(data):
            if number == 1:
                self._add_object(as_message(content))
        objects = len(self._first) - 1
        if self._highest >= max(1, objects):
            raise WireError(f"object {self._highest} of {objects} does not exist")

    def graph(self) -> ObjectGraph:
        """Return what the graph says about the variables."""
        of_optimizers = self._reachable(self._optimizers)
        names: dict[str, str] = {}
        training = set()
        for owner, key, name in self._variables:
            if names.setdefault(key, name) != name:
                raise WireError(f"two names for {key[:80]!r}")
            if owner in of_optimizers or key.startswith(_TRAINING) or OPTIMIZER_SLOT in key:
                training.add(key)
        return ObjectGraph(names, frozenset(training))

    def _add_object(self, data: bytes) -> None:
        """Decode one object: its children (1), attributes (2) and slot variables (3)."""
        owner, attributes, slots = len(self._first) - 1, set(), []
        self._limit()
        for kind, value in fields_of(data):
            if kind not in (1, 2, 3):
                continue
            self._limit()
            fields = dict(fields_of(as_message(value)))
            if kind == 2:
                if fields.get(1) == b"VARIABLE_VALUE":
                    key, name = as_text(fields.get(3, b"")), as_text(fields.get(2, b""))
                    self._variables.append((owner, key.removesuffix(VARIABLE_VALUE), name))
                continue
            target = as_integer(fields.get(1 if kind == 1 else 3, 0))
            if target < 0:
                raise WireError(f"object {target} does not exist")
            self._highest = max(self._highest, target)
            if kind == 3:
                slots.append(target)
                continue
            self._children.append(target)
            attribute = as_message(fields.get(2, b""))
            if attribute in _EVIDENCE:
                attributes.add(attribute)
            elif attribute == b"optimizer":
                self._optimizers.append(target)
        self._first.append(len(self._children))
        if slots or any(names <= attributes for names in _OPTIMIZERS):
            self._optimizers += [owner, *slots]

    def _limit(self) -> None:
        """Count an object or a reference; raise WireError if there are too many."""
        self._count += 1
        if self._count > MAX_REFERENCES:
            raise WireError(f"more than {MAX_REFERENCES} objects and references")

    def _reachable(self, pending: list[int]) -> set[int]:
        """Return `pending` and all objects below them."""
        reached: set[int] = set()
        while pending:
            owner = pending.pop()
            if owner not in reached:
                reached.add(owner)
                pending += self._children[self._first[owner] : self._first[owner + 1]]
        return reached
