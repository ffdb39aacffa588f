"""Odd values of options, configuration fields and small files: a result or one clear error."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import save_file

import converter
from converter.architectures.model_config import parse_settings
from converter.cli import commands
from converter.errors import ConfigError, UsageError
from converter.option_declaration import parse_size
from converter.options import MAX_JOBS
from converter.report.terminal_text import MAX_LISTED
from converter.safe_json import parse_json, read_json_object
from converter.text import collapse_ranges
from tests import factories
from tests.formats.work import work_at_most

pytestmark = pytest.mark.slow

CASES = int(os.environ.get("FUZZ_COMMANDS", "40")) * 3
SEED = int(os.environ.get("FUZZ_SEED", "0"))
UNITS = 100
DIGITS = "9" * 5000


def _nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


NUMBERS = [0, -1, 1, 3, 2**31, 2**63, 10**9, 10**30, 10**400, -(10**4000), 0.5, -0.5, 1e308, 1e-320]
NUMBERS += [float("nan"), float("inf"), -float("inf")]
TEXTS = ["", "x", "²", "a\0b", "\ud800", "a" * 5000, "../x", "{", "1", "\x1b[31m\u202e", "normal"]
VALUES: list[Any] = [None, True, False, *NUMBERS, *TEXTS]
VALUES += [[each] for each in VALUES] + [{"a": each} for each in VALUES]
VALUES += [[], {}, {"": {}}, {"0": []}, _nested(20), _nested(300), [1] * 20_000, ["x", "y"]]
FIELDS = (
    "architectures model_type torch_dtype dtype id2label tie_word_embeddings is_encoder_decoder "
    "is_decoder add_cross_attention quantization_config encoder decoder auto_map text_config "
    "decoder_start_token_id eos_token_id pad_token_id bos_token_id transformers_version"
).split()
"""Those that code, not a mapping table, reads."""

WORDS = ["0", "-1", "100000", "1e400", "nan", "inf", DIGITS, f"{DIGITS}GB", f"1.{DIGITS}", "\udcff"]
WORDS += [*(text for text in TEXTS if "\0" not in text), "a/" * 3000, "/dev/null", ".", "/", "="]
WORDS += [f"x={'[' * 3000}", f"x={'[' * 300}{']' * 300}", f"x={DIGITS}", "x=NaN", 'x={"a":1,"a":2}']
WORDS += ["vocab_size=1e9", "hidden_size=-1", "num_hidden_layers=1000000000", "encoder.x=1", "x="]
WORDS += ["initializer_range=-1", "encoder=first:99999", "encoder=0,0", "decoder=1-2", "encoder="]
WORDS += ["a@b", "a/b@", "s3://", "http://[", "file://[", "://", "memory://", "github://x", "[PAD]"]


class Bench:
    """Valid checkpoints, and the commands that read them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.output = directory / "out"
        self.bert = factories.make(directory / "bert", "bert").directory
        self.gpt2 = factories.make(directory / "gpt2", "gpt2", "GPT2LMHeadModel").directory
        tiny: dict[str, Any] = {
            "d_model": 24,
            "d_kv": 6,
            "d_ff": 40,
            "num_layers": 2,
            "num_heads": 4,
        }
        self.t5 = factories.make(
            directory / "t5", "t5", "T5ForConditionalGeneration", **tiny
        ).directory
        self.combined = directory / "combined"
        converter.compose(self.bert, self.gpt2, self.combined, to=["pytorch"])
        recipe = {"jobs": [{"convert": {"source": str(self.bert), "output": str(self.output)}}]}
        (directory / "recipe.json").write_text(json.dumps(recipe))
        self.names = sorted(path.name for path in directory.iterdir())

    def arguments(self) -> dict[str, list[str]]:
        """Return command → valid arguments."""
        bert, combined, output = str(self.bert), str(self.combined), str(self.output)
        return {
            "inspect": [bert],
            "convert": [bert, output],
            "compose": [bert, str(self.gpt2), output],
            "split": [combined, output],
            "verify": [combined],
            "diff": [bert, bert],
            "families": [],
            "check-table": [],
            "run": [str(self.directory / "recipe.json"), "--dry-run"],
            "push": [combined, "a/b"],
        }

    def check(self, command: list[str]) -> Result:
        """Run a command, and make sure that it ends well and leaves nothing behind."""
        with work_at_most(UNITS):
            result = CliRunner().invoke(commands, command)
        case = f"{[word[:80] for word in command]}\n{result.output}"
        assert result.exit_code in (0, 1, 2), case
        assert "bug in converter" not in result.output, case
        assert "Traceback" not in result.output, case
        assert result.output.replace("\n", "").isprintable(), case
        if result.exit_code:
            assert "Error: " in result.stderr or result.stdout, case
        shutil.rmtree(self.output, ignore_errors=True)
        assert sorted(path.name for path in self.directory.iterdir()) == self.names, case
        return result


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("odd"))


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_odd_values_of_configuration_fields(bench: Bench, name: str) -> None:
    directory: Path = getattr(bench, name)
    path = directory / "config.json"
    good = json.loads(path.read_text())
    fields = sorted({*good, *factories.bundled_registry().architecture(name).config, *FIELDS})
    source, bert, gpt2, output = map(str, (directory, bench.bert, bench.gpt2, bench.output))
    asked = [
        ["inspect", source, "--tensors"],
        ["verify", source],
        ["convert", source, output],
        ["convert", source, output, "--dry-run", "--json"],
    ]
    if directory != bench.t5:  # which cannot be in a composite
        asked.append(["compose", source, gpt2, output, "--random", "encoder"])
        asked.append(["compose", bert, source, output, "--random", "both"])
    try:
        for number in range(CASES):
            rng = random.Random(f"{SEED} {name} {number}")
            path.write_text(json.dumps({**good, rng.choice(fields): rng.choice(VALUES)}))
            bench.check(rng.choice(asked))
    finally:
        path.write_text(json.dumps(good))


