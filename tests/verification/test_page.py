"""The page on verifying a checkpoint: its commands run unchanged."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "proof.md"
SNIPPETS = re.findall(r"```sh\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


@pytest.mark.slow
def test_its_commands_run(tmp_path: Path) -> None:
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    converter = tmp_path / "bin" / "converter"
    converter.parent.mkdir()
    converter.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m converter "$@"\n')
    converter.chmod(0o755)
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    script = "\n".join(["set -e", *SNIPPETS])
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    pythonpath = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        ["sh", "-c", script.replace("python - ", f'"{sys.executable}" - ')],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "PYTHONPATH": pythonpath},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert len(SNIPPETS) == 8
    text = done.stdout
    assert text.count(": verified\n") == 5
    assert "is off by a few units in the last place in 1 value(s)" in text
    assert "exit code 1" in text
    assert "equal within 1e-06" in text
    assert "bert2gpt2 and submodels/encoder, only the encoder: equal" in text
    assert (tmp_path / "bert2gpt2.html").is_file()
