"""A headless browser that reports how it renders a page.

`look` puts the page into a frame of a page of its own, whose script (the page itself may run none)
measures what is there and writes it down; the browser prints that. Screenshots are for people.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
    " --disable-background-networking --disable-component-update --disable-sync"
    " --allow-file-access-from-files"
).split()

_FRAME = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<img src="http://127.0.0.1:%(port)d/control" alt="">
<iframe src="%(page)s" style="width:%(width)dpx;height:6000px;border:0"></iframe>
<pre></pre><script>
const frame = document.querySelector("iframe");
frame.addEventListener("load", () => {
  const page = frame.contentDocument, view = frame.contentWindow;
  const every = what => [...page.querySelectorAll(what)];
  const box = one => one.getBoundingClientRect();
  const style = one => view.getComputedStyle(one);
  // If the lowest row of a plot is painted in its middle, and with which color.
  const plot = one => {
    const mine = box(one), at = page.elementFromPoint(
      (mine.left + mine.right) / 2, mine.bottom - 2);
    return {width: mine.width, height: mine.height, seen: at !== null && (at === one ||
      at.closest("svg") === one.closest("svg")), fill: style(one).fill};
  };
  const seen = {
    title: page.title,
    wide: page.documentElement.scrollWidth - page.documentElement.clientWidth,
    beyond: every("body *").filter(one => box(one).right > %(width)d + 0.5)
      .map(one => one.outerHTML.slice(0, 120)),
    hidden: every("td, th, p, li, dd, b").filter(one => one.scrollWidth > one.clientWidth + 1
      && style(one).display !== "inline" && style(one.closest("thead") || one).position !==
      "absolute").map(one => one.outerHTML.slice(0, 120)),
    plots: every("polygon").map(plot),
    shares: every(".shares rect").map(plot),
    ink: style(page.body).color,
    paper: style(page.body).backgroundColor,
    badge: page.querySelector(".badge").textContent,
    requests: view.performance.getEntriesByType("resource").map(one => one.name),
    active: every("script, img, iframe, link, a, form, object, embed").length,
    handlers: every("*").filter(one => [...one.attributes].some(
      each => each.name.startsWith("on"))).length,
  };
  document.querySelector("pre").textContent = JSON.stringify(seen);
});
</script>
"""


def executable() -> str:
    """Return the browser; skip the test if there is none, unless NEED_BROWSER is set."""
    if BROWSER is None:
        missing = "no browser: install Debian's chromium"
        (pytest.fail if os.environ.get("NEED_BROWSER") else pytest.skip)(missing)
    return str(BROWSER)


def browse(profile: Path, *arguments: str) -> str:
    """Run the browser once and return its output."""
    done = subprocess.run(
        [executable(), *FLAGS, f"--user-data-dir={profile}", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def look(page: Path, width: int, *, dark: bool = False, port: int = 9) -> Any:
    """Return what is visible of `page`.

    Args:
        page: a file of HTML.
        width: of the window, in pixels.
        dark: whether the person prefers dark pages.
        port: of a server on this machine that the frame (not the page) asks for one picture.

    """
    frame = page.with_name("frame.html")
    frame.write_text(_FRAME % {"page": page.as_uri(), "width": width, "port": port}, "utf-8")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    size = f"--window-size={width + 100},6100"
    printed = browse(page.with_name("profile"), scheme, size, "--dump-dom", frame.as_uri())
    messages = re.search("<pre>(.+?)</pre>", printed, re.DOTALL)
    assert messages, printed[-2000:]
    return json.loads(unescape(messages[1]))