def test_odd_values_of_options(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for number in range(CASES):
        rng = random.Random(f"{SEED} options {number}")
        name, arguments = rng.choice(list(bench.arguments().items()))
        command = commands.get_command(click.Context(commands), name)
        assert command is not None
        options = [
            each.opts[0]
            for each in command.params
            if isinstance(each, click.Option) and not each.is_flag and each.name != "save_recipe"
        ]
        if arguments and rng.random() < 0.3:
            arguments[rng.randrange(len(arguments))] = rng.choice(WORDS)
            arguments += ["--dry-run"] if str(bench.output) in arguments else []
        elif options:
            arguments += [rng.choice(options), rng.choice(WORDS)]
        bench.check([name, *arguments])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("initializer_range", -1, "expected a number from 0"),
        ("hidden_size", -1, "expected a whole number from 1"),
        ("num_hidden_layers", 10**9, "expected a whole number from 0 to 10000"),
        ("vocab_size", 1e9, "expected int"),
        ("vocab_size", 10**4000, "expected"),
        ("hidden_size", float("nan"), "expected int"),
        ("x", _nested(300), "levels deep"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(
    bench: Bench, tmp_path: Path, field: str, value: Any, message: str
) -> None:
    source = tmp_path / "source"
    shutil.copytree(bench.bert, source)
    good = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**good, field: value}))
    result = bench.check(["convert", str(source), str(bench.output)])
    assert result.exit_code == 1
    assert "config.json" in result.stderr
    assert message in result.stderr
    assert field in result.stderr or field == "x"


