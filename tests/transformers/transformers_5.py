"""Checks by transformers 5, in a separate interpreter that keeps running.

Run as a module, this is the server: requests and answers are lines of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import numpy as np
from safetensors.numpy import load_file

from tests.environments import TRANSFORMERS_5, interpreter
from tests.transformers import oracle
from tests.transformers.oracle import Loaded
from tests.transformers.oracle_checks import Batch, without
from tests.transformers.tiny import add_noise, build, tiny
from tests.transformers.weight_files import FILES

KIND = "safetensors"


@dataclass(frozen=True)
class Transformers5:
    """A running interpreter with transformers 5 and torch."""

    process: subprocess.Popen[str]
    room: Path

    def load(
        self, directory: Path, name: str, batch: Batch | None, computed: tuple[str, ...] = ()
    ) -> Loaded | None:
        """Load a PyTorch file with class ``name``; ``None`` where there is no such class.

        As `oracle_checks.load`, but ``stored`` is what transformers 5 saves of the loaded model:
        it renames many tensors on loading, and restores their names on saving.
        """
        arrays: dict[str, Any] = {**(batch or {})}
        np.savez(self.room / "inputs.npz", **arrays)
        answer = self._ask("load", str(directory), name, batch is not None)
        if answer is None:
            return None
        loaded = Loaded(f"{KIND} in transformers 5", answer)
        if not answer:
            with np.load(self.room / "outputs.npz") as actual:
                loaded.outputs = dict(actual)
            saved = without(load_file(self.room / FILES[KIND]), computed)
            loaded.stored = {key: value.astype(np.float32) for key, value in saved.items()}
        return loaded

    def build(
        self, directory: Path, architecture: str, name: str, fields: Mapping[str, Any]
    ) -> None:
        """Build a tiny model with noise on every parameter, and save it."""
        assert self._ask("build", str(directory), architecture, name, dict(fields)) is None

    def add_noise(self, source: Path, target: Path, name: str, keep: tuple[str, ...]) -> None:
        """Load a model, add noise to every parameter, and save it in another directory."""
        assert self._ask("add_noise", str(source), str(target), name, keep) is None

    def _ask(self, *request: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


def differences(first: Loaded, transformers_5: Loaded, tolerance: float) -> list[str]:
    """Report what transformers 5 finds wrong with a file, or different from 4.57.

    Files may contain different names of tied tensors; integers in the first only are buffers that
    transformers 5 computes.
    """
    if transformers_5.problems:
        return [f"{transformers_5.kind}: {text}" for text in transformers_5.problems]
    problems = oracle.compare(first, transformers_5, tolerance, values=False)
    problems += [
        f"{transformers_5.kind}: {key} differs"
        for key in sorted(first.stored.keys() & transformers_5.stored.keys())
        if not np.array_equal(first.stored[key], transformers_5.stored[key])
    ]
    for mine, other in ((first, transformers_5), (transformers_5, first)):
        alone = [
            name
            for value, name in mine.fingerprints.items()
            if value not in other.fingerprints
            and not (mine is first and (mine.stored[name] % 1 == 0).all())
        ]
        problems += [f"only in {mine.kind}: {name}" for name in sorted(alone)]
    return problems


@contextmanager
def start_transformers_5() -> Iterator[Transformers5]:
    """Run the interpreter until the end of the block."""
    command = [str(interpreter(TRANSFORMERS_5)), "-m", __name__]
    with TemporaryDirectory(prefix="fifth-") as room:
        process = subprocess.Popen(
            [*command, room], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            yield Transformers5(process, Path(room))
        finally:
            process.communicate()


def _serve(room: Path, answers: IO[str]) -> None:
    import torch
    import transformers

    assert transformers.__version__.startswith("5.")
    torch.set_num_threads(1)  # tests run side by side
    transformers.logging.disable_progress_bar()
    for line in sys.stdin:
        request, *arguments = json.loads(line)
        try:
            answer = _REQUESTS[request](room, *arguments)
        except Exception as error:  # the test fails with it, and the next one goes on
            answer = [f"{type(error).__name__}: {error}"]
        print(json.dumps(answer), file=answers, flush=True)


def _check(room: Path, directory: str, name: str, runs: bool) -> list[str] | None:
    import torch
    import transformers

    if not hasattr(transformers, name):
        return None
    with np.load(room / "inputs.npz") as actual:
        batch = {key: torch.from_numpy(actual[key]) for key in actual} if runs else None
    loaded = _load(Path(directory), getattr(transformers, name), batch, room)
    outputs: dict[str, Any] = loaded.outputs
    np.savez(room / "outputs.npz", **outputs)
    return loaded.problems


def _build(
    room: Path, directory: str, architecture: str, name: str, fields: dict[str, Any]
) -> None:
    build(tiny(architecture), name, fields).save_pretrained(directory)


def _add_noise(room: Path, source: str, target: str, name: str, keep: list[str]) -> None:
    import transformers

    model = getattr(transformers, name).from_pretrained(source)
    add_noise(model, seed=4, keep=keep)
    model.save_pretrained(target)


_REQUESTS: Mapping[str, Callable[..., Any]] = {
    "load": _check,
    "build": _build,
    "add_noise": _add_noise,
}


def _load(directory: Path, kind: Any, batch: dict[str, Any] | None, room: Path) -> Loaded:
    import torch

    loaded = Loaded(KIND)
    with oracle.isolated(directory, KIND) as path, oracle.captured(), torch.no_grad():
        try:
            model, info = kind.from_pretrained(path, output_loading_info=True)
            oracle._report(loaded, info)
            model.save_pretrained(room)
            if batch is not None:
                oracle._keep_outputs(loaded, model.eval()(**batch))
        except Exception as error:  # any exception of transformers is a finding
            loaded.problems.append(f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
    return loaded


if __name__ == "__main__":
    # The output of libraries must not mix with the answers.
    with os.fdopen(os.dup(1), "w") as own:
        os.dup2(2, 1)
        _serve(Path(sys.argv[1]), own)
