"""Comparison of two checkpoints in any formats."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import converter
from converter.cli import commands
from tests import factories
from tests.verification import damage
from tests.verification.damage import DENSE, FILES, QUERY, alter, copy_of, key_of, rewrite


def run(*args: object, code: int) -> Result:
    result = CliRunner().invoke(commands, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result


def test_every_file_equals_every_other(sound: Path) -> None:
    for first in FILES:
        for second in FILES:
            comparison = converter.diff(sound / first, sound / second)
            assert comparison.equal
            assert len(comparison.differences) == 101
            assert all(difference.exact for difference in comparison.differences.values())


def test_shards_formats_and_dtypes_may_be_mixed(
    sound: Path, sharded: Path, sources: tuple[Path, Path], tmp_path: Path
) -> None:
    converter.compose(*sources, tmp_path / "half", pytorch_format="both", dtype="float16")
    for name in FILES:
        comparison = converter.diff(sound / name, sharded / f"{name}.index.json")
        assert comparison.equal
        assert len(comparison.differences) > 80
        comparison = converter.diff(sharded / f"{name}.index.json", tmp_path / "half" / FILES[0])
        assert not comparison.equal
        assert 0 < max(each.max_abs for each in comparison.differing.values()) < 1e-3
        assert converter.diff(sharded, tmp_path / "half" / name, tolerance=1e-3).equal


@pytest.mark.parametrize("name", FILES)
def test_the_measures_are_right(sound: Path, tmp_path: Path, name: str) -> None:
    file = copy_of(sound, tmp_path / "it") / name
    change = np.random.default_rng(1).standard_normal((40, 24)).astype(np.float32) * 0.01

    def disturb(array: np.ndarray) -> None:
        array += change if array.shape == change.shape else change.T

    key = key_of(file, DENSE)
    alter(file, [key], disturb)
    comparison = converter.diff(sound, file)
    [(canonical, difference)] = comparison.differing.items()
    assert canonical == f"encoder.{DENSE}.weight"
    before = factories.noise(f"{DENSE}.weight", (40, 24)).astype(np.float64)
    after = (before.astype(np.float32) + change).astype(np.float64)
    assert difference.differing == np.count_nonzero(before != after)
    assert difference.max_abs == np.abs(after - before).max()
    assert difference.mean_abs == pytest.approx(np.abs(after - before).mean(), rel=1e-12)
    cosine = (before * after).sum() / np.sqrt((before**2).sum() * (after**2).sum())
    assert difference.cosine == pytest.approx(cosine, rel=1e-12)
    assert converter.diff(sound, file, tolerance=difference.max_abs).equal
    assert not converter.diff(sound, file, tolerance=difference.max_abs * 0.999).equal


def test_rounding_to_bfloat16_is_measured(sources: tuple[Path, Path], tmp_path: Path) -> None:
    converter.convert(sources[0], tmp_path / "half", dtype="bfloat16")
    comparison = converter.diff(sources[0], tmp_path / "half")
    assert not comparison.equal
    assert {difference.dtypes for difference in comparison.differences.values()} == {
        ("float32", "bfloat16")
    }
    largest = max(difference.max_abs for difference in comparison.differences.values())
    assert 1e-4 < largest < 1e-2
    assert converter.diff(sources[0], tmp_path / "half", tolerance=largest).equal
    for framework in ("tf_model.h5", "flax_model.msgpack"):
        assert converter.diff(tmp_path / "half", tmp_path / "half" / framework).equal


def test_not_a_number_is_beyond_every_tolerance(sound: Path, tmp_path: Path) -> None:
    file = copy_of(sound, tmp_path / "it") / FILES[0]
    alter(file, [key_of(file, QUERY)], damage.not_a_number)
    comparison = converter.diff(sound, tmp_path / "it", tolerance=1e30)
    assert list(comparison.differing) == [f"encoder.{QUERY}.weight"]
    assert converter.diff(tmp_path / "it", tmp_path / "it").equal
    report = run("diff", sound, tmp_path / "it", "--json", code=1).stdout
    assert json.loads(report)["differing"][f"encoder.{QUERY}.weight"]["max_abs"] is None


def test_what_only_one_has(sound: Path, tmp_path: Path) -> None:
    file = copy_of(sound, tmp_path / "it") / FILES[0]
    rewrite(file, lambda tensors: tensors.update(extra=tensors.pop(key_of(file, QUERY))))
    text = run("diff", sound, file, code=1).stdout
    assert "DIFFERENT" in text
    assert f"Only in {sound}\n  encoder.{QUERY}.weight" in text
    assert "not in the mapping table" in text


def test_layers_are_collapsed_with_the_largest_difference(sound: Path, tmp_path: Path) -> None:
    file = copy_of(sound, tmp_path / "it") / FILES[0]
    with_layers = [QUERY.replace("0", str(number)) for number in range(3)]
    for number, module in enumerate(with_layers):
        alter(file, [key_of(file, module)], lambda a, n=number: np.add(a, 0.5 + n, out=a))
    text = run("diff", sound, tmp_path / "it", code=1).stdout
    [row] = [line for line in text.splitlines() if "query" in line]
    assert "encoder.encoder.layer.{0…2}.attention.self.query.weight" in row
    assert "1,728 of 1,728" in row
    assert " 2.5 " in row
    assert "equal within 3" in run("diff", sound, tmp_path / "it", "--tolerance", 3, code=0).stdout


def test_wrong_usage(sound: Path) -> None:
    run("diff", sound, sound, "--tolerance", "-1", code=2)
    run("diff", sound, code=2)
    assert "error" in json.loads(run("diff", sound, "/nowhere", "--json", code=1).stdout)


def test_verify_on_the_command_line(
    sound: Path, sources: tuple[Path, Path], tmp_path: Path
) -> None:
    args = ("--against", sources[0], "--against", sources[1])
    text = run("verify", sound, *args, code=0).stdout
    assert f"{sound}: verified\n" in text
    assert re.search(rf"equal to {re.escape(str(sources[0]))} +\d\d tensors: encoder\.", text)
    file = copy_of(sound, tmp_path / "it") / "tf_model.h5"
    keys = [key_of(file, QUERY.replace("0", str(number))) for number in range(3)]
    for key in keys:
        alter(file, [key], damage.negated)
    text = run("verify", tmp_path / "it", code=1).stdout
    assert f"{tmp_path / 'it'}: NOT verified, 3 problems" in text
    folded = keys[0].replace("_0/", "_{0…2}/")
    assert f"{file}: {folded}: has the opposite sign" in text
    report = json.loads(run("verify", tmp_path / "it", "--json", code=1).stdout)
    assert report["verified"] is False
    assert [problem["tensor"] for problem in report["problems"]] == keys
    run("verify", tmp_path, code=1)
    run("verify", code=2)
