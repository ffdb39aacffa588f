"""``python -m benchmarks DIRECTORY``: compose beside ``cp -r`` and transformers, in one run.

Makes two checkpoints of bert-base size in DIRECTORY, composes them, and then repeats all tasks in
turn. Each writes into the same place, from which the run before has been removed, so that all of
them find the disk and the page cache in the same state.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks.measure import HEADER, Task, forget, machine

MAKE = """
import sys
from pathlib import Path
from benchmarks.checkpoints import Bert
size = Bert(*map(int, sys.argv[4:]))
for name, seed in zip(sys.argv[2:4], (1, 2), strict=True):
    size.write(Path(sys.argv[1]) / name, seed)
"""
SIZES = {"base": (768, 12, 12), "large": (1024, 24, 16), "tiny": (128, 2, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("directory", type=Path, help="on the disk to measure; must not exist")
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--peer", type=int, default=1, help="runs of transformers; 0 for none")
    parser.add_argument("--cold", action="store_true", help="drop what is read from memory first")
    options = parser.parse_args()
    work = options.directory.resolve()
    work.mkdir(parents=True)
    try:
        measure(work, options)
    finally:
        shutil.rmtree(work)


def measure(work: Path, options: argparse.Namespace) -> None:
    python = sys.executable
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_USE_LEGACY_KERAS": "1",
    }
    encoder, decoder, reference, out = (
        work / name for name in ("encoder", "decoder", "reference", "out")
    )
    sizes = [str(number) for number in SIZES[options.size]]
    subprocess.run([python, "-c", MAKE, work, "encoder", "decoder", *sizes], check=True)
    compose = [python, "-m", "converter", "compose", str(encoder), str(decoder)]
    subprocess.run([*compose, str(reference), "--quiet"], check=True)

    def clean() -> None:
        shutil.rmtree(out, ignore_errors=True)
        if options.cold:
            forget(encoder, decoder, reference)

    # Composing to all three frameworks, and copying what comes out.
    job = Task("`converter compose`", [*compose, str(out), "--quiet"], clean)
    copy = Task("`cp -r` of its output", ["cp", "-r", str(reference), str(out)], clean)
    inspected = Task(
        "`converter inspect` of the combined model",
        [python, "-m", "converter", "inspect", str(reference / "model.safetensors"), "--config",
         str(reference / "config.json")],
    )  # fmt: skip
    helped = Task("`converter --help`", [python, "-m", "converter", "--help"])
    script = str(Path(__file__).with_name("peer.py"))
    peer = Task("transformers", [python, script, str(encoder), str(decoder), str(out)], clean)
    peers = options.peer if find_spec("transformers") else 0
    description = machine(work)
    for turn in range(options.repeat):
        for task in (job, copy) if turn % 2 else (copy, job):
            task.run(environment)
        for task in (inspected, helped):
            task.run(environment)
        if turn < peers:
            peer.run(environment)
    written = sum(path.stat().st_size for path in reference.iterdir())
    state = "cold" if options.cold else "warm"
    print(f"{options.size}, {written / 1e9:.2f} GB written, sources {state}; {description}\n")
    print(HEADER)
    for task in (job, copy, peer, inspected, helped):
        if task.runs:
            print(task.row())
    print(f"\ncompose / cp -r: {job.median('wall') / copy.median('wall'):.2f}")
    if peer.runs:
        print(f"transformers / compose: {peer.median('wall') / job.median('wall'):.1f}")


if __name__ == "__main__":
    main()
