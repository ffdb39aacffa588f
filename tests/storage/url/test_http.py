"""Checkpoints on web servers: those that work, and those that lie, stall or never end."""

from __future__ import annotations

import gzip
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import converter
from converter.cli import commands
from converter.storage import bounded_transfer
from converter.storage.bounded_transfer import TransferError, TransferLimit, check_answer
from tests import factories
from tests.reading import manifest_of
from tests.storage.url.http_server import Handler, WebServer, serving_web

LISTING, CONFIG, WEIGHTS = "GET /bert", "GET /bert/config.json", "GET /bert/model.safetensors"
FILE_URL = {"Location": "file:///etc/hosts"}
TOO_LONG = {"Content-Length": "9" * 40}


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    """Serve a BERT below /bert; nothing may be left behind."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    made = factories.make(Path("bert"), "bert").directory
    with serving_web() as server:
        for path in made.iterdir():
            server.files[f"bert/{path.name}"] = path.read_bytes()
        yield server
    assert not any((tmp_path / "tmp").iterdir()), "something was left behind"


def run(*args: object, code: int = 0) -> Result:
    result = CliRunner().invoke(commands, [*map(str, args)])
    assert result.exit_code == code, result.output
    return result


def refused(server: WebServer, *reasons: str, command: str = "convert") -> str:
    """Run a command that must fail with a message that has one of `reasons`; return the message."""
    output = ("out",) if command == "convert" else ()
    message = run(command, f"{server.address}/bert", *output, code=1).stderr
    assert any(reason in message for reason in reasons), message
    assert message.startswith(f"Error: {server.address}/bert")
    assert "bug in converter" not in message
    assert not Path("out").exists()
    return message


@pytest.mark.parametrize("chain", ["", "simplecache::"])
def test_a_directory_that_a_server_lists(web: WebServer, chain: str) -> None:
    run("convert", "bert", "local", "-q")
    run("convert", f"{chain}{web.address}/bert?key=1", "out", "-q")
    assert manifest_of(Path("out"))["tensors"] == manifest_of(Path("local"))["tensors"]
    run("inspect", f"{chain}{web.address}/bert/")


def test_headers_are_read_by_ranges(web: WebServer) -> None:
    converter.inspect(f"{web.address}/bert")
    assert web.requests.count("GET /bert/config.json") == 1
    assert web.requests.count("HEAD /bert/model.safetensors") == 1


@pytest.mark.parametrize("file_format", ["torch", "keras-hdf5", "flax-msgpack"])
def test_headers_take_few_requests(web: WebServer, tmp_path: Path, file_format: str) -> None:
    sizes: dict[str, Any] = {"hidden_size": 64, "vocab_size": 5000, "num_hidden_layers": 4}
    made = factories.make(tmp_path / "other", "bert", file_format=file_format, **sizes).directory
    for path in made.iterdir():
        web.files[f"other/{path.name}"] = path.read_bytes()
    converter.inspect(f"{web.address}/other")
    (weights,) = (path.name for path in made.iterdir() if path.name != "config.json")
    assert sum(weights in request for request in web.requests) <= 4


def endless(handler: Handler, path: str, data: bytes) -> None:
    """Send data without end, and without saying how much."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.end_headers()
    handler.close_connection = True
    while True:
        handler.wfile.write(b"x" * (1 << 20))


def gzip_bomb(handler: Handler, path: str, data: bytes) -> None:
    packed = gzip.compress(b"\0" * (64 << 20))
    headers = {"Content-Encoding": "gzip", "Content-Type": "text/html"}
    handler.reply(packed, 200, headers)


@pytest.mark.parametrize(
    ("at", "answer", "reasons"),
    [
        (LISTING, endless, ["more than 67,108,864 bytes"]),
        (CONFIG, endless, ["more than 1,04", "more than 1,05"]),
        (WEIGHTS, endless, ["more than 1,11"]),
        (LISTING, gzip_bomb, ["compresses its answer (gzip), unasked"]),
        (CONFIG, gzip_bomb, ["compresses its answer"]),
        (WEIGHTS, gzip_bomb, ["compresses its answer"]),
        (
            LISTING,
            lambda h, p, d: h.reply(b"\xff\xfe<<", 200, {"Content-Type": "x"}),
            ["not found"],
        ),
        (CONFIG, lambda h, p, d: h.reply(b"[" * 100_000), ["not a JSON file", "received"]),
        (CONFIG, lambda h, p, d: h.reply(b"[]"), ["were received"]),
        (CONFIG, lambda h, p, d: h.reply(b"", 416), ["416"]),
        (WEIGHTS, lambda h, p, d: h.reply(d[:-9]), ["were received"]),
        (
            WEIGHTS,
            lambda h, p, d: h.reply(d, 200, {"Content-Length": "1"}),
            ["cannot be", "were rec"],
        ),
        (WEIGHTS, lambda h, p, d: h.reply(d, 200, {"Content-Length": "x"}), ["Content-Length"]),
        (
            WEIGHTS,
            lambda h, p, d: h.reply(b"", 302, {"Location": "file:///etc/hosts"}),
            ["redirects"],
        ),
        (WEIGHTS, lambda h, p, d: h.reply(b"", 302, {"Location": h.path}), ["redirects in a loop"]),
        (WEIGHTS, lambda h, p, d: h.reply(b"", 302, {"Location": "http://[x"}), ["cannot be"]),
        (" /bert/m", lambda h, p, d: h.reply(d, 200, TOO_LONG), ["not found"]),
    ],
)
def test_answers_that_are_refused(
    web: WebServer, at: str, answer: Callable[[Handler, str, bytes], None], reasons: list[str]
) -> None:
    web.misbehave[at] = answer
    refused(web, *reasons)


