"""The page and the server with stand-ins for Gradio and the web server, which record their calls.

`test_page` shows the same in a browser; this needs neither, and sees each value that is passed.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import converter
from converter.app import launch
from converter.app.page import build
from converter.app.workspace import Workspace
from converter.errors import UsageError
from tests import factories


class Component:
    """Whatever Gradio has: a block, a field, a button."""

    def __init__(self, kind: str, options: dict[str, Any]) -> None:
        self.kind, self.options = kind, options
        self.handler: Callable[..., Any] | None = None
        self.inputs: list[Component] = []

    def __enter__(self) -> Component:
        return self

    def __exit__(self, *_: object) -> None:
        """End the block."""

    def click(self, handler: Any, inputs: Any = None, outputs: Any = None, **how: Any) -> None:
        assert how["api_visibility"] == "private"
        self.handler, self.inputs = handler, inputs or []

    def unload(self, handler: Any) -> None:
        self.handler = handler

    def queue(self, **_: Any) -> Component:
        return self


class Gradio:
    """A stand-in for the module."""

    Request, Error = SimpleNamespace, ValueError

    def __init__(self) -> None:
        self.made: dict[str, Component] = {}
        self.infos: list[str] = []
        self.mounted: dict[str, Any] = {}
        self.themes = SimpleNamespace(Default=lambda **_: None)

    def __getattr__(self, kind: str) -> Any:
        def make(*_: Any, **options: Any) -> Component:
            component = Component(kind, options)
            self.made[options.get("elem_id", kind)] = component
            return component

        return make

    def Progress(self) -> Any:  # noqa: N802
        return lambda *_, **__: None

    def Info(self, text: str, **_: Any) -> None:  # noqa: N802
        self.infos.append(text)

    def mount_gradio_app(self, application: Any, page: Any, **how: Any) -> Any:
        self.mounted = how
        return application

    def click(self, button: str, **given: Any) -> Any:
        """Click a button with values in some fields, the others at their defaults."""
        component = self.made[button]
        values = [
            given.get(str(each.options.get("elem_id")).partition("-")[2], each.options.get("value"))
            for each in component.inputs
        ]
        assert component.handler is not None
        assert list(component.handler.__annotations__.values()) == [SimpleNamespace]
        return component.handler(SimpleNamespace(session_hash="me"), self.Progress(), *values)


@pytest.fixture
def gradio() -> Gradio:
    return Gradio()


@pytest.fixture
def server(gradio: Gradio, tmp_path: Path) -> Workspace:
    (tmp_path / "sessions").mkdir()
    workspace = Workspace(tmp_path / "sessions", closed=False)
    build(gradio, workspace)
    return workspace


def test_the_values_of_the_fields_reach_the_commands(
    gradio: Gradio, server: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factories.make(tmp_path / "bert", "bert")
    factories.make(tmp_path / "gpt2", "gpt2", "GPT2LMHeadModel")
    given = {"encoder": str(tmp_path / "bert"), "decoder": str(tmp_path / "gpt2")}
    assert "planned, nothing was written" in gradio.click("compose-plan", **given, to=["flax"])
    report = gradio.click("compose-run", **given, to=["flax"], output=f" {tmp_path / 'out'} ")
    assert "Verified" in report
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".json", ".md", ".msgpack"}
    key = re.search("result/([^/]+)/checkpoint", report)
    assert key and server.find(key[1])
    again = gradio.click("compose-run", **given, output=str(tmp_path / "out"))
    assert "Add “Overwrite” to replace it" in again
    assert "Verified" in gradio.click("compose-run", **given, to=["flax"])
    assert "no checkpoint is chosen" in gradio.click("convert-run")

    calls: list[Any] = []

    def push(directory: Path, repo_id: str, **options: Any) -> Any:
        calls.append((directory, repo_id, options))
        return SimpleNamespace(
            url="https://hub/a", sent=["x"], pull_request=None, kept=["README.md"]
        )

    monkeypatch.setattr(converter, "push", push)
    # The fields of the push have names without a prefix.
    gradio.made["repo-id"].options["value"] = " me/mine "
    gradio.made["token"].options["value"] = "secret-token "
    report, token = gradio.click("push")
    assert token == ""
    assert "1 file sent" in report and "README.md: the repository" in report
    ((directory, repo_id, options),) = calls
    assert (directory.name, repo_id, options["token"]) == ("bert-gpt2", "me/mine", "secret-token")


def test_the_other_events(gradio: Gradio, server: Workspace, tmp_path: Path) -> None:
    gradio.click("stop")
    assert gradio.infos == ["The running job ends at its next step."]
    gradio.click("Blocks")  # the page is closed
    assert gradio.made["Blocks"].options["analytics_enabled"] is False
    resource: Any = gradio.made["convert-source-files"]
    path = str(tmp_path / "upload")
    assert asyncio.run(resource.async_move_resource_to_block_cache(path)) == path
    with pytest.raises(ValueError, match="Only uploaded files"):
        asyncio.run(resource.async_move_resource_to_block_cache("http://example.org/x"))


@pytest.fixture
def served(gradio: Gradio, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Replace the libraries of the server, and yield what it did."""
    seen: dict[str, Any] = {}

    class Server:
        def __init__(self, config: Any) -> None:
            seen["config"] = config

        def run(self, sockets: Any) -> None:
            seen["address"] = sockets[0].getsockname()
            seen["temporary"] = Path(os.environ["GRADIO_TEMP_DIR"]).parent
            seen["environment"] = dict(os.environ)
            assert seen["temporary"].is_dir()
            raise KeyboardInterrupt

    def response(content: Any, status: int = 200, **how: Any) -> Any:
        return SimpleNamespace(content=content, status=status, headers=how.get("headers", {}))

    names = ("PlainTextResponse", "HTMLResponse", "StreamingResponse")
    application = SimpleNamespace(add_route=lambda path, function: seen.update({path: function}))
    modules = {
        "gradio": gradio,
        "uvicorn": SimpleNamespace(Config=lambda app, **how: (app, how), Server=Server),
        "fastapi": SimpleNamespace(FastAPI=lambda **_: application),
        "starlette": SimpleNamespace(),
        "starlette.responses": SimpleNamespace(**dict.fromkeys(names, response)),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    from huggingface_hub import constants

    implicit = constants.HF_HUB_DISABLE_IMPLICIT_TOKEN
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", implicit)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    yield seen


@pytest.mark.parametrize(
    ("closed", "variables", "host"),
    [
        (False, {"GRADIO_SERVER_NAME": "0.0.0.0"}, "127.0.0.1"),
        (True, {}, "127.0.0.1"),
        (None, {"SPACE_ID": "me/space", "GRADIO_SERVER_PORT": "0"}, "0.0.0.0"),
    ],
    ids=["local", "closed", "space"],
)
def test_what_the_server_binds_and_keeps(
    gradio: Gradio,
    served: dict[str, Any],
    closed: bool | None,
    variables: dict[str, str],
    host: str,
) -> None:
    os.environ.update(variables)
    addresses: list[str] = []
    launch(None if variables.get("GRADIO_SERVER_PORT") else 0, closed, addresses.append)
    assert served["address"][0] == host
    shown = "localhost" if host == "0.0.0.0" else host
    assert addresses == [f"http://{shown}:{served['address'][1]}"]
    assert not served["temporary"].exists()
    environment = served["environment"]
    assert environment["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert ("HF_HUB_DISABLE_IMPLICIT_TOKEN" in environment) is (closed is not False)
    assert gradio.mounted["footer_links"] == []
    assert ("convert-output" in gradio.made) and gradio.made["convert-output"].options[
        "visible"
    ] is (closed is False)
    guard, how = served["config"]
    assert how["access_log"] is False
    assert (guard._hosts is None) is (closed is not False)
    request = SimpleNamespace(path_params={"key": "wrong", "name": "report"})
    assert served["/result/{key}/{name}"](request).status == 404


@pytest.mark.parametrize("text", ["", "abc", "-1", "65536", "9" * 5000, "²", " 80"])
def test_a_port_of_the_environment_is_checked(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_SERVER_PORT", text)
    with pytest.raises(UsageError, match="GRADIO_SERVER_PORT must be a port from 0 to 65535"):
        launch()
