"""Every kind of damage in each framework's file is found and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter
from converter.commands.verify import verify
from converter.verification.result import Verification
from tests.sampling import quick_sample
from tests.verification import damage
from tests.verification.damage import (
    DENSE,
    FILES,
    KEY,
    QUERY,
    alter,
    copy_of,
    key_of,
    rewrite,
    update,
)

SINGLE = {
    damage.flip_bit: "is off by a few units in the last place in 1 value",
    damage.reinitialized: "is unrelated",
    damage.as_float16: "was rounded to float16",
    damage.moved: "is shifted by 1 along axis",
    damage.transposed: "is transposed",
    damage.negated: "has the opposite sign",
    damage.zeroed: "is all zeros",
    damage.not_a_number: "holds 1 value(s) that are infinite or not a number",
    damage.scaled: "is scaled by 1.1",
    damage.one_row: "differs in",
}
"""Damage to one tensor → the verdict."""

DOUBLE = {damage.swapped: (True, True), damage.duplicated: (False, True)}
"""Damage to two tensors → which of them it changes."""


def problems_of(actual: Verification, file: Path, tensor: str) -> list[str]:
    """Return the problems reported for a tensor in a file."""
    return [
        problem.what
        for problem in actual.problems
        if problem.tensor == tensor and problem.file == str(file)
    ]


def test_valid_checkpoints_are_verified(
    sound: Path, sharded: Path, sources: tuple[Path, Path]
) -> None:
    for directory in (sound, sharded):
        result = verify(directory, against=sources)
        assert result.verified, result.problems
        assert result.checks["files that are well-formed"] == "4 of 4"
        assert result.notes == ["holds no tokenizer"]
    for directory in sources:
        assert verify(directory).verified


@pytest.mark.parametrize("manifest", [True, False], ids=["own", "foreign"])
@pytest.mark.parametrize("module", [QUERY, DENSE])
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", quick_sample(SINGLE, 4), ids=lambda change: change.__name__)
def test_a_damaged_tensor(
    sound: Path, tmp_path: Path, name: str, change: Callable[..., None], module: str, manifest: bool
) -> None:
    file = copy_of(sound, tmp_path / "it") / name
    if not manifest:
        (tmp_path / "it" / "converter-manifest.json").unlink()
    key = key_of(file, module)
    alter(file, [key], change)
    result = verify(tmp_path / "it")
    assert [SINGLE[change] in text for text in problems_of(result, file, key)] == [True]
    assert {problem.tensor for problem in result.problems} == {key}


@pytest.mark.parametrize("manifest", [True, False], ids=["own", "foreign"])
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", DOUBLE, ids=lambda change: change.__name__)
def test_two_damaged_square_tensors(
    sound: Path, tmp_path: Path, name: str, change: Callable[..., None], manifest: bool
) -> None:
    file = copy_of(sound, tmp_path / "it") / name
    if not manifest:
        (tmp_path / "it" / "converter-manifest.json").unlink()
    keys = [key_of(file, QUERY), key_of(file, KEY)]
    alter(file, keys, change)
    result = verify(tmp_path / "it")
    wrong = [key for key, changed in zip(keys, DOUBLE[change], strict=True) if changed]
    verdicts = {problem.tensor: problem.what for problem in result.problems}
    assert set(verdicts) == set(wrong)
    assert verdicts[keys[1]] == f"holds the values of encoder.{QUERY}.weight"


@pytest.mark.parametrize("change", [*SINGLE, *DOUBLE], ids=lambda change: change.__name__)
def test_a_single_file_is_verified_by_the_manifest(
    sound: Path, tmp_path: Path, change: Callable[..., None]
) -> None:
    directory = copy_of(sound, tmp_path / "it")
    for name in FILES[1:]:
        (directory / name).unlink()
    before = {str(problem) for problem in verify(directory).problems}
    assert all("listed in the manifest" in text for text in before)
    file = directory / FILES[0]
    keys = [key_of(file, QUERY), key_of(file, KEY)]
    alter(file, keys if change in DOUBLE else keys[:1], change)
    actual = [p for p in verify(directory).problems if str(p) not in before]
    assert {problem.what for problem in actual} == {
        "its values differ from those that were written"
    }
    assert {problem.tensor for problem in actual} <= set(keys)
    assert actual


def drop(tensors: dict[str, Any], key: str) -> None:
    del tensors[key]


def rename(tensors: dict[str, Any], key: str) -> None:
    tensors[key.replace("query", "quarry")] = tensors.pop(key)


def add(tensors: dict[str, Any], key: str) -> None:
    tensors[key.replace("query", "adapter")] = tensors[key]


def narrow(tensors: dict[str, Any], key: str) -> None:
    tensors[key] = tensors[key].astype(np.float16)


def grow(tensors: dict[str, Any], key: str) -> None:
    tensors[key] = np.concatenate([tensors[key], tensors[key][:1]])


@pytest.mark.parametrize("manifest", [True, False], ids=["own", "foreign"])
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (drop, {"query": "missing tensor"}),
        (rename, {"query": "missing tensor", "quarry": "does not know this tensor"}),
        (add, {"adapter": "does not know this tensor"}),
        (narrow, {"query": "was "}),
        (grow, {"query": "wrong shape"}),
    ],
    ids=["dropped", "renamed", "extra", "dtype", "shape"],
)
def test_another_set_of_tensors(
    sound: Path,
    tmp_path: Path,
    name: str,
    change: Callable[..., None],
    what: dict[str, str],
    manifest: bool,
) -> None:
    file = copy_of(sound, tmp_path / "it") / name
    if not manifest:
        (tmp_path / "it" / "converter-manifest.json").unlink()
    key = key_of(file, QUERY)
    rewrite(file, lambda tensors: change(tensors, key))
    result = verify(tmp_path / "it")
    for word, text in what.items():
        assert any(text in each for each in problems_of(result, file, key.replace("query", word)))
    if change is narrow:
        verdicts = {"was cast to a narrower dtype"} if manifest else set()
        assert set(problems_of(result, file, key)) == verdicts | {"was rounded to float16"}
        assert any(f"{name} mixes dtypes" in note for note in result.notes)


@pytest.mark.parametrize("name", FILES)
def test_a_rewritten_file_with_the_same_tensors_differs_in_size_alone(
    sound: Path, tmp_path: Path, name: str
) -> None:
    """`rewrite` itself does no damage."""
    rewrite(copy_of(sound, tmp_path / "it") / name, lambda tensors: None)
    actual = verify(tmp_path / "it").problems
    assert {problem.what for problem in actual} <= {"its size has changed since it was written"}


HEADS = {
    "model.safetensors": ("decoder.lm_head.weight", "decoder.transformer.wte.weight"),
    "pytorch_model.bin": ("decoder.lm_head.weight", "decoder.transformer.wte.weight"),
    "flax_model.msgpack": ("decoder/lm_head/kernel", "decoder/transformer/wte/embedding"),
}
"""File → its head, and the embeddings that this is tied to; TensorFlow's has no head of its own."""