@pytest.mark.parametrize(
    "text",
    ["[" + "[]," * 1_000_000 + "0]", '{"a":' * 3_000_000, "[" * 100_000, f'{{"a": {DIGITS}}}'],
    ids=["lists", "objects", "levels", "digits"],
)
def test_the_memory_of_json_is_bounded(tmp_path: Path, text: str) -> None:
    path = tmp_path / "it.json"
    path.write_text(text)
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match=r"it\.json: not a JSON file"), work_at_most(UNITS):
            read_json_object(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(text) + 1_000_000
    finally:
        tracemalloc.stop()


def test_json_of_ordinary_size_and_nesting_is_read() -> None:
    weights = {
        f"layer.{number}.weight": f"model-{number % 9}.safetensors" for number in range(50_000)
    }
    document = {"weight_map": weights, "nested": _nested(40)}
    assert parse_json(json.dumps(document).encode()) == document
    assert parse_json("[1, 2.5, null]") == [1, 2.5, None]


@pytest.mark.parametrize(
    "value", [f"{'[' * 3000}", f"{'[' * 60}{']' * 60}", DIGITS, "[0" + ",0" * 20_000 + "]"]
)
def test_a_setting_that_is_too_large_is_wrong_usage(value: str) -> None:
    with pytest.raises(UsageError, match="set: the value of 'x' has"):
        parse_settings([f"x={value}"], ())


def test_numbers_of_options_are_bounded(bench: Bench) -> None:
    with pytest.raises(UsageError, match="jobs: must be at most 1024"):
        converter.convert(bench.bert, bench.output, jobs=100_000)
    with pytest.raises(UsageError, match="seed: a number of more than 64 bits"):
        converter.convert(bench.bert, bench.output, seed=10**5000)
    with pytest.raises(UsageError, match="not a name that a file can have"):
        converter.inspect("a\0b")
    for text in (DIGITS, f"{DIGITS}GB", f"1.{DIGITS}TB"):
        with pytest.raises(UsageError, match="is not a size"):
            parse_size(text)


def test_there_are_no_more_threads_than_tensors_and_memory(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    converter.convert(bench.bert, bench.output, to=["pytorch"], jobs=MAX_JOBS, memory="8MiB")
    shutil.rmtree(bench.output)
    assert "with 2 thread(s)" in caplog.text


def test_numbers_in_names_may_have_any_length(tmp_path: Path) -> None:
    name = f"a.{DIGITS}.b"
    assert collapse_ranges([name, "a.1.b", "a.2.b"]) == [name, "a.{1,2}.b"]
    even = collapse_ranges(f"a.{number}" for number in range(0, 20_000, 2))
    assert even[0].startswith("a.{0,2,4,")
    assert even[0].endswith(",…,19998}")
    assert len(even[0]) < 400


def test_unknown_tensors_are_counted_beyond_the_first_of_them(bench: Bench, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(bench.bert, source)
    value = np.zeros(1, np.float32)
    save_file({f"n{number}": value for number in range(20_000)}, source / "model.safetensors")
    with work_at_most(UNITS):
        result = CliRunner().invoke(commands, ["inspect", str(source)])
    assert "more; --json lists all" in result.stdout
    assert len(result.stdout.splitlines()) < MAX_LISTED + 40
    listed = json.loads(CliRunner().invoke(commands, ["inspect", str(source), "--json"]).stdout)
    assert len(listed["unmatched"]) == 20_000


def test_odd_manifests_and_tokenizers_are_read(bench: Bench, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(bench.combined, source)
    path = source / "converter-manifest.json"
    manifest = json.loads(path.read_text())
    rows = {"rule": "normal", "scale": 10**400, "seed": 1}
    for number, entry in enumerate(manifest["tensors"].values()):
        entry.update({"origin": "initialized", "scale": 10**400} if number % 2 else {})
        entry["resized"] = {"rows": rows}
    path.write_text(json.dumps(manifest))
    tokens = {"added_tokens_decoder": {"²": {"content": "x"}, DIGITS: {"content": "y"}}}
    (source / "tokenizer_config.json").write_text(json.dumps(tokens))
    bench.check(["inspect", str(source), "--tensors"])
    bench.check(["verify", str(source), "--against", str(bench.bert)])
    bench.check(["compose", str(bench.bert), str(source), str(bench.output)])
    source = tmp_path / "gpt2"
    shutil.copytree(bench.gpt2, source)
    (source / "tokenizer_config.json").write_text(json.dumps(tokens))
    bench.check(["compose", str(bench.bert), str(source), str(bench.output)])
