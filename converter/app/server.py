"""The server of the page: what it binds, who may request what, and where files are kept."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing, suppress
from typing import Any
from urllib.parse import quote

from converter.cleanup import EndingSignals, TemporaryDirectory
from converter.errors import OutputError, UsageError
from converter.optional_imports import import_optional

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 7860
"""Gradio's, and that of Spaces."""
_MAX_UPLOAD = {True: "5gb", False: "100gb"}
"""Size of one uploaded file, on a closed page and on the user's own machine."""

_SERVED = re.compile(
    r"/(?:(?:config|theme\.css|robots\.txt|favicon\.ico|manifest\.json|)/?"
    r"|(?:assets|static|svelte)/[\w./@+-]*"
    r"|result/[\w-]+/(?:checkpoint|report)"
    r"|gradio_api/(?:app_id|theme\.css|startup-events|queue/join|queue/data|upload|upload_progress"
    r"|cancel|reset|heartbeat/\w+)/?)"
)
"""Paths that the page needs. Gradio has more: files by path, a proxy, an editor, a history."""
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' blob: data:; object-src 'none'; base-uri 'self'; form-action 'self'"
)
"""The page loads nothing from other hosts."""
_FOREIGN = re.compile(
    rb"""<script[^>]*\ssrc=["']https?://[^>]*></script>|<link[^>]*\shref=["']https?://[^>]*>"""
)
"""What pages of earlier versions of Gradio 6 load from other hosts, or connect to."""
_REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'"
_ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_MCP_SERVER": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
"""Nothing is sent to anyone, and no inputs are kept."""

_Receive = Callable[[], Awaitable[Any]]
_Send = Callable[[Any], Awaitable[None]]


