"""Going on from what an interrupted run has left: only what is proven is kept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import converter
from converter.errors import FormatError, OutputError
from converter.execution import executor
from converter.execution.tensor_copy import TensorCopier
from converter.formats.registry import open_file
from converter.formats.stored_tensors import ContiguousTensor
from tests import factories

OPTIONS: dict[str, Any] = {
    "to": ["pytorch", "tensorflow", "flax"],
    "pytorch_format": "both",
    "dtype": "bfloat16",  # which tf_model.h5 holds as float32
    "jobs": 1,
}


class Run:
    """Composes, is interrupted after some tensors, and counts the copied tensors."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        factories.make(directory / "in" / "bert", "bert")
        factories.make(directory / "in" / "gpt2", "gpt2", "GPT2LMHeadModel")
        self.sources = (directory / "in" / "bert", directory / "in" / "gpt2")
        self.home = directory / "out"
        self.output = self.home / "model"
        self._patch = monkeypatch
        self.reference = directory / "reference"
        converter.compose(*self.sources, self.reference, **OPTIONS)
        self.expected = content(self.reference)
        tensors = json.loads(self.expected["converter-manifest.json"])["tensors"].values()
        self.tensors = len(tensors)
        self.zeros = sum(tensor.get("scale") == 0 for tensor in tensors)

    def __call__(self, stop: int | None = None, error: Any = KeyboardInterrupt, **more: Any) -> int:
        """Compose, and return how many tensors were copied before `error`."""
        copy, copied = TensorCopier.copy, 0

        def counted(self: TensorCopier, tensor: Any) -> Any:
            nonlocal copied
            if copied == stop:
                raise error
            copied += 1
            return copy(self, tensor)

        with self._patch.context() as patch:
            patch.setattr(TensorCopier, "copy", counted)
            converter.compose(*self.sources, self.output, **{**OPTIONS, "resume": True, **more})
        return copied

    def interrupted(self, stop: int, **more: Any) -> tuple[Path, Path]:
        """Interrupt a run, and return the directory and the journal that it leaves."""
        with pytest.raises(KeyboardInterrupt):
            self(stop, **more)
        partial, journal = sorted(self.home.iterdir())
        assert partial.name.startswith(".model.partial-")
        assert journal.name == f"{partial.name}.journal"
        return partial, journal

    def ends_well(self, **more: Any) -> int:
        """Compose to the end; how many tensors were copied over."""
        copied = self(**more)
        assert content(self.output) == self.expected
        assert [path.name for path in self.home.iterdir()] == ["model"]
        return copied


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(tmp_path, monkeypatch)


def content(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("stop", [0, 1, 40])
def test_goes_on_where_it_was_interrupted(run: Run, stop: int) -> None:
    run.interrupted(stop)
    assert run.ends_well() == run.tensors - stop


def test_may_be_interrupted_again_and_again(run: Run) -> None:
    for _ in range(3):
        run.interrupted(11)
    assert run.ends_well() == run.tensors - 33


def test_files_that_were_sealed_already_are_taken_over(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("converter.execution.write_checkpoint.manifest_bytes", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert run.ends_well() == 0


def _interrupt(*args: object, **options: object) -> bytes:
    raise KeyboardInterrupt


def test_other_threads_and_memory_change_nothing(run: Run) -> None:
    run.interrupted(30)
    assert run.ends_well(jobs=3, memory="2MB") == run.tensors - 30


def test_other_failures_are_gone_on_from_too(run: Run) -> None:
    with pytest.raises(FormatError):
        run(20, FormatError("the file ends early"))
    assert run.ends_well() == run.tensors - 20


def test_without_the_option_nothing_is_left_or_used(run: Run) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(20, resume=False)
    assert not run.home.exists()
    run.interrupted(20)
    assert run.ends_well(resume=False) == run.tensors


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "tf_model.h5"])
@pytest.mark.parametrize("where", ["tensor", "header", "length"])
def test_damaged_bytes_are_written_again(run: Run, name: str, where: str) -> None:
    """In tf_model.h5 only the low bits of a float32 are damaged, which bfloat16 does not have."""
    partial, _ = run.interrupted(run.tensors - 1)
    file = partial / name
    data = bytearray(file.read_bytes())
    if where == "tensor":
        data[_offset_of_values(file, run.reference / name)] ^= 1
    elif where == "header":
        data[:64] = bytes(64)
    else:
        data += b"more"
    file.write_bytes(data)
    copied = run.ends_well()
    # In a new file, holes equal the tensors of zeros, except for the one missing in the journal.
    new_file = run.tensors - run.zeros + 1
    assert copied == {"tensor": 2, "header": 1, "length": new_file}[where]


def _offset_of_values(file: Path, reference: Path) -> int:
    """Return the offset of values that an unfinished file holds already."""
    unfinished, finished = file.read_bytes(), reference.read_bytes()
    with open_file(reference) as reader:
        for tensor in reader.tensors.values():
            assert isinstance(tensor, ContiguousTensor)
            start = tensor.segments[0].file_offset
            values = finished[start : start + tensor.spec.nbytes]
            if any(values) and unfinished[start : start + len(values)] == values:
                return start
    raise AssertionError("nothing is written")


def test_values_missing_in_the_journal_are_written_again(run: Run) -> None:
    _, journal = run.interrupted(20)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:11]))
    assert run.ends_well() == run.tensors - 10


