"""The tutorial and its examples run: three frameworks learn the same and save all of it."""

from __future__ import annotations

import importlib
import json
import re
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import converter
from converter.cli import commands
from tests.environments import TRANSFORMERS_5, interpreter
from tests.transformers.tiny import FULL

pytestmark = pytest.mark.peer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/tutorial.md").read_text("utf-8")


FRAMEWORKS = ("pytorch", "tensorflow", "flax")


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a composed model without dropout, which differs between frameworks."""
    out = tmp_path_factory.mktemp("examples") / "bert2gpt2"
    off = ["encoder.hidden_dropout_prob", "encoder.attention_probs_dropout_prob"]
    off += ["decoder.attn_pdrop", "decoder.embd_pdrop", "decoder.resid_pdrop"]
    converter.compose(
        ROOT / "fixtures/bert-tiny",
        ROOT / "fixtures/gpt2-tiny",
        out,
        set=[f"{field}=0.0" for field in off],
    )
    return out


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return importlib.import_module


@pytest.mark.slow
def test_the_tutorial_runs_as_it_is_written(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Every command and all code of the page, in order; what is printed is what the page shows."""
    for name in ("fixtures", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    printed = ""
    shown = []
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        if language == "text":
            shown.append((code.splitlines(), printed.splitlines()))
            continue
        capsys.readouterr()
        if language == "python":
            exec(compile(code, "docs/tutorial.md", "exec"), names)
        for line in code.splitlines() if language == "sh" else []:
            program, *args = shlex.split(line)
            if program == "converter":
                result = CliRunner().invoke(commands, args)
                assert result.exit_code == 0, result.output
            elif program == "python":
                monkeypatch.setattr("sys.argv", args)
                runpy.run_path(args[0], run_name="__main__")
        printed = capsys.readouterr().out
    (page, training), *generated = shown
    assert [re.sub(r"[\d.]+", "", line) for line in training[:6]] == [
        re.sub(r"[\d.]+", "", line) for line in page[:6]
    ]
    first, *_, last = (float(line.split()[-1]) for line in training[:5])
    assert first == pytest.approx(float(page[0].split()[-1]), rel=0.01)
    assert last < 0.1
    assert int(training[-1].partition("%")[0]) >= 90
    assert [len(page) for page, _ in generated] == [1, 2]
    for page, lines in generated:
        assert lines == page


@pytest.mark.slow
def test_pytorch_learns_with_transformers_5_too(composed: Path, tmp_path: Path) -> None:
    code = (
        "import json, sys; from pathlib import Path; import train_pytorch, transformers\n"
        "losses, share = train_pytorch.train(*map(Path, sys.argv[1:]))\n"
        "print(json.dumps([transformers.__version__, losses[0], losses[-1], share]))"
    )
    command = [str(interpreter(TRANSFORMERS_5)), "-c", code, str(composed), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT / "examples", check=True, capture_output=True)
    version, first, last, share = json.loads(done.stdout.splitlines()[-1])
    assert version.startswith("5.")
    assert last < 0.1 < first
    assert share >= 0.9
    assert_complete(tmp_path / "out")


def test_the_frameworks_take_the_same_steps_and_save_all_of_it(
    composed: Path, tmp_path: Path, example: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In full with FULL, as the page has it; otherwise three steps."""
    losses = {}
    for name in FRAMEWORKS:
        steps = {} if FULL else {"steps": 3}
        losses[name], share = example(f"train_{name}").train(composed, tmp_path / name, **steps)
        assert losses[name][-1] < losses[name][0]
        assert share >= 0.9 or not FULL
        assert_complete(tmp_path / name)
        converter.convert(tmp_path / name, tmp_path / f"{name}-converted", to=["pytorch"])
        assert_complete(tmp_path / f"{name}-converted")
    for name in FRAMEWORKS[1:]:
        assert losses[name][:3] == pytest.approx(losses["pytorch"][:3], rel=1e-4)


def assert_complete(directory: Path) -> None:
    """Assert that a directory has the generation settings and both tokenizers of the fixtures."""
    from transformers import AutoTokenizer, GenerationConfig

    text = "A checkpoint holds the numbers."
    for name, copy in (("bert-tiny", ""), ("gpt2-tiny", "decoder_tokenizer")):
        own, other = map(
            AutoTokenizer.from_pretrained, (ROOT / "fixtures" / name, directory / copy)
        )
        assert other(text)["input_ids"] == own(text)["input_ids"]
    assert GenerationConfig.from_pretrained(directory).decoder_start_token_id == 0
    card = (directory / "README.md").read_text("utf-8")
    assert "library_name: transformers" in card


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("decoder_tokenizer", r"no tokenizer of the decoder.*: save the decoder's in .*tokenizer"),
        ("tokenizer_config.json", "no tokenizer of the encoder"),
    ],
)
def test_an_example_says_which_tokenizer_is_missing(
    composed: Path, tmp_path: Path, example: Any, missing: str, message: str
) -> None:
    """The encoder's is not used for the decoder, whose vocabulary is another one."""
    shutil.copytree(composed, tmp_path / "model", ignore=shutil.ignore_patterns(missing))
    with pytest.raises(SystemExit, match=message):
        example("toy").tokenizers(tmp_path / "model")


def test_a_decoder_without_tokenizer_never_gets_the_encoders(tmp_path: Path, example: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer = shutil.ignore_patterns("token*", "vocab*", "merges*", "special*")
    shutil.copytree(ROOT / "fixtures/gpt2-tiny", tmp_path / "gpt2", ignore=tokenizer)
    converter.compose(ROOT / "fixtures/bert-tiny", tmp_path / "gpt2", tmp_path / "out")
    with pytest.raises(SystemExit, match="no tokenizer of the decoder"):
        example("toy").tokenizers(tmp_path / "out")
    with pytest.raises((OSError, TypeError)):
        AutoTokenizer.from_pretrained(tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out/encoder_tokenizer").cls_token == "[CLS]"


@pytest.mark.parametrize("submodel", ["encoder", "decoder"])
def test_each_tokenizer_is_the_one_of_its_source(composed: Path, submodel: str) -> None:
    """The encoder's is in the root directory, the decoder's in a directory of its own."""
    from transformers import AutoTokenizer

    directory = composed if submodel == "encoder" else composed / "decoder_tokenizer"
    name = {"encoder": "bert-tiny", "decoder": "gpt2-tiny"}[submodel]
    own, copy = (AutoTokenizer.from_pretrained(p) for p in (ROOT / "fixtures" / name, directory))
    text = "A checkpoint holds the numbers."
    assert copy(text)["input_ids"] == own(text)["input_ids"]
    assert type(copy) is type(own)
