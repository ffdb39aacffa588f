"""safetensors files that the library reads and others write: headers, dtypes, indexes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import converter
from converter.errors import ConfigError, FormatError, MatchError
from tests.corpus.conversion_checks import same_as_library
from tests.factories import Made, make

FIRST, SECOND = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))


@pytest.fixture
def bert(tmp_path: Path) -> Made:
    return make(tmp_path / "bert", "bert")


def with_header(path: Path, change: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Replace texts in the file's header, and return what the library reads."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].decode()
    for old, new in change.items():
        assert old in header
        header = header.replace(old, new, 1)
    path.write_bytes(
        len(header.encode()).to_bytes(8, "little") + header.encode() + data[8 + length :]
    )
    return load_file(path)


HEADERS = {
    "space": {"{": " {"},
    "much white space": {"{": " \t\r\n" * 50 + "{"},
    "metadata null": {'{"format":"pt"}': "null"},
    "both": {'{"__metadata__":{"format":"pt"}': '\n{ "__metadata__" : null '},
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_the_library_reads(bert: Made, name: str, tmp_path: Path) -> None:
    path = bert.file
    expected = with_header(path, HEADERS[name])
    same_as_library(path, expected)
    converter.convert(bert.directory, tmp_path / "out", to=["pytorch"])
    same_tensors(tmp_path / "out", expected)


def sharded(bert: Made, below: str = "") -> tuple[Path, dict[str, dict[str, np.ndarray]]]:
    """Split the checkpoint into two shards, by the library, and return their index and tensors."""
    tensors = list(load_file(bert.file).items())
    bert.file.unlink()
    shards = {below + FIRST: dict(tensors[::2]), below + SECOND: dict(tensors[1::2])}
    weight_map: dict[str, str] = {}
    for shard, part in shards.items():
        (bert.directory / shard).parent.mkdir(parents=True, exist_ok=True)
        save_file(part, bert.directory / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, shard)
    index = bert.directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index, shards


def merged(shards: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: array for part in shards.values() for name, array in part.items()}


def list_in_index(index: Path, names: Mapping[str, str]) -> None:
    content = json.loads(index.read_text())
    content["weight_map"] |= names
    index.write_text(json.dumps(content))


def same_tensors(directory: Path, expected: Mapping[str, np.ndarray]) -> None:
    actual = load_file(directory / "model.safetensors")
    assert {name: array.tobytes() for name, array in actual.items()} == {
        name: array.tobytes() for name, array in expected.items()
    }


@pytest.mark.parametrize("below", ["w/", "weights/part/"])
def test_shards_below_the_directory(bert: Made, below: str, tmp_path: Path) -> None:
    _, shards = sharded(bert, below)
    converter.convert(bert.directory, tmp_path / "out", to=["pytorch"])
    same_tensors(tmp_path / "out", merged(shards))


def test_links_to_shards_and_their_index(bert: Made, tmp_path: Path) -> None:
    index, shards = sharded(bert)
    store = tmp_path / "store"
    store.mkdir()
    for name in (index.name, *shards):
        (bert.directory / name).rename(store / name)
        (bert.directory / name).symlink_to(f"../store/{name}")
    converter.convert(bert.directory, tmp_path / "out", to=["pytorch"])
    same_tensors(tmp_path / "out", merged(shards))


def test_text_in_place_of_links_is_named(bert: Made) -> None:
    index, shards = sharded(bert)
    for name in (index.name, *shards):
        (bert.directory / name).write_text(f"../store/{name}")  # as git does without symlinks
    with pytest.raises(ConfigError, match="path that a symbolic link had") as caught:
        converter.inspect(bert.directory)
    assert "core.symlinks" in str(caught.value)


def test_names_that_no_shard_holds_are_a_warning(bert: Made, tmp_path: Path) -> None:
    index, shards = sharded(bert)
    unneeded = {"embeddings.position_ids": FIRST, "cls.decoder.weight": SECOND}
    list_in_index(index, unneeded)
    result = converter.convert(bert.directory, tmp_path / "out", to=["pytorch"])
    assert any(all(name in warning for name in unneeded) for warning in result.warnings)
    same_tensors(tmp_path / "out", merged(shards))


def test_parameters_that_no_shard_holds_are_missing(bert: Made, tmp_path: Path) -> None:
    _, shards = sharded(bert)
    name, _ = shards[SECOND].popitem()
    save_file(shards[SECOND], bert.directory / SECOND)
    with pytest.raises(MatchError, match=f"{re.escape(name)}: missing tensor"):
        converter.convert(bert.directory, tmp_path / "out", to=["pytorch"])


@pytest.mark.parametrize("listed", [FIRST, SECOND])
def test_index_decides_between_two_copies(bert: Made, listed: str, tmp_path: Path) -> None:
    index, shards = sharded(bert)
    name = next(iter(shards[FIRST]))
    shards[SECOND][name] = shards[FIRST][name] + 1
    save_file(shards[SECOND], bert.directory / SECOND)
    list_in_index(index, {name: listed})
    result = converter.convert(bert.directory, tmp_path / "out", to=["pytorch"])
    assert any(name in warning and "several shards" in warning for warning in result.warnings)
    same_tensors(tmp_path / "out", merged(shards) | {name: shards[listed][name]})


def test_tensor_in_another_shard_than_listed_is_refused(bert: Made) -> None:
    index, shards = sharded(bert)
    name = next(iter(shards[FIRST]))
    list_in_index(index, {name: SECOND})
    with pytest.raises(FormatError, match=f"{re.escape(name)}: is in {FIRST}, but"):
        converter.inspect(bert.directory)
