"""Makes the pictures of the README of real runs: ``python docs/pictures.py``.

`terminal.svg` shows `compose` and `verify`, without the time they took; `verification.png` the
upper part of the page of `verify --html`, by Chromium. The PNG holds the SHA-256 of its page, so
that a test without a browser notices when it is out of date.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shlex
import shutil
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from converter.cli import commands

PAGE = Path(__file__).with_name("terminal.svg")
PICTURE = Path(__file__).with_name("verification.png")
KEYWORD = b"page sha256"
_FIXTURES = Path(__file__).parents[1] / "fixtures"
_WIDTH = 96
_COMMANDS = ("converter compose bert-tiny gpt2-tiny bert2gpt2", "converter verify bert2gpt2")
_HTML = "converter verify bert2gpt2 --against bert-tiny --against gpt2-tiny --html page.html"
_FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def _workplace() -> Iterator[None]:
    """Change to a directory that holds nothing but the sources, in an environment of a terminal."""
    before = {name: os.environ.get(name) for name in ("COLUMNS", "TERM", "NO_COLOR", "COLORTERM")}
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        for name in ("bert-tiny", "gpt2-tiny"):
            Path(name).symlink_to(_FIXTURES / name)
        os.environ |= {"COLUMNS": str(_WIDTH), "TERM": "xterm-256color"}
        for name in ("NO_COLOR", "COLORTERM"):
            os.environ.pop(name, None)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                os.environ |= {name: value} if value is not None else {}


def _run(command: str) -> str:
    """Return what a command prints to a terminal, warnings first, without times."""
    printed, warnings = _Terminal(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(warnings):
        try:
            commands(shlex.split(command)[1:])
        except SystemExit as end:
            assert not end.code, warnings.getvalue()
    return warnings.getvalue() + re.sub(r"; [\d.]+ s\b", "", printed.getvalue())


def text() -> str:
    """Return the SVG of both commands and what they print."""
    console = Console(record=True, file=io.StringIO(), width=_WIDTH, force_terminal=True)
    with _workplace():
        for command in _COMMANDS:
            console.print(Text(f"$ {command}", style="bold"))
            console.print(Text.from_ansi(_run(command)))
    svg = console.export_svg(title="converter", theme=MONOKAI, unique_id="terminal")
    # rich asks a server for its font, which pages of an index and of a forge do not allow
    svg = re.sub(r"@font-face {.*?}\n", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;]+;", f"font-family: {_FONT};", svg)
    return re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE)


def html() -> str:
    """Return the page of `verify --html`."""
    with _workplace():
        _run(_COMMANDS[0])
        _run(_HTML)
        return Path("page.html").read_text("utf-8")


def digest(page: str) -> bytes:
    """Return the SHA-256 of a page without dates and times, in hexadecimal digits."""
    lasting = re.sub(r"\d{4}-\d\d-\d\d[^<]*", "", page)
    return hashlib.sha256(lasting.encode()).hexdigest().encode()


def _screenshot(page: str) -> bytes:
    """Return the PNG of a page's upper part, with the page's SHA-256 as a text of the PNG."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("no browser: install Debian's chromium")
    flags = "--headless --no-sandbox --disable-gpu --hide-scrollbars --screenshot=page.png"
    flags += " --blink-settings=preferredColorScheme=1 --window-size=1120,940"
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        Path("page.html").write_text(page, "utf-8")
        subprocess.run(
            [browser, *flags.split(), f"--user-data-dir={directory}/profile", "page.html"],
            check=True,
            capture_output=True,
        )
        png = Path("page.png").read_bytes()
    content = b"tEXt" + KEYWORD + b"\0" + digest(page)
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    return png[:33] + chunk + png[33:]  # behind the signature and the header


if __name__ == "__main__":
    PAGE.write_text(text(), "utf-8")
    PICTURE.write_bytes(_screenshot(html()))