@pytest.mark.parametrize("manifest", [True, False], ids=["own", "foreign"])
@pytest.mark.parametrize("name", HEADS)
def test_an_untied_head(sound: Path, tmp_path: Path, name: str, manifest: bool) -> None:
    file = copy_of(sound, tmp_path / "it") / name
    if not manifest:
        (tmp_path / "it" / "converter-manifest.json").unlink()
    head, embeddings = HEADS[name]

    def untie(tensors: dict[str, Any]) -> None:
        values = tensors[embeddings].copy()
        damage.flip_bit(values)
        tensors[head] = values.T.copy() if name.endswith("msgpack") else values

    def tie(tensors: dict[str, Any]) -> None:
        values = tensors[embeddings]
        tensors[head] = values.T.copy() if name.endswith("msgpack") else values

    rewrite(file, tie)
    assert not [p for p in verify(tmp_path / "it").problems if p.tensor]
    rewrite(file, untie)
    result = verify(tmp_path / "it")
    assert problems_of(result, file, head) == [
        "is off by a few units in the last place in 1 value(s)"
    ]
    assert not problems_of(result, file, embeddings)


@pytest.fixture(scope="module", params=["float16", "bfloat16"])
def submodel(
    request: pytest.FixtureRequest,
    sources: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Make a valid checkpoint in 16 bits."""
    out = tmp_path_factory.mktemp("half") / "both"
    converter.compose(*sources, out, pytorch_format="both", dtype=request.param)
    assert verify(out).verified
    return out


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "change", quick_sample([damage.flip_low_bit, damage.moved, damage.transposed, damage.zeroed], 4)
)
def test_a_damaged_tensor_in_16_bits(
    submodel: Path, tmp_path: Path, name: str, change: Callable[..., None]
) -> None:
    directory = copy_of(submodel, tmp_path / "it")
    file = directory / name
    key = key_of(file, QUERY)
    alter(file, [key], change)
    result = verify(directory)
    assert {(problem.file, problem.tensor) for problem in result.problems} == {(str(file), key)}
    (directory / "converter-manifest.json").unlink()
    assert [problem.tensor for problem in verify(directory).problems] == [key]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.1, 0.6, 0.98])
def test_a_truncated_file(sound: Path, tmp_path: Path, name: str, share: float) -> None:
    file = copy_of(sound, tmp_path / "it") / name
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    result = verify(tmp_path / "it")
    assert any(name in str(problem) for problem in result.problems)
    assert result.checks["files that are well-formed"] == "3 of 4"


@pytest.mark.parametrize("name", FILES)
def test_an_outdated_index(sharded: Path, tmp_path: Path, name: str) -> None:
    index = copy_of(sharded, tmp_path / "it") / f"{name}.index.json"
    content = json.loads(index.read_text())
    weights = content["weight_map"]
    key = next(key for key in weights if "query" in key)
    weights[key.replace("query", "quarry")] = weights.pop(key)
    index.write_text(json.dumps(content))
    text = "\n".join(map(str, verify(tmp_path / "it").problems))
    assert key.replace("query", "quarry") in text
    assert str(index) in text


@pytest.mark.parametrize("name", FILES)
def test_a_tensor_in_the_wrong_shard(sharded: Path, tmp_path: Path, name: str) -> None:
    index = copy_of(sharded, tmp_path / "it") / f"{name}.index.json"
    content = json.loads(index.read_text())
    weights = content["weight_map"]
    key = next(key for key in weights if "query" in key)
    weights[key] = next(shard for shard in weights.values() if shard != weights[key])
    index.write_text(json.dumps(content))
    text = "\n".join(map(str, verify(tmp_path / "it").problems))
    assert key in text
    assert "is not in model" in text or "where the index lists it" in text


@pytest.mark.parametrize("name", FILES)
def test_a_missing_shard(sharded: Path, tmp_path: Path, name: str) -> None:
    stem, _, ending = name.rpartition(".")
    shard = sorted(copy_of(sharded, tmp_path / "it").glob(f"{stem}-*.{ending}"))[1]
    shard.unlink()
    text = "\n".join(map(str, verify(tmp_path / "it").problems))
    assert f"{shard}: the shard is missing" in text


@pytest.mark.parametrize("name", FILES)
def test_swapped_shards(sharded: Path, tmp_path: Path, name: str) -> None:
    stem, _, ending = name.rpartition(".")
    first, second, *_ = sorted(copy_of(sharded, tmp_path / "it").glob(f"{stem}-*.{ending}"))
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    text = "\n".join(map(str, verify(tmp_path / "it").problems))
    assert first.name in text
    assert second.name in text


@pytest.mark.parametrize("manifest", [True, False], ids=["own", "foreign"])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("field", ["decoder_start_token_id", "pad_token_id", "eos_token_id"])
@pytest.mark.parametrize("token", [7, 61, -1])
def test_a_wrong_token(
    sound: Path, tmp_path: Path, file: str, field: str, token: int, manifest: bool
) -> None:
    directory = copy_of(sound, tmp_path / "it")
    if not manifest:
        (directory / "converter-manifest.json").unlink()
    update(directory / file, **{field: token})
    problems = [p for p in verify(directory).problems if p.tensor == field]
    assert problems
    if token != 7:
        assert any("outside the vocabulary" in p.what for p in problems if p.file)


def test_a_token_changed_in_both_files_is_found_by_the_manifest(
    sound: Path, tmp_path: Path
) -> None:
    directory = copy_of(sound, tmp_path / "it")
    for name in ("config.json", "generation_config.json"):
        path = directory / name
        before = path.read_text()
        path.write_text(before.replace('"pad_token_id": 3', '"pad_token_id": 7'))
        assert path.read_text() != before
        assert path.stat().st_size == len(before)
    files = {str(problem.file) for problem in verify(directory).problems}
    assert files == {str(directory / "config.json"), str(directory / "generation_config.json")}


@pytest.mark.parametrize(
    ("field", "value"),
    [("encoder__hidden_size", 28), ("decoder__n_layer", 1), ("encoder__vocab_size", 60)],
)
def test_a_size_of_the_configuration(sound: Path, tmp_path: Path, field: str, value: int) -> None:
    directory = copy_of(sound, tmp_path / "it")
    (directory / "converter-manifest.json").unlink()
    update(directory / "config.json", **{field: value})
    result = verify(directory)
    assert not result.verified
    named = " ".join(str(problem) for problem in result.problems)
    submodel, _, what = field.partition("__")
    assert {"hidden_size": "query", "n_layer": "h.1", "vocab_size": "word_embeddings"}[
        what
    ] in named
    assert submodel in named


@pytest.mark.parametrize("how", ["hash", "dtype", "none", "entry", "no tensors", "shape", "text"])
def test_an_edited_manifest(sound: Path, tmp_path: Path, how: str) -> None:
    directory = copy_of(sound, tmp_path / "it")
    path = directory / "converter-manifest.json"
    content = json.loads(path.read_text())
    name = f"encoder.{QUERY}.weight"
    entry = content["tensors"][name]
    if how == "hash":
        entry["sha256"] = "0" * 64
    elif how == "dtype":
        entry["dtype"] = "float64"
    elif how == "shape":
        entry["shape"] = [24, 25]
    elif how == "none":
        del content["tensors"][name]
    elif how == "entry":
        content["tensors"]["encoder.more"] = content["tensors"].pop(name)
    elif how == "no tensors":
        content["tensors"] = {}
    path.write_text("nonsense" if how == "text" else json.dumps(content))
    result = verify(directory)
    assert not result.verified
    if how in ("hash", "dtype", "none", "entry", "shape"):
        assert any("query" in str(problem) for problem in result.problems)


def test_a_missing_file_of_the_manifest(sound: Path, tmp_path: Path) -> None:
    directory = copy_of(sound, tmp_path / "it")
    (directory / "generation_config.json").unlink()
    assert any("generation_config.json" in str(p) for p in verify(directory).problems)


def test_a_part_missing_in_one_file(sources: tuple[Path, Path], tmp_path: Path) -> None:
    converter.convert(sources[0], tmp_path / "it", to=["pytorch", "flax"])
    file = tmp_path / "it" / "flax_model.msgpack"
    rewrite(
        file,
        lambda tensors: (
            [tensors.pop(key) for key in list(tensors) if key.startswith("pooler")] and None
        ),
    )
    result = verify(tmp_path / "it")
    assert problems_of(result, file, "pooler/dense/kernel") == [
        "missing, although model.safetensors has it"
    ]
