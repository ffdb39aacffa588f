"""Commands on checkpoints whose small files are damaged: a result or one clear error."""

from __future__ import annotations

import json
import os
import random
import resource
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import converter
from converter.cli import commands
from tests import factories
from tests.formats.mutations import mutate, mutate_json
from tests.formats.work import check_work, without_old_objects

CASES = int(os.environ.get("FUZZ_COMMANDS", "40"))
"""Damaged files per kind of file; each runs a command."""
SEED = int(os.environ.get("FUZZ_SEED", "0"))
UNITS = 100
MEMORY = 192 << 20

TOKENIZER = {
    "tokenizer_config.json": {
        "cls_token": "[CLS]",
        "pad_token": {"content": "[PAD]", "lstrip": False},
        "added_tokens_decoder": {"0": {"content": "[PAD]"}, "7": {"content": "[CLS]"}},
    },
    "special_tokens_map.json": {"eos_token": "</s>", "pad_token": {"content": "[PAD]"}},
    "tokenizer.json": {
        "added_tokens": [{"id": 3, "content": "</s>"}],
        "model": {"vocab": {"a": 0, "b": 1, "<s>": 2}},
    },
    "vocab.json": {"a": 0, "<s>": 2},
    "added_tokens.json": {"<x>": 60},
}


class Bench:
    """Valid checkpoints, and commands that read them."""

    def __init__(self, directory: Path) -> None:
        self.bert = factories.make(directory / "bert", "bert").directory
        self.gpt2 = factories.make(directory / "gpt2", "gpt2", "GPT2LMHeadModel").directory
        config = json.loads((self.gpt2 / "config.json").read_text())
        for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id", "bos_token_id"):
            config.pop(name, None)
        (self.gpt2 / "config.json").write_text(json.dumps(config))
        (self.gpt2 / "vocab.txt").write_text("[PAD]\n[CLS]\n</s>\n")
        for name, content in TOKENIZER.items():
            (self.gpt2 / name).write_text(json.dumps(content))
        self.combined = directory / "combined"
        tokens: dict[str, Any] = {"decoder_start_token": 1, "pad_token": 2, "eos_token": 3}
        converter.compose(self.bert, self.gpt2, self.combined, to=["pytorch"], **tokens)
        self.shards = directory / "shards"
        converter.convert(self.bert, self.shards, to=["pytorch"], max_shard_size="30KB")
        self.output = directory / "out"

    def commands(self, place: Path) -> list[list[str]]:
        """Return the commands to run on the checkpoint at `place`."""
        asked = [
            ["inspect", str(place), "--tensors"],
            ["convert", str(place), str(self.output), "--dry-run"],
        ]
        if place == self.gpt2:
            asked += [["compose", str(self.bert), str(place), str(self.output), "--dry-run"]] * 2
        if place == self.bert:
            asked += [["compose", str(place), str(self.gpt2), str(self.output), "--dry-run"]]
        if place == self.combined:
            sources = ["--against", str(self.bert), "--against", str(self.gpt2)]
            asked += [["split", str(place), str(self.output), "--dry-run"]]
            asked += [["verify", str(place), *sources]] * 2
        return asked


PLACES = {
    "bert": ("config.json",),
    "gpt2": ("config.json", "vocab.txt", *TOKENIZER),
    "combined": ("config.json", "generation_config.json", "converter-manifest.json"),
    "shards": ("model.safetensors.index.json", "config.json"),
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("fuzz"))


REPORTED = ("NOT verified", "It does not fit its configuration")
"""In the reports of `verify` and `inspect`, which go to standard output."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "name"), [(place, name) for place, names in PLACES.items() for name in names]
)
def test_damaged_small_files(bench: Bench, place: str, name: str) -> None:
    directory: Path = getattr(bench, place)
    path, runner = directory / name, CliRunner()
    good = path.read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        for number in range(CASES):
            rng = random.Random(f"{place} {name} {SEED} {number}")
            structured = name.endswith(".json") and rng.random() < 0.7
            data = (mutate_json if structured else mutate)(good, rng)
            path.write_bytes(data)
            command = rng.choice(bench.commands(directory))
            began = time.process_time()
            with without_old_objects():
                result = runner.invoke(commands, command)
            taken = time.process_time() - began
            case = f"case {number}: {' '.join(command)}\n{data[:2000]!r}\n{result.stderr}"
            check_work(taken, UNITS)
            assert result.exit_code in (0, 1), case
            assert "bug in converter" not in result.stderr, case
            assert "Traceback" not in result.output, case
            if result.exit_code and not any(text in result.stdout for text in REPORTED):
                assert result.stderr.startswith(("Error: ", "Warning: ")), case
            assert not bench.output.exists()
    finally:
        path.write_bytes(good)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < MEMORY
