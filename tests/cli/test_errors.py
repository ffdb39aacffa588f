"""Wrong inputs: messages, exit codes, and that nothing is left on disk."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import converter
from converter.cli import commands
from tests import factories


class Shell:
    """Runs commands in a directory that must be unchanged when they fail."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __truediv__(self, name: str) -> Path:
        return self.directory / name

    def run(self, *args: object) -> Result:
        return CliRunner().invoke(commands, [str(arg) for arg in args])

    def fail(self, *args: object, code: int = 1) -> str:
        """Run as text and as JSON; check and return the text of the error."""
        before = snapshot(self.directory)
        result = self.run(*args)
        assert result.exit_code == code, result.output
        assert result.stdout == ""
        assert result.stderr.startswith("Error: ")
        assert "Traceback" not in result.stderr
        assert "bug in converter" not in result.stderr
        stderr_text = self.run(*args, "--json")
        assert stderr_text.exit_code == code
        error = json.loads(stderr_text.stdout)["error"]
        assert error["message"] in result.stderr
        assert set(error) <= {"kind", "message", "problems", "remedy"}
        assert snapshot(self.directory) == before
        return result.stderr


def snapshot(directory: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
    }


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    factories.make(tmp_path / "bert", "bert", intermediate_size=41)
    factories.make(tmp_path / "gpt2", "gpt2", "GPT2LMHeadModel")
    yield Shell(tmp_path)


def corrupt(shell: Shell, change: Callable[[dict[str, Any]], object]) -> Path:
    """Write a BERT checkpoint with changed tensors."""
    config = factories.tiny_config("bert")
    tensors = factories.stored(factories.model_spec(config))
    change(tensors)
    factories.write(shell / "corrupt", config, tensors)
    return shell / "corrupt"


@pytest.mark.parametrize("command", ["compose", "convert"])
def test_missing_tensors_are_named_with_layers_folded(shell: Shell, command: str) -> None:
    def change(tensors: dict[str, Any]) -> None:
        for layer in range(3):
            del tensors[f"encoder.layer.{layer}.attention.self.query.weight"]
        del tensors["embeddings.LayerNorm.bias"]

    path = corrupt(shell, change)
    inputs = [path, shell / "gpt2"] if command == "compose" else [path]
    stderr_text = shell.fail(command, *inputs, shell / "out")
    assert str(path / "model.safetensors") in stderr_text
    assert "encoder.layer.{0…2}.attention.self.query.weight: missing tensor" in stderr_text
    assert "embeddings.LayerNorm.bias: missing tensor" in stderr_text
    assert "converter inspect" in stderr_text


def test_an_extra_tensor_is_named(shell: Shell) -> None:
    path = corrupt(
        shell, lambda t: t.update({"adapter.down": factories.noise("adapter.down", (3, 4))})
    )
    stderr_text = shell.fail("compose", path, shell / "gpt2", shell / "out")
    assert "adapter.down: the mapping table does not know this tensor" in stderr_text
    assert "--mapping FILE" in stderr_text


def test_a_wrong_shape_is_reported_with_both_shapes(shell: Shell) -> None:
    name = "encoder.layer.1.intermediate.dense.weight"
    path = corrupt(shell, lambda t: t.update({name: factories.noise(name, (24, 40))}))
    stderr_text = shell.fail("compose", path, shell / "gpt2", shell / "out")
    assert f"{name}: wrong shape" in stderr_text
    assert "expected [40, 24]" in stderr_text
    assert "found [24, 40]" in stderr_text


def test_all_problems_are_reported_at_once(shell: Shell) -> None:
    def change(tensors: dict[str, Any]) -> None:
        del tensors["pooler.dense.bias"]
        tensors["extra.weight"] = factories.noise("extra", (2,))
        tensors["embeddings.LayerNorm.weight"] = factories.noise("w", (25,))

    stderr_text = shell.fail("convert", corrupt(shell, change), shell / "out")
    assert stderr_text.count("  - ") == 3


def test_many_problems_are_cut_with_a_count_and_json_has_all(shell: Shell) -> None:
    names = [f"extra_{chr(97 + i % 26)}{chr(97 + i // 26)}.weight" for i in range(53)]
    path = corrupt(shell, lambda t: t.update({name: factories.noise(name, (2,)) for name in names}))
    stderr_text = shell.fail("convert", path, shell / "out")
    assert stderr_text.count("  - ") == 40
    assert "… and 13 more; --json lists all" in stderr_text
    error = json.loads(shell.run("convert", path, shell / "out", "--json").stdout)["error"]
    assert sorted(problem["tensor"] for problem in error["problems"]) == sorted(names)
    assert error["kind"] == "match"


