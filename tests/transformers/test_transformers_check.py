"""``verify --run`` of every kind of model, valid and damaged, by transformers 4.57 and 5.

The results come from `transformers_runner`, which the command runs in a process of its own (tested
in ``test_verify.py``). Here version 4 runs in this process, which has imported it already, and one
process of version 5 answers all requests.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter
from converter.formats.registry import open_file
from converter.verification import transformers_check, transformers_runner
from converter.verification.result import Verification
from converter.verification.transformers_runner import MARK
from tests.environments import TRANSFORMERS_5, interpreter
from tests.transformers.tiny import build, tiny
from tests.verification.damage import FILES, alter, copy_of, rewrite

pytestmark = pytest.mark.peer

TOKENS: dict[str, Any] = {"decoder_start_token": 3, "eos_token": 2, "pad_token": 1}
PAIRS = {
    "vit-gpt2": 4,
    "swin-roberta": 3,
    "wav2vec2-bert": 2,
    "hubert-gpt2": 2,
    "roberta-bert": 4,
    "distilbert-bart": 2,
}
"""Encoder and decoder of composites of images, sound and text → weight files."""
ALONE = {
    "BertForMaskedLM": 4,
    "GPT2LMHeadModel": 4,
    "CanineModel": 2,
    "LayoutLMv3Model": 3,
    "ViTModel": 4,
    "Wav2Vec2Model": 3,
    "T5ForConditionalGeneration": 4,
    "BartForConditionalGeneration": 4,
    "MarianMTModel": 4,
}
"""Classes of stand-alone models → number of weight files."""
MODEL_TYPE_OF = {
    "GPT2LMHeadModel": "gpt2",
    "Wav2Vec2Model": "wav2vec2",
    "LayoutLMv3Model": "layoutlmv3",
}

DRIVER = f"""
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("transformers_runner", sys.argv[1])
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
for request in json.load(sys.stdin):
    print("{MARK}" + json.dumps(script.main(request)))
