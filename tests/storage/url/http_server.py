"""A web server on loopback that lists and serves files, and misbehaves on demand."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote, urlsplit

Misbehavior = Callable[["Handler", str, bytes], None]


@dataclass
class WebServer:
    """The state of a server."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    """Path without a leading slash → content. Directories are listed."""
    misbehave: dict[str, Misbehavior] = field(default_factory=dict)
    """Part of ``METHOD /path`` → how to answer instead; ``GET /`` is any."""
    requests: list[str] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: WebServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        self.server_state.requests.append(f"{self.command} {self.path}")
        data = self.server_state.files.get(path)
        if data is None:
            data = self.listing(path.rstrip("/") + "/")
        for part, answer in self.server_state.misbehave.items():
            if part in f"{self.command} /{path}":
                with suppress(OSError):  # the client has gone
                    answer(self, path, data or b"")
                return
        if data is None:
            self.reply(b"", 404)
            return
        kind = "application/octet-stream" if path in self.server_state.files else "text/html"
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            self.reply(data, 200, {"Content-Type": kind})
            return
        first, last = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
        headers = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
        self.reply(data[first : last + 1], 206, headers)

    do_HEAD = do_GET  # noqa: N815

    def listing(self, below: str) -> bytes | None:
        below = below.lstrip("/")
        names = [
            name[len(below) :].partition("/")
            for name in self.server_state.files
            if name.startswith(below)
        ]
        entries = dict.fromkeys(name + slash for name, slash, _ in names)
        links = "".join(f'<a href="{quote(each)}">x</a>' for each in entries)
        return links.encode() if links else None

    def hang_up(self) -> None:
        """Cut the connection."""
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def reply(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        stated = {"Content-Length": str(len(data)), **(headers or {})}
        for key, value in stated.items():
            if value:
                self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            with suppress(OSError):
                self.wfile.write(data)
                if stated["Content-Length"] != str(len(data)):
                    self.hang_up()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do nothing: clients may disconnect."""


@contextmanager
def serving_web() -> Iterator[WebServer]:
    """Run a server."""
    state = WebServer()
    handler = type("BoundHandler", (Handler,), {"server_state": state})
    server = _Server(("127.0.0.1", 0), handler)
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
