"""What callers from Python get: keyword errors, warnings, bars, and messages in Python's words."""

from __future__ import annotations

import ast
import inspect
import json
import re
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import click.testing
import pytest

import converter
from converter import progress
from converter.cli import commands
from converter.python_calls import in_python, in_recipe

ROOT = Path(__file__).parents[1]
BERT, GPT2 = ROOT / "fixtures" / "bert-tiny", ROOT / "fixtures" / "gpt2-tiny"


@pytest.mark.parametrize(
    ("said", "python", "recipe"),
    [
        ("Add --overwrite to replace it.", "Add overwrite=True to replace it.", None),
        (
            "Supported: --to pytorch,flax.",
            'Supported: to=["pytorch", "flax"].',
            "to: [pytorch, flax].",
        ),
        ("try --jobs 1.", "try jobs=1.", "try jobs: 1."),
        ("all the same: --force.", "all the same: force=True.", "all the same: force: true."),
        ("again: --force JOB.", "again: force=[JOB].", "again: force: [JOB]."),  # of run
        ("a smaller --memory or fewer --jobs", "a smaller `memory` or fewer `jobs`", None),
        ("give it with --config FILE.", "give it with config=FILE.", "with config: FILE."),
        ("--config /tmp/a b", 'config="/tmp/a" b', None),
        ("or --set model_type=t5.", 'or set=["model_type=t5"].', "set: [model_type=t5]."),
        (
            "leave out: --ignore 'a.*' --ignore b keeps one",
            'leave out: ignore=["a.*", "b"] keeps one',
            "ignore: [a.*, b] keeps",
        ),
        ("--eos-token 3 or --eos-token </s>", 'eos_token=3 or eos_token="</s>"', None),
        ("--native requires the frameworks", "native=True requires the frameworks", None),
        ("for --init copy-self-attention", 'for init="copy-self-attention"', "init: copy-"),
        ("set it with --var home=VALUE", 'set it with variables={"home": "VALUE"}', None),
        ("Split it: `converter split`.", "Split it: `converter.split()`.", "`converter split`"),
        (
            "`converter convert --set FIELD=ID` or `converter check-table`",
            '`converter.convert(set=["FIELD=ID"])` or `converter.check_table()`',
            None,
        ),
        ("see `converter push --help`", "see `help(converter.push)`", None),
        ("not logged in, or give --token.", "not logged in, or give `token`.", "give --token."),
        ("run `hf auth login --token X`", "run `hf auth login --token X`", None),
        ("  converter push out me/x --private", "  converter push out me/x --private", None),
        ("models--org--name/--config/x: missing", "models--org--name/--config/x: missing", None),
        (
            "python -m tool --config_file C --unknown",
            "python -m tool --config_file C --unknown",
            None,
        ),
    ],
)
def test_messages_are_put_in_the_words_of_the_surface(
    said: str, python: str, recipe: str | None
) -> None:
    assert in_python(said) == python
    assert in_python(python) == python, "nothing is left to change"
    if recipe is not None:
        assert recipe in in_recipe(said)


def messages() -> Iterator[tuple[str, str]]:
    """Yield the strings of the package that are not documentation, with their place."""
    for path in sorted((ROOT / "converter").rglob("*.py")):
        if path.parent.name in ("app", "cli", "report") or path.stem == "python_calls":
            continue
        tree = ast.parse(path.read_text("utf-8"))
        documentation = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        parts = {
            value
            for node in ast.walk(tree)
            if isinstance(node, ast.JoinedStr)
            for value in node.values
        }
        for node in ast.walk(tree):
            if node in documentation or node in parts:
                continue
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{path}:{node.lineno}", node.value
            elif isinstance(node, ast.JoinedStr):
                values = (getattr(each, "value", "") for each in node.values)
                values = (each if isinstance(each, str) else "\0" for each in values)
                yield f"{path}:{node.lineno}", "".join(map(str, values))


def test_no_message_to_python_names_an_option_of_the_command_line() -> None:
    """Whatever names an option: it is declared, and has a form in Python."""
    option = re.compile(r"(?<![\w/-])--[a-z][a-z-]+\b(?!_)")
    checked, left = 0, []
    for place, text in messages():
        if option.search(text) or "`converter " in text:
            checked += 1
            foreign = re.search(r"\b(python -m|hf) |^\(", text)
            shown = [in_python(text.replace("\0", name)) for name in ("compose", "decoder")]
            if not foreign and all(option.search(said) or "`converter " in said for said in shown):
                left.append(f"{place}: {text!r}")
    assert checked >= 40
    assert not left


def test_errors_name_the_option_as_it_is_written_where_the_call_is(tmp_path: Path) -> None:
    out = tmp_path / "out"
    converter.convert(BERT, out)
    with pytest.raises(converter.OutputError, match="Add overwrite=True to replace it") as caught:
        converter.convert(BERT, out)
    assert caught.value.remedy == "Add overwrite=True to replace it, or choose another location."
    with pytest.raises(converter.CheckpointError, match="config=FILE"):
        converter.open_checkpoint(_without_config(tmp_path))
    shell = click.testing.CliRunner().invoke(commands, ["convert", str(BERT), str(out)])
    assert "Add --overwrite to replace it" in shell.stderr
    with pytest.raises(converter.OutputError, match="overwrite=True"):
        converter.convert(BERT, out)  # as before the command line


def _without_config(home: Path) -> Path:
    (home / "bare").mkdir()
    target = home / "bare" / "model.safetensors"
    target.write_bytes((BERT / "model.safetensors").read_bytes())
    return target.parent