def test_an_unknown_architecture_says_where_the_supported_ones_are(shell: Shell) -> None:
    config = {**factories.tiny_config("bert"), "model_type": "mystery"}
    (shell / "bert" / "config.json").write_text(json.dumps(config))
    for args in (("inspect", shell / "bert"), ("convert", shell / "bert", shell / "out")):
        stderr_text = shell.fail(*args)
        assert "'mystery'" in stderr_text
        assert "`converter families` lists" in stderr_text


@pytest.mark.parametrize("architecture", ["distilbert", "albert"])
def test_a_decoder_that_cannot_take_cross_attention(shell: Shell, architecture: str) -> None:
    factories.make(shell / architecture, architecture)
    stderr_text = shell.fail("compose", shell / "bert", shell / architecture, shell / "out")
    assert f"{architecture} cannot be the decoder" in stderr_text
    assert "cross-attention" in stderr_text
    assert "converter families" in stderr_text


def test_a_framework_without_a_class_names_the_others(shell: Shell) -> None:
    factories.make(shell / "electra", "electra", "ElectraForCausalLM")
    args = ("compose", shell / "bert", shell / "electra", shell / "out")
    stderr_text = shell.fail(*args, "--to", "pytorch,tensorflow")
    assert "tensorflow: cannot be written" in stderr_text
    assert "ElectraForCausalLM" in stderr_text
    assert "--to pytorch." in stderr_text
    done = shell.run(*args)
    assert done.exit_code == 0, done.stderr
    assert "Warning: tensorflow is skipped" in done.stderr
    assert [path.name for path in (shell / "out").glob("*model*")] == ["model.safetensors"]


def test_an_existing_output_is_kept(shell: Shell) -> None:
    args = ("convert", shell / "bert", shell / "out", "--to", "pytorch")
    assert shell.run(*args).exit_code == 0
    assert "--overwrite" in shell.fail(*args)
    assert shell.run(*args, "--overwrite").exit_code == 0
    (shell / "notes").mkdir()
    (shell / "notes" / "diary.txt").write_text("dear diary")
    stderr_text = shell.fail("convert", shell / "bert", shell / "notes", "--overwrite")
    assert "not a checkpoint" in stderr_text
    stderr_text = shell.fail(
        "convert", shell / "bert", shell / "bert" / "config.json", "--overwrite"
    )
    assert "not a directory" in stderr_text


@pytest.mark.parametrize("file_format", ["safetensors", "torch", "keras-hdf5", "flax-msgpack"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_a_truncated_file(shell: Shell, file_format: str, share: float) -> None:
    dialect = {"keras-hdf5": "tensorflow", "flax-msgpack": "flax"}.get(file_format, "pytorch")
    made = factories.make(shell / "cut", "bert", dialect=dialect, file_format=file_format)
    raw = made.file.read_bytes()
    made.file.write_bytes(raw[: int(len(raw) * share)])
    stderr_text = shell.fail("compose", shell / "cut", shell / "gpt2", shell / "out")
    assert str(made.file) in stderr_text
    shell.fail("inspect", shell / "cut")


def test_a_missing_config(shell: Shell) -> None:
    (shell / "bert" / "config.json").rename(shell / "other.json")
    stderr_text = shell.fail("convert", shell / "bert", shell / "out")
    assert str(shell / "bert" / "config.json") in stderr_text
    assert "--config FILE" in stderr_text
    done = shell.run("convert", shell / "bert", shell / "out", "--config", shell / "other.json")
    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("{", "not a JSON file"),
        ("", "is empty (0 bytes)"),
        ("[1]", "must hold a JSON object"),
        ("[" * 100_000, "not a JSON file"),
        ('{"hidden_size": 24}', "model_type"),
        ('{"model_type": 7}', "model_type"),
        ('{"model_type": "bert", "hidden_size": "wide"}', "'hidden_size'"),
        ('{"model_type": "bert", "num_hidden_layers": 1000000000}', "'num_hidden_layers'"),
        ('{"model_type": "bert", "num_hidden_layers": -1}', "'num_hidden_layers'"),
        ('{"model_type": "bert", "vocab_size": 0}', "vocab_size"),
        ('{"model_type": "../bert"}', "no mapping table"),
    ],
)
def test_an_invalid_config(shell: Shell, text: str, finding: str) -> None:
    path = shell / "bert" / "config.json"
    path.write_text(text)
    for args in (
        ("inspect", shell / "bert"),
        ("compose", shell / "bert", shell / "gpt2", shell / "out"),
    ):
        stderr_text = shell.fail(*args)
        assert finding in stderr_text
        if "no mapping table" not in finding:
            assert str(path) in stderr_text