"""


def composite(name: str, directory: Path) -> Path:
    """Compose two randomly initialized models, in every format that their frameworks can load."""
    model_types = dict(zip(("encoder", "decoder"), name.split("-"), strict=True))
    for submodel, architecture in model_types.items():
        (directory / submodel).mkdir(parents=True)
        config = {**tiny(architecture).config, "model_type": architecture}
        (directory / submodel / "config.json").write_text(json.dumps(config))
    converter.compose(
        directory / "encoder",
        directory / "decoder",
        directory / "out",
        random=["encoder", "decoder"],
        pytorch_format="both",
        **TOKENS,
    )
    return directory / "out"


def alone(name: str, directory: Path) -> Path:
    """Save a model with transformers and convert it to every format."""
    architecture = MODEL_TYPE_OF.get(name) or next(
        each for each in ("bert", "canine", "vit", "t5", "bart", "marian")
        if name.lower().startswith(each)
    )  # fmt: skip
    spec = tiny(architecture)
    start = (
        {"decoder_start_token_id": 3, "forced_eos_token_id": 2} if architecture == "marian" else {}
    )
    build(spec, name, {**spec.config, **start}).save_pretrained(directory / "source")
    converter.convert(directory / "source", directory / "out", pytorch_format="both")
    return directory / "out"


def key_of(file: Path, *texts: str) -> str:
    """Return the name of the only matrix in `file` whose name contains all `texts`."""
    with open_file(file) as reader:
        [name] = [
            name
            for name, tensor in reader.tensors.items()
            if len(tensor.spec.shape) == 2 and all(t in name.replace(".", "/") for t in texts)
        ]
    return name


def lose(file: Path) -> str:
    key = key_of(file, "encoder", "0/attention", "query")
    rewrite(file, lambda tensors: tensors.pop(key))
    return key


def add(file: Path) -> str:
    key = key_of(file, "encoder", "0/attention", "query")
    new = key.replace("query", "extra")
    rewrite(file, lambda tensors: tensors.update({new: tensors[key]}))
    return new


def grow(file: Path) -> str:
    key = key_of(file, "decoder", "wpe")
    rewrite(
        file,
        lambda tensors: tensors.update({key: np.concatenate([tensors[key], tensors[key][:3]])}),
    )
    return key


def disturb(file: Path) -> str:
    key = key_of(file, "encoder", "0/attention", "query")
    alter(file, [key], lambda array: np.multiply(array, -9, out=array))
    return key


DAMAGE: dict[str, Callable[[Path], str]] = {
    "lost": lose, "extra": add, "grown": grow, "disturbed": disturb,
}  # fmt: skip


class Runs:
    """Every directory that is verified, and the results of both versions.

    Args:
        root: the parent of the directories.

    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directories: dict[str, Path] = {}
        self.damaged: dict[str, str] = {}
        self.requests: dict[str, Any] = {}
        self.answers_4: dict[str, Any] = {}
        self.answers_5: dict[str, Any] = {}

    def make(self) -> None:
        """Make all directories, and get the answers of version 5."""
        for name in PAIRS:
            self.directories[name] = composite(name, self.root / name)
        for name in ALONE:
            self.directories[name] = alone(name, self.root / name)
        for kind, damage in DAMAGE.items():
            for file in FILES:
                name = f"{kind} {file}"
                self.directories[name] = copy_of(self.directories["vit-gpt2"], self.root / name)
                kept = (file, FILES[0] if file != FILES[0] else FILES[1])
                for other in ("converter-manifest.json", *FILES):
                    if other not in kept:
                        (self.directories[name] / other).unlink()
                self.damaged[name] = damage(self.directories[name] / file)
        for name in self.directories:
            self.verified(name, partial(self._record, name))
        python = interpreter(TRANSFORMERS_5)
        done = subprocess.run(
            [str(python), "-c", DRIVER, str(transformers_check._SCRIPT)],
            input=json.dumps(list(self.requests.values())),
            capture_output=True,
            text=True,
            check=True,
        )
        answers = [t.removeprefix(MARK) for t in done.stdout.splitlines() if t.startswith(MARK)]
        self.answers_5 = dict(zip(self.requests, map(json.loads, answers), strict=True))

    def _record(self, name: str, request: Any) -> Any:
        self.requests[name] = request
        return {"transformers": "none", "skipped": {}, "files": {}, "differences": []}

    def verified(self, name: str, answer: Callable[[Any], Any]) -> Verification:
        """Return the verification with a given answer."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(transformers_check, "_ask", lambda python, request: answer(request))
            return converter.verify(self.directories[name], run=True)

    def with_version(self, version: int, name: str) -> Verification:
        """Return the verification with the answer of one version."""
        if version == 5:
            return self.verified(name, lambda request: self.answers_5[name])
        if name not in self.answers_4:
            self.answers_4[name] = json.loads(json.dumps(_run_here(self.requests[name])))
        return self.verified(name, lambda request: self.answers_4[name])


def _run_here(request: Any) -> Any:
    """Call `transformers_runner` in this process, and restore the log handlers of transformers."""
    logger = logging.getLogger("transformers")
    before = (logger.handlers, logger.propagate, logger.level)
    try:
        return transformers_runner.main(request)
    finally:
        logger.handlers, logger.propagate = before[:2]
        logger.setLevel(before[2])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    made = Runs(tmp_path_factory.mktemp("running"))
    made.make()
    yield made


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("name", [*PAIRS, *ALONE])
def test_valid_models_load_completely_and_agree(runs: Runs, name: str, version: int) -> None:
    result = runs.with_version(version, name)
    assert result.verified, result.problems
    files = {**PAIRS, **ALONE}[name] if version == 4 else 2
    ran = [check for check, text in result.checks.items() if text == "loads completely and runs"]
    assert len(ran) == files, result.checks
    assert all(f"transformers {version}." in check for check in ran)
    agreed = [check for check, text in result.checks.items() if text.startswith("agree to")]
    assert len(agreed) == files - 1
    left = sum("was not run" in note for note in result.notes)
    assert left == {**PAIRS, **ALONE}[name] - files


MESSAGES = {
    "lost": "transformers reports it missing and newly initializes it",
    "extra": "transformers reports it unexpected and ignores it",
    "grown": "transformers reports a shape mismatch and does not load it",
}
NEWER = {"lost": "q_proj", "extra": "attention.extra"}


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("kind", MESSAGES)
@pytest.mark.parametrize("file", FILES)
def test_transformers_names_what_is_broken(runs: Runs, file: str, kind: str, version: int) -> None:
    name = f"{kind} {file}"
    path, key = str(runs.directories[name] / file), runs.damaged[name]
    problems = [p for p in runs.with_version(version, name).problems if "transformers" in p.what]
    if version == 5 and file in FILES[2:]:  # which it cannot read
        assert not problems
    elif file == "flax_model.msgpack":  # reported only in log messages
        word = {"lost": "query", "extra": "extra", "grown": "wpe"}[kind]
        assert [(p.file, p.what, repr(word) in str(p.found)) for p in problems] == [
            (path, "transformers warns", True)
        ]
        assert str(runs.directories[name]) in str(problems[0].found)
    else:
        if version == 5 and kind != "grown":  # it names the modules of an image encoder differently
            key = f"encoder.layers.0.attention.{NEWER[kind]}.weight"
        assert [(p.file, p.tensor, p.what) for p in problems] == [(path, key, MESSAGES[kind])]


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("file", FILES)
def test_different_outputs_are_reported(runs: Runs, file: str, version: int) -> None:
    name = f"disturbed {file}"
    problems = runs.with_version(version, name).problems
    differing = [p for p in problems if p.what == "the models' outputs differ"]
    if version == 5 and file in FILES[2:]:
        assert not differing
        return
    [problem] = differing
    second = file if file != FILES[0] else FILES[1]
    assert problem.file == str(runs.directories[name] / second)
    assert re.fullmatch(r"\w+ is off by 0\.\d+", str(problem.found))
    assert not [p for p in problems if "transformers" in p.what]
