"""No user, password, query or token of the user appears in anything that a command puts out."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from click.testing import CliRunner

import converter
from converter.cli import commands
from converter.errors import ConverterError, Problem
from converter.storage.references import Url
from converter.text import printable, redact, redact_url, redact_values
from tests import factories
from tests.storage.hub.conftest import HubSession, contents
from tests.storage.hub.hub_server import serving
from tests.storage.url.http_server import Handler, WebServer, serving_web

pytestmark = pytest.mark.slow

USER, PASSWORD, SIGNATURE = "mArKeR1", "pw-mArKeR2", "mArKeR3"
TOKEN = "hf_mArKeR4abcdefghijklmnop"
MARKER = re.compile("mArKeR")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("404, url='https://u:p@h/x?sig=a'", "404, url='https://h/x'"),
        ("see (https://h/x?y=1#z), or s3://k:s@b/c?d", "see (https://h/x), or s3://b/c"),
        (
            "port=443): url: /a/b.json?X-Amz-Signature=abc (Caused",
            "port=443): url: /a/b.json (Caused",
        ),
        ("simplecache::https://u:p@h/x?y", "simplecache::https://h/x"),
        ("https:/u:p@h/x?y is not a path", "https:/h/x is not a path"),
        ("Authorization: Bearer abcdef", "Authorization: ***"),
        ("{'authorization': 'Basic dTpw'}", "{'authorization': '***'}"),
        (f"token {TOKEN} is wrong", "token *** is wrong"),
        ("hf_hub_download of hf_xet", "hf_hub_download of hf_xet"),
        ("X-Amz-Credential=abc&x=1", "X-Amz-Credential=***&x=1"),
        ("https://h:80/org/name@v1", "https://h:80/org/name@v1"),
        ("hf://org/name@v1/x", "hf://org/name@v1/x"),
        ("file:///a/b?c#d", "file:///a/b?c#d"),
        ("no URL; a = b, 3:4 @ x", "no URL; a = b, 3:4 @ x"),
    ],
)
def test_secrets_are_left_out_of_texts(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown
    assert redact_values({text: [text, 1, None]}) == {shown: [shown, 1, None]}


def test_secrets_of_the_environment_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", "sesame-open")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "short")
    assert redact("refused: sesame-open, short") == "refused: ***, short"


def test_errors_and_urls_hold_no_secrets() -> None:
    url = f"https://{USER}:{PASSWORD}@h/x?sig={SIGNATURE}"
    problem = Problem(f"bad {url}", file=url, remedy=f"remove {url}")
    error = ConverterError(f"{url}: cannot be read", [problem], remedy=f"see {url}")
    for text in (str(error), repr(error), repr(error.args), json.dumps(error.to_dict())):
        assert "https://h/x" in text
        assert not MARKER.search(text)
    assert repr(Url(url)) == "Url('https://h/x')"
    assert redact_url(url) == "https://h/x"
    assert redact(f"bucket {USER}:{PASSWORD}@h, key x?{SIGNATURE}") == "bucket h, key x?***"


class Machine:
    """A working directory in which nothing that a command leaves may hold a marker."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def run(self, *args: object, code: int | None = None, **env: str) -> str:
        """Run a command as text and as JSON, with all logs; return what it printed."""
        printed = ""
        for more in ([], ["--json"]):
            arguments = ["--log-level", "debug", *map(str, args), *more]
            env = {"CONVERTER_TRACEBACK": "1", "HF_TOKEN": TOKEN, **env}
            result = CliRunner(env=env).invoke(commands, arguments)
            assert code is None or result.exit_code == code, result.output
            assert not MARKER.search(result.output), result.output
            assert "bug in converter" not in result.output
            printed += result.output
        self.check_files()
        return printed

    def check_files(self) -> None:
        for path in self.directory.rglob("*"):
            assert not MARKER.search(path.name)
            if path.is_file() and path.suffix != ".in":
                assert b"mArKeR" not in path.read_bytes(), path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    (tmp_path / "work").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield Machine(tmp_path)
    assert not any((tmp_path / "tmp").iterdir()), "something was left behind"


