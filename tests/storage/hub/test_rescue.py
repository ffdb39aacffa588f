"""A repository that only TensorFlow could read gets its safetensors by a pull request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import converter
from converter.tensors import TensorSpec
from tests import factories
from tests.storage.hub.conftest import HubSession, contents

KINDS = ("tensorflow", "flax", "bundle")


def left_behind(directory: Path, source: Path, kind: str) -> dict[str, bytes]:
    """Return a repository that only TensorFlow, only Flax, or only Google's code can read."""
    if kind != "bundle":
        converter.convert(source, directory, to=[kind])  # type: ignore[list-item]
        file = {"tensorflow": "tf_model.h5", "flax": "flax_model.msgpack"}[kind]
        return {name: (directory / name).read_bytes() for name in ("config.json", file)}
    from tests.formats import tensorflow_checkpoints

    directory.mkdir()
    config = json.loads((source / "config.json").read_text())
    expanded = factories.model_spec(config)
    named = [param for param in expanded.params if "google" in param.stored_as]
    stored = factories.stored(type(expanded)(tuple(named), expanded.ignore), "google")
    arrays = {TensorSpec(name, "float32", each.shape): each for name, each in stored.items()}
    tensorflow_checkpoints.write(directory / "bert_model.ckpt.index", arrays)
    del config["model_type"]
    original = json.dumps({**config, "layer_norm_eps": 1e-12}).encode()
    return {**contents(directory), "bert_config.json": original}


@pytest.fixture
def stranded(session: HubSession, request: pytest.FixtureRequest) -> HubSession:
    """``other/tf`` on the Hub, as it was left behind."""
    source = factories.make(session.home / "bert", "bert", intermediate_size=41).directory
    kind = getattr(request, "param", "tensorflow")
    files = left_behind(session.home / "left", source, kind)
    session.hub.publish("other/tf", {**files, "README.md": b"# By its author\n"})
    return session


def rescue(session: HubSession, *more: str) -> dict[str, Any]:
    args = ("convert", "other/tf", "out", "--to", "pytorch", "--push", "other/tf", "--create-pr")
    report: dict[str, Any] = json.loads(session.converter(*args, "--json", *more).stdout)["pushed"]
    return report


@pytest.mark.parametrize("stranded", KINDS, indirect=True)
def test_the_pull_request_adds_the_weights_and_nothing_else(stranded: HubSession) -> None:
    report = rescue(stranded)
    repo = stranded.hub.repos["other/tf"]
    before, after = repo.files("main"), repo.files("refs/pr/1")
    added = {"model.safetensors"} | {"config.json"} - set(before)
    assert report["pull_request"] == 1 and set(report["sent"]) == added
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == added
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


def test_a_configuration_with_which_the_weights_do_not_fit_is_replaced(session: HubSession) -> None:
    """TensorFlow's class ties the output layer to the embeddings, whatever the field says."""
    source = factories.make(session.home / "gpt2", "gpt2", model="GPT2LMHeadModel").directory
    files = left_behind(session.home / "left", source, "tensorflow")
    config = json.loads(files["config.json"]) | {
        "architectures": ["GPT2LMHeadModel"],
        "tie_word_embeddings": False,
    }
    files["config.json"] = json.dumps(config).encode()
    session.hub.publish("other/tf", files)
    assert set(rescue(session)["sent"]) == {"model.safetensors", "config.json"}
    sent = json.loads(session.hub.read("other/tf", "config.json", "refs/pr/1"))
    assert sent == {**config, "tie_word_embeddings": True}


@pytest.mark.slow
def test_a_recipe_rescues_as_the_command_does(stranded: HubSession) -> None:
    job = {
        "convert": {"source": "other/tf", "output": "out", "to": ["pytorch"]},
        "push": {"repo_id": "other/tf", "create_pr": True},
    }
    (stranded.home / "rescue.json").write_text(json.dumps({"jobs": [job]}))
    summary = json.loads(stranded.converter("run", "rescue.json", "--json").stdout)
    assert summary["jobs"]["out"]["pushed"]["sent"] == ["model.safetensors"]
    repo = stranded.hub.repos["other/tf"]
    assert repo.pulls[0]["title"] == "Adding `safetensors` variant of this model"
    proof = repo.commits[repo.refs["refs/pr/1"]]["description"]
    assert "tensors equal to their source" in proof and str(stranded.home) not in proof
    again = json.loads(stranded.converter("run", "rescue.json", "--json").stdout)["jobs"]["out"]
    assert again["status"] == "skipped" and again["pushed"]["sent"] == []
    assert again["pushed"]["pull_request"] == 1 and len(repo.pulls) == 1
    written = (stranded.home / "out" / "model.safetensors").stat()
    for more in ([], ["--quiet"], ["--overwrite"]):  # the same command again is enough
        again = rescue(stranded, *more)
        assert again["continued"] and again["sent"] == [] and len(repo.pulls) == 1
        same = (stranded.home / "out" / "model.safetensors").stat().st_ino == written.st_ino
        assert same == (more != ["--overwrite"])
    args = ("convert", "other/tf", "out", "--push", "other/tf", "--create-pr")
    done = stranded.converter(*args, "--to", "pytorch", "--dtype", "float16", code=1)
    assert "out exists\nAdd --overwrite" in done.stderr  # it is not what would be written
    done = stranded.converter(*args, "--to", "pytorch")
    assert "out: is up to date, and not written again\n" in done.stderr
    assert done.stdout.endswith("up to date; nothing was sent\n")


def test_options_of_a_push_need_one(stranded: HubSession) -> None:
    done = stranded.converter("convert", "other/tf", "out", "--create-pr", code=2)
    assert "requires --push" in done.stderr
    assert not (stranded.home / "out").exists()


def test_a_composition_is_pushed_completely(stranded: HubSession) -> None:
    args = ("compose", "bert", "other/tf", "both", "--push", "me/both", "--private", "-q")
    stranded.converter(*args)
    assert stranded.hub.repos["me/both"].private
    assert set(stranded.hub.repos["me/both"].files()) == set(contents(stranded.home / "both"))
