"""The tutorial's commands work, and its table lists the presets."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from converter.architectures.loader import load_presets
from converter.cli import commands
from converter.options import INIT_RULES
from tests.factories import make

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "tutorial.md").read_text()


@pytest.mark.parametrize("page", ["tutorial", "ready"])
def test_every_command_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    make(tmp_path / "path/to/vit", "vit")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / f"{page}.md").read_text()
    printed = re.findall(r"^converter (.*)$", text, re.MULTILINE)
    assert len(printed) >= 5
    for command in printed:
        if "trained" in command and not Path("trained").exists():  # training needs frameworks
            shutil.copytree("summarizer", "trained")
            Path("trained/converter-manifest.json").unlink()
        result = CliRunner().invoke(commands, command.split())
        assert result.exit_code == 0, result.output
    if page == "tutorial":
        for name in ("summarizer", "everywhere", "again"):
            assert (tmp_path / name / "decoder_tokenizer" / "tokenizer.json").is_file()
        assert (tmp_path / "parts/decoder/generation_config.json").is_file()
        return
    generation = json.loads((tmp_path / "beams" / "generation_config.json").read_text())
    assert (generation["num_beams"], generation["max_length"]) == (4, 64)
    assert json.loads((tmp_path / "chosen" / "config.json").read_text())["eos_token_id"] == 1
    assert (tmp_path / "one" / "vocab.json").is_file()


def test_every_script_is_there() -> None:
    scripts = set(re.findall(r"examples/\w+\.py", TEXT))
    assert len(scripts) == 4
    assert all((ROOT / script).is_file() for script in scripts)


def test_the_tables_are_complete() -> None:
    named = re.findall(r"^\| `([\w-]+)` \|", TEXT, re.MULTILINE)
    assert named == ["--init", *INIT_RULES, *load_presets()]
