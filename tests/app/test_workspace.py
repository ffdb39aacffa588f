"""What the page does, without Gradio: sessions, references, archives, and messages."""

from __future__ import annotations

import asyncio
import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import converter
from converter.app import page, workspace
from converter.app.server import Guard
from converter.app.workspace import Job, SourceInput, StoppedError, Workspace, zip_blocks
from converter.cli import commands
from converter.errors import ConverterError, UsageError
from converter.options import ComposeOptions, ConvertOptions
from tests import factories

TOKEN = "secret-of-an-unusual-form"


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return factories.make(tmp_path / "bert", "bert").directory


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    return factories.make(tmp_path / "gpt2", "gpt2", "GPT2LMHeadModel").directory


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "sessions").mkdir()
    return tmp_path / "sessions"


def conversion(source: object, **more: Any) -> Job:
    return Job("convert", {"source": SourceInput(str(source))}, **more)


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_a_result_is_that_of_the_command_and_is_verified(
    root: Path, bert: Path, gpt2: Path, tmp_path: Path
) -> None:
    sources = {"encoder": SourceInput(f" {bert} "), "decoder": SourceInput(str(gpt2))}
    job = Job("compose", sources, {"to": ["pytorch"], "seed": 3})
    server = Workspace(root, closed=False)
    planned = server.plan("me", job)
    assert not planned.written
    steps: list[str] = []
    finished = server.run("me", job, lambda done, total, step: steps.append(step.split()[0]))
    assert [*dict.fromkeys(steps)] == ["Writing", "Verifying"]
    assert finished.verification.verified
    assert finished.verification.origins
    assert finished.directory.name == "bert-gpt2"
    assert str(root) not in finished.report
    converter.compose(bert, gpt2, tmp_path / "bert-gpt2", to=["pytorch"], seed=3)
    archive = zipfile.ZipFile(io.BytesIO(b"".join(zip_blocks(finished.directory))))
    assert archive.testzip() is None
    expected = contents(tmp_path / "bert-gpt2")
    assert {f"bert-gpt2/{name}": data for name, data in expected.items()} == {
        name: archive.read(name) for name in archive.namelist()
    }


def test_uploads_are_collected_whatever_they_were_before(root: Path, bert: Path) -> None:
    server = Workspace(root, closed=True)
    files = tuple(bert.iterdir())
    job = Job("convert", {"source": SourceInput("ignored", files)}, {"dtype": "float16"})
    finished = server.run("me", job)
    assert finished.verification.verified
    with pytest.raises(ConverterError) as raised:
        server.plan("me", Job("convert", {"source": SourceInput(files=files[:1])}))
    shown = page._reported(server, lambda: (_ for _ in ()).throw(raised.value))
    assert str(root) not in shown


@pytest.mark.parametrize(
    "reference", ["/etc", ".", "bert", "file:///etc/a", "s3://bucket/name", "hf://../x", "a/b/c"]
)
def test_a_closed_page_opens_only_the_hub(
    root: Path, bert: Path, reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bert.parent)
    with pytest.raises(UsageError, match="is not the id of a Hub repository"):
        Workspace(root, closed=True).plan("me", conversion(reference))


def test_a_closed_page_prefers_the_hub_to_a_path_of_the_same_name(
    root: Path, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bert.parents[1])
    reference = f"{bert.parent.name}/bert"
    assert not Workspace(root, closed=False).plan("me", conversion(reference)).written
    monkeypatch.setattr(converter, "convert", lambda source, **_: source)
    assert (
        str(Workspace(root, closed=True).plan("me", conversion(reference))) == f"hf://{reference}"
    )


