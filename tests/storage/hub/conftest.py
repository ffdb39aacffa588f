"""A Hub on loopback, and the command line as a user who works with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import factories
from tests.storage.hub.hub_server import Hub, serving

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class CommandResult:
    """How one of several commands ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def report(self) -> dict[str, Any]:
        """The JSON document that it printed."""
        assert self.code == 0, self.stderr
        found: dict[str, Any] = json.loads(self.stdout)
        return found


@dataclass
class HubSession:
    """A Hub, an empty cache and a working directory."""

    hub: Hub
    endpoint: str
    home: Path

    def converter(
        self, *args: object, code: int = 0, token: str | None = "hf_test", **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run one command in a process of its own, as the client reads its settings on import."""
        done = subprocess.run(
            [sys.executable, "-m", "converter", *map(str, args)],
            capture_output=True,
            text=True,
            cwd=self.home,
            env=self.environment(token, **env),
            timeout=60,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def run_commands(
        self, *commands: Sequence[object], python: Path = Path(sys.executable), **env: str
    ) -> list[CommandResult]:
        """Run several commands, one after another, in one process."""
        done = subprocess.run(
            [str(python), "-m", "tests.storage.hub.commands"],
            input=json.dumps([[str(word) for word in command] for command in commands]),
            capture_output=True,
            text=True,
            cwd=self.home,
            env={**self.environment("hf_test", **env), "PYTHONPATH": str(ROOT)},
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return [CommandResult(**each) for each in json.loads(done.stdout)]

    def run_python(self, *args: str) -> str:
        """Run a script of the user's own, and return what it prints."""
        return subprocess.run(
            [sys.executable, *args],
            capture_output=True,
            text=True,
            check=True,
            cwd=self.home,
            env=self.environment("hf_test"),
            timeout=60,
        ).stdout

    def environment(self, token: str | None, **more: str) -> dict[str, str]:
        """Return the environment of a user who is logged in with `token`."""
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(self.home / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **({"HF_TOKEN": token} if token else {}),
            **more,
        }


def contents(directory: Path) -> dict[str, bytes]:
    """Return the content of the files of a directory."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def session(tmp_path: Path) -> Iterator[HubSession]:
    with serving() as (hub, endpoint):
        yield HubSession(hub, endpoint, tmp_path)


@pytest.fixture
def bert(session: HubSession) -> dict[str, bytes]:
    """Publish a BERT as ``acme/bert``; return its files."""
    made = factories.make(session.home / "bert", "bert", intermediate_size=41).directory
    card = b"---\nlicense: apache-2.0\n---\n# BERT\n"
    files = {**contents(made), "README.md": card, "vocab.txt": b"[PAD]\n[CLS]\n"}
    session.hub.publish("acme/bert", {**files, "pytorch_model.bin": b"not asked for"})
    return files


@pytest.fixture
def gpt2(session: HubSession) -> dict[str, bytes]:
    """Publish a GPT-2 as ``acme/gpt2``; return its files."""
    made = factories.make(session.home / "gpt2", "gpt2", "GPT2LMHeadModel", file_format="torch")
    files = contents(made.directory)
    session.hub.publish("acme/gpt2", {**files, "README.md": b"---\nlicense: mit\n---\n"})
    return files
