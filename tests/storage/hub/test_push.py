"""Checkpoints that go to the Hub."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

import converter
from converter.cli.writing import verify_and_push
from converter.errors import OutputError, UsageError
from converter.storage.hub_card import for_repository, is_generated, with_checksum
from converter.storage.hub_upload import push
from tests.storage.hub.conftest import Desk, contents

pytestmark = pytest.mark.usefixtures("bert")


def pushed(desk: Desk, *args: object, **how: Any) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(desk.converter("push", *args, "--json", **how).stdout)
    return told


def refused(desk: Desk, *args: object, **how: Any) -> str:
    done = desk.converter("push", *args, "--json", code=1, **how)
    assert "Traceback" not in done.stderr
    return json.dumps(json.loads(done.stdout)["error"])


def test_a_repository_is_made_and_holds_every_byte(desk: Desk, bert: dict[str, bytes]) -> None:
    (desk.home / "bert" / ".hidden").write_text("stays at home")
    told = pushed(desk, "bert", "me/mine", "--private", "--commit-message", "First")
    repo = desk.hub.repos["me/mine"]
    local = {name: data for name, data in contents(desk.home / "bert").items() if name[0] != "."}
    assert {name: desk.hub.read("me/mine", name) for name in repo.files()} == local
    assert repo.private and told["created"] and sorted(told["sent"]) == sorted(local)
    assert repo.commits[repo.refs["main"]]["title"] == "First"
    assert told["commit"] == repo.refs["main"]


def test_what_is_there_is_not_sent_again(desk: Desk) -> None:
    pushed(desk, "bert", "me/mine")
    before = desk.hub.repos["me/mine"].refs["main"]
    told = pushed(desk, "bert", "me/mine")
    assert told["sent"] == [] and told["commit"] is None and not told["created"]
    assert desk.hub.repos["me/mine"].refs["main"] == before
    (desk.home / "bert" / "vocab.txt").write_text("one more\n")
    uploads = len(desk.hub.requests("PUT /_lfs/"))
    assert pushed(desk, "bert", "me/mine")["sent"] == ["vocab.txt"]
    assert len(desk.hub.requests("PUT /_lfs/")) == uploads
    assert desk.hub.read("me/mine", "vocab.txt") == b"one more\n"


def test_only_some_files_to_a_branch(desk: Desk) -> None:
    pushed(desk, "bert", "me/mine", "--only", "*.safetensors", "--only", "config.*")
    assert set(desk.hub.repos["me/mine"].files()) == {"model.safetensors", "config.json"}
    pushed(desk, "bert", "me/mine", "--revision", "fp16", "--only", "*.safetensors")
    assert desk.hub.repos["me/mine"].refs["fp16"] == desk.hub.repos["me/mine"].refs["main"]


def test_a_pull_request_is_opened_once_and_continued(desk: Desk) -> None:
    desk.hub.publish("other/theirs", {"config.json": b"{}"})
    main = desk.hub.repos["other/theirs"].refs["main"]
    args = ("bert", "other/theirs", "--create-pr", "--only", "*.safetensors")
    first = pushed(desk, *args, "--commit-message", "Add weights")
    assert (first["pull_request"], first["continued"]) == (1, False)
    assert first["url"].endswith("/other/theirs/discussions/1")
    again = pushed(desk, *args, "--commit-message", "Add weights")
    assert again["continued"] and again["sent"] == []
    (desk.home / "bert" / "new.safetensors").write_bytes(b"more")
    more = pushed(desk, *args, "--commit-message", "Add weights")
    assert more["sent"] == ["new.safetensors"] and more["pull_request"] == 1
    assert pushed(desk, *args, "--commit-message", "Another")["pull_request"] == 2
    repo = desk.hub.repos["other/theirs"]
    assert repo.refs["main"] == main
    assert set(repo.files("refs/pr/1")) == {"config.json", "model.safetensors", "new.safetensors"}


def test_refusals_say_what_to_do(desk: Desk) -> None:
    desk.hub.publish("me/public", {"config.json": b"{}"})
    assert "hf auth login" in refused(desk, "bert", "me/mine", token=None)
    assert "does not recognize the token" in refused(desk, "bert", "me/mine", token="hf_wrong")
    assert "scope" in refused(desk, "bert", "ro/mine", token="hf_ro")
    assert "may not write" in refused(desk, "bert", "other/mine")
    assert "is public" in refused(desk, "bert", "me/public", "--private")
    assert "without --create-pr" in refused(desk, "bert", "me/mine", "--create-pr")
    assert "not a checkpoint directory" in refused(desk, "hf", "me/mine")
    assert "no file matches" in refused(desk, "bert", "me/mine", "--only", "*.ckpt")
    assert set(desk.hub.repos) == {"acme/bert", "me/public"}
    assert set(desk.hub.repos["me/public"].files()) == {"config.json"}


def test_a_failing_server_is_asked_again_then_told(desk: Desk, bert: dict[str, bytes]) -> None:
    desk.hub.failing = {"/commit/": 1}
    assert pushed(desk, "bert", "me/mine")["commit"]
    desk.hub.failing = {"/commit/": 99}
    (desk.home / "bert" / "config.json").write_text("{}")
    assert "status 503" in refused(desk, "bert", "me/mine")
    assert desk.hub.read("me/mine", "config.json") == bert["config.json"]


def test_a_card_that_somebody_wrote_stays(desk: Desk) -> None:
    card = with_checksum('# Made here\n\nfrom_pretrained("path/to/this-model")\n')
    (desk.home / "bert" / "README.md").write_bytes(card)
    told = pushed(desk, "bert", "me/mine")
    there = desk.hub.read("me/mine", "README.md")
    assert b'from_pretrained("me/mine")' in there and is_generated(there)
    assert pushed(desk, "bert", "me/mine")["sent"] == []
    desk.hub.publish("me/mine", {"README.md": b"# By hand\n"})
    told = pushed(desk, "bert", "me/mine")
    assert told["kept"] == ["README.md"] and told["sent"] == []
    assert desk.hub.read("me/mine", "README.md") == b"# By hand\n"
    (desk.home / "bert" / "README.md").write_bytes(b"# By hand, and better\n")
    assert pushed(desk, "bert", "me/mine")["sent"] == ["README.md"]


def test_a_card_that_the_hub_refuses_is_told_before_anything_is_made(desk: Desk) -> None:
    (desk.home / "bert" / "README.md").write_text("---\nlicense: nonsense\n---\n# Mine\n")
    told = refused(desk, "bert", "me/mine")
    assert "nothing was sent" in told and "must be one of [apache-2.0" in told
    assert "me/mine" not in desk.hub.repos


def test_what_is_finished_stays_and_can_be_pushed_later(desk: Desk) -> None:
    desk.hub.failing = {"/commit/": 99}
    how = ("--private", "--token", "hf_test", "--commit-message", "A b", "--only", "*.json")
    made, pushed_later = "convert bert out --to pytorch --push me/mine".split(), "converter push "
    (failed,) = desk.errands((*made, *how, "--json"))
    assert failed.code == 1 and "hf_test" not in failed.stderr
    error = json.loads(failed.stdout)["error"]
    assert "status 503" in error["message"] and "out is complete and verified" in error["remedy"]
    desk.hub.failing.clear()
    line = next(row for row in error["remedy"].splitlines() if pushed_later in row)
    desk.converter(*shlex.split(line)[1:])
    repo = desk.hub.repos["me/mine"]
    sent = {name for name in contents(desk.home / "out") if name.endswith(".json")}
    assert set(repo.files()) == sent and repo.private
    assert repo.commits[repo.refs["main"]]["title"] == "A b"


def test_an_interrupted_push_says_how_to_go_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object, **how: object) -> None:
        raise KeyboardInterrupt

    result = converter.convert(desk.home / "bert", desk.home / "my out", to=["pytorch"])
    how = dict.fromkeys(("private", "revision", "create_pr", "commit_message", "token", "only"))
    monkeypatch.setattr("converter.verified_push.push", interrupted)
    with pytest.raises(KeyboardInterrupt):
        verify_and_push(result, {**how, "repo_id": "me/mine", "only": (), "token": "hf_secret"}, ())
    told = capsys.readouterr().err
    assert f"converter push '{desk.home / 'my out'}' me/mine" in told
    assert "stays unchanged" in told and "hf_secret" not in told


def test_the_seal_breaks_with_any_change() -> None:
    card = with_checksum("# Title\n\npath/to/this-model\n")
    assert is_generated(card) and is_generated(for_repository(card, "me/mine"))
    assert b"me/mine" in for_repository(card, "me/mine")
    changed = card.replace(b"Title", b"Other")
    assert not is_generated(changed) and for_repository(changed, "me/mine") == changed
    assert not is_generated(b"# By hand\n") and not is_generated(card + b"more\n")


def test_wrong_calls(desk: Desk) -> None:
    with pytest.raises(UsageError, match="not a repository id"):
        push(desk.home / "bert", "just-a-name")
    with pytest.raises(UsageError, match="revision"):
        push(desk.home / "bert", "me/mine", create_pr=True, revision="dev")
    with pytest.raises(OutputError, match="not a checkpoint directory"):
        push(desk.home / "nothing", "me/mine")


def test_an_output_that_is_a_repository(desk: Desk, bert: dict[str, bytes]) -> None:
    desk.converter("convert", "hf://acme/bert", "hf://acme/copy", "--to", "pytorch", "-q")
    assert desk.hub.read("acme/copy", "model.safetensors") == bert["model.safetensors"]
    told = desk.converter("convert", "bert", "hf://acme/copy", "-q", code=1).stderr
    assert "hf://acme/copy holds a checkpoint\nAdd --overwrite" in told
    args = ("bert", "hf://acme/copy", "-q", "--to", "pytorch", "--dtype", "float16")
    desk.converter("convert", *args, "--overwrite")
    assert len(desk.hub.read("acme/copy", "model.safetensors")) < len(bert["model.safetensors"])
    told = desk.converter("inspect", "hf://acme/copy").stdout
    assert "float16" in told
