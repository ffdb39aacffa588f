"""A checkpoint loaded and run by transformers itself, in an interpreter of the user's choice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from converter.errors import Problem, UnsupportedError
from converter.file_names import (
    FLAX_WEIGHTS,
    INDEX_SUFFIX,
    PYTORCH_WEIGHTS,
    SAFETENSORS_WEIGHTS,
    TENSORFLOW_WEIGHTS,
)
from converter.models.model import Model
from converter.name_ranges import collapse_ranges
from converter.verification.result import Verification
from converter.verification.transformers_runner import MARK

TOLERANCE = 1e-4
"""Largest difference of two frameworks' outputs, relative to the largest output: they sum in
unequal order."""

_SCRIPT = Path(__file__).with_name("peer_script.py")
_KINDS = {
    SAFETENSORS_WEIGHTS: "safetensors",
    PYTORCH_WEIGHTS: "bin",
    TENSORFLOW_WEIGHTS: "h5",
    FLAX_WEIGHTS: "msgpack",
}
_KEYS = {
    "missing_keys": "transformers finds it missing and draws it anew",
    "unexpected_keys": "transformers does not expect it and leaves it out",
    "mismatched_keys": "transformers finds its shape wrong and does not load it",
    "error_msgs": "transformers cannot load it",
}
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "warning",
    "CUDA_VISIBLE_DEVICES": "",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_USE_LEGACY_KERAS": "1",
}


def check_running(
    home: Path, models: Mapping[str, Model], python: str | Path | None, found: Verification
) -> None:
    """Have transformers load every weight file by itself, and compare the models' outputs.

    Args:
        home: the checkpoint.
        models: weight file → the model that it holds, not empty.
        python: the interpreter, by default this one; it needs transformers and frameworks.
        found: the verification in progress.

    Raises:
        UnsupportedError: if the interpreter cannot be run or has no transformers.

    """
    files: dict[str, list[str]] = {}
    for label, model in models.items():
        whole = label.removesuffix(INDEX_SUFFIX)
        names = [label, *(path.name for path in model.checkpoint.files)]
        files.setdefault(_KINDS[whole], []).extend(dict.fromkeys(names))
    classes = next(iter(models.values())).classes
    request = {"directory": str(home.resolve()), "files": files, "classes": dict(classes)}
    report = _ask(_interpreter(python), request)
    version = report["transformers"]
    for kind, reason in report["skipped"].items():
        found.notes.append(f"{', '.join(files[kind][:1])}: was not run: {reason}")
    for kind, seen in report["files"].items():
        place = str(home / files[kind][0])
        problems = list(_told(place, seen))
        found.problems += problems
        name = f"{files[kind][0]} in {seen['class']} of transformers {version}"
        found.checks[name] = "fails" if problems else "loads whole and runs"
    for pair in report["differences"]:
        one, two = (files[kind][0] for kind in pair["files"])
        gap, output = pair["difference"], pair["output"]
        if gap is None or not gap <= TOLERANCE:
            found.problems.append(
                Problem(
                    "the models' outputs differ",
                    str(home / two),
                    expected=f"those of {one}",
                    found="none in common" if gap is None else f"{output} is off by {gap:.2g}",
                )
            )
        else:
            found.checks[f"{output} of {one} and {two}"] = f"agree to {gap:.1e}"
    if not report["files"]:
        found.problems.append(Problem(f"transformers {version} could run none of the files"))


def _told(place: str, seen: Mapping[str, Any]) -> list[Problem]:
    """What one class said of one file."""
    problems = []
    if "error" in seen:
        what = "loads it and cannot run it" if seen.get("loaded") else "cannot load it"
        problems.append(Problem(f"transformers {what}", place, found=seen["error"]))
    for key, text in _KEYS.items():
        problems += [Problem(text, place, name) for name in collapse_ranges(seen.get(key, ()))]
    if seen["framework"] == "flax":  # it gives no lists, only warnings
        problems += [Problem("transformers warns", place, found=t) for t in seen["messages"]]
    problems += [
        Problem("an output is infinite or not a number", place, name)
        for name in seen.get("broken", ())
    ]
    return problems


def _interpreter(python: str | Path | None) -> str:
    """The interpreter's path, or its name if it is to be searched for."""
    if python is None:
        return sys.executable
    return str(Path(python).absolute()) if Path(python).exists() else str(python)


def _ask(python: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """Run the script, and take its result from the line that it marks."""
    try:
        with TemporaryDirectory(prefix="converter-") as empty:
            # The script comes from standard input and runs where nothing is, so that no module
            # that lies beside it or beside the user gets in its way.
            done = subprocess.run(
                [python, "-", json.dumps(request)],
                input=_SCRIPT.read_text("utf-8"),
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                env={**os.environ, **_ENVIRONMENT},
                cwd=empty,
                check=False,
            )
    except OSError as error:
        raise UnsupportedError(
            f"{python}: cannot be run: {error.strerror}",
            remedy="Give --python an interpreter that has transformers.",
        ) from error
    for text in done.stdout.splitlines():
        if text.startswith(MARK):
            answer: dict[str, Any] = json.loads(text.removeprefix(MARK))
            return answer
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    raise UnsupportedError(
        f"{python}: cannot load checkpoints: {last[:300]}",
        remedy="pip install transformers and a framework there, or name another: --python.",
    )