def test_the_errors_of_a_job_name_options_as_recipes_do(tmp_path: Path) -> None:
    recipe = tmp_path / "jobs.yaml"
    source = _without_config(tmp_path)
    job = {"name": "one", "convert": {"source": str(source), "output": str(tmp_path / "out")}}
    recipe.write_text(json.dumps({"jobs": [job]}), encoding="utf-8")
    (result,) = converter.run(recipe).results
    assert result.error and "config: FILE" in (result.error.remedy or "")
    shell = click.testing.CliRunner().invoke(commands, ["run", str(recipe)])
    assert "config: FILE" in shell.stderr and "--config" not in shell.stderr


def test_warnings_are_raised_once_at_the_caller_and_stay_in_the_result(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        line = inspect.currentframe().f_lineno + 1  # type: ignore[union-attr]
        result = converter.compose(BERT, GPT2, tmp_path / "out", to=["pytorch"])
    assert [str(each.message) for each in caught] == list(result.warnings)
    assert len({*result.warnings}) == len(result.warnings) >= 2
    for each in caught:
        assert each.category is converter.ConverterWarning
        assert issubclass(each.category, UserWarning)
        assert (each.filename, each.lineno) == (__file__, line)


def test_warnings_can_be_made_errors_and_the_output_is_complete_then(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", converter.ConverterWarning)
        with pytest.raises(converter.ConverterWarning):
            converter.compose(BERT, GPT2, tmp_path / "out", to=["pytorch"])
    assert converter.verify(tmp_path / "out").verified


def test_the_command_line_prints_a_warning_once(tmp_path: Path) -> None:
    arguments = ["compose", str(BERT), str(GPT2), str(tmp_path / "shell"), "--to", "pytorch"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shell = click.testing.CliRunner().invoke(commands, arguments)
    assert shell.exit_code == 0 and not caught
    printed = [line for line in shell.stderr.splitlines() if line.startswith("Warning: ")]
    assert len(printed) == len({*printed}) >= 2


def test_a_result_names_options_as_python_does_and_a_manifest_as_the_shell_does(
    tmp_path: Path,
) -> None:
    converter.compose(BERT, BERT, tmp_path / "shared", share=True, to=["pytorch"])
    converter.split(tmp_path / "shared", tmp_path / "split")
    sources = [tmp_path / "split" / submodel for submodel in ("encoder", "decoder")]
    encoder, decoder = sources
    result = converter.compose(encoder, decoder, tmp_path / "python", to=["pytorch"])
    assert any('set=["tie_encoder_decoder=true"]' in each for each in result.warnings)
    arguments = ["compose", *map(str, sources), str(tmp_path / "shell"), "--to", "pytorch"]
    shell = click.testing.CliRunner().invoke(commands, arguments)
    assert "--set tie_encoder_decoder=true" in shell.stderr
    one, other = (tmp_path / name / "converter-manifest.json" for name in ("python", "shell"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("asked", [None, False, True])
@pytest.mark.parametrize("notebook", [False, True])
def test_a_bar_is_shown_in_notebooks_or_where_it_is_asked_for(
    asked: bool | None,
    notebook: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(progress, "_DELAY", 0)
    monkeypatch.setattr(progress, "_in_notebook", lambda: notebook)
    converter.convert(BERT, tmp_path / "out", progress=asked)
    shown = capfd.readouterr()
    expected = notebook if asked is None else asked
    assert ("convert: " in shown.err) == expected
    assert not shown.out


def test_a_callback_is_called_in_a_notebook_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_in_notebook", lambda: True)
    calls = list[tuple[int, int]]()
    converter.convert(
        BERT, tmp_path / "out", progress=lambda done, total, _: calls.append((done, total))
    )
    assert calls and calls[-1][0] == calls[-1][1] > 0
    assert not capfd.readouterr().err


def test_missing_and_wrong_arguments_are_type_errors_of_the_function() -> None:
    with pytest.raises(TypeError, match=r"^verify\(\): missing a required argument: 'directory'$"):
        converter.verify()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^diff\(\): multiple values for argument 'first'$"):
        converter.diff("a", "b", first="c")  # type: ignore[misc]


def test_help_is_in_the_words_of_python() -> None:
    for name in ("compose", "convert", "split", "inspect", "verify", "diff", "push", "families"):
        text = inspect.getdoc(getattr(converter, name)) or ""
        assert not re.search(r"(?<![\w-])--[a-z]|`converter ", text), name


def test_the_traceback_of_a_client_is_not_shown_with_the_error() -> None:
    from converter.errors import CheckpointError
    from converter.storage.hub_client import translate_hub_errors
    from converter.storage.references import parse_url
    from converter.storage.url import translate_url_errors

    url = parse_url("s3://a/b")
    assert url
    for translated in (
        translate_hub_errors(CheckpointError, "a/b: cannot be downloaded", "a/b"),
        translate_url_errors(CheckpointError, url, "cannot be read"),
    ):
        with pytest.raises(CheckpointError) as caught, translated:
            try:
                raise TimeoutError("too slow")
            except TimeoutError as error:
                raise ConnectionError("of the client") from error
        shown = "".join(traceback.format_exception(caught.value))
        assert "of the client" in str(caught.value) or "too slow" in str(caught.value)
        assert "During handling" not in shown and "direct cause" not in shown


def test_the_warnings_of_jobs_and_of_files_that_a_push_keeps_are_raised(tmp_path: Path) -> None:
    recipe = tmp_path / "jobs.yaml"
    options = {"encoder": str(BERT), "decoder": str(GPT2), "output": str(tmp_path / "out")}
    recipe.write_text(json.dumps({"jobs": [{"name": "one", "compose": options}]}), "utf-8")
    with pytest.warns(converter.ConverterWarning, match="^one: decoder_start_token_id"):
        summary = converter.run(recipe)
    assert summary.warnings == tuple(f"one: {text}" for text in summary.results[0].warnings)
