"""transformers 5 judges as well, in an interpreter of its own that is kept alive.

Run as a module this is the other side: requests come in as lines of JSON, answers go out likewise.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
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

        As `judge.load`, but ``stored`` is what transformers 5 saves of the model that it loaded:
        it calls many tensors otherwise than files do, and gives them their names back on saving.
        """
        arrays: dict[str, Any] = {**(batch or {})}
        np.savez(self.room / "inputs.npz", **arrays)
        assert self.process.stdin and self.process.stdout
        request = (str(directory), name, batch is not None)
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline())
        if answer is None:
            return None
        loaded = Loaded(f"{KIND} in transformers 5", answer)
        if not answer:
            with np.load(self.room / "outputs.npz") as found:
                loaded.outputs = dict(found)
            saved = without(load_file(self.room / FILES[KIND]), computed)
            loaded.stored = {key: value.astype(np.float32) for key, value in saved.items()}
        return loaded


def differences(first: Loaded, later: Loaded, tolerance: float) -> list[str]:
    """What transformers 5 finds wrong with a file, or otherwise than 4.57 does.

    Of names that are tied, the files may hold different ones; whole numbers that the first alone
    holds are buffers that transformers 5 computes.
    """
    if later.problems:
        return [f"{later.kind}: {text}" for text in later.problems]
    problems = oracle.compare(first, later, tolerance, values=False)
    problems += [
        f"{later.kind}: {key} is another"
        for key in sorted(first.stored.keys() & later.stored.keys())
        if not np.array_equal(first.stored[key], later.stored[key])
    ]
    for mine, other in ((first, later), (later, first)):
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
    """Start it; it ends with the block."""
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
    torch.set_num_threads(2)
    transformers.logging.disable_progress_bar()
    for line in sys.stdin:
        directory, name, runs = json.loads(line)
        loaded = None
        if hasattr(transformers, name):
            with np.load(room / "inputs.npz") as found:
                batch = {key: torch.from_numpy(found[key]) for key in found} if runs else None
            loaded = _load(Path(directory), getattr(transformers, name), batch, room)
            outputs: dict[str, Any] = loaded.outputs
            np.savez(room / "outputs.npz", **outputs)
        print(json.dumps(loaded and loaded.problems), file=answers, flush=True)


def _load(directory: Path, kind: Any, batch: dict[str, Any] | None, room: Path) -> Loaded:
    import torch

    loaded = Loaded(KIND)
    with oracle.isolated(directory, KIND) as place, oracle.captured(), torch.no_grad():
        try:
            model, info = kind.from_pretrained(place, output_loading_info=True)
            oracle._report(loaded, info)
            model.save_pretrained(room)
            if batch is not None:
                oracle._keep_outputs(loaded, model.eval()(**batch))
        except Exception as error:  # whatever the peer raises is a finding
            loaded.problems.append(f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
    return loaded


if __name__ == "__main__":
    # What libraries print must not get between the answers.
    with os.fdopen(os.dup(1), "w") as own:
        os.dup2(2, 1)
        _serve(Path(sys.argv[1]), own)