def _wrong_hash(text: bytes) -> bytes:
    wrong = text.splitlines(keepends=True)[12].replace(b'"sha256": "', b'"sha256": "0')
    return _replace(text, 12, wrong)


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], int]] = {
    "last line incomplete": (lambda text: text[:-9], 19),
    "last line without end": (lambda text: text[:-1], 19),
    "rubbish in the middle": (lambda text: _replace(text, 11, b"\xff\xfe\n"), 10),
    "another form": (lambda text: _replace(text, 11, b'{"tensor": 7}\n'), 19),
    "a wrong hash": (_wrong_hash, 19),
    "deep nesting": (lambda text: _replace(text, 11, b"[" * 60_000 + b"\n"), 10),
    "an endless line": (lambda text: _replace(text, 11, b"x" * (1 << 20) + b"\n"), 10),
    "empty": (lambda text: b"", 0),
    "another plan": (lambda text: text.replace(b'hash": "', b'hash": "0', 1), 0),
}
"""Damage to a journal of 20 tensors → how many of them remain."""


def _replace(text: bytes, number: int, line: bytes) -> bytes:
    lines = text.splitlines(keepends=True)
    return b"".join([*lines[:number], line, *lines[number + 1 :]])


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_journal_is_read_up_to_the_damage(run: Run, kind: str) -> None:
    damage, remaining = DAMAGE[kind]
    _, journal = run.interrupted(20)
    assert len(journal.read_bytes().splitlines()) == 21
    journal.write_bytes(damage(journal.read_bytes()))
    assert run.ends_well() == run.tensors - remaining


def test_a_journal_continues_after_an_incomplete_line(run: Run) -> None:
    _, journal = run.interrupted(20)
    journal.write_bytes(journal.read_bytes()[:-9])
    run.interrupted(5)
    assert run.ends_well() == run.tensors - 24


@pytest.mark.parametrize("change", ["seed", "dtype", "source", "format"])
def test_another_plan_starts_again(run: Run, change: str) -> None:
    changes: dict[str, Any] = {
        "seed": {"seed": 5},
        "dtype": {"dtype": "float16"},
        "format": {"to": ["flax"]},
    }
    run.interrupted(20, **changes.get(change, {}))
    if change == "source":
        with (run.sources[0] / "model.safetensors").open("r+b") as file:
            data = file.read()
            file.seek(0)
            file.write(data)
    assert run.ends_well() == run.tensors


def test_what_else_lies_in_the_partial_directory_goes(run: Run) -> None:
    partial, _ = run.interrupted(20)
    (partial / "stale.bin").write_text("old")
    (partial / "model.safetensors.new").write_text("old")
    (partial / "config.json").unlink()
    (partial / "config.json").symlink_to(run.sources[0] / "config.json")
    before = content(run.sources[0])
    assert run.ends_well() == run.tensors - 20
    assert content(run.sources[0]) == before


