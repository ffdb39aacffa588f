"""Checkpoints that go to the Hub."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

import converter
from converter.cli.writing import verify_and_push
from converter.commands.push import push
from converter.errors import OutputError, UsageError
from converter.storage.hub_card import for_repository, is_generated, with_checksum
from tests.storage.hub.conftest import HubSession, contents

pytestmark = pytest.mark.usefixtures("bert")


def pushed(session: HubSession, *args: object, **how: Any) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(session.converter("push", *args, "--json", **how).stdout)
    return report


def refused(session: HubSession, *args: object, **how: Any) -> str:
    done = session.converter("push", *args, "--json", code=1, **how)
    assert "Traceback" not in done.stderr
    return json.dumps(json.loads(done.stdout)["error"])


def test_a_repository_is_made_and_holds_every_byte(
    session: HubSession, bert: dict[str, bytes]
) -> None:
    (session.home / "bert" / ".hidden").write_text("stays at home")
    report = pushed(session, "bert", "me/mine", "--private", "--commit-message", "First")
    repo = session.hub.repos["me/mine"]
    local = {name: data for name, data in contents(session.home / "bert").items() if name[0] != "."}
    assert {name: session.hub.read("me/mine", name) for name in repo.files()} == local
    assert repo.private and report["created"] and sorted(report["sent"]) == sorted(local)
    assert repo.commits[repo.refs["main"]]["title"] == "First"
    assert report["commit"] == repo.refs["main"]


@pytest.mark.slow
def test_unchanged_files_are_not_sent(session: HubSession) -> None:
    pushed(session, "bert", "me/mine")
    before = session.hub.repos["me/mine"].refs["main"]
    report = pushed(session, "bert", "me/mine")
    assert report["sent"] == [] and report["commit"] is None and not report["created"]
    assert session.hub.repos["me/mine"].refs["main"] == before
    (session.home / "bert" / "vocab.txt").write_text("one more\n")
    uploads = len(session.hub.requests("PUT /_lfs/"))
    assert pushed(session, "bert", "me/mine")["sent"] == ["vocab.txt"]
    assert len(session.hub.requests("PUT /_lfs/")) == uploads
    assert session.hub.read("me/mine", "vocab.txt") == b"one more\n"


def test_only_some_files_to_a_branch(session: HubSession) -> None:
    pushed(session, "bert", "me/mine", "--only", "*.safetensors", "--only", "config.*")
    assert set(session.hub.repos["me/mine"].files()) == {"model.safetensors", "config.json"}
    pushed(session, "bert", "me/mine", "--revision", "fp16", "--only", "*.safetensors")
    assert session.hub.repos["me/mine"].refs["fp16"] == session.hub.repos["me/mine"].refs["main"]


@pytest.mark.slow
def test_a_pull_request_is_opened_once_and_continued(session: HubSession) -> None:
    session.hub.publish("other/theirs", {"config.json": b"{}"})
    main = session.hub.repos["other/theirs"].refs["main"]
    args = ("bert", "other/theirs", "--create-pr", "--only", "*.safetensors")
    first = pushed(session, *args, "--commit-message", "Add weights")
    assert (first["pull_request"], first["continued"]) == (1, False)
    assert first["url"].endswith("/other/theirs/discussions/1")
    again = pushed(session, *args, "--commit-message", "Add weights")
    assert again["continued"] and again["sent"] == []
    (session.home / "bert" / "new.safetensors").write_bytes(b"more")
    more = pushed(session, *args, "--commit-message", "Add weights")
    assert more["sent"] == ["new.safetensors"] and more["pull_request"] == 1
    assert pushed(session, *args, "--commit-message", "Another")["pull_request"] == 2
    repo = session.hub.repos["other/theirs"]
    assert repo.refs["main"] == main
    assert set(repo.files("refs/pr/1")) == {"config.json", "model.safetensors", "new.safetensors"}


@pytest.mark.slow
def test_refusals_say_what_to_do(session: HubSession) -> None:
    session.hub.publish("me/public", {"config.json": b"{}"})
    assert "hf auth login" in refused(session, "bert", "me/mine", token=None)
    assert "does not recognize the token" in refused(session, "bert", "me/mine", token="hf_wrong")
    assert "scope" in refused(session, "bert", "ro/mine", token="hf_ro")
    assert "may not write" in refused(session, "bert", "other/mine")
    assert "is public" in refused(session, "bert", "me/public", "--private")
    assert "without --create-pr" in refused(session, "bert", "me/mine", "--create-pr")
    assert "not a checkpoint directory" in refused(session, "hf", "me/mine")
    assert "no file matches" in refused(session, "bert", "me/mine", "--only", "*.ckpt")
    assert set(session.hub.repos) == {"acme/bert", "me/public"}
    assert set(session.hub.repos["me/public"].files()) == {"config.json"}


@pytest.mark.slow
def test_server_errors_are_retried_then_reported(
    session: HubSession, bert: dict[str, bytes]
) -> None:
    session.hub.failing = {"/commit/": 1}
    assert pushed(session, "bert", "me/mine")["commit"]
    session.hub.failing = {"/commit/": 99}
    (session.home / "bert" / "config.json").write_text("{}")
    assert "status 503" in refused(session, "bert", "me/mine")
    assert session.hub.read("me/mine", "config.json") == bert["config.json"]


@pytest.mark.slow
def test_an_edited_card_is_not_replaced(session: HubSession) -> None:
    card = with_checksum('# Made here\n\nfrom_pretrained("path/to/this-model")\n')
    (session.home / "bert" / "README.md").write_bytes(card)
    report = pushed(session, "bert", "me/mine")
    there = session.hub.read("me/mine", "README.md")
    assert b'from_pretrained("me/mine")' in there and is_generated(there)
    assert pushed(session, "bert", "me/mine")["sent"] == []
    session.hub.publish("me/mine", {"README.md": b"# By hand\n"})
    report = pushed(session, "bert", "me/mine")
    assert report["kept"] == ["README.md"] and report["sent"] == []
    assert session.hub.read("me/mine", "README.md") == b"# By hand\n"
    (session.home / "bert" / "README.md").write_bytes(b"# By hand, and better\n")
    assert pushed(session, "bert", "me/mine")["sent"] == ["README.md"]


def test_an_invalid_card_is_reported_before_the_repository_is_created(session: HubSession) -> None:
    (session.home / "bert" / "README.md").write_text("---\nlicense: nonsense\n---\n# Mine\n")
    report = refused(session, "bert", "me/mine")
    assert "nothing was sent" in report and "must be one of [apache-2.0" in report
    assert "me/mine" not in session.hub.repos


def test_a_finished_output_stays_and_can_be_pushed_later(session: HubSession) -> None:
    session.hub.failing = {"/commit/": 99}
    how = ("--private", "--token", "hf_test", "--commit-message", "A b", "--only", "*.json")
    made, pushed_later = "convert bert out --to pytorch --push me/mine".split(), "converter push "
    (failed,) = session.run_commands((*made, *how, "--json"))
    assert failed.code == 1 and "hf_test" not in failed.stderr
    error = json.loads(failed.stdout)["error"]
    assert "status 503" in error["message"] and "out is complete and verified" in error["remedy"]
    session.hub.failing.clear()
    line = next(row for row in error["remedy"].splitlines() if pushed_later in row)
    session.converter(*shlex.split(line)[1:])
    repo = session.hub.repos["me/mine"]
    sent = {name for name in contents(session.home / "out") if name.endswith(".json")}
    assert set(repo.files()) == sent and repo.private
    assert repo.commits[repo.refs["main"]]["title"] == "A b"


def test_an_interrupted_push_prints_the_next_command(
    session: HubSession, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object, **how: object) -> None:
        raise KeyboardInterrupt

    result = converter.convert(session.home / "bert", session.home / "my out", to=["pytorch"])
    how = dict.fromkeys(("private", "revision", "create_pr", "commit_message", "token", "only"))
    monkeypatch.setattr("converter.verified_push.push", interrupted)
    with pytest.raises(KeyboardInterrupt):
        verify_and_push(result, {**how, "repo_id": "me/mine", "only": (), "token": "hf_secret"}, ())
    report = capsys.readouterr().err
    assert f"converter push '{session.home / 'my out'}' me/mine" in report
    assert "stays unchanged" in report and "hf_secret" not in report


def test_any_edit_invalidates_the_checksum() -> None:
    card = with_checksum("# Title\n\npath/to/this-model\n")
    assert is_generated(card) and is_generated(for_repository(card, "me/mine"))
    assert b"me/mine" in for_repository(card, "me/mine")
    changed = card.replace(b"Title", b"Other")
    assert not is_generated(changed) and for_repository(changed, "me/mine") == changed
    assert not is_generated(b"# By hand\n") and not is_generated(card + b"more\n")


def test_wrong_calls(session: HubSession) -> None:
    with pytest.raises(UsageError, match="not a repository id"):
        push(session.home / "bert", "just-a-name")
    with pytest.raises(UsageError, match="revision"):
        push(session.home / "bert", "me/mine", create_pr=True, revision="dev")
    with pytest.raises(OutputError, match="not a checkpoint directory"):
        push(session.home / "nothing", "me/mine")


@pytest.mark.slow
def test_an_output_that_is_a_repository(session: HubSession, bert: dict[str, bytes]) -> None:
    session.converter("convert", "hf://acme/bert", "hf://acme/copy", "--to", "pytorch", "-q")
    assert session.hub.read("acme/copy", "model.safetensors") == bert["model.safetensors"]
    report = session.converter("convert", "bert", "hf://acme/copy", "-q", code=1).stderr
    assert "hf://acme/copy holds a checkpoint\nAdd --overwrite" in report
    args = ("bert", "hf://acme/copy", "-q", "--to", "pytorch", "--dtype", "float16")
    session.converter("convert", *args, "--overwrite")
    assert len(session.hub.read("acme/copy", "model.safetensors")) < len(bert["model.safetensors"])
    report = session.converter("inspect", "hf://acme/copy").stdout
    assert "float16" in report