@pytest.mark.parametrize(
    ("answer", "reasons"),
    [
        (lambda h, p, d: h.reply(d), ["range requests", "more than"]),
        (endless, ["more than"]),
        (gzip_bomb, ["compresses its answer"]),
        (
            lambda h, p, d: h.reply(d[:9], 206, {"Content-Range": "bytes 5-13/900"}),
            ["other bytes than it was asked for"],
        ),
        (
            lambda h, p, d: h.reply(d, 206, {"Content-Range": "bytes 0-99999999/900"}),
            ["other bytes than it was asked for"],
        ),
        (lambda h, p, d: h.reply(d, 206), ["other bytes than it was asked for"]),
        (lambda h, p, d: h.reply(b"", 416), ["416"]),
        (
            lambda h, p, d: h.reply(
                b"{", 206, {"Content-Range": re.sub("=", " ", h.headers["Range"]) + "/9"}
            ),
            ["bytes were received"],
        ),
    ],
)
def test_byte_ranges_that_are_refused(
    web: WebServer, answer: Callable[[Handler, str, bytes], None], reasons: list[str]
) -> None:
    web.misbehave[WEIGHTS] = answer
    refused(web, *reasons, command="inspect")


def slow(handler: Handler, path: str, data: bytes) -> None:
    """Send single bytes, as fast as the network carries them."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(max(len(data), 50_000)))
    handler.send_header("Content-Type", "text/html")
    handler.end_headers()
    for _ in range(50_000):
        handler.wfile.write(b" ")
        handler.wfile.flush()


@pytest.mark.parametrize("at", [LISTING, CONFIG, WEIGHTS])
def test_a_server_that_is_too_slow(
    web: WebServer, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(step=20.0)
    monkeypatch.setattr(bounded_transfer, "monotonic", lambda: next(clock))
    web.misbehave[at] = slow
    refused(web, "the server is too slow: ")


def test_the_speed_counts_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 29.0, 31.0, 32.0, 100.0])
    monkeypatch.setattr(bounded_transfer, "monotonic", lambda: next(clock))
    limit = TransferLimit(10**6)
    limit.add(1)
    limit.add(40_000)
    limit.add(1)
    with pytest.raises(TransferError, match="too slow: 40,003 bytes in 100 seconds"):
        limit.add(1)


def test_answers_to_requests_without_a_range_are_not_compared() -> None:
    check_answer(200, {}, None)
    check_answer(206, {"Content-Range": "bytes 0-9/10"}, "bytes=0-99")
    check_answer(200, {"Content-Encoding": "identity"}, "bytes=0-99")
    check_answer(404, {"Content-Encoding": "gzip"}, "bytes=5-9")
    with pytest.raises(TransferError, match="range requests"):
        check_answer(200, {}, "bytes=5-9")


@pytest.mark.parametrize(
    "link",
    [
        "../../../../tmp/evil.json",
        "/bert/../../evil.json",
        "tokenizer.json/../../../evil",
        "//evil/tokenizer.json",
        "\x1b]0;evil\x07.json",
        "x" * 5000,
        "a\nError: all is well",
        "model-00001-of-00002.safetensors/..",
        "file:///etc/hosts",
        "javascript:1",
    ],
)
def test_links_out_of_the_directory_are_not_followed(
    web: WebServer, tmp_path: Path, link: str
) -> None:
    names = ("config.json", "model.safetensors", link)
    page = "".join(f'<a href="{name}">x</a>' for name in names).encode()

    def answer(handler: Handler, path: str, data: bytes) -> None:
        if path.rstrip("/") == "bert":
            handler.reply(page, 200, {"Content-Type": "text/html"})
        else:
            handler.reply(web.files.get(path, b"{}"))

    web.misbehave[LISTING] = answer
    result = CliRunner().invoke(commands, ["convert", f"{web.address}/bert", "out"])
    assert result.exit_code in (0, 1)
    assert "\x1b" not in result.output
    assert "\nError: all is well" not in result.output
    assert "bug in converter" not in result.output
    assert {path.name for path in tmp_path.iterdir()} <= {"bert", "tmp", "out"}
