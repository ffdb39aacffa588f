"""Loading and running a checkpoint with transformers, in an interpreter of the user's choice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converter.cleanup import TemporaryDirectory
from converter.errors import Problem, UnsupportedError
from converter.file_names import INDEX_SUFFIX
from converter.models.model import Model
from converter.text import collapse_ranges
from converter.verification.result import Findings
from converter.verification.transformers_runner import MARK

TOLERANCE = 1e-4
"""Largest difference between two frameworks' outputs, relative to the largest output: they sum in
different orders."""

_SCRIPT = Path(__file__).with_name("transformers_runner.py")
_KEYS = {
    "missing_keys": "transformers reports it missing and newly initializes it",
    "unexpected_keys": "transformers reports it unexpected and ignores it",
    "mismatched_keys": "transformers reports a shape mismatch and does not load it",
    "error_msgs": "transformers cannot load it",
}
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "warning",
    "CUDA_VISIBLE_DEVICES": "",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_USE_LEGACY_KERAS": "1",
}


def check_running(home: Path, models: Mapping[str, Model], python: str | Path | None) -> Findings:
    """Load and run every weight file with transformers, and compare the models' outputs.

    `python` is an interpreter with transformers and frameworks, by default this one. Raise
    UnsupportedError if the interpreter cannot be run or has no transformers.
    """
    files: dict[str, list[str]] = {}
    for label, model in models.items():
        names = [label, *(path.name for path in model.checkpoint.files)]
        kind = label.removesuffix(INDEX_SUFFIX).rpartition(".")[2]
        files.setdefault(kind, []).extend(dict.fromkeys(names))
    classes = next(iter(models.values())).classes
    request = {"directory": str(home.resolve()), "files": files, "classes": dict(classes)}
    interpreter = str(python or sys.executable)
    if Path(interpreter).exists():  # else it is searched in PATH
        interpreter = str(Path(interpreter).absolute())
    report = _ask(interpreter, request)
    version = report["transformers"]
    problems, checks = [], {}
    notes = [
        f"{', '.join(files[kind][:1])}: was not run: {reason}"
        for kind, reason in report["skipped"].items()
    ]
    for kind, result in report["files"].items():
        failures = _problems(str(home / files[kind][0]), result)
        problems += failures
        title = f"{files[kind][0]} in {result['class']} of transformers {version}"
        checks[title] = "fails" if failures else "loads completely and runs"
    for pair in report["differences"]:
        one, two = (files[kind][0] for kind in pair["files"])
        gap, output = pair["difference"], pair["output"]
        if gap is not None and gap <= TOLERANCE:
            checks[f"{output} of {one} and {two}"] = f"agree to {gap:.1e}"
            continue
        found = "none in common" if gap is None else f"{output} is off by {gap:.2g}"
        what = "the models' outputs differ"
        problems.append(Problem(what, str(home / two), None, f"those of {one}", found))
    if not report["files"]:
        problems.append(Problem(f"transformers {version} could not run any of the files"))
    return Findings(problems, notes, checks)


def _problems(path: str, result: Mapping[str, Any]) -> list[Problem]:
    """Return what transformers reported while it loaded and ran one file."""
    problems = []
    if "error" in result:
        what = "loads it and cannot run it" if result.get("loaded") else "cannot load it"
        problems.append(Problem(f"transformers {what}", path, found=result["error"]))
    for key, text in _KEYS.items():
        problems += [Problem(text, path, name) for name in collapse_ranges(result.get(key, ()))]
    if result["framework"] == "flax":  # its classes return no lists and only log warnings
        problems += [Problem("transformers warns", path, found=t) for t in result["messages"]]
    what = "an output is infinite or not a number"
    return problems + [Problem(what, path, name) for name in result.get("non_finite", ())]


def _ask(python: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """Run the script, and return the result from the line that it marks."""
    try:
        with TemporaryDirectory() as empty:
            # The script is read from standard input and runs in an empty directory, so that no
            # module next to it or in the current directory shadows another.
            done = subprocess.run(
                [python, "-", json.dumps(request)],
                input=_SCRIPT.read_text("utf-8"),
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                env={**os.environ, **_ENVIRONMENT},
                cwd=empty.path,
                check=False,
            )
    except OSError as error:
        raise UnsupportedError(
            f"{python}: cannot be run: {error.strerror}",
            remedy="Give --python an interpreter with transformers.",
        ) from error
    for text in done.stdout.splitlines():
        if text.startswith(MARK):
            answer: dict[str, Any] = json.loads(text.removeprefix(MARK))
            return answer
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    raise UnsupportedError(
        f"{python}: cannot load checkpoints: {last[:300]}",
        remedy="Install transformers and a framework there, or give another: --python.",
    )
