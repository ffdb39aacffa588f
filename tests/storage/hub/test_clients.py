"""Each major version of the Hub's client, by LFS and by Xet: up, down, and when the way fails.

The server is another process's thread; the clients are the real ones, with hf_xet. Everything that
one client does by one way happens in one process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests import factories
from tests.environments import HUB_1, HUB_2, interpreter
from tests.storage.hub.conftest import Desk, Errand, contents
from tests.storage.hub.hub_server import serving

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


@pytest.fixture(params=CLIENTS)
def python(request: pytest.FixtureRequest) -> Path:
    other = CLIENTS[request.param]
    return interpreter(other) if other else Path(sys.executable)


@pytest.fixture
def desk(way: str, tmp_path: Path) -> Iterator[Desk]:
    with serving(xet=way == "xet") as (hub, endpoint):
        desk = Desk(hub, endpoint, tmp_path)
        for seed, name in enumerate(("one", "two", "three")):
            made = factories.make(tmp_path / name, "bert", vocab_size=3000, seed=seed).directory
            (made / "vocab.txt").write_text(f"[PAD]\n{name}\n")
        desk.hub.publish("other/theirs", {"config.json": (made / "config.json").read_bytes()})
        yield desk


def breaking(kind: str, part: str, times: int) -> tuple[str]:
    return (f"/_plan/{kind}/{quote(part)}?times={times}",)


MENDED = ("/_plan/nothing",)


def test_up_and_down(desk: Desk, way: str, python: Path) -> None:
    told = "--json"
    proposed = ("other/theirs", "--create-pr", "--only", "*.safetensors", told)
    errands = {
        "first upload is cut": breaking("dropping", UP[way], 1),
        "made": ("push", "one", "me/mine", "--private", told),
        "the commit fails": breaking("failing", "/commit/", 1),
        "branch": ("push", "two", "me/mine", "--revision", "dev", told),
        "unchanged": ("push", "one", "me/mine", told),
        "proposed": ("push", "one", *proposed),
        "again": ("push", "one", *proposed),
        "continued": ("push", "two", *proposed),
        "no rights": ("push", "one", "other/theirs", told),
        "wrong token": ("push", "one", "me/mine", "--token", "hf_wrong", told),
        "read only": ("push", "one", "ro/new", "--token", "hf_ro", told),
        "the storage fails": breaking("failing", "GET /_blob/", 1),
        "headers": ("inspect", "other/theirs@refs/pr/1", told),
        "download is cut": breaking("dropping", DOWN[way], 1),
        "down": ("convert", "me/mine", "down", "--to", "pytorch", "-q"),
        "download fails": breaking("failing", DOWN[way], 1),
        "down of a branch": ("convert", "me/mine@dev", "dev", "--to", "pytorch", "-q"),
        "down of a proposal": ("convert", "other/theirs@refs/pr/1", "pr", "--to", "pytorch", "-q"),
        "uploads fail": breaking("dropping", UP[way], 999),
        "failed": ("push", "three", "me/new", told),
        "mended": MENDED,
        "sent after all": ("push", "three", "me/new", told),
        "downloads fail": breaking("failing", DOWN[way], 999),
        "not had": ("convert", "me/new", "new", "--to", "pytorch", "-q"),
        "mended again": MENDED,
        "had after all": ("convert", "me/new", "new", "--to", "pytorch", "-q"),
    }
    xet = "0" if way == "xet" else "1"
    ended = desk.errands(*errands.values(), python=python, HF_HUB_DISABLE_XET=xet, **QUICK)
    done = dict(zip(errands, ended, strict=True))
    went_wrong = {"no rights", "wrong token", "read only", "failed", "not had"}
    failed = {name: each.stderr for name, each in done.items() if each.code}
    assert set(failed) == went_wrong, failed
    assert not any("Traceback" in each.stderr for each in ended)

    one, two = contents(desk.home / "one"), contents(desk.home / "two")
    mine, theirs = desk.hub.repos["me/mine"], desk.hub.repos["other/theirs"]
    for files, revision in ((one, "main"), (two, "dev")):
        assert {name: desk.hub.read("me/mine", name, revision) for name in files} == files
    assert mine.private and done["made"].told["created"]
    assert done["unchanged"].told["sent"] == [] and done["unchanged"].told["commit"] is None
    assert sorted(done["branch"].told["sent"]) == ["model.safetensors", "vocab.txt"]

    numbers = [done[name].told["pull_request"] for name in ("proposed", "again", "continued")]
    assert numbers == [1, 1, 1] and len(theirs.pulls) == 1
    assert done["again"].told["sent"] == [] and done["continued"].told["continued"]
    assert set(theirs.files("main")) == {"config.json"}
    sent = desk.hub.read("other/theirs", "model.safetensors", "refs/pr/1")
    assert sent == two["model.safetensors"]

    check_refusals(desk, done)
    assert done["headers"].told["fits"]
    stored = [each for each in desk.hub.served if each[0].startswith("/_blob/")]
    assert any(nbytes < len(sent) // 2 for _, _, nbytes in stored)
    assert not any(token for _, token, _ in stored)
    for name, output in (("one", "down"), ("two", "dev"), ("two", "pr"), ("three", "new")):
        fetched = contents(desk.home / output)["model.safetensors"]
        assert fetched == contents(desk.home / name)["model.safetensors"], output
    cached = (desk.home / "hf" / "hub").glob("models--*/snapshots/*/model.safetensors")
    places = [contents(desk.home / name) for name in ("one", "two", "three")]
    assert {path.read_bytes() for path in cached} == {
        place["model.safetensors"] for place in places
    }
    asked = desk.hub.requests("/_cas/"), desk.hub.requests("/_lfs/")
    assert [bool(each) for each in asked] == [way == "xet", way == "lfs"]


def check_refusals(desk: Desk, done: dict[str, Errand]) -> None:
    """What went wrong is told with what to do, and nothing was half-done."""
    for name, expected, remedy in (
        ("no rights", "may not write", "--create-pr"),
        ("wrong token", "does not recognize the token", "hf auth login"),
        ("read only", "may not write", "scope"),
        ("failed", "me/new", "Try again"),
        ("not had", "me/new", "Try again"),
    ):
        assert expected in done[name].stderr and remedy in done[name].stderr, done[name]
    assert "ro/new" not in desk.hub.repos
    repo = desk.hub.repos["me/new"]
    assert [len(commit["files"]) for commit in repo.commits.values()] == [0, 3]
