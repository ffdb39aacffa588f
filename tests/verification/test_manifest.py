"""The manifest is reproducible, and `inspect` shows it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

import converter
from converter import compose, verify
from converter.file_names import tables_directory
from tests import factories
from tests.factories import make
from tests.verification import damage
from tests.verification.damage import copy_of
from tests.verification.test_diff import run


def prints(directory: Path) -> dict[str, str]:
    """Return every file of a directory → its SHA-256."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a directory with sources, and a link to one of them."""
    root = tmp_path_factory.mktemp("reproducible")
    factories.make(root / "bert", "bert")
    factories.make(root / "gpt2", "gpt2", "GPT2LMHeadModel")
    (root / "deep" / "down").mkdir(parents=True)
    (root / "link").symlink_to(root / "bert")
    return root


@pytest.mark.parametrize("command", ["compose", "convert", "split"])
def test_the_manifest_is_reproducible(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    if command == "split":
        converter.compose(home / "bert", home / "gpt2", tmp_path / "whole", seed=7)
    composite = str(tmp_path / "whole")

    def make(prefix: str, out: str, name: str = "bert", **options: Any) -> None:
        options = {"pytorch_format": "both", "max_shard_size": 50_000, **options}
        if command == "compose":
            converter.compose(f"{prefix}{name}", f"{prefix}gpt2", out, seed=7, **options)
        elif command == "convert":
            converter.convert(f"{prefix}{name}", out, dtype="bfloat16", **options)
        else:
            converter.split(composite, out, **options)

    first = tmp_path / "first"
    make(f"{home}/", str(first), jobs=1)
    expected = prints(first)
    assert "converter-manifest.json" in expected
    make(f"{home}/", str(tmp_path / "threads"), jobs=7)
    make(f"{home}/", str(tmp_path / "memory"), jobs=2, memory="1MB")
    make(f"{home}/", str(tmp_path / "link"), name="link")
    monkeypatch.chdir(home)
    make("", str(tmp_path / "relative"))
    make("./", str(tmp_path / "dotted"), name="bert/")
    monkeypatch.chdir(home / "deep" / "down")
    make("../../", str(tmp_path / "elsewhere"))
    make("../../", "nested/output")
    directories = ("threads", "memory", "link", "relative", "dotted", "elsewhere")
    for directory in directories:
        assert prints(tmp_path / directory) == expected, directory
    assert prints(home / "deep" / "down" / "nested" / "output") == expected
    text = (first / "converter-manifest.json").read_text()
    assert str(home) not in text
    assert str(tmp_path) not in text
    (home / "deep" / "down" / "nested").rename(tmp_path / "nested")  # for the next command


def test_another_seed_changes_only_initialized_weights(home: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        converter.compose(home / "bert", home / "gpt2", tmp_path / str(seed), seed=seed)
    one, two = (
        json.loads((tmp_path / name / "converter-manifest.json").read_text())["tensors"]
        for name in ("1", "2")
    )
    changed = {name for name in one if one[name]["sha256"] != two[name]["sha256"]}
    initialized = {name for name, each in one.items() if each.get("rule") not in (None, "constant")}
    assert changed == initialized


def test_inspect_shows_how_it_was_made(sound: Path, tmp_path: Path) -> None:
    text = run("inspect", sound, code=0).stdout
    assert "How it was made, by its manifest" in text
    assert "compose, seed 0" in text
    assert "encoder  bert, model.safetensors" in text
    assert re.search(r"tensors +\d+ copied, \d+ initiali[sz]ed\n", text)
    listed = run("inspect", sound, "--tensors", code=0).stdout.splitlines()
    [row] = [line for line in listed if "crossattention.c_attn.weight" in line]
    assert row.rstrip().endswith("initialized: normal(0.02)")
    [row] = [line for line in listed if "attention.self.query.weight" in line]
    assert row.rstrip().endswith("encoder")
    messages = json.loads(run("inspect", sound, "--json", code=0).stdout)
    assert messages["manifest"]["command"] == "compose"
    assert messages["manifest"]["sources"]["decoder"]["reference"] == "gpt2"
    assert sum(messages["manifest"]["origins"].values()) == len(messages["matched"])
    assert messages["matched"]["enc_to_dec_proj.weight"]["origin"].startswith("initialized: ")
    copy = copy_of(sound, tmp_path / "it")
    for content in ("[]", "nonsense", '{"tensors": 5, "sources": [], "warnings": 5}'):
        (copy / "converter-manifest.json").write_text(content)
        run("inspect", copy, "--tensors", code=0)
    (copy / "converter-manifest.json").unlink()
    assert json.loads(run("inspect", copy, "--json", code=0).stdout)["manifest"] is None


def _made(command: Callable[..., Any], *args: Any, **options: Any) -> None:
    command(*args, **options)


def test_without_hashes_the_files_are_the_same(home: Path, tmp_path: Path) -> None:
    for name, no_hash, jobs in (("hashed", False, 3), ("plain", True, 3), ("one", True, 1)):
        out, options = tmp_path / name, {"no_hash": no_hash, "jobs": jobs}
        first = tmp_path / "hashed"
        _made(converter.compose, home / "bert", home / "gpt2", out, **options)
        _made(converter.split, first, tmp_path / f"{name} split", **options)
        _made(converter.convert, first, tmp_path / f"{name} converted", dtype="float16", **options)
    for kind in ("", " split", " converted"):
        hashed, plain, one = (
            prints(tmp_path / f"{name}{kind}") for name in ("hashed", "plain", "one")
        )
        changed = {name for name in hashed if hashed[name] != plain[name]}
        assert {Path(name).name for name in changed} <= {"converter-manifest.json", "README.md"}
        assert one == plain
        text = (tmp_path / f"plain{kind}" / "converter-manifest.json").read_text()
        manifest = json.loads(text)
        assert manifest["no_hash"] is True
        assert not any("sha256" in entry for entry in manifest["tensors"].values())
    assert "SHA-256" not in (tmp_path / "plain" / "README.md").read_text()


def test_verify_says_that_there_are_no_hashes(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("compose", home / "bert", home / "gpt2", out, "--no-hash", "--quiet", code=0)
    assert "states no hashes (--no-hash)" in run("verify", out, code=0).stdout
    against = (home / "bert", home / "gpt2")
    result = converter.verify(out, against=against)
    assert result.verified and result.checks["tensors equal to their source"].endswith(" of 83")
    damage.alter(
        out / "flax_model.msgpack", ["decoder/transformer/h/0/ln_1/scale"], damage.flip_bit
    )
    assert not converter.verify(out).verified  # the other files differ from it
    entries = out / "converter-manifest.json"
    manifest = json.loads(entries.read_text())
    del manifest["no_hash"]  # hashes that were removed are missing
    entries.write_text(json.dumps(manifest))
    assert any("SHA-256" in str(problem.expected) for problem in converter.verify(out).problems)


def test_split_parts_without_hashes_are_verified(home: Path, tmp_path: Path) -> None:
    converter.compose(home / "bert", home / "gpt2", tmp_path / "out", no_hash=True)
    converter.split(tmp_path / "out", tmp_path / "parts", no_hash=True)
    result = converter.verify(tmp_path / "parts", against=[tmp_path / "out"])
    assert result.verified, result.problems
    joint = tmp_path / "parts" / "joint.safetensors"
    damage.alter(joint, ["enc_to_dec_proj.weight"], damage.flip_bit)
    problems = converter.verify(tmp_path / "parts", against=[tmp_path / "out"]).problems
    assert [problem.tensor for problem in problems] == ["enc_to_dec_proj.weight"]


def _composed_with_own_table(home: Path, name: str = "pebble") -> Path:
    """Compose a checkpoint of two whose architecture has a table of its own; return the table."""
    table = home / "pebble.toml"
    text = (tables_directory() / "gpt2.toml").read_text("utf-8")
    table.write_text(text.replace('"gpt2"', f'"{name}"', 1))
    made = make(home / "decoder", "gpt2", "GPT2LMHeadModel")
    config = json.loads((made.directory / "config.json").read_text())
    (made.directory / "config.json").write_text(json.dumps({**config, "model_type": name}))
    encoder = make(home / "encoder", "bert").directory
    compose(encoder, made.directory, home / "out", mapping=[table])
    return table


def test_a_table_that_the_manifest_names_and_that_is_missing_is_asked_for(tmp_path: Path) -> None:
    table = _composed_with_own_table(tmp_path)
    result = verify(tmp_path / "out")
    (problem,) = result.problems  # of three files
    assert "no mapping table for model_type 'pebble'" in problem.what
    assert problem.remedy and "mapping=[FILE]" in problem.remedy
    (note,) = (note for note in result.notes if "pebble" in note)
    assert "tables that were not found (pebble): give them with mapping=[FILE]" in note
    assert result.checks["files that are well-formed"] == "3 of 3"
    result = verify(tmp_path / "out", mapping=[table])
    assert result.verified and not any("mapping" in note for note in result.notes)


def test_a_table_in_the_user_s_directory_verifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = _composed_with_own_table(tmp_path)
    monkeypatch.setenv("CONVERTER_MAPPINGS", str(table))
    assert verify(tmp_path / "out").verified
    table.write_text(table.read_text().replace("= 768", "= 760"))
    (note,) = (note for note in verify(tmp_path / "out").notes if "pebble" in note)
    assert f"states another mapping table for pebble than {table}" in note


def test_a_replaced_table_that_is_missing_is_noted_if_the_tensors_do_not_fit(
    tmp_path: Path,
) -> None:
    table = _composed_with_own_table(tmp_path, "gpt2")
    assert not any("mapping" in note for note in verify(tmp_path / "out").notes)  # the same text
    table.write_text(table.read_text().replace('"ln_f"', '"ln_g"'))
    decoder = tmp_path / "decoder" / "model.safetensors"
    tensors = {name.replace("ln_f", "ln_g"): value for name, value in load_file(decoder).items()}
    save_file(tensors, decoder)
    compose(
        *(tmp_path / "encoder", tmp_path / "decoder", tmp_path / "out"),
        mapping=[table],
        overwrite=True,
    )
    result = verify(tmp_path / "out")
    assert not result.verified
    assert any("another mapping table for gpt2 than the bundled one" in n for n in result.notes)
