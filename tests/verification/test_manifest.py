"""The manifest is reproducible, and `inspect` shows it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import converter
from tests import factories
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
        assert changed <= {"converter-manifest.json", "README.md"}
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
