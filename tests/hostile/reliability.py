"""Kills `converter compose` repeatedly, and checks what is left each time.

By hand, with as many kills as you like::

    python -m tests.hostile.reliability --kills 100 --seed 1

At random moments the real command is killed with SIGKILL in a process of its own. At every step,
a run is killed at each of its calls that touches the file system, one after another.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import converter
from tests import factories

MODES = {
    "new": [],
    "overwrite": ["--overwrite"],
    "resume": ["--resume"],
    "resume, overwrite": ["--resume", "--overwrite"],
}
"""Options by mode. With ``overwrite`` there is an existing output."""

Files = dict[str, str]
"""Path in a directory → SHA-256."""


def digests(directory: Path) -> Files | None:
    """Return the files of a directory; ``None`` if it does not exist."""
    if not directory.exists():
        return None
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@dataclass
class Tally:
    """Counts of the outcomes of kills."""

    kills: int = 0
    late: int = 0
    """Runs that had ended before they were killed."""
    left: Counter[str] = field(default_factory=Counter)
    """Outcome at the output's path → count."""
    unfinished: int = 0
    """How often a hidden directory was left."""
    seconds: float = 0.0

    def __str__(self) -> str:
        outcomes = ", ".join(f"{count} × {what}" for what, count in sorted(self.left.items()))
        return (
            f"{self.kills} kills ({self.late} came after the end) in {self.seconds:.0f} s: "
            f"{outcomes}; {self.unfinished} left a hidden directory; every retry succeeded"
        )


class Laboratory:
    """Sources, the expected outputs, and a directory where runs are killed.

    Args:
        directory: an empty one.
        size: width of the models; 24 gives an output of 0.6 MB, 256 one of 60 MB.

    """

    def __init__(self, directory: Path, size: int = 24) -> None:
        self.encoder, self.decoder = directory / "encoder", directory / "decoder"
        sizes: dict[str, Any] = {
            "hidden_size": size,
            "intermediate_size": 4 * size,
            "vocab_size": 40 * size,
        }
        factories.make(self.encoder, "bert", **sizes)
        sizes = {"n_embd": size, "n_inner": 4 * size, "vocab_size": 40 * size}
        factories.make(self.decoder, "gpt2", "GPT2LMHeadModel", **sizes)
        self.old, self.new = directory / "old", directory / "new"
        converter.compose(self.encoder, self.decoder, self.old, seed=1, to=["pytorch"])
        began = time.perf_counter()
        subprocess.run(self.command(self.new), check=True)
        self.seconds = time.perf_counter() - began
        self.expected = {"old": digests(self.old), "new": digests(self.new)}
        assert self.expected["old"] != self.expected["new"]
        self.place = directory / "place"
        self.output = self.place / "model"

    def command(self, output: Path, *options: str) -> list[str]:
        """Return the command line."""
        sources = [str(self.encoder), str(self.decoder)]
        return [sys.executable, "-m", "converter", "compose", *sources, str(output), "-q", *options]

    def prepare(self, mode: str) -> None:
        """Empty the directory, and copy the old output there if it will be overwritten."""
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        if "overwrite" in mode:
            shutil.copytree(self.old, self.output)

    def judge(self, mode: str, tally: Tally, then: str = "") -> None:
        """Check what a killed run left, run again, and check the result.

        Args:
            mode: of the killed run.
            tally: collects the outcome.
            then: mode of the second run, if not the same.

        """
        left = digests(self.output)
        before = ("old", self.expected["old"]) if "overwrite" in mode else ("nothing", None)
        allowed = [before, ("new", self.expected["new"])]
        names = [what for what, files in allowed if files == left]
        assert names, f"{mode}: a wrong output: {sorted(left or {})}"
        hidden = [path for path in self.place.iterdir() if path.name != "model"]
        assert all(path.name.startswith(".model.") for path in hidden), hidden
        tally.left[names[0]] += 1
        tally.unfinished += any(path.is_dir() for path in hidden)
        again = then or mode
        converter.compose(
            self.encoder,
            self.decoder,
            self.output,
            overwrite="overwrite" in again or left is not None,
            resume="resume" in again,
        )
        assert digests(self.output) == self.expected["new"], f"{mode}: the retry went wrong"
        assert [path.name for path in self.place.iterdir()] == ["model"], "leftovers"

    def kill_at_random(self, kills: int, seed: int = 0) -> Tally:
        """Kill the command at `kills` moments, spread over the time that it takes."""
        rng, tally, began = random.Random(seed), Tally(kills), time.perf_counter()
        seconds = self.seconds
        for number in range(kills):
            mode = list(MODES)[number % len(MODES)]
            self.prepare(mode)
            with subprocess.Popen(
                self.command(self.output, *MODES[mode]), stderr=subprocess.PIPE
            ) as process:
                time.sleep(rng.uniform(0, seconds))
                process.kill()
                code = process.wait()
            assert code in (0, -signal.SIGKILL), f"{mode}: ended with {code}"
            tally.late += code == 0
            seconds *= (
                0.9 if code == 0 else 1.02
            )  # machines are busier at some times than at others
            self.judge(mode, tally)
        tally.seconds = time.perf_counter() - began
        return tally

    def kill_at_every_step(self, mode: str, stride: int = 1) -> Tally:
        """Kill runs before every `stride`-th of their calls that touch the file system."""
        tally, began = Tally(), time.perf_counter()
        for step in itertools.count(0, stride):
            self.prepare(mode)
            child = os.fork()
            if not child:
                self._run_and_die(mode, step)
            _, status = os.waitpid(child, 0)
            if os.waitstatus_to_exitcode(status) == 0:
                break
            assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
            tally.kills += 1
            self.judge(mode, tally, random.Random(step).choice((mode, "new")))
        tally.seconds = time.perf_counter() - began
        return tally

    def _run_and_die(self, mode: str, step: int) -> None:
        """Compose in this process, which dies at its call number `step`; it does not return."""
        calls, home = 0, str(self.place)

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal calls
            if not event.startswith(("os.", "open", "shutil.", "ctypes.dlsym", "fcntl.")):
                return
            if event.startswith(("ctypes", "fcntl")) or any(home in str(a) for a in arguments):
                calls += 1
                if calls > step:
                    os.kill(os.getpid(), signal.SIGKILL)

        code = 1
        try:
            sys.addaudithook(hook)
            converter.compose(
                self.encoder,
                self.decoder,
                self.output,
                overwrite="overwrite" in mode,
                resume="resume" in mode,
            )
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)


def main() -> None:
    """Kill as often as the command line says, and print the outcome."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        large = Laboratory(Path(directory) / "large", options.size)
        nbytes = sum(path.stat().st_size for path in large.new.rglob("*"))
        print(f"an output of {nbytes / 1e6:.0f} MB takes {large.seconds:.2f} s")
        print(f"random moments: {large.kill_at_random(options.kills, options.seed)}")
        small = Laboratory(Path(directory) / "small")
        for mode in MODES:
            print(f"every step, {mode}: {small.kill_at_every_step(mode)}")


if __name__ == "__main__":
    main()
