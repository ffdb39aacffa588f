"""An output is complete or absent, whatever happens to the run, the disk or the sources."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import converter
from converter.errors import CheckpointError, OutputError
from converter.execution.tensor_copy import TensorCopier
from tests import factories
from tests.hostile.disks import mounted
from tests.hostile.reliability import MODES, Laboratory, digests

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KILLS", "12"))
"""Kills at random moments; `python -m tests.hostile.reliability` does more."""


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    return Laboratory(tmp_path_factory.mktemp("kills"), size=24)


@pytest.mark.slow
def test_killed_at_random_moments(laboratory: Laboratory) -> None:
    tally = laboratory.kill_at_random(KILLS, seed=7)
    assert tally.kills > tally.late


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_killed_at_every_third_step(laboratory: Laboratory, mode: str) -> None:
    tally = laboratory.kill_at_every_step(mode, stride=3)
    assert tally.kills >= 9
    assert tally.unfinished >= tally.kills // 2
    assert len(tally.left) == 2, "no kill came after the output appeared"


# The disk and its rights


class Case:
    """Two small checkpoints, and an output that is there already."""

    def __init__(self, directory: Path) -> None:
        self.bert = factories.make(directory / "in" / "bert", "bert").directory
        self.gpt2 = factories.make(directory / "in" / "gpt2", "gpt2", "GPT2LMHeadModel").directory
        self.home = directory / "out"
        self.output = self.home / "model"
        converter.compose(self.bert, self.gpt2, self.output, to=["flax"], seed=1)
        self.old = digests(self.output)

    def compose(self, **options: Any) -> None:
        converter.compose(self.bert, self.gpt2, self.output, **{"overwrite": True, **options})

    def is_untouched(self) -> bool:
        return digests(self.output) == self.old and names(self.home) == ["model"]

    def succeeds(self) -> None:
        self.compose()
        converter.compose(self.bert, self.gpt2, self.home / "other")
        assert digests(self.output) == digests(self.home / "other")


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def at_the_middle(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen while a run copies its tenth tensor."""
    copy, calls = TensorCopier.copy, iter(range(10**6))

    def copied(self: TensorCopier, tensor: Any) -> Any:
        if next(calls) == 10:
            happens()
        return copy(self, tensor)

    monkeypatch.setattr(TensorCopier, "copy", copied)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 1 MB."""
    with mounted(tmp_path / "disk", "1m") as place:
        yield place


@pytest.mark.parametrize("resume", [False, True])
def test_a_full_disk(
    case: Case, small_disk: Path, resume: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = small_disk / "model"
    options: dict[str, Any] = {"to": ["pytorch"], "overwrite": True, "resume": resume}
    converter.compose(case.bert, case.gpt2, case.home / "right", to=["pytorch"])
    with pytest.raises(OutputError, match="not enough disk space"):
        converter.compose(case.bert, case.gpt2, output, **options)
    assert names(small_disk) == []
    monkeypatch.setattr("converter.execution.write_checkpoint._OVERHEAD", 0)
    (small_disk / "films").write_bytes(bytes(900_000))
    monkeypatch.setattr("converter.execution.write_checkpoint.require_space", lambda *args: None)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        converter.compose(case.bert, case.gpt2, output, **options)
    assert "bytes free" in str(caught.value)
    left = {name for name in names(small_disk) if not name.startswith(".model.partial-")}
    assert left == {"films"}
    assert resume == (len(names(small_disk)) > 1)
    (small_disk / "films").unlink()
    converter.compose(case.bert, case.gpt2, output, **options)
    assert digests(output) == digests(case.home / "right")
    assert names(small_disk) == ["model"]


@pytest.mark.parametrize("limit", [1, 5_000, 100_000])
def test_a_limit_on_the_size_of_files(case: Case, limit: int) -> None:
    """In a process of its own, which has the limit that ``ulimit -f`` sets."""
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit},) * 2)\n"
    code += "from converter.cli import main; main()"
    sources = [str(case.bert), str(case.gpt2), str(case.output)]
    run = subprocess.run(
        [sys.executable, "-c", code, "compose", *sources, "--overwrite", "--to", "pytorch"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert run.returncode == 1, run.stderr
    assert "cannot be written: File too large" in run.stderr
    assert case.is_untouched()
    case.succeeds()


FORBIDDEN = """
import sys
from pathlib import Path
import converter
from converter.execution.tensor_copy import TensorCopier
bert, gpt2, output = map(Path, sys.argv[1:])
copy = TensorCopier.copy
def copied(self, tensor):
    output.parent.chmod(0o500)
    return copy(self, tensor)
TensorCopier.copy = copied
try:
    converter.compose(bert, gpt2, output, overwrite=True)
except converter.ConverterError as error:
    print(type(error).__name__, error)
"""
_POWERLESS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
"""Runs a command without root's right to write everywhere."""


