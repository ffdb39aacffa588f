"""The readers that `tests.hostile.coverage` fuzzes: seeds, and what reading one input may do.

An input is what follows a reader's own checks of length and checksum, where it has any (a pickle
without its zip archive, the entries of a TensorFlow index without their table), so that changed
bytes reach the inner parts.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import numpy as np

from converter.architectures.lint import lint
from converter.architectures.registry import ArchitectureRegistry
from converter.errors import ConverterError
from converter.file_names import tables_directory
from converter.formats.registry import get_format
from converter.recipes.parser import read_recipes
from tests.formats import tensorflow_checkpoints
from tests.formats.mutations import read_all
from tests.formats.tensorflow_checkpoints import VARIABLE_VALUE, graph, node, write_objects
from tests.formats.torch_files import TENSOR, archive, state
from tests.formats.valid_files import valid_checkpoints
from tests.formats.work import work_at_most

CORPUS = Path(__file__).parent / "corpus"
"""A zip archive for each reader: the smallest inputs that covered most of its code."""
UNITS = 100
"""Work of one input, see `tests.formats.work`; measuring coverage takes part of it."""

Read = Callable[[bytes], object]
"""Read an input; raise ConverterError if it is refused."""


@dataclass(frozen=True)
class FuzzedReader:
    """A reader of untrusted bytes."""

    seeds: tuple[bytes, ...]
    """Valid inputs."""
    read: Read

    def run(self, data: bytes) -> None:
        """Read an input; raise if it is neither read nor refused, or takes too much work."""
        with work_at_most(UNITS):
            try:
                self.read(data)
            except ConverterError as error:
                assert len(str(error)) < 100_000, "an endless message"


def _files(name: str, directory: Path) -> FuzzedReader:
    """Return the reader of complete files of a format, next to their valid data files."""
    checkpoints = valid_checkpoints(name, directory)
    seeds = tuple(checkpoint.parts[checkpoint.entry] for checkpoint in checkpoints)
    path = checkpoints[-1].entry
    return FuzzedReader(seeds, lambda data: _examine(name, path, data, data))


def _examine(name: str, path: Path, data: bytes, file: bytes) -> None:
    path.write_bytes(file)
    read_all(get_format(name), path, len(data) + sum(map(_size, path.parent.iterdir())))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _safetensors_header(directory: Path) -> FuzzedReader:
    seeds = tuple(
        data[8 : 8 + int.from_bytes(data[:8], "little")]
        for data in _files("safetensors", directory).seeds
    )

    def read(data: bytes) -> None:
        file = len(data).to_bytes(8, "little") + data + bytes(400)
        _examine("safetensors", directory / "model", data, file)

    return FuzzedReader(seeds, read)


def _torch_pickle(directory: Path) -> FuzzedReader:
    seeds = [state(b"(K\1K\2t", TENSOR), state(b"ccollections\nOrderedDict\n)R", b"]K\1a")]
    for data in _files("torch", directory).seeds:
        if data.startswith(b"PK"):
            (directory / "seed").write_bytes(data)
            with ZipFile(directory / "seed") as file:
                seeds += [file.read(name) for name in file.namelist() if name.endswith("data.pkl")]
    storages = {f"_{number}": bytes(96) for number in range(4)}

    def read(data: bytes) -> None:
        archive(directory / "pickle", data, **storages)
        size = len(data) + _size(directory / "pickle")
        read_all(get_format("torch"), directory / "pickle", size)

    return FuzzedReader(tuple(seeds), read)


def _tensorflow_entries(directory: Path) -> FuzzedReader:
    """Return the reader of a block of the index, whose table and checksums are valid."""
    checkpoints = valid_checkpoints("tensorflow-checkpoint", directory)
    seeds = tuple(
        tensorflow_checkpoints.first_block(each.parts[each.entry]) for each in checkpoints
    )
    path = checkpoints[-1].entry

    def read(data: bytes) -> None:
        file = tensorflow_checkpoints.table([(b"\xff", data)])
        _examine("tensorflow-checkpoint", path, data, file)

    return FuzzedReader(seeds, read)


def _tensorflow_graph(directory: Path) -> FuzzedReader:
    """Return the reader of the object graph of a checkpoint, which has a valid checksum."""
    nodes = [node({"w": 1, "optimizer": 2}), node(variable=("m/w", "w" + VARIABLE_VALUE.decode()))]
    nodes += [node({"iter": 1, "decay": 1}), node({"": 3}, slots=[1])]
    arrays = dict.fromkeys("vw", np.ones((2, 3), np.float32))

    def read(data: bytes) -> None:
        path = write_objects(directory / "model.index", arrays, [], data)
        read_all(get_format("tensorflow-checkpoint"), path, len(data) + 400)

    return FuzzedReader((graph(nodes), graph(nodes[::-1])), read)


def _table(directory: Path) -> FuzzedReader:
    """Return the loader of mapping tables; the slower checks see every 64th architecture."""
    registry = ArchitectureRegistry()
    tables = [tables_directory() / f"{name}.toml" for name in ("gpt2", "roberta", "dpr")]
    tables += [path for path in tables_directory().glob("*.toml") if b"composite" in _head(path)]
    path = directory / "table.toml"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        own, name = registry.with_table(path)
        if own.is_composite(name):
            own.composite(name)
        elif own.architecture(name) and zlib.crc32(data) % 64 == 0:
            lint(path, registry)

    read(tables[0].read_bytes())
    return FuzzedReader(tuple(table.read_bytes() for table in tables if table.is_file()), read)


def _head(path: Path) -> bytes:
    return path.read_bytes()[:200]


_RECIPES = (
    b"version: 1\nvariables: {base: a}\ndefaults:\n  compose: &d {to: [pytorch]}\njobs:\n"
    b"- name: one\n  compose: {encoder: ${base}, decoder: b, output: out/1, <<: *d}\n"
    b"- {convert: {source: out/1, output: out/2, to: flax, max_shard_size: 30KB}}\n",
    b"version: 1\njobs:\n- split: {source: a, output: c}\n  push: {repo: x/y, private: true}\n",
    b'{"version": 1, "jobs": [{"convert": {"source": "a", "output": "b", "dtype": "float16"}}]}',
)


def _recipe(directory: Path) -> FuzzedReader:
    """Return the parser of recipes: JSON if the input starts as such, or else YAML."""

    def read(data: bytes) -> None:
        path = directory / ("recipe.json" if data.startswith(b"{") else "recipe.yaml")
        path.write_bytes(data)
        read_recipes([path])

    return FuzzedReader(_RECIPES, read)


def _complete(name: str) -> Callable[[Path], FuzzedReader]:
    return lambda directory: _files(name, directory)


READERS: Mapping[str, Callable[[Path], FuzzedReader]] = {
    "torch": _complete("torch"),
    "torch-pickle": _torch_pickle,
    "keras-hdf5": _complete("keras-hdf5"),
    "flax-msgpack": _complete("flax-msgpack"),
    "safetensors": _complete("safetensors"),
    "safetensors-header": _safetensors_header,
    "tensorflow-checkpoint": _complete("tensorflow-checkpoint"),
    "tensorflow-entries": _tensorflow_entries,
    "tensorflow-graph": _tensorflow_graph,
    "table": _table,
    "recipe": _recipe,
}
"""Name → what makes the reader, with an empty directory of its own."""


def corpus(name: str) -> dict[str, bytes]:
    """Return the kept inputs of a reader by name; none if there is no corpus yet."""
    path = CORPUS / f"{name}.zip"
    if not path.is_file():
        return {}
    with ZipFile(path) as file:
        return {entry: file.read(entry) for entry in file.namelist()}
