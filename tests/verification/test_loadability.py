"""Directories of other tools, statistics, and the HTML page."""

from __future__ import annotations

import json
import re
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

import converter
from converter.checkpoint.opening import open_files
from converter.commands.verify import verify
from converter.verification.result import NOTHING
from converter.verification.value_report import measure, sample
from tests import factories
from tests.verification import damage
from tests.verification.damage import QUERY, alter, copy_of, key_of
from tests.verification.test_diff import run


def findings(directory: Path) -> list[str]:
    return [problem.what for problem in verify(directory).problems]


@pytest.mark.parametrize("stated", ["tf", "none"])
def test_safetensors_that_transformers_refuses(tmp_path: Path, stated: str) -> None:
    made = factories.make(tmp_path / "it", "bert")
    data = made.file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = {"format": stated} if stated != "none" else {"made": "by hand"}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    made.file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    [problem] = verify(tmp_path / "it").problems
    assert problem.tensor == "metadata: format"
    assert problem.found == stated


def test_flax_names_in_safetensors(tmp_path: Path) -> None:
    factories.make(tmp_path / "it", "bert", dialect="flax", file_format="safetensors")
    assert any("another framework's names" in what for what in findings(tmp_path / "it"))


def test_a_file_with_the_name_of_another_format(tmp_path: Path) -> None:
    made = factories.make(tmp_path / "it", "bert", file_format="torch")
    made.file.rename(tmp_path / "it" / "model.safetensors")
    assert "is not in the format that its name says" in findings(tmp_path / "it")


def test_a_wrapped_tree(tmp_path: Path) -> None:
    config = factories.tiny_config("bert")
    tensors = factories.stored(factories.model_spec(config), "flax")
    wrapped = {f"params/{name}": array for name, array in tensors.items()}
    factories.write(tmp_path / "it", config, wrapped, "flax-msgpack")
    assert any("have the prefix 'params'" in what for what in findings(tmp_path / "it"))


def test_pickles_with_other_imports_are_reported_and_not_run(tmp_path: Path) -> None:
    made = factories.make(tmp_path / "it", "bert", file_format="torch")
    insert_code(made.file, b"cposix\nsystem\n0")
    [problem] = verify(tmp_path / "it").problems
    assert "does more than build tensors" in problem.what
    assert problem.found == "posix.system"
    factories.make(tmp_path / "fine", "bert")
    shutil.copy(made.file, tmp_path / "fine" / "optimizer.pt")
    result = verify(tmp_path / "fine")
    assert result.verified
    assert any("optimizer.pt" in note and "posix.system" in note for note in result.notes)


def insert_code(file: Path, code: bytes) -> None:
    """Insert `code` at the start of a torch file's pickle."""
    with zipfile.ZipFile(file) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in content.items():
            if name.endswith("data.pkl"):
                data = data[:2] + code + data[2:]
            archive.writestr(name, data)


def test_the_readme_may_be_edited(sound: Path, tmp_path: Path) -> None:
    directory = copy_of(sound, tmp_path / "it")
    (directory / "README.md").write_text("mine")
    assert verify(directory).verified


def test_statistics_are_right(tmp_path: Path) -> None:
    for dialect, dtype in (("pytorch", "float32"), ("flax", "bfloat16"), ("tensorflow", "float16")):
        made = factories.make(tmp_path / dtype, "bert", dialect=dialect, dtype=dtype)
        inspection = converter.inspect(made.directory, stats=True)
        assert set(inspection.statistics) == set(made.values)
        together = NOTHING
        for name, values in made.values.items():
            wide, statistics = values.astype(np.float64), inspection.statistics[name]
            assert (statistics.minimum, statistics.maximum) == (wide.min(), wide.max())
            assert statistics.mean == pytest.approx(wide.mean(), abs=1e-12)
            assert statistics.deviation == pytest.approx(wide.std(), rel=1e-9)
            together += statistics
        everything = np.concatenate([v.astype(np.float64).ravel() for v in made.values.values()])
        assert together.count == everything.size
        assert together.deviation == pytest.approx(everything.std(), rel=1e-9)
        assert together.mean == pytest.approx(everything.mean(), abs=1e-12)


def test_statistics_exclude_values_that_are_not_finite(tmp_path: Path) -> None:
    made = factories.make(tmp_path / "it", "bert")
    alter(made.file, [f"{QUERY}.weight"], damage.not_a_number)
    statistics = converter.inspect(made.directory, stats=True).statistics[f"{QUERY}.weight"]
    assert statistics.non_finite == 1
    assert statistics.count == 24 * 24 - 1
    assert np.isfinite(statistics.deviation)


def test_inspect_shows_sizes_and_statistics(tmp_path: Path) -> None:
    made = factories.make(tmp_path / "it", "bert")
    text = run("inspect", made.directory, "--tensors", code=0).stdout
    assert re.search(r"layer\.\{0…2\}\.output\.dense\.weight +24 × 40 +float32 +11\.5 kB", text)
    text = run("inspect", made.directory, "--stats", code=0).stdout
    layers = [made.values[f"encoder.layer.{n}.output.dense.weight"] for n in range(3)]
    row = next(line for line in text.splitlines() if "layer.{0…2}.output.dense.weight" in line)
    assert row.split()[-4] == f"{np.min(layers):.4g}"
    assert row.split()[-1] == f"{np.std(np.array(layers, np.float64)):.4g}"
    report = json.loads(run("inspect", made.directory, "--stats", "--json", code=0).stdout)
    assert report["matched"]["pooler.dense.weight"]["bytes"] == 24 * 24 * 4
    assert report["matched"]["pooler.dense.weight"]["min"] < 0


def test_a_sample_is_of_the_values(tmp_path: Path) -> None:
    made = factories.make(tmp_path / "it", "bert", vocab_size=9000)
    with open_files(made.directory) as checkpoint:
        from converter.architectures.registry import ArchitectureRegistry
        from converter.models.model import resolve_model

        matched = resolve_model(checkpoint, ArchitectureRegistry()).key_match.matched
        for name, count in (("embeddings.word_embeddings.weight", 1000), (f"{QUERY}.weight", 50)):
            values = sample(matched[name], count)
            assert count / 2 < values.size <= 2 * count
            assert np.isin(values, made.values[name]).all()
            assert abs(values.std() - measure(matched[name]).deviation) < 0.03


def test_the_page_shows_all_findings(
    sound: Path, sources: tuple[Path, Path], tmp_path: Path
) -> None:
    file = copy_of(sound, tmp_path / "<it>") / "model.safetensors"
    alter(file, [key_of(file, QUERY)], damage.negated)
    target = tmp_path / "page.html"
    args = ("--against", sources[0], "--against", sources[1], "--html", target)
    run("verify", tmp_path / "<it>", *args, code=1)
    text = target.read_text("utf-8")
    assert "<it>" not in text
    assert "&lt;it&gt;" in text
    assert "has the opposite sign" in text
    for word in (
        "Encoder",
        "Decoder",
        "Initialized weights",
        "differs from",
        "Checks",
        "Differences from the sources",
    ):
        assert word in text
    assert text.count("<svg") > 10
    assert not re.search(r"(?:src|href)=|url\(|@import|<script|https?:", text)


def test_the_page_of_an_unreadable_checkpoint(tmp_path: Path) -> None:
    made = factories.make(tmp_path / "it", "bert")
    made.file.write_bytes(b"nothing")
    run("verify", tmp_path / "it", "--html", tmp_path / "page.html", code=1)
    assert "not verified" in (tmp_path / "page.html").read_text("utf-8")
