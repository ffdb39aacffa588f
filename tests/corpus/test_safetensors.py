"""safetensors files that the library reads and others write: headers, dtypes, indexes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import converter
from converter.errors import ConfigError, FormatError, MatchError, UnsupportedError
from converter.formats.registry import open_file
from tests.corpus.conversion_checks import same_as_library
from tests.factories import Made, make

FIRST, SECOND = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))


MATRIX, VECTOR = (f"encoder.layer.0.intermediate.dense.{name}" for name in ("weight", "bias"))


@pytest.fixture
def bert(tmp_path: Path) -> Made:
    return make(tmp_path / "bert", "bert")


def with_header(path: Path, change: Mapping[str, str]) -> None:
    """Replace texts in the file's header."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].decode()
    for old, new in change.items():
        assert old in header
        header = header.replace(old, new, 1)
    path.write_bytes(
        len(header.encode()).to_bytes(8, "little") + header.encode() + data[8 + length :]
    )


HEADERS = {
    "space": {"{": " {"},
    "much white space": {"{": " \t\r\n" * 50 + "{"},
    "metadata null": {'{"format":"pt"}': "null"},
    "both": {'{"__metadata__":{"format":"pt"}': '\n{ "__metadata__" : null '},
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_the_library_reads(bert: Made, name: str, tmp_path: Path) -> None:
    with_header(bert.file, HEADERS[name])
    expected = load_file(bert.file)
    same_as_library(bert.file, expected)
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


PACKED = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}


def pack_weight(bert: Made, code: str, name: str) -> bytes:
    """Give a parameter random elements of less than a byte, by the layout; return their bytes."""
    arrays = load_file(bert.file)
    shape, width = arrays[name].shape, PACKED[code]
    data = np.random.default_rng(0).bytes(arrays[name].size * width // 8)
    arrays[name] = np.frombuffer(data, np.uint8)
    save_file(arrays, bert.file, metadata={"format": "pt"})
    old = f'"{name}":{{"dtype":"U8","shape":[{len(data)}]'
    shape_text = ",".join(map(str, shape))
    with_header(bert.file, {old: f'"{name}":{{"dtype":"{code}","shape":[{shape_text}]'})
    return data


def stored_bytes(path: Path, name: str) -> tuple[dict[str, object], bytes]:
    """Return the entry of a tensor in the header, and its bytes."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    entry = json.loads(data[8 : 8 + length])[name]
    begin, end = entry.pop("data_offsets")
    return entry, data[8 + length + begin : 8 + length + end]


@pytest.mark.parametrize("name", [MATRIX, VECTOR])
@pytest.mark.parametrize("code", PACKED)
def test_elements_of_less_than_a_byte_are_copied(
    bert: Made, code: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pack_weight(bert, code, name)
    entry, _ = stored_bytes(bert.file, name)
    out = tmp_path / "out"
    choices: tuple[tuple[Literal["keep", "float16"], int], ...] = (
        ("keep", 1 << 20),
        ("float16", 40),
    )
    for dtype, block in choices:
        monkeypatch.setattr("converter.execution.executor._MAX_BLOCK", block)
        converter.convert(bert.directory, out, to=["pytorch"], dtype=dtype, overwrite=True)
        assert stored_bytes(out / "model.safetensors", name) == (entry, data)
        against = [bert.directory] if dtype == "keep" else []
        assert converter.verify(out, against=against).verified


def test_elements_of_less_than_a_byte_have_the_values_of_their_dtype(bert: Made) -> None:
    data = pack_weight(bert, "F4", MATRIX)
    with open_file(bert.file) as reader:
        tensor = reader.tensors[MATRIX]
        values = tensor.read()
        low = np.frombuffer(data, np.uint8) & 15  # the first of two is in the lower bits
        expected = low.view(ml_dtypes.float4_e2m1fn).astype(np.float32)
        np.testing.assert_array_equal(values.astype(np.float32).reshape(-1)[::2], expected)
        for axis in (0, 1):
            part = np.take(values, range(1, 4), axis)
            assert tensor.read(axis, 1, 4).tobytes() == part.tobytes()


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ({"to": ["tensorflow"]}, "keras-hdf5"),
        ({"to": ["flax"]}, "flax-msgpack"),
        ({"pytorch_format": "bin"}, "torch"),
    ],
)
def test_elements_of_less_than_a_byte_are_refused_by_name_elsewhere(
    bert: Made, target: dict[str, Any], named: str, tmp_path: Path
) -> None:
    pack_weight(bert, "F4", MATRIX)
    with pytest.raises(
        UnsupportedError, match=f"{named} files cannot hold float4_e2m1fn"
    ) as caught:
        converter.convert(bert.directory, tmp_path / "out", **{"to": ["pytorch"], **target})
    assert MATRIX in str(caught.value)


@pytest.mark.parametrize("dtype", ["float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz"])
def test_floats_of_a_byte_are_kept_or_widened(bert: Made, dtype: str, tmp_path: Path) -> None:
    arrays = load_file(bert.file)
    expected = np.abs(arrays[MATRIX]).astype(getattr(ml_dtypes, dtype))
    save_file(arrays | {MATRIX: expected}, bert.file, metadata={"format": "pt"})
    result = converter.convert(bert.directory, tmp_path / "out", pytorch_format="both")
    assert any(f"{dtype} is written as float32" in warning for warning in result.warnings)
    for name in ("model.safetensors", "pytorch_model.bin", "flax_model.msgpack", "tf_model.h5"):
        converter.convert(
            tmp_path / "out" / name, tmp_path / "back", to=["pytorch"], overwrite=True
        )
        entry, data = stored_bytes(tmp_path / "back/model.safetensors", MATRIX)
        if name == "tf_model.h5":
            assert entry["dtype"] == "F32"
            data = np.frombuffer(data, np.float32).astype(expected.dtype).tobytes()
        assert data == expected.tobytes(), name


@pytest.mark.peer
def test_elements_of_half_a_byte_as_torch_loads_them(bert: Made, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    tensors = {name: torch.from_numpy(array) for name, array in load_file(bert.file).items()}
    packed = torch.arange(tensors[MATRIX].numel() // 2).to(torch.uint8).reshape(-1, 12)
    tensors[MATRIX] = packed.view(torch.float4_e2m1fn_x2)
    library.save_file(tensors, bert.file, metadata={"format": "pt"})
    converter.convert(bert.directory, tmp_path / "out", to=["pytorch"])
    written = library.load_file(tmp_path / "out/model.safetensors")
    assert written[MATRIX].dtype == torch.float4_e2m1fn_x2
    assert torch.equal(written[MATRIX].view(torch.uint8), packed)
