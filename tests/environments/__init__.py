"""Interpreters whose libraries are of other versions than those of the tests.

Each is a list of pinned requirements beside this file. They are installed, once, into a folder of
their own below the project's root, which goes before the packages of the interpreter that runs the
tests: what the list does not name (torch, this package) is shared with it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).parents[2]
TRANSFORMERS_5 = "transformers-5"
HUB_1 = "huggingface-hub-1"
HUB_2 = "huggingface-hub-2"
GRADIO = "gradio-6"


def interpreter(name: str) -> Path:
    """Return an interpreter with the requirements of ``NAME.txt``, installed on first use.

    Raises:
        subprocess.CalledProcessError: if they cannot be installed, which needs the network.

    """
    requirements = Path(__file__).with_name(f"{name}.txt")
    # The list, the interpreter and the place that it refers to decide what a folder is good for.
    key = "\n".join((requirements.read_text(), sys.version, sys.executable, str(ROOT)))
    home = ROOT / ".venv-others" / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    home.parent.mkdir(exist_ok=True)
    with FileLock(f"{home}.lock"):
        if not home.exists():
            _install(requirements, home)
    return home / "bin" / "python"


def _install(requirements: Path, home: Path) -> None:
    partial = home.with_name(home.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    packages = partial / "packages"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(packages)]
    subprocess.run([*pip, "-r", str(requirements)], check=True)
    python = partial / "bin" / "python"
    python.parent.mkdir(exist_ok=True)
    path = os.pathsep.join((str(home / "packages"), str(ROOT)))
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{path}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    partial.rename(home)
