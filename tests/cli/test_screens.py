"""What is printed fits terminals of 60, 80 and 200 columns, and no word is broken."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from converter.cli import COMMANDS, commands
from converter.text import cell_width, wrap
from tests import factories

ROOT = Path(__file__).parents[2]
COMPOSE = ("compose", "bert", "gpt2")
SCREENS: dict[str, tuple[str, ...]] = {
    "compose": (*COMPOSE, "out", "--overwrite"),
    "plan": (*COMPOSE, "planned", "--dry-run"),
    "plan of a TensorFlow checkpoint": ("convert", "tf", "planned", "--dry-run"),
    "converted without a head": ("convert", "pretraining", "out", "--overwrite"),
    "split": ("split", "both", "parts", "--overwrite"),
    "inspect": ("inspect", "both"),
    "statistics": ("inspect", "tf", "--stats"),
    "tensors": ("inspect", "both", "--tensors"),
    "tensors without a configuration": ("inspect", "unknown", "--tensors"),
    "misfit": ("inspect", "misfit"),
    "misfit that is converted": ("convert", "misfit", "no"),
    "verify": ("verify", "both"),
    "verify against": ("verify", "both", "--against", "bert", "--against", "gpt2"),
    "not verified": ("verify", "changed", "--against", "bert"),
    "equal": ("diff", "bert", "tf"),
    "different": ("diff", "bert", "gpt2"),
    "differing": ("diff", "bert", "changed"),
    "families": ("families",),
    "all of families": ("families", "--long"),
    "architecture": ("families", "bert"),
    "rows": ("families", "gpt2", "--rows"),
    "composite": ("families", "encoder-decoder"),
    "wrong architecture": ("families", "bertt"),
    "table": ("check-table", "wrong.toml"),
    "exists": (*COMPOSE, "both"),
    "nothing there": ("inspect", "nowhere/at/all"),
    "wrong preset": (*COMPOSE, "no", "--preset", "bert2ber"),
    "wrong choice": (*COMPOSE, "no", "--init", "norml"),
    "planned jobs": ("run", "jobs.json", "--dry-run"),
    "failing jobs": ("run", "jobs.json", "--keep-going"),
}


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the checkpoints, tables and recipes of `SCREENS`."""
    place = tmp_path_factory.mktemp("screens")
    for name, settings in {
        "bert": {},
        "tf": {"dialect": "tensorflow"},
        "pretraining": {"model_class": "BertForPreTraining"},
        "misfit": {},
        "unknown": {},
        "changed": {},
    }.items():
        factories.make(place / name, "bert", **settings)  # type: ignore[arg-type]
    factories.make(place / "gpt2", "gpt2", "GPT2LMHeadModel")
    (place / "unknown" / "config.json").unlink()
    for name in ("misfit", "changed"):
        file = place / name / "model.safetensors"
        arrays = load_file(file)
        arrays["encoder.layer.1.attention.self.key.weight"] += 0.5
        if name == "misfit":
            arrays["encoder.layer.0.attention.self.query.heavy"] = arrays.pop("pooler.dense.bias")
        save_file(arrays, file, metadata={"format": "pt"})
    text = (ROOT / "mappings" / "gpt2.toml").read_text("utf-8")
    (place / "wrong.toml").write_text(text.replace("n_positions ->", "n_place ->"), "utf-8")
    jobs = [
        {"convert": {"source": "bert", "output": "converted"}},
        {"convert": {"source": "misfit", "output": "made"}},
    ]
    (place / "jobs.json").write_text(json.dumps({"jobs": jobs}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        CliRunner().invoke(commands, ["run", "jobs.json", "--keep-going"])
        made = CliRunner().invoke(commands, [*COMPOSE, "both"])
    assert made.exit_code == 0, made.output
    return place


def screen(columns: int | None, *args: str) -> list[str]:
    """Return the lines that a command prints on a terminal, or in a pipe without `columns`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "dumb")
        patch.setenv("NO_COLOR", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("COLUMNS", str(columns or ""))
        stream = Terminal() if columns else io.StringIO()
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        with pytest.raises(SystemExit):
            commands.main(args)
    return stream.getvalue().splitlines()


def words(lines: list[str]) -> set[str]:
    return {w for line in lines for w in re.findall(r"[^\W\d_]+", line)}


def is_to_be_copied(line: str) -> bool:
    """Return whether a line stays in one piece: a call, and what has no space."""
    return "from_pretrained(" in line or " " not in line.strip()


@pytest.mark.parametrize("name", SCREENS)
def test_no_line_is_too_long_and_no_word_is_broken(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    piped = screen(None, *SCREENS[name])
    assert len(piped) > 1 or name == "families"
    for columns in (60, 80, 200):
        lines = screen(columns, *SCREENS[name])
        too_long = [line for line in lines if cell_width(line) > columns]
        assert not [line for line in too_long if not is_to_be_copied(line)], columns
        assert words(lines) <= words(piped) | {"as", "above", *"min max mean std size".split()}
        if columns == 200:
            assert len(lines) <= len(piped) * 1.5


def test_a_plan_repeats_neither_equal_names_nor_long_reasons(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    text = "\n".join(screen(60, *SCREENS["plan"]))
    assert text.count("cross-attention, which neither checkpoint has") == 1
    assert text.count("as above") >= 7
    assert text.count("encoder.embeddings.LayerNorm.weight") == 1
    piped = "\n".join(screen(None, *SCREENS["plan"]))
    assert piped.count("cross-attention, which neither checkpoint has") == 8
    assert "stored as" not in "\n".join(screen(200, "inspect", "bert", "--tensors"))
    assert "stored as" in "\n".join(screen(200, "inspect", "tf", "--tensors"))


def test_stacked_numbers_have_the_titles_of_their_columns(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    lines = screen(60, *SCREENS["statistics"])
    at = lines.index("  embeddings.LayerNorm.weight")
    stacked = " ".join(lines[at + 1 : at + 4])
    assert re.search(r"size \S+ B +bert\S+ +min \S+ +max \S+ +mean \S+ +std \S+", stacked)


def test_long_words_are_broken_after_separators_or_kept() -> None:
    name = "encoder.encoder.layer.{0,1}.attention.output.LayerNorm.{bias,weight}"
    assert wrap(name, 50) == [
        "encoder.encoder.layer.{0,1}.attention.output.",
        "  LayerNorm.{bias,weight}",
    ]
    assert wrap(f"in {name}", 50, keep_words=True) == ["in", f"  {name}"]
    assert wrap("a" * 70, 50) == ["a" * 70]
    assert wrap("run `converter verify out` again", 20) == [
        "run",
        "  `converter verify out`",
        "  again",
    ]
    assert wrap("  - one two three", 12) == ["  - one two", "    three"]
    assert wrap("名前" * 4 + " 名前", 17) == ["名前" * 4, "  名前"]
    assert wrap("", 5) == [""]


def test_the_page_says_what_its_numbers_are(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    screen(None, "verify", "changed", "--against", "bert", "--html", "page.html")
    text = (place / "page.html").read_text()
    assert re.search(r"mean -?[\d.e-]+, std [\d.e-]+<br>min -?[\d.e-]+, max -?[\d.e-]+<", text)
    assert "std the standard deviation" in text and "±" not in text
    assert "those of the absolute differences" in text and "cosine similarity of 1 means" in text
    assert re.search(r"Made by converter \S+ on \d{4}-\d\d-\d\d at \d\d:\d\d UTC\.", text)


@pytest.mark.parametrize("width", [60, 80])
def test_help_fits_its_terminal_but_for_examples(width: int) -> None:
    context = click.Context(commands, info_name="converter", **commands.context_settings)
    how: Any = {"terminal_width": width, "max_content_width": width}
    texts = [commands.get_help(click.Context(commands, **how))]
    for name in COMMANDS:
        command = commands.get_command(context, name)
        assert command is not None
        texts.append(command.get_help(click.Context(command, context, **how)))
    wide = [line for text in texts for line in text.splitlines() if len(line) > width]
    assert all(line.startswith("    converter ") for line in wide), wide


def test_each_source_is_one_row_of_the_verification(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    lines = screen(None, *SCREENS["verify against"])
    for row in ("equal to bert", "equal to gpt2", "initialized  "):
        assert sum(line.startswith(f"  {row}") for line in lines) == 1
