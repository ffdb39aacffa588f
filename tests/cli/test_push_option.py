"""A push that cannot succeed is refused before anything is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from converter.cli import commands
from tests import factories

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "three parts": ({"push": "a/b/c"}, "'a/b/c' is not a repository id"),
    "a space": ({"push": "a b"}, "'a b' is not a repository id"),
    "two branches": (
        {"push": "a/b", "create-pr": True, "revision": "dev"},
        "a pull request proposes changes to the main branch",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_impossible_push_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    factories.make(tmp_path / "bert", "bert")
    given, message = WRONG[name]
    words = [word for key, value in given.items() for word in (f"--{key}", value)]
    args = [str(word) for word in words if word is not True]
    refused = CliRunner().invoke(commands, ["convert", "bert", "out", *args])
    assert (refused.exit_code, message in refused.stderr) == (2, True), refused.output

    push = {key.replace("-", "_").replace("push", "repo_id"): each for key, each in given.items()}
    job = {"name": "a", "convert": {"source": "bert", "output": "out"}, "push": push}
    (tmp_path / "recipe.json").write_text(json.dumps({"jobs": [job]}))
    for more in ([], ["--dry-run"]):
        refused = CliRunner().invoke(commands, ["run", "recipe.json", *more])
        assert (refused.exit_code, message in refused.stderr) == (2, True), refused.output
        assert "nothing was started" in refused.stderr
    assert not (tmp_path / "out").exists()
