"""The command line: streams, and agreement with the functions."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file

import converter
from converter.cli import COMMANDS, commands
from tests import factories

ROOT = Path(__file__).parents[2]


def run(*args: object, code: int = 0) -> Result:
    result = CliRunner().invoke(commands, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return factories.make(tmp_path / "bert", "bert", intermediate_size=41).directory


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    return factories.make(tmp_path / "gpt2", "gpt2", "GPT2LMHeadModel").directory


def test_the_list_of_commands_matches_their_help() -> None:
    context = click.Context(commands, info_name="converter", **commands.context_settings)
    for name, text in COMMANDS.items():
        command = commands.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.help
        assert command.help.splitlines()[0] == text
        assert command.epilog
    assert commands.get_command(context, "frobnicate") is None


def test_every_example_in_the_help_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = click.Context(commands, info_name="converter", **commands.context_settings)
    epilogs = [commands.epilog, *(commands.get_command(context, n).epilog for n in COMMANDS)]  # type: ignore[union-attr]
    assert not any("fixtures/" in str(each) for each in epilogs)  # which a wheel lacks
    for name, source in {
        "google-bert/bert-base-uncased": "fixtures/bert-tiny",  # a path takes precedence
        "openai-community/gpt2": "fixtures/gpt2-tiny",
        "bert": "fixtures/bert-tiny",
        "gpt2": "fixtures/gpt2-tiny",
        "tensorflow-only": "fixtures/bert-tiny-tf",
        "mine.toml": "mappings/bert.toml",
        "other.toml": "mappings/gpt2.toml",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / source)
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"^  converter (.*)$", "\n".join(map(str, epilogs)), re.MULTILINE)
    assert len(examples) >= 2 * len(COMMANDS)
    for example in dict.fromkeys(examples):
        if example.startswith(("push ", "run ", "app")):  # need the Hub, recipes, Gradio
            continue
        overwrite = ["--overwrite"] if example.split()[0] in ("compose", "convert") else []
        run(*example.split(), *overwrite)


def test_compose_passes_its_options_on(bert: Path, gpt2: Path, tmp_path: Path) -> None:
    args = ["--to", "pytorch", "--to", "flax,pytorch", "--dtype", "float16", "--seed", "3"]
    args += ["--set", "decoder.resid_pdrop=0.3", "--pytorch-format", "both", "--pad-token", "7"]
    args += ["--init", "truncated-normal", "--jobs", "1", "--memory", "64MB", "--checksums"]
    run("compose", bert, gpt2, tmp_path / "cli", *args)
    converter.compose(
        bert,
        gpt2,
        tmp_path / "api",
        to=["pytorch", "flax"],
        dtype="float16",
        seed=3,
        set=["decoder.resid_pdrop=0.3"],
        pytorch_format="both",
        pad_token=7,
        init="truncated-normal",
        checksums=True,
    )
    made = {path.name: path.read_bytes() for path in (tmp_path / "cli").iterdir()}
    assert made == {path.name: path.read_bytes() for path in (tmp_path / "api").iterdir()}
    assert set(made) == {
        "README.md",
        "config.json",
        "converter-manifest.json",
        "flax_model.msgpack",
        "generation_config.json",
        "model.safetensors",
        "pytorch_model.bin",
    }
    assert json.loads(made["config.json"])["decoder"]["resid_pdrop"] == 0.3
    assert json.loads(made["generation_config.json"])["pad_token_id"] == 7


def test_the_summary_lists_outputs_and_next_steps(bert: Path, gpt2: Path, tmp_path: Path) -> None:
    result = run("compose", bert, gpt2, tmp_path / "out")
    text = result.stdout
    for file in ("model.safetensors", "tf_model.h5", "flax_model.msgpack"):
        size = (tmp_path / "out" / file).stat().st_size / 1000
        assert re.search(rf"^  {re.escape(file)} +{size:.1f} kB", text, re.MULTILINE)
    report = json.loads(
        run("compose", bert, gpt2, tmp_path / "out", "--json", "--overwrite").stdout
    )
    initialized = len(report["initialized"])
    assert initialized == 2 * 8 + 2
    assert f"{len(report['tensors'])} tensors: " in text
    assert f"{initialized} initialized" in text
    assert "decoder.h.{0,1}.crossattention.c_attn.{weight,bias}" in text
    assert "enc_to_dec_proj.{weight,bias}" in text
    out = str(tmp_path / "out")
    assert f"EncoderDecoderModel.from_pretrained({out!r})\n" in text
    assert f"TFEncoderDecoderModel.from_pretrained({out!r}, use_safetensors=False)\n" in text
    assert f"FlaxEncoderDecoderModel.from_pretrained({out!r})\n" in text


def test_tensorflow_next_to_a_bin_file_needs_no_argument(bert: Path, tmp_path: Path) -> None:
    text = run("convert", bert, tmp_path / "out", "--pytorch-format", "bin").stdout
    assert "use_safetensors" not in text


def test_shards_are_listed_and_loaded(bert: Path, tmp_path: Path) -> None:
    args = ("convert", bert, tmp_path / "out", "--max-shard-size", "20kB")
    text = run(*args).stdout
    shards = sorted(path.name for path in (tmp_path / "out").glob("*-of-*"))
    assert len(shards) > 6
    assert all(shard in text for shard in shards)
    assert "model.safetensors.index.json" in text
    assert "use_safetensors=False" in text
    assert "Every tensor is accounted for." in run("inspect", tmp_path / "out").stdout


def test_quiet_leaves_only_warnings(bert: Path, gpt2: Path, tmp_path: Path) -> None:
    to = ["--to", "pytorch,tensorflow"]
    result = run("compose", bert, gpt2, tmp_path / "out", "--quiet", "--dtype", "bfloat16", *to)
    assert result.stdout == ""
    assert result.stderr == ("Warning: tf_model.h5: bfloat16 is written as float32, without loss\n")


@pytest.mark.parametrize("before", [True, False])
def test_every_command_can_be_quiet(before: bool, bert: Path, gpt2: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("model_type = ")
    (tmp_path / "run.json").write_text(
        json.dumps({"jobs": [{"convert": {"source": str(bert), "output": str(tmp_path / "ran")}}]})
    )
    for code, *args in (
        (0, "compose", bert, gpt2, tmp_path / "both"),
        (0, "convert", bert, tmp_path / "out"),
        (0, "split", tmp_path / "both", tmp_path / "parts"),
        (0, "inspect", bert),
        (0, "verify", tmp_path / "out", "--html", tmp_path / "page.html"),
        (1, "diff", bert, gpt2),
        (1, "check-table", tmp_path / "bad.toml"),
        (0, "run", tmp_path / "run.json"),
    ):
        result = run(*(["-q", *args] if before else [*args, "-q"]), code=code)
        assert result.stdout == ""
        assert all(line.startswith("Warning: ") for line in result.stderr.splitlines())
    assert (tmp_path / "page.html").stat().st_size and (tmp_path / "ran").is_dir()
    job = {"encoder": str(bert), "decoder": str(gpt2), "output": str(tmp_path / "warned")}
    (tmp_path / "run.json").write_text(
        json.dumps({"jobs": [{"compose": job | {"dtype": "bfloat16"}}]})
    )
    assert "bfloat16 is written as float32" in run("run", "-q", tmp_path / "run.json").stderr
    # What was asked for is not a report of what was done.
    planned = ("compose", bert, gpt2, tmp_path / "no", "--dry-run")
    for asked in (planned, ("families",), ("check-table", "--draft", bert), (*planned, "--json")):
        assert run(*asked, "-q").stdout
    error = run("convert", bert, tmp_path / "out", "-q", code=1).stderr
    assert error.startswith("Error: ") and "--overwrite" in error


def test_the_version_is_printed_by_every_command() -> None:
    expected = f"converter, version {converter.__version__}\n"
    for args in ([], *([name] for name in COMMANDS)):
        assert run(*args, "-V").stdout == run(*args, "--version").stdout == expected


def test_help_is_a_command_too() -> None:
    assert run("help").stdout == run("help", "--help").stdout == run("--help").stdout
    for name in COMMANDS:
        assert run("help", name).stdout == run(name, "--help").stdout
    assert "Did you mean 'compose'" in run("help", "compse", code=2).stderr
    assert "Did you mean 'help'" in run("hlep", code=2).stderr


def test_ignored_tensors_are_listed_with_the_reason(bert: Path, gpt2: Path, tmp_path: Path) -> None:
    factories.make(tmp_path / "pretraining", "bert", "BertForPreTraining")
    text = run("compose", tmp_path / "pretraining", gpt2, tmp_path / "out", "--to", "flax").stdout
    assert re.search(r"encoder +cls\..*not part of BertModel", text)


def test_json_is_one_document(bert: Path, gpt2: Path, tmp_path: Path) -> None:
    for args in (
        ("compose", bert, gpt2, tmp_path / "out"),
        ("compose", bert, gpt2, tmp_path / "planned", "--dry-run"),
        ("convert", bert, tmp_path / "again", "--to", "pytorch"),
        ("inspect", bert),
        ("families",),
        ("families", "gpt2"),
        ("check-table", ROOT / "mappings" / "bert.toml"),
    ):
        assert isinstance(json.loads(run(*args, "--json").stdout), dict)
    report = json.loads(run("convert", bert, tmp_path / "2", "--to", "flax", "--json").stdout)
    assert report["classes"] == {"": {"flax": "FlaxBertModel"}}
    assert report["written"] is True


def test_a_dry_run_prints_the_complete_plan_and_writes_nothing(
    bert: Path, gpt2: Path, tmp_path: Path
) -> None:
    factories.make(tmp_path / "tf", "bert", dialect="tensorflow", num_hidden_layers=12)
    before = sorted(tmp_path.rglob("*"))
    text = run("compose", tmp_path / "tf", gpt2, tmp_path / "out", "--dry-run").stdout
    assert sorted(tmp_path.rglob("*")) == before
    line = next(line for line in text.splitlines() if "self.query.weight" in line)
    assert re.split(r"  +", line.strip()) == [
        "encoder.encoder.layer.{0…11}.attention.self.query.weight",
        "24 × 24",
        "float32",
        "← encoder tf_model.h5: bert/encoder/layer_._{0…11}/attention/self/query/kernel:0",
        "in out → out in",
    ]
    line = next(line for line in text.splitlines() if "q_attn.weight" in line)
    assert "decoder.h.{0,1}.crossattention.q_attn.weight" in line
    assert "normal(0.02), seed 0" in line
    assert "cross-attention, which neither checkpoint has" in line
    report = converter.compose(tmp_path / "tf", gpt2, tmp_path / "out", dry_run=True)
    printed = [part for part in text.splitlines() if " ← " in part]
    count = 0
    for name in (part.split()[0] for part in printed):
        layers = re.search(r"\{(\d+)[…,](\d+)\}", name)
        count += int(layers[2]) - int(layers[1]) + 1 if layers else 1
    assert count == len(report.plan.tensors)
    assert re.search(r"config\.json +\d.* B +generated", text)


def test_swapped_layers_are_not_folded(bert: Path, tmp_path: Path) -> None:
    from converter.report.write_result import group_similar

    plan = converter.convert(bert, tmp_path / "out", dry_run=True).plan
    assert any(len(group) == 3 for group in group_similar(plan.tensors))
    swapped = list(plan.tensors)
    name = "encoder.layer.{}.output.dense.weight".format
    places = {tensor.spec.name: number for number, tensor in enumerate(swapped)}
    first, second = (swapped[places[name(n)]] for n in (0, 1))
    swapped[places[name(0)]] = type(first)(first.spec, second.origin)
    swapped[places[name(1)]] = type(first)(second.spec, first.origin)
    groups = [
        group for group in group_similar(swapped) if "output.dense.weight" in group[0].spec.name
    ]
    assert [len(group) for group in groups if "attention" not in group[0].spec.name] == [1, 1, 1]


def test_inspect_describes_a_checkpoint(bert: Path) -> None:
    text = run("inspect", bert, "--tensors").stdout
    assert "BertModel" in text
    assert re.search(r"converts to +pytorch, tensorflow, flax", text)
    assert "Every tensor is accounted for." in text
    assert re.search(r"encoder\.layer\.\{0…2\}\.output\.dense\.weight +24 × 41 +float32", text)
    assert run("inspect", bert / "model.safetensors").stdout.count("encoder.layer") == 0


def test_inspect_reports_mismatches(bert: Path) -> None:
    config = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 5}))
    text = run("inspect", bert, code=1).stdout
    assert re.search(r"missing tensor +encoder\.layer\.\{3,4\}\.output\.dense\.weight", text)
    assert "converts to" not in text
    report = json.loads(run("inspect", bert, "--json", code=1).stdout)
    assert report["fits"] is False and report["frameworks"] == []


def test_inspect_describes_weights_without_a_configuration(bert: Path) -> None:
    (bert / "config.json").unlink()
    text = run("inspect", bert, "--tensors").stdout
    assert "weights without a configuration" in text
    assert re.search(r"likely architecture +bert,", text)
    assert re.search(r"format +safetensors, pytorch names", text)
    assert re.search(r"encoder\.layer\.\{0…2\}\.output\.dense\.weight +24 × 41 +float32", text)
    assert "--config FILE" in text and "converts to" not in text
    report = json.loads(run("inspect", bert, "--json").stdout)
    assert report["fits"] is None and report["frameworks"] == []
    assert report["likely_model_types"][""][0] == "bert"
    assert report["stored"]["embeddings.LayerNorm.bias"] == {"dtype": "float32", "shape": [24]}


def test_inspect_names_the_state_of_weights_that_cannot_be_read(bert: Path) -> None:
    arrays = load_file(bert / "model.safetensors")
    added = {f"{name}.absmax": array for name, array in arrays.items()}
    save_file({**arrays, **added}, bert / "model.safetensors", metadata={"format": "pt"})
    for _ in range(2):
        text = run("inspect", bert, code=1).stdout
        assert "Error: the weights are quantized (bitsandbytes)" in text
        assert "dequantize()" in text and "converts to" not in text
        report = json.loads(run("inspect", bert, "--json", code=1).stdout)
        assert "quantized" in report["state"] and report["fits"] is False
        (bert / "config.json").unlink(missing_ok=True)  # then without it


def test_inspect_counts_a_tied_head_once_that_is_stored_twice(tmp_path: Path) -> None:
    made = factories.make(tmp_path / "gpt2", "gpt2", "GPT2LMHeadModel")
    file = made.directory / "model.safetensors"
    tensors = load_file(file)
    (words,) = (value for name, value in tensors.items() if name.endswith("wte.weight"))
    save_file({**tensors, "lm_head.weight": words.copy()}, file)
    after = json.loads(run("inspect", made.directory, "--json").stdout)
    assert after["tensors"] == len(tensors) + 1 and after["fits"]
    assert after["parameters"] == sum(value.size for value in tensors.values())
    assert f"{after['parameters']:,} parameters" in run("inspect", made.directory).stdout


def test_families_lists_every_table() -> None:
    text = run("families").stdout
    assert re.search(r"^distilbert +pt tf +– +pt tf flax$", text, re.MULTILINE)
    assert "t5_gemma_module" not in text  # which has no checkpoints of its own
    assert max(map(len, text.splitlines()[:-6])) <= 60
    text = run("families", "--long").stdout
    expected = r"^distilbert +pytorch, tensorflow +– +pytorch, tensorflow, flax$"
    assert re.search(expected, text, re.MULTILINE)
    assert "t5_gemma_module" in text and "Left out\n" in text
    actual = json.loads(run("families", "--json").stdout)
    tables = {path.stem for path in (ROOT / "mappings").glob("[!_]*.toml")}
    assert tables == set(actual["architectures"]) | set(actual["composites"])
    electra = actual["architectures"]["electra"]["roles"]["decoder"]
    assert electra["frameworks"] == ["pytorch"]
    assert set(electra["left_out"]) == {"tensorflow", "flax"}
    gpt2 = json.loads(run("families", "gpt2", "--json").stdout)
    assert gpt2["config"]["n_embd"] == 768
    assert "TFGPT2LMHeadModel" in run("families", "gpt2").stdout
    assert "there is no mapping table" in run("families", "nope", code=1).stderr


def test_families_lists_the_parameters_of_every_row() -> None:
    """Inherited rows included: roberta extends bert."""
    actual = json.loads(run("families", "roberta", "--rows", "--json").stdout)
    [query] = [
        row
        for row in actual["rows"]
        if row["param"].endswith("layer.{layer}.attention.self.query.weight")
    ]
    assert query["section"] == "modules" and query["layer_type"] == "linear"
    assert query["dialects"]["pytorch"] == {
        "name": "roberta.encoder.layer.{layer}.attention.self.query.weight",
        "axes": "out in",
    }
    assert query["dialects"]["tensorflow"] == {
        "name": "roberta/encoder/layer_._{layer}/attention/self/query/kernel:0",
        "axes": "in out",
    }
    [distance] = [row for row in actual["rows"] if "distance_embedding" in row["param"]]
    assert distance["when"] == "position_embedding_type != 'absolute'"
    assert {"modules", "parts.pooler", "heads.lm"} <= {row["section"] for row in actual["rows"]}
    text = run("families", "roberta", "--rows").stdout
    assert "roberta/encoder/layer_._{layer}/attention/self/query/kernel:0" in text
    assert "enc_to_dec_proj.weight" in run("families", "encoder-decoder", "--rows").stdout
    assert "--rows requires NAME" in run("families", "--rows", code=2).stderr


def test_check_table_reports_problems(tmp_path: Path) -> None:
    good = run("check-table", *sorted((ROOT / "mappings").glob("b*t.toml"))).stdout
    assert all(line.endswith(": good") for line in good.splitlines())
    bad = tmp_path / "bad.toml"
    text = (ROOT / "mappings" / "gpt2.toml").read_text().replace("n_positions ->", "n_place ->")
    bad.write_text(text.replace('family   = "gpt2"', 'family   = "bad"'))
    assert "n_place" in run("check-table", ROOT / "mappings" / "bert.toml", bad, code=1).stdout
    actual = json.loads(run("check-table", bad, "--json", code=1).stdout)
    assert actual["tables"][str(bad)]["problems"]
    bad.write_text("model_type = ")
    assert str(bad) in run("check-table", bad, code=1).stdout


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    config = factories.tiny_config("bert")
    evil = "\x1b]0;owned\x07[bold]\u202e.weight"
    tensors = factories.stored(factories.model_spec(config)) | {evil: factories.noise("x", (2,))}
    factories.write(tmp_path / "evil", config, tensors)
    for args in (["inspect", tmp_path / "evil"], ["convert", tmp_path / "evil", tmp_path / "o"]):
        result = CliRunner().invoke(commands, [str(arg) for arg in args])
        assert "\x1b" not in result.output
        assert "\u202e" not in result.output
        assert r"\x1b]0;owned\x07[bold]\u202e.weight" in result.output


@pytest.mark.parametrize("how", ["KeyboardInterrupt", "MemoryError", "ZeroDivisionError"])
def test_unexpected_errors(
    how: str, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def burst(*args: Any, **options: Any) -> None:
        raise {"KeyboardInterrupt": KeyboardInterrupt, "MemoryError": MemoryError}.get(
            how, ZeroDivisionError
        )("by\nzero")

    monkeypatch.setattr("converter.execution.write_checkpoint.execute", burst)
    args = ("convert", bert, tmp_path / "out")
    code, kind, printed = {
        "KeyboardInterrupt": (130, "interrupted", "Interrupted: partial output was removed.\n"),
        "MemoryError": (1, "memory", "Error: not enough memory\n"),
        "ZeroDivisionError": (1, "bug", "Error: this is a bug in converter: ZeroDivisionError"),
    }[how]
    result = run(*args, code=code)
    assert result.stderr.lstrip().startswith(printed)
    assert "Traceback" not in result.stderr
    assert json.loads(run(*args, "--json", code=code).stdout)["error"]["kind"] == kind
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bert"]
    monkeypatch.setenv("CONVERTER_TRACEBACK", "1")
    assert "Traceback" in run(*args, code=code).stderr


def test_a_closed_pipe_is_not_an_error(bert: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "converter", "inspect", bert, "--json"],
        stdout=write,
        stderr=subprocess.PIPE,
    )
    os.close(write)
    assert done.stderr == b""
    assert done.returncode == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_not_an_error(closed: str, bert: Path, tmp_path: Path) -> None:
    for command in (f"inspect '{bert}'", f"convert '{bert}' '{tmp_path / 'out'}' --overwrite"):
        line = f"exec '{sys.executable}' -m converter {command} {closed}"
        done = subprocess.run(["sh", "-c", line], capture_output=True)
        assert done.returncode == 0, done.stderr
        assert done.stderr == b""


def on_a_terminal(columns: int, *args: object, **environment: str) -> str:
    """Return what a command prints on a terminal of a width."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "converter", *map(str, args)],
        stdout=follower,
        stderr=follower,
        stdin=follower,
        env={**env, "TERM": "xterm-256color", **environment},
    )
    os.close(follower)
    text = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError as error:
            assert error.errno == errno.EIO  # Linux reports the end so
            break
        if not piece:
            break
        text += piece
    os.close(leader)
    assert process.wait() == 0, text
    return text.decode()


