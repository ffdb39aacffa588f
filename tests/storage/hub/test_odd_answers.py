"""Answers that no Hub gives: odd, endless, slow, or with control characters."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from converter.cli import commands
from converter.storage import bounded_transfer, hub_client
from tests import factories
from tests.storage.hub.conftest import contents
from tests.storage.hub.hub_server import Handler, Hub, serving

COMMIT = "a" * 40
FILES = [{"rfilename": "config.json"}, {"rfilename": "model.safetensors"}]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Yield a Hub with the repository acme/bert, which this process may use."""
    from huggingface_hub import constants
    from huggingface_hub.utils._http import reset_sessions

    monkeypatch.chdir(tmp_path)
    factories.make(tmp_path / "bert", "bert")
    with serving() as (server, endpoint):
        server.publish("acme/bert", contents(tmp_path / "bert"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(time, "sleep", lambda seconds, sleep=time.sleep: sleep(seconds / 1000))
        monkeypatch.setattr(hub_client, "RETRY_DELAYS", (0.0, 0.0))
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        reset_sessions()
        yield server
        reset_sessions()


def run(*args: str, code: int) -> Result:
    result = CliRunner().invoke(commands, args)
    assert result.exit_code == code, result.output
    assert "bug in converter" not in result.output
    assert "\x1b" not in result.output
    return result


def refused(*args: str) -> str:
    message = run(*args, code=1).stderr
    assert message.startswith("Error: acme/bert")
    assert not Path("out").exists()
    return message


def with_body(
    body: Any, status: int = 200, headers: dict[str, str] | None = None
) -> Callable[[Handler], None]:
    return lambda handler: handler.answer(body, status, headers)


def info(*siblings: Any, **more: Any) -> dict[str, Any]:
    return {"sha": COMMIT, "siblings": [*FILES, *siblings], **more}


@pytest.mark.parametrize("command", ["inspect", "convert"])
@pytest.mark.parametrize(
    "body",
    [
        [],
        None,
        3,
        "text",
        {},
        {"sha": COMMIT},
        {"sha": COMMIT, "siblings": None},
        {"sha": COMMIT, "siblings": {"a": 1}},
        {"sha": None, "siblings": FILES},
        info(None),
        info(3),
        info([]),
        info({"rfilename": None}),
        info({"rfilename": ["x"]}),
        info({"rfilename": "../../x"}),
        info({"rfilename": "/etc/x"}),
        info({"rfilename": "x", "size": -1}),
        info({"rfilename": "x", "size": "9"}),
        {"sha": COMMIT, "siblings": [None, 3, {"rfilename": "../../x"}]},
        b"<html>Log in</html>",
        b'{"a":' * 100_000,
        b"[" * 100_000,
        b"\xff\xfe\x00",
        b"",
    ],
)
def test_listings_that_are_refused(hub: Hub, body: Any, command: str) -> None:
    hub.odd["GET /api/models/acme/bert"] = with_body(body)
    args = ("inspect", "acme/bert") if command == "inspect" else ("convert", "acme/bert", "out")
    message = refused(*args)
    assert "the Hub answers with something unexpected, not with a list of files" in message
    assert "(HF_ENDPOINT) is the Hub or a mirror of it" in message


@pytest.mark.parametrize("name", ["model\x1b]0;evil\x07.safetensors", "a\nError: x.safetensors"])
def test_names_with_control_characters(hub: Hub, name: str) -> None:
    index = {"weight_map": {"x": name}}
    files = contents(Path("bert"))
    files = {"config.json": files["config.json"], name: files["model.safetensors"]}
    hub.publish("acme/other", {**files, "model.safetensors.index.json": json.dumps(index).encode()})
    message = run("inspect", "acme/other", code=1).stderr
    assert "is not a file name in it" in message
    assert "\nError" not in message


def endless(handler: Handler) -> None:
    """Send data without end, and without saying how much."""
    send_endlessly(handler, 200)


def endless_error(handler: Handler) -> None:
    send_endlessly(handler, 500)


def send_endlessly(handler: Handler, status: int) -> None:
    handler.send_response(status)
    handler.end_headers()
    handler.close_connection = True
    while True:
        handler.wfile.write(b" " * (1 << 20))


def slow(handler: Handler) -> None:
    """Send single bytes, as fast as the network carries them."""
    handler.send_response(200)
    handler.send_header("Content-Length", "50000")
    handler.end_headers()
    for _ in range(50_000):
        handler.wfile.write(b" ")
        handler.wfile.flush()


def test_an_endless_listing(hub: Hub) -> None:
    hub.odd["GET /api/models/acme/bert"] = endless
    assert "the Hub lists more than 67,108,864 bytes" in refused("inspect", "acme/bert")


def test_an_endless_error(hub: Hub) -> None:
    hub.odd["GET /api/models/acme/bert"] = endless_error
    assert "the Hub answers with status 500" in refused("inspect", "acme/bert")


def test_a_slow_listing(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(step=20.0)
    monkeypatch.setattr(bounded_transfer, "monotonic", lambda: next(clock))
    hub.odd["GET /api/models/acme/bert"] = slow
    assert "the server is too slow: " in refused("inspect", "acme/bert")


@pytest.mark.parametrize(
    "answer",
    [
        with_body([]),
        with_body(None),
        with_body(b"x", 200, {"ETag": '"../../../../evil"', "X-Repo-Commit": "../../../evil"}),
        with_body(b"", 302, {"Location": "file:///etc/hosts"}),
        with_body(b"", 416),
        with_body(b"", 500, {"X-Error-Message": "\x1b[31mred"}),
    ],
)
@pytest.mark.parametrize("at", ["/resolve/", "GET /acme/bert/resolve/"])
def test_odd_answers_to_downloads(hub: Hub, tmp_path: Path, answer: Any, at: str) -> None:
    before = set(tmp_path.parent.iterdir())
    hub.odd[at] = answer
    refused("convert", "acme/bert", "out")
    assert set(tmp_path.parent.iterdir()) == before
    assert any(at in request for request in hub.log)
    assert not [*tmp_path.rglob("evil*")]


@pytest.mark.parametrize(
    "at", ["whoami", "/api/models/acme/bert", "validate-yaml", "/tree/", "/preupload/", "/commit/"]
)
@pytest.mark.parametrize("body", [[], None, b"<html>", {"errors": 3}, b"[" * 100_000])
def test_odd_answers_to_a_push(hub: Hub, at: str, body: Any) -> None:
    hub.odd[at] = with_body(body, 400 if at == "validate-yaml" else 200)
    run("convert", "bert", "made", "--to", "flax", "-q", code=0)
    result = CliRunner().invoke(commands, ["push", "made", "acme/bert"])
    assert result.exit_code in (0, 1), result.output
    assert "bug in converter" not in result.output
    assert result.exit_code == 0 or re.search(r"^Error: (acme/bert|made/)", result.stderr, re.M)


@pytest.mark.parametrize("at", ["whoami", "/tree/", "GET /acme/bert/resolve/"])
def test_endless_answers_to_the_client(hub: Hub, at: str) -> None:
    hub.odd[at] = endless
    if "resolve" in at:
        message = refused("convert", "acme/bert", "out")
    else:
        message = refused("push", "bert", "acme/bert")
    assert "the transfer failed: the server sends more than 67,108,864 bytes" in message


@pytest.mark.parametrize("at", ["whoami", "GET /acme/bert/resolve/"])
def test_slow_answers_to_the_client(hub: Hub, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(step=20.0)
    monkeypatch.setattr(bounded_transfer, "monotonic", lambda: next(clock))
    hub.odd[at] = slow
    args = ("convert", "acme/bert", "out") if "resolve" in at else ("push", "bert", "acme/bert")
    assert "the transfer failed: the server is too slow: " in refused(*args)
