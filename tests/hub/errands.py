"""Runs several command lines in one process, each as if it were alone.

From standard input: a JSON list of command lines. To standard output: for each its exit code and
what it printed.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import Any

from converter.cli import main


def run(arguments: list[str]) -> dict[str, Any]:
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    sys.argv = ["converter", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code
    return {"code": code or 0, "stdout": out.getvalue(), "stderr": err.getvalue()}


if __name__ == "__main__":
    print(json.dumps([run(arguments) for arguments in json.load(sys.stdin)]))
