"""Measurement of wall time, CPU time and peak memory of commands."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """One run: wall and CPU seconds, and the peak resident memory in MB."""

    wall: float
    cpu: float
    rss: float


@dataclass
class Task:
    """A command that is run several times, each time from the same state."""

    name: str
    command: Sequence[str]
    prepare: Callable[[], None] = lambda: None
    """Called before the clock starts."""
    runs: list[Run] = field(default_factory=list)

    def run(self, environment: dict[str, str]) -> None:
        self.prepare()
        os.sync()  # the write-back of an earlier run is not counted
        began = time.perf_counter()
        process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
        )
        assert process.stderr is not None
        message = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{self.name} failed:\n{message.decode(errors='replace')[-2000:]}")
        self.runs.append(Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024))

    def median(self, what: str) -> float:
        return statistics.median(getattr(run, what) for run in self.runs)

    def row(self) -> str:
        """Return a row of the table: medians, and the wall times of all runs."""
        walls = " ".join(f"{run.wall:.2f}" for run in self.runs)
        return (
            f"| {self.name} | {self.median('wall'):.2f} | {self.median('cpu'):.2f} "
            f"| {self.median('rss'):.0f} | {walls} |"
        )


HEADER = "| | wall s | CPU s | peak MB | each run's wall s |\n|---|---|---|---|---|"


def forget(*directories: Path) -> None:
    """Drop the files from the page cache."""
    os.sync()
    for directory in directories:
        for path in directory.iterdir():
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def machine(directory: Path) -> str:
    """Describe CPUs, memory and file system."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "unknown CPU",
    )
    kind = subprocess.run(
        ["df", "--output=fstype", directory], capture_output=True, text=True, check=False
    ).stdout.split()[-1]
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} × {model}, {memory:.0f} GiB, {kind}; "
        f"Linux {os.uname().release.split('-')[0]}; load before the runs {load:.1f}"
    )
