"""Sharded checkpoints: writing, reading, and checks of their indexes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from converter import CheckpointError, FormatError, compose, convert
from converter.checkpoint.opening import open_files
from tests.factories import make

FORMATS = {
    "model.safetensors": "model-00001-of-00003.safetensors",
    "pytorch_model.bin": "pytorch_model-00001-of-00003.bin",
    "tf_model.h5": "tf_model-00001-of-00003.h5",
    "flax_model.msgpack": "flax_model-00001-of-00003.msgpack",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("whole")
    make(home / "encoder", "bert")
    make(home / "decoder", "gpt2", "GPT2LMHeadModel")
    compose(home / "encoder", home / "decoder", home / "out", pytorch_format="both")
    return home / "out"


@pytest.fixture
def sharded(whole: Path, tmp_path: Path) -> Path:
    size = (whole / "model.safetensors").stat().st_size
    convert(whole, tmp_path / "sharded", pytorch_format="both", max_shard_size=int(size * 0.4))
    return tmp_path / "sharded"


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_comes_back_from_shards(
    whole: Path, sharded: Path, tmp_path: Path, name: str
) -> None:
    assert (sharded / FORMATS[name]).is_file()
    assert not (sharded / name).exists()
    convert(sharded / f"{name}.index.json", tmp_path / "back", to=["pytorch"])
    expected = (whole / "model.safetensors").read_bytes()
    assert (tmp_path / "back/model.safetensors").read_bytes() == expected


@pytest.mark.parametrize("name", FORMATS)
def test_an_index_names_every_tensor_and_the_size(sharded: Path, name: str) -> None:
    index = json.loads((sharded / f"{name}.index.json").read_text())
    with open_files(sharded / f"{name}.index.json") as checkpoint:
        assert len(index["weight_map"]) == len(checkpoint.tensors)
        sizes = {t.location: t.spec.nbytes for t in checkpoint.tensors.values()}
        assert index["metadata"]["total_size"] == sum(sizes.values())


def test_no_shard_exceeds_the_limit_but_by_one_tensor(whole: Path, tmp_path: Path) -> None:
    result = convert(whole, tmp_path / "out", max_shard_size=3000)
    for file in result.plan.files:
        assert file.nbytes <= 3000 or len(file.entries) == 1


def _break(sharded: Path, change: dict[str, str | None]) -> Path:
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    for name, shard in change.items():
        if shard is None:
            del index["weight_map"][name]
        else:
            index["weight_map"][name] = shard
    path.write_text(json.dumps(index))
    return path


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors.*missing"):
        open_files(sharded)


def test_a_stale_index_is_refused(sharded: Path) -> None:
    path = _break(
        sharded,
        {
            "decoder.lm_tail.weight": "model-00001-of-00003.safetensors",
            "encoder.pooler.dense.bias": None,
        },
    )
    with pytest.raises(FormatError) as caught:
        open_files(path)
    text = str(caught.value)
    assert "decoder.lm_tail.weight" in text
    assert "encoder.pooler.dense.bias" in text


UNSAFE = (
    *(
        "../x.safetensors",
        "/etc/passwd",
        "..",
        "",
        "a/../b",
        "a//b",
        "./b",
        "a\0",
        "\ud800",
        "a" * 256,
    ),
    *("..\\x.safetensors", "C:\\x.safetensors", "a\\b.safetensors", "C:x", "a:b", "a?", "x.", "x "),
    *(
        "a/",
        "/",
        "a\\/b",
        "NUL/b",
        "MODEL-00001-of-00003.safetensors/",
        "NUL",
        "con.safetensors",
        "com1 .x",
        "MODEL-00001-of-00003.safetensors",
    ),
)


@pytest.mark.parametrize("name", UNSAFE, ids=ascii)
def test_an_index_names_only_what_is_a_different_file_in_its_directory_on_every_system(
    sharded: Path, name: str
) -> None:
    path = _break(sharded, {"encoder.pooler.dense.bias": name})
    with pytest.raises(FormatError, match="unsafe index"):
        open_files(path)


def test_a_shard_may_be_a_link_to_anywhere(sharded: Path, tmp_path: Path) -> None:
    with open_files(sharded) as checkpoint:
        expected = {name: each.read() for name, each in checkpoint.tensors.items()}
    shard = sharded / "model-00002-of-00003.safetensors"
    shard.rename(tmp_path / "stored")
    shard.symlink_to(tmp_path / "stored")
    with open_files(sharded) as checkpoint:
        for name, each in checkpoint.tensors.items():
            assert each.read().tobytes() == expected.pop(name).tobytes()
    assert not expected


@pytest.mark.parametrize("target", ["/dev/zero", "/proc/self/environ", "missing"])
def test_a_shard_that_is_a_link_to_no_regular_file_is_refused(sharded: Path, target: str) -> None:
    shard = sharded / "model-00002-of-00003.safetensors"
    shard.unlink()
    shard.symlink_to(target)
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors"):
        open_files(sharded)


def test_the_hub_cache_may_link_to_its_blobs(sharded: Path, tmp_path: Path) -> None:
    (tmp_path / "cache/blobs").mkdir(parents=True)
    snapshot = tmp_path / "cache/snapshots/abc"
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(sharded.iterdir())):
        file.rename(tmp_path / f"cache/blobs/{number}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    with open_files(snapshot) as checkpoint:
        assert len(checkpoint.files) == 3


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "{"])
def test_a_malformed_index_is_refused(sharded: Path, content: str) -> None:
    path = sharded / "model.safetensors.index.json"
    path.write_text(content)
    with pytest.raises(Exception, match=r"index\.json: ") as caught:
        open_files(path)
    assert type(caught.value).__module__ == "converter.errors"
