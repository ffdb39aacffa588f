"""Run several command lines in one process, each as if it were alone.

From standard input: a JSON list of command lines. To standard output: for each its exit code and
what it printed. A single word is an address of the server, which is called.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
import urllib.request
from typing import Any

from converter.cli import main


def run(arguments: list[str]) -> dict[str, Any]:
    if len(arguments) == 1:
        with urllib.request.urlopen(os.environ["HF_ENDPOINT"] + arguments[0]):
            return {"code": 0, "stdout": "", "stderr": ""}
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    sys.argv = ["converter", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code
    return {"code": code or 0, "stdout": out.getvalue(), "stderr": err.getvalue()}


def hurry() -> None:
    """Shorten the waits between attempts: the client's own take 30 seconds in all."""
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(min(float(seconds), 0.01))


if __name__ == "__main__":
    hurry()
    print(json.dumps([run(arguments) for arguments in json.load(sys.stdin)]))