@pytest.mark.parametrize("lost", ["partial", "journal"])
def test_a_directory_or_a_journal_alone_is_worth_nothing(run: Run, lost: str) -> None:
    partial, journal = run.interrupted(20)
    if lost == "journal":
        journal.unlink()
    else:
        for path in partial.iterdir():
            path.unlink()
        partial.rmdir()
    assert run.ends_well() == run.tensors


def test_links_in_their_place_are_not_followed(run: Run, tmp_path: Path) -> None:
    partial, journal = run.interrupted(20)
    (tmp_path / "precious").write_text("precious")
    journal.unlink()
    journal.symlink_to(tmp_path / "precious")
    weights = partial / "model.safetensors"
    weights.unlink()
    weights.symlink_to(tmp_path / "precious")
    assert run.ends_well() == run.tensors
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize("what", ["hard link", "FIFO", "directory", "link to a directory"])
def test_what_is_not_a_journal_is_not_used(run: Run, tmp_path: Path, what: str) -> None:
    """Whoever may write to the directory can put it there; nothing is waited for or overwritten."""
    partial, journal = run.interrupted(20)
    (tmp_path / "precious").write_text("precious")
    journal.unlink()
    if what == "hard link":
        journal.hardlink_to(tmp_path / "precious")
    elif what == "FIFO":
        os.mkfifo(journal)
    elif what == "directory":
        journal.mkdir()
    else:
        partial.rename(tmp_path / "elsewhere")
        partial.symlink_to(tmp_path / "elsewhere")
        journal.write_text("")
        before = content(tmp_path / "elsewhere")
    assert run.ends_well() == run.tensors
    assert (tmp_path / "precious").read_text() == "precious"
    if what == "link to a directory":
        assert content(tmp_path / "elsewhere") == before


@pytest.mark.parametrize("counts", ["-1", "true", "1.5", '"1"', "null", "1" * 5000])
def test_counts_in_a_journal_that_are_none(run: Run, counts: str) -> None:
    _, journal = run.interrupted(20)
    text = journal.read_text().replace('"non_finite": 0', f'"non_finite": {counts}')
    journal.write_text(text)
    assert run.ends_well() == run.tensors


def test_the_old_output_stays_until_then(run: Run) -> None:
    converter.compose(*run.sources, run.output, to=["flax"])
    old = content(run.output)
    with pytest.raises(OutputError, match="overwrite=True"):
        run()
    with pytest.raises(KeyboardInterrupt):
        run(20, overwrite=True)
    assert content(run.output) == old
    assert run.ends_well(overwrite=True) == run.tensors - 20


def test_room_that_is_taken_already_counts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.interrupted(20)
    usage = type("Usage", (), {"free": 16 << 20})
    monkeypatch.setattr("converter.storage.atomic_directory.shutil.disk_usage", lambda path: usage)
    assert run.ends_well() == run.tensors - 20


def test_a_journal_that_cannot_be_written_is_an_error(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converter.execution.resume.os.write", lambda fd, text: len(text) - 1)
    with pytest.raises(OutputError, match="No space left"):
        run()


def test_convert_and_split_go_on_too(run: Run, tmp_path: Path) -> None:
    reference = tmp_path / "reference"
    for command in (converter.convert, converter.split):
        name = command.__name__
        command(reference, tmp_path / f"complete {name}", to=["flax"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(executor, "digest_in_file", _interrupt)
            patch.setattr("converter.execution.write_checkpoint.manifest_bytes", _interrupt)
            with pytest.raises(KeyboardInterrupt):
                command(reference, tmp_path / "again" / name, to=["flax"], resume=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TensorCopier, "copy", _interrupt)
            command(reference, tmp_path / "again" / name, to=["flax"], resume=True)
        assert content(tmp_path / "again" / name) == content(tmp_path / f"complete {name}")
