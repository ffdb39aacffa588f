"""A repository that only TensorFlow could read gets its safetensors by a pull request."""

from __future__ import annotations

import json

import pytest

import converter
from tests import factories
from tests.hub.conftest import Desk, contents


@pytest.fixture
def stranded(desk: Desk) -> Desk:
    """``other/tf`` on the Hub, as TensorFlow left it."""
    source = factories.make(desk.home / "bert", "bert", intermediate_size=41).directory
    converter.convert(source, desk.home / "tf", to=["tensorflow"])
    files = contents(desk.home / "tf")
    kept = {name: files[name] for name in ("config.json", "tf_model.h5")}
    desk.hub.publish("other/tf", {**kept, "README.md": b"# By its author\n"})
    return desk


def rescue(desk: Desk, *more: str) -> dict[str, object]:
    args = ("convert", "other/tf", "out", "--to", "pytorch", "--push", "other/tf", "--create-pr")
    told: dict[str, object] = json.loads(desk.converter(*args, "--json", *more).stdout)["pushed"]
    return told


def test_the_pull_request_adds_the_weights_and_nothing_else(stranded: Desk) -> None:
    told = rescue(stranded)
    repo = stranded.hub.repos["other/tf"]
    assert told["pull_request"] == 1 and told["sent"] == ["model.safetensors"]
    before, after = repo.files("main"), repo.files("refs/pr/1")
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"model.safetensors"}
    assert repo.pulls[0]["title"] == "Adding `safetensors` variant of this model"
    proof = repo.commits[repo.refs["refs/pr/1"]]["description"]
    assert "tensors equal to their source" in proof and str(stranded.home) not in proof
    sent = stranded.hub.read("other/tf", "model.safetensors", "refs/pr/1")
    original = contents(stranded.home / "bert")["model.safetensors"]
    (stranded.home / "sent.safetensors").write_bytes(sent)
    (stranded.home / "old.safetensors").write_bytes(original)
    config = stranded.home / "bert" / "config.json"
    found = converter.diff(
        stranded.home / "sent.safetensors",
        stranded.home / "old.safetensors",
        first_config=config,
        second_config=config,
    )
    assert found.equal
    again = rescue(stranded, "--overwrite")
    assert again["continued"] and again["sent"] == [] and len(repo.pulls) == 1


def test_options_of_a_push_need_one(stranded: Desk) -> None:
    done = stranded.converter("convert", "other/tf", "out", "--create-pr", code=2)
    assert "only with --push" in done.stderr
    assert not (stranded.home / "out").exists()


def test_a_composition_is_pushed_whole(stranded: Desk) -> None:
    args = ("compose", "bert", "other/tf", "both", "--push", "me/both", "--private", "-q")
    stranded.converter(*args)
    assert stranded.hub.repos["me/both"].private
    assert set(stranded.hub.repos["me/both"].files()) == set(contents(stranded.home / "both"))
