"""``converter app``."""

from __future__ import annotations

import threading
import webbrowser

from converter.cli.console import emit_json, print_result
from converter.cli.options import command as make_command
from converter.options import AppOptions

_EPILOG = """\b
Examples:
  converter app
  converter app --closed --no-browser --port 8000"""


@make_command("app", AppOptions, _EPILOG)
def command(port: int | None, closed: bool, no_browser: bool, json: bool) -> None:
    """Open a page in the browser to compose, convert and rescue.

    The page is served on this machine only, until Ctrl-C. It shows the plan and its warnings, runs
    it, and shows the verification of the result, which can be downloaded or pushed to the Hub.
    """
    from converter.app import launch

    def ready(address: str) -> None:
        if json:
            emit_json({"command": "app", "url": address})
        else:
            print_result(f"The page is at {address} (Ctrl-C ends it)")
        if not no_browser:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    launch(port, closed or None, ready)
