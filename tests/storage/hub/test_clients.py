"""Push and download with each major version of the Hub client, by LFS and Xet, with failures.

The server is another process's thread; the clients are the real ones, with hf_xet. Everything that
one client does by one way happens in one process.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests import factories
from tests.environments import HUB_1, HUB_2, interpreter
from tests.storage.hub.conftest import CommandResult, HubSession, contents
from tests.storage.hub.hub_server import serving
from tests.storage.hub.test_streaming import Storage

CLIENTS = {"0.36": "", "1.33": HUB_1, "2.4": HUB_2}
UP = {"lfs": "PUT /_lfs/", "xet": "POST /_cas/v1/xorbs"}
DOWN = {"lfs": "GET /_blob/", "xet": "GET /_xorb/"}
QUICK = {
    "HF_XET_CLIENT_RETRY_BASE_DELAY": "20ms",
    "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "2",
    "HF_XET_CLIENT_RETRY_MAX_DURATION": "2s",
}
"""hf_xet tries again by itself, for minutes."""


@pytest.fixture(params=["lfs", "xet"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.network] if other else [])
        for name, other in CLIENTS.items()
    ]
)
def python(request: pytest.FixtureRequest) -> Path:
    other = CLIENTS[request.param]
    return interpreter(other) if other else Path(sys.executable)


@pytest.fixture
def session(way: str, tmp_path: Path) -> Iterator[HubSession]:
    with serving(xet=way == "xet") as (hub, endpoint):
        session = HubSession(hub, endpoint, tmp_path)
        for seed, name in enumerate(("one", "two", "three")):
            made = factories.make(tmp_path / name, "bert", vocab_size=3000, seed=seed).directory
            (made / "vocab.txt").write_text(f"[PAD]\n{name}\n")
        session.hub.publish("other/theirs", {"config.json": (made / "config.json").read_bytes()})
        yield session


def breaking(kind: str, part: str, times: int) -> tuple[str]:
    return (f"/_plan/{kind}/{quote(part)}?times={times}",)


REPAIR = ("/_plan/nothing",)


@pytest.mark.slow
def test_push_and_download_with_each_client(session: HubSession, way: str, python: Path) -> None:
    json_flag = "--json"
    proposed = ("other/theirs", "--create-pr", "--only", "*.safetensors", json_flag)
    commands = {
        "first upload is cut": breaking("dropping", UP[way], 1),
        "made": ("push", "one", "me/mine", "--private", json_flag),
        "the commit fails": breaking("failing", "/commit/", 1),
        "branch": ("push", "two", "me/mine", "--revision", "dev", json_flag),
        "unchanged": ("push", "one", "me/mine", json_flag),
        "proposed": ("push", "one", *proposed),
        "again": ("push", "one", *proposed),
        "continued": ("push", "two", *proposed),
        "no rights": ("push", "one", "other/theirs", json_flag),
        "wrong token": ("push", "one", "me/mine", "--token", "hf_wrong", json_flag),
        "read only": ("push", "one", "ro/new", "--token", "hf_ro", json_flag),
        "the storage fails": breaking("failing", "GET /_blob/", 1),
        "headers": ("inspect", "other/theirs@refs/pr/1", json_flag),
        "download is cut": breaking("dropping", DOWN[way], 1),
        "down": ("convert", "me/mine", "down", "--to", "pytorch", "-q"),
        "download fails": breaking("failing", DOWN[way], 1),
        "down of a branch": ("convert", "me/mine@dev", "dev", "--to", "pytorch", "-q"),
        "down of a proposal": ("convert", "other/theirs@refs/pr/1", "pr", "--to", "pytorch", "-q"),
        "uploads fail": breaking("dropping", UP[way], 999),
        "failed": ("push", "three", "me/new", json_flag),
        "repaired": REPAIR,
        "sent after all": ("push", "three", "me/new", json_flag),
        "downloads fail": breaking("failing", DOWN[way], 999),
        "not had": ("convert", "me/new", "new", "--to", "pytorch", "-q"),
        "repaired again": REPAIR,
        "had after all": ("convert", "me/new", "new", "--to", "pytorch", "-q"),
    }
    xet = "0" if way == "xet" else "1"
    ended = session.run_commands(*commands.values(), python=python, HF_HUB_DISABLE_XET=xet, **QUICK)
    done = dict(zip(commands, ended, strict=True))
    went_wrong = {"no rights", "wrong token", "read only", "failed", "not had"}
    failed = {name: each.stderr for name, each in done.items() if each.code}
    assert set(failed) == went_wrong, failed
    assert not any("Traceback" in each.stderr for each in ended)

    one, two = contents(session.home / "one"), contents(session.home / "two")
    mine, theirs = session.hub.repos["me/mine"], session.hub.repos["other/theirs"]
    for files, revision in ((one, "main"), (two, "dev")):
        assert {name: session.hub.read("me/mine", name, revision) for name in files} == files
    assert mine.private and done["made"].report["created"]
    assert done["unchanged"].report["sent"] == [] and done["unchanged"].report["commit"] is None
    assert sorted(done["branch"].report["sent"]) == ["model.safetensors", "vocab.txt"]

    numbers = [done[name].report["pull_request"] for name in ("proposed", "again", "continued")]
    assert numbers == [1, 1, 1] and len(theirs.pulls) == 1
    assert done["again"].report["sent"] == [] and done["continued"].report["continued"]
    assert set(theirs.files("main")) == {"config.json"}
    sent = session.hub.read("other/theirs", "model.safetensors", "refs/pr/1")
    assert sent == two["model.safetensors"]

    check_refusals(session, done)
    assert done["headers"].report["fits"]
    stored = [each for each in session.hub.served if each[0].startswith("/_blob/")]
    assert any(nbytes < len(sent) // 2 for _, _, nbytes in stored)
    assert not any(token for _, token, _ in stored)
    for name, output in (("one", "down"), ("two", "dev"), ("two", "pr"), ("three", "new")):
        fetched = contents(session.home / output)["model.safetensors"]
        assert fetched == contents(session.home / name)["model.safetensors"], output
    cached = (session.home / "hf" / "hub").glob("models--*/snapshots/*/model.safetensors")
    locations = [contents(session.home / name) for name in ("one", "two", "three")]
    assert {path.read_bytes() for path in cached} == {
        location["model.safetensors"] for location in locations
    }
    asked = session.hub.requests("/_cas/"), session.hub.requests("/_lfs/")
    assert [bool(each) for each in asked] == [way == "xet", way == "lfs"]


def check_refusals(session: HubSession, done: dict[str, CommandResult]) -> None:
    """Check that errors have a remedy, and that nothing was partly done."""
    for name, expected, remedy in (
        ("no rights", "may not write", "--create-pr"),
        ("wrong token", "does not recognize the token", "hf auth login"),
        ("read only", "may not write", "scope"),
        ("failed", "me/new", "Try again"),
        ("not had", "me/new", "Try again"),
    ):
        assert expected in done[name].stderr and remedy in done[name].stderr, done[name]
    assert "ro/new" not in session.hub.repos
    repo = session.hub.repos["me/new"]
    assert [len(commit["files"]) for commit in repo.commits.values()] == [0, 3]


@pytest.mark.slow
def test_writes_while_each_client_downloads(session: HubSession, way: str, python: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 128, "vocab_size": 80_000}
    made = factories.make(session.home / "large", "bert", **sizes).directory
    session.hub.publish("other/large", contents(made))
    if way == "xet":
        push = ("push", "large", "me/large", "-q")
        assert session.run_commands(push, python=python, HF_HUB_DISABLE_XET="0")[0].code == 0
    storage = Storage(session.hub, 0.7)

    def watch() -> None:
        """Let the rest be sent once a part is in the output."""
        while not storage.rest.wait(0.05):
            files = [*session.home.glob(".down*/*"), *session.home.glob(".down*/*/*")]
            if sum(file.stat().st_blocks for file in files) > 2000:
                storage.rest.set()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    name = "me/large" if way == "xet" else "other/large"
    command = ("convert", name, "down", "--to", "pytorch", "-q")
    xet = "0" if way == "xet" else "1"
    (done,) = session.run_commands(command, python=python, HF_HUB_DISABLE_XET=xet)
    storage.rest.set()
    watcher.join()
    assert done.code == 0, done.stderr
    weights = "model.safetensors"
    assert (session.home / "down" / weights).read_bytes() == (made / weights).read_bytes()
    assert not storage.came_too_late
    assert len(storage.downloads) == (way == "lfs")
    (cached,) = (session.home / "hf" / "hub").glob(f"models--*/snapshots/*/{weights}")
    assert cached.read_bytes() == (made / weights).read_bytes()