@pytest.mark.slow
def test_a_narrow_terminal(bert: Path, gpt2: Path, tmp_path: Path) -> None:
    for number, args in enumerate(
        (
            ("compose", bert, gpt2, tmp_path / "out"),
            ("compose", bert, gpt2, tmp_path / "planned", "--dry-run"),
            ("inspect", bert, "--tensors"),
            ("families",),
        )
    ):
        text = on_a_terminal(50, *args)
        assert "\x1b[" in text
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r\n", "\n")
        if number:  # the first also shows a bar that goes away
            assert max(map(len, re.split(r"[\r\n]", plain))) <= 50
        else:
            assert re.search(r"━ \d+\.\d/\d+\.\d kB", plain)


def test_no_color_if_disabled(bert: Path, tmp_path: Path) -> None:
    assert "\x1b" not in on_a_terminal(80, "inspect", bert, NO_COLOR="1")
    assert "\x1b" not in on_a_terminal(80, "inspect", bert, TERM="dumb")
    assert "\x1b" not in run("convert", bert, tmp_path / "out").output


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "converter", "--version"], capture_output=True, text=True
    )
    assert done.stdout == f"converter, version {converter.__version__}\n"
    done = subprocess.run([sys.executable, "-m", "converter"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: converter ")


def test_every_option_is_in_the_help_once() -> None:
    context = click.Context(commands, info_name="converter", **commands.context_settings)
    for name in COMMANDS:
        command = commands.get_command(context, name)
        assert command is not None
        text = command.get_help(click.Context(command, context, info_name=name))
        for param in command.params:
            if isinstance(param, click.Option):
                long = next(opt for opt in param.opts if opt.startswith("--"))
                assert len(re.findall(rf"^  (?:-\w, )?{long}\s", text, re.MULTILINE)) == 1, long
        assert "\n  --log-level" in text
        assert "INTEGER RANGE" not in text