@pytest.fixture
def web(machine: Machine) -> Iterator[WebServer]:
    """Serve a BERT below /bert and a GPT-2 below /gpt2, which are also local directories."""
    made = [
        factories.make(Path("bert"), "bert").directory,
        factories.make(Path("gpt2"), "gpt2", "GPT2LMHeadModel").directory,
    ]
    with serving_web() as server:
        for directory in made:
            for name, data in contents(directory).items():
                server.files[f"{directory.name}/{name}"] = data
        yield server


def secret_url(server: WebServer, path: str, chain: str = "") -> str:
    host = server.address.partition("://")[2]
    return f"{chain}http://{USER}:{PASSWORD}@x@{host}/{path}?sig={SIGNATURE}#{SIGNATURE}"


@pytest.mark.parametrize("chain", ["", "simplecache::"])
def test_a_web_server_with_credentials(web: WebServer, machine: Machine, chain: str) -> None:
    bert, gpt2 = (secret_url(web, name, chain) for name in ("bert", "gpt2"))
    tokens = ("--decoder-start-token", "5", "--eos-token", "6", "--pad-token", "7")
    shown = f"{chain}{web.address}/bert"
    assert shown in machine.run("inspect", bert, code=0)
    machine.run("inspect", bert, "--stats", code=0)
    recipe = ("--save-recipe", "recipe.yaml")
    machine.run("compose", bert, gpt2, "both", *tokens, *recipe, "--overwrite", code=0)
    assert shown in Path("both/converter-manifest.json").read_text()
    assert shown in Path("recipe.yaml").read_text()
    machine.run("convert", bert, "out", "--overwrite", "--to", "flax", code=0)
    machine.run("convert", bert, "planned", "--dry-run", code=0)
    sources = ("--against", bert, "--against", gpt2)
    machine.run("verify", "both", *sources, "--html", "page.html", code=0)
    machine.run("verify", "both", "--against", gpt2, "--against", gpt2)
    machine.run("verify", bert)
    machine.run("diff", bert, "out", code=0)
    machine.run("diff", bert, gpt2, code=1)
    machine.run("split", "both", "parts", "--overwrite", code=0)
    machine.run("split", bert, "parts", code=1)
    machine.run("check-table", "--draft", bert)
    machine.run("push", bert, "org/name")
    jobs = {
        "jobs": [
            {"convert": {"source": bert, "output": "made", "to": ["flax"]}},
            {"name": "again", "convert": {"source": bert, "output": bert}},
        ]
    }
    (machine.directory / "r.in").write_text(json.dumps(jobs))
    for more in (("--dry-run",), ("--summary", "done.json", "--keep-going")):
        machine.run("run", machine.directory / "r.in", *more)
    machine.run("run", bert)
    machine.run("convert", "bert", bert)
    machine.run("convert", "bert", "out", "--mapping", bert, "--overwrite")
    machine.run("compose", "bert", "gpt2", "out", "--card", bert, "--overwrite")


def quotes_the_request(handler: Handler, path: str, data: bytes) -> None:
    text = f"refused: {handler.path} {handler.headers.get('Authorization')} {TOKEN}"
    handler.send_response(500, text)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


@pytest.mark.parametrize(
    "answer",
    [
        quotes_the_request,
        lambda handler, path, data: handler.reply(b"", 404),
        lambda handler, path, data: handler.reply(b"", 403),
        lambda handler, path, data: handler.reply(b"", 302, {"Location": handler.path}),
        lambda handler, path, data: handler.reply(
            b"", 302, {"Location": f"file:///etc/hosts?{SIGNATURE}"}
        ),
        lambda handler, path, data: handler.hang_up(),
        lambda handler, path, data: handler.reply(data[:5], 200, {"Content-Length": "900"}),
    ],
    ids=["500", "404", "403", "loop", "file", "closed", "truncated"],
)
@pytest.mark.parametrize("at", ["GET /bert", "GET /bert/model.safetensors", "HEAD /bert/"])
def test_a_web_server_that_fails(web: WebServer, machine: Machine, answer: Any, at: str) -> None:
    web.misbehave[at] = answer
    machine.run("inspect", secret_url(web, "bert"))
    machine.run("convert", secret_url(web, "bert"), "out", "--overwrite")


