"""Hundreds of hostile weight files, from a few parts each, and the commands that must refuse them.

One kind at a time, in a process of its own, since some of them would crash it::

    python -m tests.hostile.attacks torch-bombs
    python -m tests.hostile.attacks torch-bombs --only "unknown call, 300000, stored"

Every command must end with exit code 1 and one message that names a file of the checkpoint, with
bounded work and memory, and leave nothing. With `--only`, the files stay in ``attack/``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from converter.cli import commands
from tests import factories
from tests.formats.fuzz import bound_memory
from tests.formats.work import check_work, without_old_objects
from tests.hostile.crafted_files import (
    msgpack_attacks,
    orbax_attacks,
    safetensors_attacks,
    tensorflow_attacks,
    unknown_attacks,
)
from tests.hostile.crafted_hdf5 import hdf5_chunks_attacks, hdf5_names_attacks, hdf5_objects_attacks
from tests.hostile.crafted_small_files import (
    RECIPE,
    config_attacks,
    link_attacks,
    recipe_attacks,
    special_attacks,
    state_attacks,
)
from tests.hostile.crafted_torch import (
    Attacks,
    torch_bombs_attacks,
    torch_legacy_attacks,
    torch_recursion_attacks,
    torch_zip_attacks,
)

MEMORY = 128 << 20
"""Bytes by which a command may let the process grow."""
UNITS = 150
"""Work of one command, see `tests.formats.work`."""

Commands = Callable[[Path, Path, Path], list[list[object]]]
"""Returns commands, given the hostile directory, a good checkpoint and an output."""


def _commands(place: Path, good: Path, output: Path) -> list[list[object]]:
    return [
        ["inspect", place],
        ["convert", place, output],
        ["verify", place],
        ["compose", place, good, output],
        ["diff", place, good],
    ]


def _naming(place: Path, good: Path, output: Path) -> list[list[object]]:
    state = place / "checkpoint"
    return [["inspect", state], ["convert", place, output], ["convert", state, output]]


def _copying(place: Path, good: Path, output: Path) -> list[list[object]]:
    return [
        ["convert", place, output, "--to", "pytorch"],
        ["compose", place, place, output, "--to", "pytorch"],
    ]


def _running(place: Path, good: Path, output: Path) -> list[list[object]]:
    return [["run", place / RECIPE, "--dry-run"], ["run", place / RECIPE]]


@dataclass(frozen=True)
class Kind:
    """Attacks of one kind, and how commands must end."""

    attacks: Callable[[], Attacks]
    commands: Commands = _commands
    """The first is run on every attack, and one of the others in turn."""
    codes: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: {"inspect": (0, 1)})
    """Command → exit codes, if not 1."""


_ERROR = re.compile("^Error: ", re.MULTILINE)
ANY = dict.fromkeys(("inspect", "convert", "verify", "compose", "diff"), (0, 1))
KINDS: Mapping[str, Kind] = {
    "torch-bombs": Kind(torch_bombs_attacks),
    "torch-recursion": Kind(torch_recursion_attacks),
    "torch-zip": Kind(torch_zip_attacks),
    "torch-legacy": Kind(torch_legacy_attacks),
    "hdf5-chunks": Kind(hdf5_chunks_attacks),
    "hdf5-objects": Kind(hdf5_objects_attacks),
    "hdf5-names": Kind(hdf5_names_attacks),
    "msgpack": Kind(msgpack_attacks),
    "safetensors": Kind(safetensors_attacks),
    "tensorflow": Kind(tensorflow_attacks),
    "orbax": Kind(orbax_attacks),
    "unknown": Kind(unknown_attacks),
    "links": Kind(link_attacks, _copying),
    "special-files": Kind(special_attacks, codes=ANY),
    "configurations": Kind(config_attacks, codes=ANY),
    "checkpoint-states": Kind(state_attacks, _naming),
    "recipes": Kind(recipe_attacks, _running, {"run": (0, 1, 2)}),
}
"""Name → attacks; every file is hostile, or at least without the tensors of its configuration."""


def main() -> None:
    """Run the attacks of one kind, and print what was measured as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--only", help="the name of a single attack")
    parser.add_argument("--part", default="0/1", help="2/5: every fifth attack, from the second on")
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory(prefix="converter-") as directory:
        report = run(options.kind, Path(directory), part, parts, options.only)
    print(json.dumps(report))


def run(kind: str, directory: Path, part: int, parts: int, only: str | None) -> dict[str, Any]:
    """Run every command on the attacks of a kind; print failures, and return what was measured."""
    good = factories.make(directory / "good", "bert").directory
    place, output = directory / "attack", directory / "out"
    config = (good / "config.json").read_bytes()
    here = Path.cwd()
    bound_memory()
    most, slowest, count, failures = 0, 0.0, 0, 0
    for index, (name, make) in enumerate(KINDS[kind].attacks()):
        if (name != only) if only else (index % parts != part):
            continue
        place.mkdir()
        (place / "config.json").write_bytes(config)
        make(place)
        os.chdir(place)
        count += 1
        first, *others = KINDS[kind].commands(place, good, output)
        before = set(place.iterdir())
        for arguments in (first, others[index % len(others)]):
            print(f"{name}: {arguments[0]}", end="\r", file=sys.stderr, flush=True)
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            start, began = _resident("VmRSS"), time.process_time()
            signal.alarm(600)
            with without_old_objects():
                result = CliRunner().invoke(commands, list(map(str, arguments)))
            signal.alarm(0)
            seconds = time.process_time() - began
            grown = _resident("VmHWM") - start
            slowest, most = max(slowest, seconds), max(most, grown)
            problem = _problem(result, str(arguments[0]), KINDS[kind].codes, place)
            if grown > MEMORY:
                problem = f"{grown:,} bytes"
            if result.exit_code and (set(place.iterdir()) != before or output.exists()):
                problem = "left something"
            shutil.rmtree(output, ignore_errors=True)
            try:
                check_work(seconds, UNITS)
            except AssertionError as error:
                problem = str(error)
            if problem:
                failures += 1
                said = (result.stderr or result.stdout)[-600:]
                print(f"FAILED {name}: {arguments[0]}: {problem}\n{said}", file=sys.stderr)
        os.chdir(directory)
        if only:
            shutil.copytree(place, here / "attack", dirs_exist_ok=True)
        shutil.rmtree(place)
    return {
        "kind": kind,
        "attacks": count,
        "failures": failures,
        "slowest_ms": round(slowest * 1000),
        "grown_mb": round(most / 1e6, 1),
    }


def _problem(
    result: Any, command: str, codes: Mapping[str, tuple[int, ...]], place: Path
) -> str | None:
    """Return what is wrong with the end of a command, if anything."""
    text = result.stdout + result.stderr
    if result.exit_code not in codes.get(command, (1,)):
        return f"exit code {result.exit_code}"
    if "bug in converter" in text or "Traceback" in text:
        return "a bug"
    reported = "NOT verified" in text or (
        command in ("diff", "run", "inspect") and "Error: " not in result.stderr
    )
    if result.exit_code and len(_ERROR.findall(result.stderr)) != (not reported):
        return "not one message"
    if (
        result.exit_code
        and not reported
        and not any(path.name in text for path in (*place.iterdir(), place))
    ):
        return "names no file"
    if len(text) > 20_000:
        return f"{len(text)} characters"
    if not all(char.isprintable() or char == "\n" for char in text):
        return "not printable"
    return None


def _resident(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise AssertionError(f"no {key}")


if __name__ == "__main__":
    main()