def test_no_such_path(shell: Shell) -> None:
    for args in (
        ("inspect", shell / "nowhere"),
        ("convert", shell / "nowhere", shell / "out"),
        ("compose", shell / "bert", shell / "nowhere", shell / "out"),
    ):
        stderr_text = shell.fail(*args)
        assert f"{shell / 'nowhere'}: no such file or directory" in stderr_text


def test_a_directory_without_weights(shell: Shell) -> None:
    (shell / "bert" / "model.safetensors").unlink()
    stderr_text = shell.fail("convert", shell / "bert", shell / "out")
    assert f"{shell / 'bert'}: holds no weight file" in stderr_text
    assert "pytorch_model.bin" in stderr_text


def test_a_file_that_is_not_a_weight_file(shell: Shell) -> None:
    (shell / "bert" / "model.safetensors").write_text("once upon a time" * 100)
    assert str(shell / "bert" / "model.safetensors") in shell.fail("inspect", shell / "bert")


def test_an_encoder_decoder_model_is_not_a_submodel(shell: Shell) -> None:
    done = shell.run("compose", shell / "bert", shell / "gpt2", shell / "both", "--to", "pytorch")
    assert done.exit_code == 0, done.stderr
    stderr_text = shell.fail("compose", shell / "both", shell / "gpt2", shell / "out")
    assert "is a combined model itself" in stderr_text


def test_an_output_that_cannot_be_made(shell: Shell) -> None:
    stderr_text = shell.fail("convert", shell / "bert", shell / "bert" / "config.json" / "out")
    assert "config.json" in stderr_text
    assert "Not a directory" in stderr_text or "exists" in stderr_text


@pytest.mark.parametrize(
    ("args", "finding"),
    [
        (["compose", "a", "b"], "Missing argument 'OUTPUT'"),
        (["compose", "a", "b", "c", "--to", "keras"], "'keras' is not one of pytorch"),
        (["compose", "a", "b", "c", "--to", ""], "'' is not one of pytorch"),
        (["compose", "a", "b", "c", "--dtype", "int4"], "'int4' is not one of"),
        (["compose", "a", "b", "c", "--seed", "x"], "'x' is not a valid integer"),
        (["compose", "a", "b", "c", "--init", "magic"], "'magic' is not one of"),
        (["compose", "a", "b", "c", "--tokenizer", "x"], "'x' is not one of"),
        (["convert", "a", "c", "--pytorch-format", "zip"], "'zip' is not one of"),
        (["convert", "a", "c", "--jobs", "0"], "0 is not in the range 1<=x<=1024"),
        (["convert", "a", "c", "--memory", "lots"], "'lots' is not a size"),
        (["convert", "a", "c", "--memory", "0"], "'0' is not a size above zero"),
        (["convert", "a", "c", "--max-shard-size", "5XB"], "'5XB' is not a size"),
        (["convert", "a", "c", "--mapping", "no.toml"], "'no.toml' does not exist"),
        (["convert", "a", "c", "--config", "no.json"], "'no.json' does not exist"),
        (["convert", "a", "c", "--frobnicate"], "--frobnicate"),
        (["inspect"], "Missing argument 'SOURCE'"),
        (["frobnicate"], "No such command 'frobnicate'."),
        (["compse"], "No such command 'compse'. Did you mean 'compose'?"),
        (["--frobnicate"], "--frobnicate"),
    ],
)
def test_wrong_usage(shell: Shell, args: list[str], finding: str) -> None:
    stderr_text = shell.fail(*args, code=2)
    assert finding in stderr_text
    assert "--help" in stderr_text
    error = json.loads(shell.run(*args, "--json").stdout)["error"]
    assert error["kind"] == "usage"


@pytest.mark.parametrize("setting", ["nonsense", "middle.x=1", "=1", "encoder.=3"])
def test_invalid_settings(shell: Shell, setting: str) -> None:
    args = ("compose", shell / "bert", shell / "gpt2", shell / "out", "--set", setting)
    assert repr(setting) in shell.fail(*args, code=2)


