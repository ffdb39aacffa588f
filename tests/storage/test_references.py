"""References that are misspelt, offline, or on a mirror."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from huggingface_hub import constants

import converter
from converter.cli import commands
from converter.errors import CheckpointError, OutputError
from converter.storage.hub_client import translate_hub_errors
from converter.storage.resolve import open_source
from tests import factories


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    for name in ("models/bert-tiny/config.json", "models/gpt2/config.json", "recipe.yaml"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("{}")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("models/bert-tinny", "models/bert-tiny"),
        ("model/bert-tiny", "models/bert-tiny"),
        ("models/bert-tiny/confg.json", "models/bert-tiny/config.json"),
        ("./modls/gpt2/", "models/gpt2"),
        ("models/other", None),
        ("acme/bert-tiny", None),
        ("acme/bert/tiny", None),
        ("acme/bert\0/tiny", None),
        ("hf://models/bert-tinny", None),
    ],
)
def test_a_misspelt_path_is_answered_with_the_one_that_was_meant(
    given: str, meant: str | None
) -> None:
    with pytest.raises((CheckpointError, ValueError)) as caught:
        open_source(given)
    if meant:
        assert f"Did you mean {meant}?" in str(caught.value)
    else:
        assert "Did you mean" not in str(caught.value)


def test_a_configuration_that_is_missing(tmp_path: Path) -> None:
    factories.make(tmp_path / "bert", "bert")
    Path("bert/config.json").rename("bert.json")
    with pytest.raises(CheckpointError, match=r"Did you mean bert\.json"):
        converter.convert("bert", "out", config="bert.jsn")
    with pytest.raises(CheckpointError, match="Put it there"):
        converter.convert("bert", "out", config="elsewhere.toml")


def test_offline_is_the_reason() -> None:
    with pytest.raises(CheckpointError) as caught:
        open_source("models/bert-tinny")
    message = "models/bert-tinny: not a local path, and cannot be downloaded from the Hub"
    assert caught.value.message.startswith(message)
    assert "HF_HUB_OFFLINE=1 is set" in caught.value.message


def test_an_option_that_names_a_missing_file() -> None:
    result = CliRunner().invoke(commands, ["run", "recip.yaml"])
    assert "does not exist. Did you mean recipe.yaml?" in result.output


@pytest.mark.parametrize(
    ("status", "url", "step"),
    [
        (404, "/api/models/a/b/xet-write-token/main", "set HF_HUB_DISABLE_XET=1"),
        (403, "/api/models/a/b/commit/main", "https://mirror.example/settings/tokens"),
    ],
)
def test_a_mirror_is_named(
    monkeypatch: pytest.MonkeyPatch, status: int, url: str, step: str
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "https://mirror.example")
    reason = f"Network error: HTTP status client error ({status} x) for url (https://m{url})"
    with (
        pytest.raises(OutputError) as caught,
        translate_hub_errors(OutputError, "a/b: cannot be pushed to", "a/b", writing=True),
    ):
        raise RuntimeError(reason)  # as hf_xet does
    assert step in str(caught.value.remedy)
