"""A headless Chromium that is driven through a pipe, in its own protocol.

It reaches loopback alone, and remembers every address that a page asks for.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.verification.browser import FLAGS, executable

SECONDS = 40.0
"""To wait for what a page shows."""


class Chromium:
    """One tab of a running browser."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader, self._writer = reader, writer
        self._buffer = b""
        self._answers: dict[int, Any] = {}
        self._count = 0
        self.requests: list[str] = []
        """Every address that was asked for."""
        self.messages: list[str] = []
        """What scripts wrote to the console."""
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        attached = self._send("Target.attachToTarget", targetId=target, flatten=True)
        self._session: str = attached["sessionId"]
        self._watch(self._session)
        self.call("Page.enable")

    def call(self, method: str, **params: Any) -> Any:
        """Call a method of the tab."""
        return self._send(method, self._session, **params)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, script: str, seconds: float = SECONDS) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(f"!!({script})"):
            assert time.monotonic() < end, f"{script}: {self.evaluate('document.body.innerText')}"
            time.sleep(0.1)

    def text(self, selector: str) -> str:
        """Return the visible text of an element."""
        return str(self.evaluate(f"document.querySelector({selector!r}).innerText"))

    def click(self, selector: str) -> None:
        """Click in the middle of an element, as a person does who has scrolled to it."""
        self.wait_for(f"document.querySelector({selector!r})")
        self.evaluate(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        time.sleep(0.3)  # until frames of other origins are known to have moved
        box = self.evaluate(
            f"document.querySelector({selector!r}).getBoundingClientRect().toJSON()"
        )
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)

    def type(self, selector: str, text: str) -> None:
        """Replace the text of a field."""
        self.wait_for(f"document.querySelector({selector!r})")
        self.evaluate(f"(one => (one.focus(), one.select()))(document.querySelector({selector!r}))")
        self.call("Input.insertText", text=text)

    def upload(self, selector: str, files: list[Path]) -> None:
        """Choose files in a field for them."""
        element = self.call("Runtime.evaluate", expression=f"document.querySelector({selector!r})")
        self.call(
            "DOM.setFileInputFiles",
            files=list(map(str, files)),
            objectId=element["result"]["objectId"],
        )

    def download(self, selector: str, directory: Path) -> Path:
        """Click a link and return the complete file that it saves."""
        how = {"behavior": "allow", "downloadPath": str(directory)}
        self._send("Browser.setDownloadBehavior", **how)
        self.click(selector)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            files = [*directory.iterdir()]
            # While it is written, it has another name, which starts with a dot or ends so.
            if files and not files[0].name.startswith(".") and files[0].suffix != ".crdownload":
                return files[0]
            time.sleep(0.1)
        raise AssertionError("nothing was saved")

    def screenshot(self, path: Path) -> None:
        """Save a picture of the complete page, for people."""
        import base64

        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def _watch(self, session: str) -> None:
        for method in ("Network.enable", "Runtime.enable"):
            self._send(method, session)
        how = {"autoAttach": True, "waitForDebuggerOnStart": True, "flatten": True}
        self._send("Target.setAutoAttach", session, **how)
        self._send("Runtime.runIfWaitingForDebugger", session)

    def _send(self, method: str, session: str | None = None, **params: Any) -> Any:
        self._count += 1
        number = self._count
        message = {"id": number, "method": method, "params": params}
        data = json.dumps(message | ({"sessionId": session} if session else {})).encode()
        os.write(self._writer, data + b"\0")
        end = time.monotonic() + SECONDS
        while number not in self._answers:
            assert time.monotonic() < end, f"no answer to {method}"
            self._receive()
        answer = self._answers.pop(number)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def _receive(self) -> None:
        """Take what the browser says, for at most a second."""
        if not select.select([self._reader], [], [], 1)[0]:
            return
        data = os.read(self._reader, 1 << 20)
        assert data, "the browser has ended"
        *complete, self._buffer = (self._buffer + data).split(b"\0")
        for text in complete:
            message = json.loads(text)
            if "id" in message:
                self._answers[message["id"]] = message
            elif message["method"] == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            elif message["method"] == "Runtime.consoleAPICalled":
                self.messages.append(json.dumps(message["params"]["args"]))
            elif message["method"] == "Target.attachedToTarget":
                self._watch(message["params"]["sessionId"])


@contextmanager
def chromium(profile: Path) -> Iterator[Chromium]:
    """Start a browser with an empty profile and yield its tab."""
    to_browser, from_browser = os.pipe(), os.pipe()

    def connect() -> None:
        os.dup2(os.dup(to_browser[0]), 3)
        os.dup2(os.dup(from_browser[1]), 4)

    rules = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
    flags = ["--remote-debugging-pipe", f"--user-data-dir={profile}", "--window-size=1200,1600"]
    process = subprocess.Popen(
        [executable(), *FLAGS, *flags, rules],
        close_fds=False,
        preexec_fn=connect,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser[0])
    os.close(from_browser[1])
    try:
        yield Chromium(from_browser[0], to_browser[1])
    finally:
        process.terminate()
        process.wait(30)
        os.close(to_browser[1])
        os.close(from_browser[0])