def test_a_permission_lost_meanwhile(case: Case) -> None:
    command = [sys.executable, "-c", FORBIDDEN, str(case.bert), str(case.gpt2), str(case.output)]
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("nothing is forbidden to root")
        command = [*_POWERLESS, *command]
    try:
        run = subprocess.run(command, capture_output=True, text=True)
    finally:
        case.home.chmod(0o700)
    assert run.stdout.startswith("OutputError"), run.stderr
    assert "Permission denied" in run.stdout
    assert digests(case.output) == case.old
    case.succeeds()
    assert names(case.home) == ["model", "other"]


# The sources


def touch(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def replace(path: Path) -> None:
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    os.utime(copy, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    copy.replace(path)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "written": (touch, "was modified"),
    "longer": (append, "has"),
    "replaced": (replace, "was replaced by another file"),
    "removed": (Path.unlink, "was removed"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.txt"])
def test_a_source_changed_underneath(
    case: Case, monkeypatch: pytest.MonkeyPatch, change: str, name: str
) -> None:
    (case.bert / "vocab.txt").write_text("[PAD]\n")
    happens, message = CHANGES[change]
    at_the_middle(monkeypatch, lambda: happens(case.bert / name))
    with pytest.raises(CheckpointError, match="changed while it was read") as caught:
        case.compose()
    (problem,) = caught.value.problems
    assert problem.file == str(case.bert / name)
    assert message in problem.what
    assert case.is_untouched()


@pytest.mark.parametrize(
    ("file_format", "dialect"),
    [
        ("safetensors", "pytorch"),
        ("torch", "pytorch"),
        ("keras-hdf5", "tensorflow"),
        ("flax-msgpack", "flax"),
    ],
)
def test_a_source_truncated_while_it_is_read(
    tmp_path: Path, file_format: str, dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = factories.make(tmp_path / "bert", "bert", file_format=file_format, dialect=dialect)
    at_the_middle(monkeypatch, lambda: os.truncate(made.file, 1000))
    with pytest.raises(CheckpointError) as caught:
        converter.convert(made.directory, tmp_path / "out" / "model", jobs=1)
    assert made.file.name in str(caught.value)
    assert "ends early" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("resume", [False, True])
def test_two_runs_into_one_output(
    case: Case, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    runs: list[subprocess.CompletedProcess[str]] = []
    command = [sys.executable, "-m", "converter", "compose"]
    command += map(str, (case.bert, case.gpt2, case.output))
    options = ["--overwrite", *(["--resume"] if resume else [])]
    at_the_middle(
        monkeypatch,
        lambda: runs.append(subprocess.run([*command, *options], capture_output=True, text=True)),
    )
    case.compose(resume=resume)
    (other,) = runs
    assert other.returncode == 1
    assert "another run is writing it" in other.stderr
    assert "Traceback" not in other.stderr
    monkeypatch.undo()
    case.succeeds()


def test_an_output_inside_a_source_is_no_harm(case: Case) -> None:
    before = digests(case.bert)
    converter.compose(case.bert, case.gpt2, case.bert / "composed")
    converter.convert(case.bert / "composed", case.bert / "composed" / "flax", to=["flax"])
    after = digests(case.bert)
    assert before is not None and after is not None
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("way", ["itself", "link", "parent", "linked file"])
def test_an_output_that_would_replace_a_source_is_refused(case: Case, way: str) -> None:
    home = case.bert.parent
    output, source = case.bert, case.bert
    if way == "link":
        output = home / "latest"
        output.symlink_to(case.bert)
    elif way == "parent":
        (home / "config.json").write_text("{}")
        output = home
    elif way == "linked file":  # as in the Hub's cache
        source = home / "snapshot"
        source.mkdir()
        for file in case.bert.iterdir():
            (source / file.name).symlink_to(file)
        output = source
    before = digests(home)
    for overwrite in (True, False):
        with pytest.raises(OutputError, match="contains a source"):
            converter.convert(source, output, overwrite=overwrite)
    assert digests(home) == before


def test_an_interrupt_ends_soon_and_leaves_nothing(laboratory: Laboratory) -> None:
    laboratory.prepare("overwrite")
    with subprocess.Popen(
        laboratory.command(laboratory.output, "--overwrite"), stderr=subprocess.PIPE, text=True
    ) as process:
        while not any(".partial-" in name for name in names(laboratory.place)):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        errors = process.stderr.read()
    assert process.returncode in (0, 130), errors
    assert names(laboratory.place) == ["model"]
    if process.returncode:
        assert "Interrupted" in errors
        assert digests(laboratory.output) == laboratory.expected["old"]


def test_memory_stays_bounded(laboratory: Laboratory) -> None:
    """The command takes less memory than its model and its interpreter together."""
    code = "from converter.cli import main\ntry: main()\n"
    code += "finally: print(open('/proc/self/status').read())"
    python, dash, module, *arguments = laboratory.command(laboratory.output, "--overwrite")
    assert (dash, module) == ("-m", "converter")
    done = subprocess.run(
        [python, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    (peak,) = (line for line in done.stdout.splitlines() if line.startswith("VmHWM:"))
    assert int(peak.split()[1]) < 350 << 10
