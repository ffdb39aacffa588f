"""What ``converter env`` shows, and what it does not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import converter
from converter.cli import commands
from converter.commands.env import REQUIRED

SECRETS = {
    "HF_TOKEN": "hf_" + "a" * 30,
    "AWS_SECRET_ACCESS_KEY": "QwErTyUiOp0123456789",
    "AWS_SESSION_TOKEN": "short",
    "HTTPS_PROXY": "http://me:pa55word@proxy.example:8080/",
    "HF_ENDPOINT": "https://hub.example/?signature=s1gnatur3s1gnatur3",
}


def test_versions_machine_and_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CONVERTER_JOBS", "3")
    monkeypatch.setenv("FROBNICATE", "x")
    result = converter.env()
    assert result.converter == converter.__version__
    assert result.python.startswith(".".join(map(str, sys.version_info[:3])))
    assert result.packages["numpy"] == np.__version__
    assert "gradio" in result.packages
    assert result.machine["processors"] >= 1
    assert result.machine["disk_free"] > 0
    if sys.platform == "linux":
        assert result.machine["memory"] > 1 << 28
        assert re.fullmatch(r"[\w.-]+", result.machine["file_system"])
    assert result.variables["HF_HOME"] == "~/cache"
    assert result.variables["CONVERTER_JOBS"] == "3"
    assert "FROBNICATE" not in result.variables
    document = json.loads(CliRunner().invoke(commands, ["env", "--json"]).stdout)
    parts = ("converter", "python", "system", "packages", "variables")
    assert document.keys() == {*parts, "machine"}
    assert [document[part] for part in parts] == [result.to_dict()[part] for part in parts]
    text = CliRunner().invoke(commands, ["env"]).stdout
    assert f"numpy {np.__version__}" in text and "CONVERTER_JOBS=3" in text


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    for text in (
        CliRunner().invoke(commands, ["env"]).output,
        CliRunner().invoke(commands, ["env", "--json"]).output,
        json.dumps(converter.env().to_dict()),
        str(converter.env()),
    ):
        assert all(name in text for name in SECRETS)
        for secret in (*list(SECRETS.values())[:3], "pa55word", "s1gnatur3"):
            assert secret not in text


def test_what_the_package_requires_is_listed() -> None:
    required = metadata.requires("encdec-converter") or ()
    names = {re.split(r"[<>=!~;\[ ]", each)[0] for each in required if "extra ==" not in each}
    assert {name.lower().replace("-", "_") for name in names} <= {
        name.lower().replace("-", "_") for name in REQUIRED
    }


def test_nothing_is_imported_for_it() -> None:
    script = "import sys, converter; converter.env(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    loaded = set(done.stdout.split())
    heavy = {"numpy", "torch", "tensorflow", "jax", "transformers", "h5py", "huggingface_hub"}
    assert "converter.commands.env" in loaded and not heavy & loaded