def test_an_unknown_token(shell: Shell) -> None:
    args = ("compose", shell / "bert", shell / "gpt2", shell / "out")
    stderr_text = shell.fail(*args, "--pad-token", "<nil>", "--eos-token", "1000")
    assert "the pad token is unknown: '<nil>'" in stderr_text
    assert "--pad-token ID" in stderr_text
    assert "the end token is outside the vocabulary; expected an id below 61" in stderr_text
    assert "found 1000" in stderr_text


def test_a_wrong_user_table(shell: Shell) -> None:
    table = shell / "own.toml"
    bundled = Path(__file__).parents[2] / "mappings" / "bert.toml"
    table.write_text(bundled.read_text().replace("{ layer_norm =", "{ magic ="))
    stderr_text = shell.fail("convert", shell / "bert", shell / "out", "--mapping", table)
    assert str(table) in stderr_text
    assert "must name one layer type" in stderr_text
    assert "encoder.layer.{layer}.output.LayerNorm" in stderr_text
    table.write_text("model_type = ")
    assert str(table) in shell.fail("families", "--mapping", table)


@pytest.mark.parametrize(
    ("option", "value", "closest"),
    [
        ("--dtype", "fp16", "float16"),
        ("--dtype", "bf16", "bfloat16"),
        ("--to", "pytroch", "pytorch"),
        ("--init", "zero", "zero-output"),
        ("--tokenizer", "encode", "encoder"),
        ("--random", "decode", "decoder"),
        ("--preset", "bert2ber", "bert2bert"),
        ("--preset", "rnd2brt", "rnd2bert"),
        ("--pytorch-format", "safetensor", "safetensors"),
        ("--log-level", "inf", "info"),
        ("--resize-with", "average", None),
        ("--preset", "frobnicate", None),
    ],
)
def test_the_closest_choice_is_suggested(
    shell: Shell, option: str, value: str, closest: str | None
) -> None:
    args = ("compose", shell / "bert", shell / "gpt2", shell / "out", option, value)
    text = shell.fail(*args, code=2)
    suggested = re.findall(r"Did you mean '?([\w-]+)", text)
    assert suggested == ([closest] if closest else [])


def test_python_suggests_the_closest_choice_too(shell: Shell) -> None:
    with pytest.raises(converter.UsageError, match="Did you mean 'float16'"):
        converter.convert(shell / "bert", shell / "out", dtype="flot16")  # type: ignore[call-arg,arg-type,unused-ignore]


KNOWN = {
    "compose": ["decoder.n_layer=2", "encoder.initializer_range=0.1", "decoder.use_cache=false"],
    "convert": ["initializer_range=0.1", "tie_word_embeddings=true"],
}
KNOWN["compose"] += ["num_beams=4", "tie_encoder_decoder=false", "max_new_tokens=9"]
UNKNOWN: dict[str, dict[str, str | None]] = {
    "compose": {
        "decoder.nlayer": "decoder.n_layer",
        "encoder.initializr_range": "encoder.initializer_range",
        "encoder.hidden_dropout_prob": None,  # which the fixture lacks
        "n_layer": "decoder.n_layer",
        "frobnicate": None,
    },
    "convert": {"initializer_rnge": "initializer_range", "qwxyz": None},
    "split": {"decoder.n_positons": "decoder.n_positions"},
}


@pytest.mark.parametrize("command", UNKNOWN)
def test_a_field_that_no_source_has_is_set_with_a_warning(shell: Shell, command: str) -> None:
    sources = {"compose": [shell / "bert", shell / "gpt2"], "convert": [shell / "bert"]}
    if command == "split":
        shell.run("compose", *sources["compose"], shell / "both")
    given = [*sources.get(command, [shell / "both"]), shell / "out", "-q"]
    for setting in KNOWN.get(command, ()):
        given += ["--set", setting]
    quiet = shell.run(command, *given, "--dry-run")
    assert quiet.exit_code == 0 and " set: " not in quiet.stderr
    for name in UNKNOWN[command]:
        given += ["--set", f"{name}=3"]
    result = shell.run(command, *given)
    assert result.exit_code == 0
    pattern = r"set: (\S+) is not a field of .*?(?:; did you mean (\S+)\?)?\n"
    warned = re.findall(pattern, result.stderr)
    assert {name: close or None for name, close in warned} == UNKNOWN[command]
    written = {"split": "decoder/config.json"}.get(command, "config.json")
    text = (shell / "out" / written).read_text()
    assert all(f'"{name.rpartition(".")[2]}": 3' in text for name in UNKNOWN[command])
