"""The commands of the pages on the Hub, run as they are."""

from __future__ import annotations

import json
import shlex

import pytest

import converter
from tests import factories
from tests.docs.reading_pages import blocks
from tests.storage.hub.conftest import CommandResult, HubSession, contents


def run(session: HubSession, page: str) -> dict[str, CommandResult]:
    """Every command of ours on a page, in order → how it ended."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    ours = [line for line in lines if line.startswith("converter ") and line.split()[1] != "run"]
    done = session.run_commands(*(shlex.split(line)[1:] for line in ours))
    assert not [each.stderr for each in done if each.code]
    return dict(zip(ours, done, strict=True))


@pytest.fixture
def org(session: HubSession) -> HubSession:
    """Publish the repositories that the pages name."""
    bert = factories.make(session.home / "bert-made", "bert").directory
    gpt2 = factories.make(session.home / "gpt2-made", "gpt2", "GPT2LMHeadModel").directory
    for name, directory in (("org/bert", bert), ("org/gpt2", gpt2)):
        session.hub.publish(name, contents(directory))
    converter.convert(bert, session.home / "tf", to=["tensorflow"])
    files = contents(session.home / "tf")
    session.hub.publish("org/name", {name: files[name] for name in ("config.json", "tf_model.h5")})
    (session.home / "card.md").write_text("# By hand\n")
    return session


@pytest.mark.slow
def test_the_page_on_the_hub(org: HubSession) -> None:
    done = run(org, "hub.md")
    assert len(done) == 8
    assert not (org.home / "planned").exists()
    mine, again = (org.hub.repos[name] for name in ("me/bert2gpt2", "me/again"))
    assert mine.private and not again.private
    assert set(again.files()) == set(contents(org.home / "again"))
    assert "model.safetensors" in org.hub.repos["org/gpt2"].files("refs/pr/1")
    assert (org.home / "carded" / "README.md").read_text() == "# By hand\n"


@pytest.mark.slow
def test_a_whole_account(org: HubSession) -> None:
    """The script lists what is stranded, and the recipe opens one pull request for each."""
    files = {name: org.hub.read("org/name", name) for name in ("config.json", "tf_model.h5")}
    org.hub.publish("org/second", files)
    org.hub.publish("other/third", files)
    (script,) = (text for text in blocks("rescue.md", "python") if "list_models" in text)
    (org.home / "list_stranded.py").write_text(script)
    listed = org.run_python("list_stranded.py", "org")
    assert listed.split() == ["org/name", "org/second"]
    command = ("run", "account.json", "--keep-going", "--summary", "rescued.json")
    for status in ("done", "skipped"):
        (done,) = org.run_commands(command)
        assert not done.code, done.stderr
        counts = json.loads((org.home / "rescued.json").read_text())["counts"]
        assert {name: number for name, number in counts.items() if number} == {status: 2}
    for name in ("org/name", "org/second"):
        repo = org.hub.repos[name]
        assert set(repo.files("refs/pr/1")) - set(repo.files()) == {"model.safetensors"}
        assert len(repo.pulls) == 1


def test_the_page_on_rescue(org: HubSession) -> None:
    run(org, "rescue.md")
    repo = org.hub.repos["org/name"]
    assert set(repo.files("refs/pr/1")) - set(repo.files()) == {"model.safetensors"}
    config = json.loads(org.hub.read("org/name", "config.json", "refs/pr/1"))
    assert config["model_type"] == "bert"
    assert contents(org.home / "name")["model.safetensors"] == org.hub.read(
        "org/name", "model.safetensors", "refs/pr/1"
    )
