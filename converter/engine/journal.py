"""What an unfinished run has done already, kept so that another run can go on from there.

JSON lines, only ever appended: the first says by a fingerprint which plan they are about; each
further one that a tensor lies in all files of the plan, and the SHA-256 of its values. A journal is
no proof. Whoever goes on from it reads the bytes again (`converter.engine.proof`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converter._version import __version__
from converter.engine.result import TensorResult
from converter.engine.sink import output_error
from converter.initialise import Initialiser
from converter.plan import Origin, Plan, Stored
from converter.stamps import Stamp

_MAX_LINE = 1 << 16
"""Longer than any line that `Journal.record` writes."""


class Journal:
    """The journal of one run; `record` may be called from any thread.

    Args:
        path: the file, which is created where there is none.
        fingerprint: of the plan. A journal about another one is emptied.

    Raises:
        OutputError: if the file cannot be read or written.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._path = path
        self.finished: dict[str, TensorResult] = {}
        """Canonical name → what an earlier run found, if it says so."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._fd = os.open(path, flags, 0o644)
        except OSError as error:
            raise output_error(path, _MAX_LINE, error) from error
        try:
            self._begin({"fingerprint": fingerprint})
        except BaseException:
            self.close()
            raise

    def record(self, name: str, result: TensorResult) -> None:
        """Note that a tensor lies in every file. One with problems is not noted: it is not right.

        Raises:
            OutputError: if the system refuses.
        """
        if result.problems:
            return
        counts = {"non_finite": result.non_finite, "overflowed": result.overflowed}
        self._append({"tensor": name, "sha256": result.sha256, **counts})

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _begin(self, head: Mapping[str, str]) -> None:
        """Read what is there, and cut off what is torn or about another plan."""
        kept, lines = _whole_lines(self._fd)
        if not lines or lines[0] != head:
            kept, lines = 0, []
        for line in lines[1:]:
            self.finished.update(_parsed(line))
        os.ftruncate(self._fd, kept)
        if not kept:
            self._append(head)

    def _append(self, line: Mapping[str, Any]) -> None:
        # One call: lines of several threads do not mix, and only the last can be torn.
        text = json.dumps(line).encode() + b"\n"
        try:
            if os.write(self._fd, text) != len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise output_error(self._path, len(text), error) from error


def _whole_lines(fd: int) -> tuple[int, list[Any]]:
    """The lines up to the first that is torn or no JSON, and the bytes that they take."""
    kept, lines = 0, []
    with open(fd, "rb", closefd=False) as file:
        while (text := file.readline(_MAX_LINE)).endswith(b"\n"):
            try:
                lines.append(json.loads(text))
            except (ValueError, RecursionError):
                break
            kept += len(text)
    return kept, lines


def _parsed(line: Any) -> dict[str, TensorResult]:
    """The tensor that a line tells of; none if it is of another form."""
    match line:
        case {"tensor": str(name), "sha256": str(sha256), "non_finite": n, "overflowed": o}:
            if type(n) is int and type(o) is int:
                return {name: TensorResult(sha256, n, o)}
    return {}


def fingerprint(plan: Plan, sources: Mapping[Path, Stamp]) -> str:
    """SHA-256 over everything that decides the tensors' bytes and where they go.

    Documents are left out: they are written again by every run.

    Args:
        plan: what is to be written.
        sources: every file that it reads, and what tells whether that is still the same file.
    """
    decisive = {
        "version": __version__,
        "command": plan.command,
        "tensors": [
            [tensor.spec.name, tensor.spec.dtype, tensor.spec.shape, _origin(tensor.origin)]
            + [_origin(copy) for copy in tensor.copies]
            for tensor in plan.tensors
        ],
        "files": [
            {
                "path": file.path,
                "container": file.container,
                "entries": [
                    [e.tensor, e.spec.name, e.spec.dtype, e.spec.shape, str(e.rearrangement)]
                    for e in file.entries
                ],
                "aliases": dict(file.aliases),
                "metadata": dict(file.metadata),
            }
            for file in plan.files
        ],
        "sources": sorted(
            [os.path.realpath(path), stamp.nbytes, stamp.mtime_ns]
            for path, stamp in sources.items()
        ),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _origin(origin: Origin) -> list[object]:
    """What decides a tensor's values."""
    if isinstance(origin, Stored):
        tensor, way = origin.tensor, origin.rearrangement
        return [str(tensor.path), tensor.spec.name, str(tensor.location), str(way)]
    how: Initialiser = origin.initialiser
    return [how.rule, how.scale, how.seed, how.name]
