"""Fuzzes one reader, guided by the coverage of its code, with atheris; by hand, on Linux.

::

    pip install -e ".[test,fuzz]"
    python -m tests.hostile.coverage torch-pickle --seconds 3600 --keep findings
    python -m tests.hostile.coverage torch-pickle --only findings/crash-0123

Every input runs in a process of bounded memory. Findings are inputs that raise anything but an
error of this package, crash the process, take more memory or work than allowed; they are written
to `--keep`, one for each place in the code. At the end the corpus is minimized and replaces
``tests/hostile/corpus/READER.zip``, which `test_corpus.py` replays. A report goes to standard
output as JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from tests.formats.fuzz import bound_memory

if TYPE_CHECKING:
    from tests.hostile.readers import FuzzedReader

MAX_BYTES = 8192
"""Longest input; longer seeds are allowed."""
MAX_CORPUS = 96 << 10
"""Bytes of the inputs that are kept for a reader."""


def main() -> None:
    """Fuzz for the given time, in as many processes as findings end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader")
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--keep", type=Path, default=Path("findings"))
    parser.add_argument("--only", type=Path, help="an input to read again")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        *flags, inputs = options.child
        _fuzz(options.reader, options.keep, [f"-{each}" for each in flags], inputs)
        return
    from tests.hostile import readers

    with tempfile.TemporaryDirectory() as directory:
        inputs, files = Path(directory, "inputs"), Path(directory, "files")
        for folder in (inputs, files, options.keep):
            folder.mkdir(parents=True, exist_ok=True)
        reader = readers.READERS[options.reader](files)
        if options.only:
            reader.run(options.only.read_bytes())
            return
        for data in (*reader.seeds, *readers.corpus(options.reader).values()):
            (inputs / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)
        longest = max(MAX_BYTES, *map(len, reader.seeds))
        began, cases, crashes = time.monotonic(), 0, 0
        while (left := int(options.seconds - (time.monotonic() - began))) > 0:
            flags = [f"max_total_time={left}", f"max_len={longest}", "timeout=600"]
            run = _child(options, flags, inputs)
            done = re.findall(r"^#(\d+)", run.stderr, re.M)
            cases += max(map(int, done), default=0)
            if run.returncode:
                crashes += 1
                (options.keep / f"end-{crashes}.txt").write_text(run.stderr[-20_000:])
        seconds = time.monotonic() - began
        datas = sorted((path.read_bytes() for path in inputs.iterdir()), key=lambda d: (len(d), d))
        kept = _pack(readers.CORPUS / f"{options.reader}.zip", _minimized(reader, datas))
        report = {
            "reader": options.reader,
            "seconds": round(seconds),
            "cpu_seconds": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime),
            "cases": cases,
            "corpus": kept,
            "processes_ended": crashes,
            "findings": len(list(options.keep.glob("finding-*.bin"))),
        }
        print(json.dumps(report))


def _child(
    options: argparse.Namespace, flags: list[str], inputs: Path
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.hostile.coverage", options.reader]
    command += ["--keep", str(options.keep), "--child", *flags, str(inputs)]
    return subprocess.run(command, capture_output=True, text=True, errors="replace")


def _fuzz(name: str, keep: Path, flags: list[str], inputs: str) -> None:
    """Run libFuzzer in this process; it never returns."""
    import atheris

    with atheris.instrument_imports(include=["converter"]):
        from tests.hostile import readers

        directory = tempfile.mkdtemp(dir="/dev/shm")
        reader = readers.READERS[name](Path(directory))
        for seed in reader.seeds:  # imports what is imported late, too
            reader.run(seed)
    bound_memory()

    def run(data: bytes) -> None:
        try:
            reader.run(data)
        except Exception as error:  # report it, and continue
            frames = traceback.extract_tb(error.__traceback__)[-1:]
            place = [(type(error).__name__, each.filename, each.lineno) for each in frames]
            digest = hashlib.sha256(repr(place).encode()).hexdigest()[:12]
            path = keep / f"finding-{digest}.bin"
            if not path.exists():
                path.write_bytes(data)
                path.with_suffix(".txt").write_text(traceback.format_exc()[-20_000:])

    flags += [f"-artifact_prefix={keep}/", "-rss_limit_mb=2048"]
    atheris.Setup([sys.argv[0], *flags, inputs], run)
    atheris.Fuzz()


def _minimized(reader: FuzzedReader, inputs: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the inputs that run from a line of the package to another as no input before."""
    total, seen = 0, set[tuple[Any, int, int]]()
    for data in inputs:
        arcs = set[tuple[Any, int, int]]()

        def enter(frame: FrameType, event: str, _: object, arcs: set[Any] = arcs) -> Any:
            if f"{os.sep}converter{os.sep}" not in frame.f_code.co_filename:
                return None
            last = 0

            def step(frame: FrameType, event: str, _: object) -> Any:
                nonlocal last
                arcs.add((frame.f_code, last, frame.f_lineno))
                last = frame.f_lineno
                return step

            return step

        sys.settrace(enter)
        try:
            reader.read(data)
        except Exception:  # an error of the package, or a finding
            pass
        finally:
            sys.settrace(None)
        if not arcs <= seen and total + len(data) <= MAX_CORPUS:
            seen |= arcs
            total += len(data)
            yield data


def _pack(path: Path, inputs: Iterable[bytes]) -> dict[str, int]:
    """Write inputs to an archive that is the same on every machine."""
    packed, count = io.BytesIO(), 0
    with ZipFile(packed, "w") as file:
        for data in inputs:
            count += 1
            info = ZipInfo(hashlib.sha256(data).hexdigest()[:12])
            info.compress_type = ZIP_DEFLATED
            file.writestr(info, data)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(packed.getvalue())
    return {"inputs": count, "bytes": path.stat().st_size}


if __name__ == "__main__":
    main()