@pytest.mark.parametrize(
    "url",
    [
        f"http://{USER}:{PASSWORD}@127.0.0.1:1/x?sig={SIGNATURE}",
        f"http://{USER}:a/{PASSWORD}@127.0.0.1:1/x",
        f"http://{USER}:a?{PASSWORD}@127.0.0.1:1/x",
        f"zzz://{USER}:{PASSWORD}@h/x?{SIGNATURE}",
        f"zip://x::memory://{USER}:{PASSWORD}@h/x.zip?{SIGNATURE}",
        f"s3://{USER}:{PASSWORD}@b/x?versionId={SIGNATURE}",
        f"simplecache::zzz://{USER}:{PASSWORD}@h/x?{SIGNATURE}",
        f"memory://{USER}:{PASSWORD}@h/x?{SIGNATURE}",
        f"https://{USER}:{PASSWORD}@h h/x'\"y?{SIGNATURE}",
        f"hf://{USER}:{PASSWORD}@org/name?{SIGNATURE}",
        f"org/name@{TOKEN}",
    ],
)
def test_urls_that_cannot_be_opened(
    machine: Machine, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    factories.make(Path("bert"), "bert")
    for args in (
        ("inspect", url),
        ("convert", "bert", url if "://" in url else "out"),
        ("convert", url, "out"),
        ("verify", "bert", "--against", url),
        ("diff", "bert", url),
        ("push", "bert", url),
        ("run", url),
    ):
        machine.run(*args)


def test_outputs_and_chains_in_memory(machine: Machine) -> None:
    made = factories.make(Path("bert"), "bert").directory
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in contents(made).items():
            archive.writestr(f"bert/{name}", data)
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pipe(f"/{USER}:{PASSWORD}@h/bert.zip", packed.getvalue())
    chained = f"zip://bert::memory://{USER}:{PASSWORD}@h/bert.zip"
    assert "zip://bert::memory://h/bert.zip" in machine.run("inspect", chained, code=0)
    machine.run("convert", chained, "out", "--overwrite", code=0)
    output = f"memory://{USER}:{PASSWORD}@h/out?sig={SIGNATURE}"
    assert "memory://h/out" in machine.run("convert", "bert", output, "--overwrite", code=0)
    stored = {name: bytes(file.getbuffer()) for name, file in system.store.items()}
    assert any(name.endswith("converter-manifest.json") for name in stored)
    assert not any(b"mArKeR" in data for data in stored.values())
    jobs = [{"name": "one", "convert": {"source": "bert", "output": output}}]
    (machine.directory / "r.in").write_text(json.dumps({"jobs": jobs}))
    assert "skipped" in machine.run("run", machine.directory / "r.in", code=0)
    system.store.clear()


def test_a_hub_that_quotes_the_token(tmp_path: Path) -> None:
    with serving() as (hub, endpoint):
        session = HubSession(hub, endpoint, tmp_path)
        factories.make(tmp_path / "bert", "bert")
        hub.publish("acme/bert", contents(tmp_path / "bert"))
        for args in (
            ("inspect", "acme/bert"),
            ("convert", "acme/bert", "out", "--json"),
            ("push", "bert", "acme/new", "--token", TOKEN),
            ("--log-level", "debug", "push", "bert", "acme/new"),
            ("convert", "bert", "hf://acme/new"),
        ):
            done = session.converter(*args, code=1, token=TOKEN, CONVERTER_TRACEBACK="1")
            assert "does not recognize the token" in done.stderr
            assert not MARKER.search(done.stdout + done.stderr)


def test_the_public_interface_reports_no_secrets(web: WebServer, machine: Machine) -> None:
    bert = secret_url(web, "bert")
    result = converter.convert(bert, "out")
    differences = converter.diff(bert, "out").to_dict()
    for document in (result.to_dict(), differences, converter.inspect(bert).to_dict()):
        assert not MARKER.search(json.dumps(document))
        assert not MARKER.search(repr(document))
    with pytest.raises(ConverterError) as caught:
        converter.convert(secret_url(web, "missing"), "out")
    assert not MARKER.search(str(caught.value) + repr(caught.value))


def test_lines_are_cut_and_escaped() -> None:
    assert printable("a\nError: \x1b[31m\u202eb\ud800\x9b") == (
        r"a\nError: \x1b[31m\u202eb\ud800\x9b"
    )
    assert printable("x" * 30, limit=10) == "xxxxxxxxxx… (20 more characters)"