def test_a_closed_page_writes_only_below_its_directory_and_no_large_result(
    root: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = SourceInput(files=tuple(bert.iterdir()))
    job = Job("convert", {"source": files}, output=str(tmp_path / "mine"))
    assert Workspace(root, closed=True).run("me", job).directory.is_relative_to(root)
    assert not (tmp_path / "mine").exists()
    monkeypatch.setattr(workspace, "MAX_RESULT_BYTES", 10)
    with pytest.raises(UsageError, match="this page writes at most 10 B"):
        Workspace(root, closed=True).run("other", job)
    local = conversion(bert, output=str(tmp_path / "mine"))
    assert Workspace(root, closed=False).run("me", local).directory == tmp_path / "mine"


def test_a_run_can_be_stopped_and_leaves_nothing(root: Path, bert: Path) -> None:
    server = Workspace(root, closed=False)

    def stop(*_: object) -> None:
        server.stop("me")

    with pytest.raises(StoppedError):
        server.run("me", conversion(bert), stop)
    assert not [path for path in root.rglob("*") if path.is_file()]
    assert server.run("me", conversion(bert)).verification.verified


def test_results_are_found_by_key_and_removed_after_their_page(
    root: Path, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Workspace(root, closed=False)
    first = server.run("me", conversion(bert))
    second = server.run("me", conversion(bert))
    assert server.find(first.key) is None
    assert server.find(second.key) is second
    assert server.find("é") is None
    server.close("me")
    server.run("other", conversion(bert))
    assert server.find(second.key) is second  # a download may still be running
    monkeypatch.setattr(workspace, "GRACE_SECONDS", 0.0)
    server.run("other", conversion(bert))
    assert server.find(second.key) is None
    assert len([*root.iterdir()]) == 1


def test_a_push_needs_a_result_and_on_a_closed_page_a_token(root: Path) -> None:
    with pytest.raises(UsageError, match="no result to push"):
        Workspace(root, closed=False).push("me", "me/mine", "")
    with pytest.raises(UsageError, match="token is needed"):
        Workspace(root, closed=True).push("me", "me/mine", "")


def test_messages_have_the_words_of_the_page_and_no_token(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Workspace(root, closed=False)

    def reported(error: Exception) -> str:
        return page._reported(server, lambda: (_ for _ in ()).throw(error), TOKEN)

    remedy = "Add --overwrite, --resize-embeddings or --frobnicate."
    shown = reported(UsageError(f"<b>{root}/session-1a/results/x</b> {TOKEN}", remedy=remedy))
    assert "<b>&lt;b&gt;x&lt;/b&gt; ***</b>" in shown
    assert "Add “Overwrite”, “Resize embeddings” or --frobnicate." in shown
    shown = reported(RuntimeError(f"some {TOKEN}"))
    assert "this page has failed" in shown
    log = capsys.readouterr().err
    assert "RuntimeError: some ***" in log
    assert TOKEN not in shown + log
    assert "Stopped" in reported(StoppedError())


def test_the_page_shows_the_options_that_decide_about_the_result() -> None:
    names = [each.name for each in page.shown_options(ComposeOptions, closed=False)]
    assert names[:2] == ["to", "dtype"]
    assert {"preset", "layers", "init", "tokenizer", "pad_token", "overwrite"} <= {*names}
    closed = {each.name for each in page.shown_options(ConvertOptions, closed=True)}
    assert not closed & {"overwrite", "card", "mapping", "config", "jobs", "memory", "progress"}


def test_values_of_the_page_are_options_of_the_commands(root: Path, bert: Path, gpt2: Path) -> None:
    given = {"to": ["flax"], "layers": "encoder=first:1  decoder=0", "seed": 5.0, "share": False}
    options: dict[str, Any] = {}
    for each in page.shown_options(ComposeOptions, closed=True):
        options |= page.Control(each, None).value(given.get(each.name, each.default or ""))
    expected = {"to": ["flax"], "layers": ["encoder=first:1", "decoder=0"], "seed": 5}
    assert options == expected
    assert isinstance(options["seed"], int)
    sources = {"encoder": SourceInput(str(bert)), "decoder": SourceInput(str(gpt2))}
    assert Workspace(root, closed=False).plan("me", Job("compose", sources, options)).frameworks


def answers(path: str, headers: dict[str, str], port: int | None, page: bytes = b"") -> list[Any]:
    """Return what the guard sends, with an application behind it that answers with a page."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        length = (b"Content-Length", str(len(page)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": page[:20], "more_body": True})
        await send({"type": "http.response.body", "body": page[20:]})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> None:
        """Receive nothing."""

    given = [(key.encode(), value.encode()) for key, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": path, "headers": given}
    asyncio.run(Guard(application, port)(scope, receive, send))
    return sent


def status(path: str, headers: dict[str, str], port: int | None = 7860) -> int:
    start = answers(path, headers, port)[0]
    if start["status"] == 200:
        policy = dict(start["headers"])[b"content-security-policy"]
        assert policy.startswith(b"default-src 'self';")
    return int(start["status"])


def test_the_page_loads_nothing_from_other_hosts() -> None:
    """As it would with the template of Gradio 6.9."""
    page = (
        b'<head><script type="module" src="./assets/a.js"></script><link href="./theme.css" />'
        b'<link rel="preconnect" href="https://fonts.gstatic.com" crossorigin="anonymous" />'
        b'<script src="https://cdnjs.example.org/a.js" async></script></head>'
    )
    start, body = answers("/", LOCAL, 7860, page)
    kept = b'<head><script type="module" src="./assets/a.js"></script><link href="./theme.css" />'
    assert body["body"] == kept + b"</head>"
    assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()


LOCAL = {"host": "127.0.0.1:7860"}


@pytest.mark.parametrize(
    ("path", "expected"),
    {
        "/": 200,
        "/assets/index-1a.js": 200,
        "/gradio_api/queue/join": 200,
        "/result/k-e_y/checkpoint": 200,
        "/gradio_api/file=/etc/passwd": 404,
        "/gradio_api/file=http://example.org/x": 404,
        "/gradio_api/proxy=http://example.org/x": 404,
        "/gradio_api/run/predict": 404,
        "/gradio_api/call/predict": 404,
        "/gradio_api/info": 404,
        "/gradio_api/run-history/records": 404,
        "/gradio_api/vibe-code/": 404,
        "/gradio_api/deep_link": 404,
        "/monitoring": 404,
        "/assets/../config?": 404,
    }.items(),
)
def test_only_what_the_page_needs_is_served(path: str, expected: int) -> None:
    assert status(path, LOCAL) == expected


def test_no_other_site_reaches_a_page_on_this_machine() -> None:
    assert status("/", {"host": "localhost:7860"}) == 200
    assert status("/", {**LOCAL, "origin": "http://127.0.0.1:7860"}) == 200
    assert status("/", {**LOCAL, "origin": "http://example.org"}) == 403
    assert status("/", {**LOCAL, "origin": "null"}) == 403
    assert status("/", {"host": "example.org:7860"}) == 403  # DNS rebinding
    assert status("/", {"host": "127.0.0.1:7861"}) == 403
    assert status("/", {}) == 403
    assert status("/", {"host": "a.hf.space", "origin": "https://huggingface.co"}, None) == 200


def test_a_missing_extra_and_a_port_in_use_are_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")  # set by the command, and restored
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    done = CliRunner().invoke(commands, ["app", "--port", "0", "--no-browser"])
    assert done.exit_code == 1
    assert done.stderr == (
        "Error: the page needs gradio, which is not installed\n"
        "Install it: pip install 'encdec-converter[app]'.\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = CliRunner().invoke(commands, ["app", "--port", port, "--no-browser"])
    assert done.exit_code == 1
    assert f"port {port} cannot be used: Address already in use" in done.stderr
