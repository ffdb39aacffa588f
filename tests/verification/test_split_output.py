"""Split checkpoints: both submodels are verified, and each compared with the encoder-decoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import converter
from converter.commands.verify import verify
from converter.errors import UnsupportedError
from converter.formats.registry import open_file
from tests import factories
from tests.verification import damage
from tests.verification.damage import FILES, QUERY, alter, copy_of, key_of
from tests.verification.test_diff import run


@pytest.fixture(scope="module")
def submodels(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Split the valid checkpoint, whose projection belongs to neither submodel."""
    out = tmp_path_factory.mktemp("halves") / "apart"
    converter.split(sound, out, pytorch_format="both")
    assert (out / "joint.safetensors").is_file()
    return out


def test_both_submodels_are_verified_in_one_report(submodels: Path, sound: Path) -> None:
    result = verify(submodels, against=[sound], value_report=True)
    assert result.verified, result.problems
    assert len(result.files) == 8
    assert result.checks["encoder: files that are well-formed"] == "4 of 4"
    assert result.checks["decoder: tensors with the hash that the manifest states"] == "44 of 44"
    between = {what: passed for what, passed in result.checks.items() if "outside" in what}
    assert list(between.values()) == ["1 of 1", "2 of 2", "2 of 2"]
    assert {origin.verdict for origin in result.origins.values()} == {"equal"}
    assert not any("made by another tool" in note for note in result.notes)
    assert result.value_report is not None
    assert [section.title for section in result.value_report.sections] == ["Encoder", "Decoder"]
    assert set(result.value_report.tensors) == set(result.origins)


def test_each_source_is_assigned_to_its_submodel(
    submodels: Path, sources: tuple[Path, Path]
) -> None:
    for order in (sources, sources[::-1]):
        result = verify(submodels, against=order)
        assert result.verified
        origins = {origin.source for name, origin in result.origins.items() if name[:3] == "enc"}
        assert origins == {str(sources[0])}
        initialized = [
            name for name, origin in result.origins.items() if origin.verdict == "initialized"
        ]
        assert initialized
        assert all("cross" in name for name in initialized)
    with pytest.raises(UnsupportedError, match="no submodel left"):
        verify(submodels, against=[sources[0], sources[0]])


@pytest.mark.parametrize("file", FILES)
def test_damage_to_a_submodel_is_found(submodels: Path, tmp_path: Path, file: str) -> None:
    copy = copy_of(submodels, tmp_path / "it")
    path = copy / "encoder" / file
    with open_file(path) as reader:
        [key] = [
            name
            for name in reader.tensors
            if ("0/attention/self/query" in name or "0.attention.self.query" in name)
            and name.endswith(("weight", "kernel", "kernel:0"))
        ]
    alter(path, [key], damage.flip_bit)
    result = verify(copy)
    assert {(problem.file, problem.tensor) for problem in result.problems} == {(str(path), key)}
    assert verify(copy / "decoder").verified
    alone = verify(copy / "encoder")  # the manifest above speaks of it
    assert [problem.tensor for problem in alone.problems] == [key]
    for other in FILES:
        if other != file:
            (copy / "encoder" / other).unlink()
    messages = {problem.what for problem in verify(copy / "encoder").problems}
    assert "its values differ from those that were written" in messages


def test_damage_outside_the_submodels_is_found(submodels: Path, tmp_path: Path) -> None:
    copy = copy_of(submodels, tmp_path / "it")
    joint = copy / "joint.safetensors"
    alter(joint, ["enc_to_dec_proj.weight"], damage.flip_bit)
    [problem] = verify(copy).problems
    assert (problem.file, problem.tensor) == (str(joint), "enc_to_dec_proj.weight")
    assert problem.what == "its values differ from those that were written"
    joint.write_bytes(joint.read_bytes()[:40])
    assert str(joint) in [problem.file for problem in verify(copy).problems]
    joint.unlink()
    [problem] = verify(copy).problems
    assert (problem.file, problem.what) == (
        str(joint),
        "listed in the manifest, but the file is missing",
    )


def test_the_manifest_of_the_split_lists_the_files_of_a_submodel(
    submodels: Path, tmp_path: Path
) -> None:
    copy = copy_of(submodels, tmp_path / "it")
    (copy / "decoder" / "generation_config.json").unlink()
    [problem] = verify(copy / "decoder").problems
    assert problem.file == str(copy / "decoder" / "generation_config.json")
    path = copy / "converter-manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "command": "compose"}))  # speaks of something else
    assert any("another tool" in note for note in verify(copy / "decoder").notes)


def test_a_submodel_against_another_architecture_is_refused(
    submodels: Path, sources: tuple[Path, Path]
) -> None:
    with pytest.raises(UnsupportedError, match=r"is gpt2, but .* is bert"):
        verify(submodels / "encoder", against=[sources[1]])


def test_an_encoder_decoder_is_compared_with_each_submodel(
    submodels: Path, sound: Path, tmp_path: Path
) -> None:
    for submodel in ("encoder", "decoder"):
        for first, second in ((sound, submodels / submodel), (submodels / submodel, sound)):
            comparison = converter.diff(first, second)
            assert comparison.equal
            assert comparison.submodel == submodel
            assert len(comparison.differences) > 40
    text = run("diff", sound, submodels / "encoder", code=0).stdout
    assert "only the encoder: equal" in text
    copy = copy_of(sound, tmp_path / "it")
    file = copy / "flax_model.msgpack"
    alter(file, [key_of(file, QUERY)], damage.negated)
    comparison = converter.diff(file, submodels / "encoder")
    assert list(comparison.differing) == [f"{QUERY}.weight"]
    assert converter.diff(file, submodels / "decoder").equal
    other = factories.make(tmp_path / "roberta", "roberta").directory
    with pytest.raises(UnsupportedError, match="is not a submodel of"):
        converter.diff(sound, other)


def test_two_submodels_of_one_architecture_are_distinguished(
    sources: tuple[Path, Path], tmp_path: Path
) -> None:
    second = factories.make(tmp_path / "b", "bert", "BertForMaskedLM", seed=4).directory
    converter.compose(sources[0], second, tmp_path / "whole", to=["pytorch"])
    converter.split(tmp_path / "whole", tmp_path / "apart", to=["pytorch"])
    for submodel in ("encoder", "decoder"):
        comparison = converter.diff(tmp_path / "whole", tmp_path / "apart" / submodel)
        assert (comparison.equal, comparison.submodel) == (True, submodel)
        assert verify(tmp_path / "apart" / submodel, against=[tmp_path / "whole"]).verified