class Guard:
    """An ASGI application that passes on only what the page needs.

    Args:
        app: the application behind it.
        port: of a server on loopback, to which no other name and no other site may send requests
            (DNS rebinding, cross-site requests); ``None`` for a server that is public.

    """

    def __init__(self, app: Any, port: int | None) -> None:
        self._app = app
        self._hosts = port and {f"{host}:{port}" for host in (LOOPBACK, "localhost")}

    async def __call__(self, scope: Mapping[str, Any], receive: _Receive, send: _Send) -> None:
        """Answer one request, or refuse it with status 403 or 404."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = {
            key.decode("latin-1").lower(): value.decode("latin-1")
            for key, value in scope["headers"]
        }
        if scope["type"] != "http" or not self._is_allowed(headers):
            await _refuse(send, 403)
        elif not _SERVED.fullmatch(scope["path"]):
            await _refuse(send, 404)
        elif scope["path"] == "/" and scope["method"] == "GET":
            plain = [(key, value) for key, value in scope["headers"] if key != b"accept-encoding"]
            without = _without_foreign(_with_headers(send))
            await self._app({**scope, "headers": plain}, receive, without)
        else:
            await self._app(scope, receive, _with_headers(send))

    def _is_allowed(self, headers: Mapping[str, str]) -> bool:
        if not self._hosts:
            return True
        origin = headers.get("origin", "").partition("://")[2]
        return headers.get("host") in self._hosts and (
            "origin" not in headers or origin in self._hosts
        )


def _with_headers(send: _Send) -> _Send:
    """Return a function that adds headers to a response."""

    async def add(message: Any) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ())]
            added = {
                b"content-security-policy": _POLICY.encode(),
                b"referrer-policy": b"no-referrer",
                b"x-content-type-options": b"nosniff",
            }
            present = {key.lower() for key, _ in headers}
            headers += [(key, value) for key, value in added.items() if key not in present]
            message = {**message, "headers": headers}
        await send(message)

    return add


def _without_foreign(send: _Send) -> _Send:
    """Return a function that sends a page of HTML without what it loads from other hosts."""
    start: dict[str, Any] = {}
    body = bytearray()

    async def collect(message: Any) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
            return
        body.extend(message.get("body", b""))
        if not message.get("more_body"):
            page = _FOREIGN.sub(b"", bytes(body))
            other = [each for each in start["headers"] if each[0].lower() != b"content-length"]
            length = (b"content-length", str(len(page)).encode())
            await send({**start, "headers": [*other, length]})
            await send({"type": "http.response.body", "body": page})

    return collect


async def _refuse(send: _Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def launch(
    port: int | None = None, closed: bool | None = None, on_ready: Callable[[str], object] = print
) -> None:
    """Serve the page until Ctrl-C or SIGTERM; then stop what runs, and remove what is temporary.

    Args:
        port: 0 for any free one; ``None`` for that of the environment variable
            ``GRADIO_SERVER_PORT``, or 7860.
        closed: if true, the page opens no paths of this machine, does nothing with the login of
            this machine, and may be served to others; by default true in a Space of the Hub.
        on_ready: called with the address.

    Raises:
        UnsupportedError: if the extra ``app`` is not installed.
        OutputError: if the port is in use.
        UsageError: if the variable is not a port.

    """
    closed = "SPACE_ID" in os.environ if closed is None else closed
    port = _port_of_environment() if port is None else port
    everywhere = "0.0.0.0" if "SPACE_ID" in os.environ else LOOPBACK
    host = os.environ.get("GRADIO_SERVER_NAME", everywhere) if closed else LOOPBACK
    with TemporaryDirectory() as temporary, closing(_listen(host, port)) as listener:
        # Read when the libraries are imported.
        os.environ.update(_ENVIRONMENT, GRADIO_TEMP_DIR=str(temporary.path / "gradio"))
        if closed:
            _use_no_login()
        gradio = import_optional("gradio", "app", "the page")
        uvicorn = import_optional("uvicorn", "app", "the page")
        from converter.app.workspace import Workspace

        workspace = Workspace(temporary.path, closed)
        actual_port = int(listener.getsockname()[1])
        application = Guard(_application(gradio, workspace), None if closed else actual_port)
        config = uvicorn.Config(
            application,
            log_level="warning",
            access_log=False,
            proxy_headers="SPACE_ID" in os.environ,
            forwarded_allow_ips="*",
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        shown = "localhost" if host == "0.0.0.0" else host
        on_ready(f"http://{shown}:{actual_port}")
        with EndingSignals(), suppress(KeyboardInterrupt):
            try:
                uvicorn.Server(config).run(sockets=[listener])
            finally:
                workspace.end()


def _port_of_environment() -> int:
    text = os.environ.get("GRADIO_SERVER_PORT", str(DEFAULT_PORT))
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and int(text) < 1 << 16):
        raise UsageError(
            f"GRADIO_SERVER_PORT must be a port from 0 to 65535, not {text[:20]!r}",
            remedy="Correct the variable, or give a port with --port.",
        )
    return int(text)


def _use_no_login() -> None:
    """Keep visitors from reading what the server's own account may read."""
    os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_IMPLICIT_TOKEN = True


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; raise `OutputError` if the port is in use."""
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise OutputError(
            f"port {port} cannot be used: {error.strerror}", remedy="Choose another with --port."
        ) from error


def _application(gradio: Any, workspace: Any) -> Any:
    """Return the web application: the page, and the results by their keys."""
    from converter.app.page import STYLE, build
    from converter.app.workspace import zip_blocks

    fastapi = import_optional("fastapi", "app", "the page")
    responses = import_optional("starlette.responses", "app", "the page")
    application = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    def result(request: Any) -> Any:
        """Return a file of a result, if the key is right."""
        finished = workspace.find(request.path_params["key"])
        if finished is None:
            return responses.PlainTextResponse("This result has been removed.", 404)
        headers = {"Cache-Control": "no-store"}
        if request.path_params["name"] == "report":
            headers["Content-Security-Policy"] = _REPORT_POLICY
            return responses.HTMLResponse(
                finished.report.encode(errors="backslashreplace"), headers=headers
            )
        name = quote(f"{finished.directory.name}.zip")
        headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{name}"
        blocks = zip_blocks(finished.directory)
        return responses.StreamingResponse(blocks, media_type="application/zip", headers=headers)

    application.add_route("/result/{key}/{name}", result)
    font = ["system-ui", "sans-serif"]
    theme = gradio.themes.Default(font=font, font_mono=["ui-monospace", "monospace"])
    page = build(gradio, workspace)
    return gradio.mount_gradio_app(
        application,
        page,
        path="/",
        footer_links=[],
        theme=theme,
        css=STYLE,
        max_file_size=_MAX_UPLOAD[workspace.closed],
        show_error=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
    )
