"""The examples run: PyTorch learns, TensorFlow and Flax take the same step."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import converter
from tests.environments import TRANSFORMERS_5, interpreter

pytestmark = pytest.mark.peer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("examples") / "bert2gpt2"
    converter.compose(ROOT / "fixtures/bert-tiny", ROOT / "fixtures/gpt2-tiny", out)
    return out


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return importlib.import_module


@pytest.mark.slow
def test_pytorch_learns_and_generates(composed: Path, example: Any) -> None:
    losses, share = example("train_pytorch").train(composed, steps=150, words=1)
    assert losses[-1] < losses[0] / 10
    assert share > 0.8


@pytest.mark.slow
def test_pytorch_learns_with_transformers_5_too(composed: Path) -> None:
    code = (
        "import json, sys; from pathlib import Path; import train_pytorch, transformers\n"
        "losses, share = train_pytorch.train(Path(sys.argv[1]), steps=150, words=1)\n"
        "print(json.dumps([transformers.__version__, losses[0], losses[-1], share]))"
    )
    command = [str(interpreter(TRANSFORMERS_5)), "-c", code, str(composed)]
    done = subprocess.run(command, cwd=ROOT / "examples", check=True, capture_output=True)
    version, first, last, share = json.loads(done.stdout.splitlines()[-1])
    assert version.startswith("5.")
    assert last < first / 10
    assert share > 0.8


def test_tensorflow_and_flax_take_the_same_step(composed: Path, example: Any) -> None:
    actual = [
        example(name).step_and_decode(composed) for name in ("train_tensorflow", "train_flax")
    ]
    for before, after, written in actual:
        assert after < before
        assert len(written) == 8
    assert actual[0][0] == pytest.approx(actual[1][0], rel=1e-5)
    assert actual[0][1] == pytest.approx(actual[1][1], rel=1e-5)


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


def test_the_tutorials_last_step_uses_the_model(
    composed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Its Python code, unchanged, on the model of its fourth step."""
    (tmp_path / "summarizer").symlink_to(composed)
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/tutorial.md").read_text(), re.DOTALL)
    exec(compile(code, "docs/tutorial.md", "exec"), {})
    assert capsys.readouterr().out.endswith("\n")
