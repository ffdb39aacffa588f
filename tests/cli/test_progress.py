"""Long functions report progress, can be canceled, and run in parallel threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import converter
from converter.progress import ProgressCounter
from tests import factories

TOKENS: dict[str, Any] = {"decoder_start_token": 5, "eos_token": 6, "pad_token": 7}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a directory with two sources and their composition."""
    factories.make(tmp_path / "bert", "bert")
    factories.make(tmp_path / "gpt2", "gpt2", "GPT2LMHeadModel", file_format="torch")
    converter.compose(tmp_path / "bert", tmp_path / "gpt2", tmp_path / "both", **TOKENS)
    return tmp_path


CALLS: dict[str, Callable[..., Any]] = {
    "compose": lambda p, **how: converter.compose(p / "bert", p / "gpt2", p / "out", **how),
    "convert": lambda p, **how: converter.convert(p / "both", p / "out", **how),
    "split": lambda p, **how: converter.split(p / "both", p / "out", **how),
    "verify": lambda p, **how: converter.verify(
        p / "both", against=[p / "bert", p / "gpt2"], value_report=True, **how
    ),
    "diff": lambda p, **how: converter.diff(p / "bert", p / "bert", **how),
    "inspect": lambda p, **how: converter.inspect(p / "both", stats=True, **how),
}


def content(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("name", CALLS)
def test_progress_is_reported(place: Path, name: str) -> None:
    printed: list[tuple[int, int, str]] = []
    threads: set[int] = set()

    def progress(done: int, total: int, tensor: str) -> None:
        printed.append((done, total, tensor))
        threads.add(threading.get_ident())

    CALLS[name](place, progress=progress)
    assert threads == {threading.get_ident()}
    dones = [done for done, _, _ in printed]
    assert dones == sorted(dones)
    assert all(0 < done <= total and tensor for done, total, tensor in printed[1:])
    done, total, _ = printed[-1]
    assert done == total > 10_000
    if name in ("compose", "convert", "split"):
        assert total == CALLS[name](place, dry_run=True, overwrite=True).plan.nbytes


@pytest.mark.parametrize("name", CALLS)
def test_raising_in_the_callback_cancels_it(place: Path, name: str) -> None:
    class Cancelled(Exception):  # noqa: N818 - it is no error
        pass

    def progress(done: int, total: int, tensor: str) -> None:
        raise Cancelled

    before = content(place)
    running = threading.active_count()
    with pytest.raises(Cancelled):
        CALLS[name](place, progress=progress)
    assert content(place) == before
    assert not [path for path in place.iterdir() if path.name not in ("bert", "gpt2", "both")]
    assert threading.active_count() == running
    CALLS[name](place)  # and then it can be done after all


def test_canceling_keeps_the_existing_output(place: Path) -> None:
    converter.convert(place / "bert", place / "out", to=["pytorch"])
    before = content(place)

    def progress(done: int, total: int, tensor: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        converter.convert(place / "both", place / "out", overwrite=True, progress=progress)
    assert content(place) == before


def test_a_counter_counts_steps() -> None:
    printed: list[tuple[int, int, str]] = []
    meter = ProgressCounter(lambda *now: printed.append(now))
    first = meter.start_step({"a": 3, "b": 4})
    first("a")
    first("b")
    meter.start_step({"a": 5})("a")
    assert printed == [(3, 7, "a"), (7, 7, "b"), (12, 12, "a")]
    ProgressCounter(None).start_step({"a": 1})("a")


@pytest.mark.slow
def test_many_threads_at_once_write_what_one_writes(place: Path) -> None:
    """Every function, on shared sources, in 8 threads that use threads themselves."""

    def all_of_it(home: Path) -> tuple[dict[str, bytes], list[Any]]:
        home.mkdir()
        result: list[Any] = []
        converter.compose(place / "bert", place / "gpt2", home / "both", seed=3, **TOKENS)
        converter.convert(home / "both" / "tf_model.h5", home / "again", dtype="float16")
        converter.split(home / "both", home / "parts", to=["pytorch", "flax"])
        result.append(converter.verify(home / "both", against=[place / "bert"]).to_dict())
        result.append(converter.diff(home / "both", home / "again", tolerance=1e-3).to_dict())
        result.append(converter.inspect(place / "both", stats=True).to_dict())
        with converter.open_checkpoint(home / "parts" / "decoder") as checkpoint:
            result.append({name: tensor.numpy().tobytes() for name, tensor in checkpoint.items()})
        for report in result[:2]:
            for key in ("directory", "first", "second", "unknown"):
                report.pop(key, None)
        return content(home), result

    alone = all_of_it(place / "alone")
    assert alone[1][0]["verified"]
    assert len(alone[0]) > 15
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(all_of_it, [place / f"home-{n}" for n in range(16)]))
    for files, reports in together:
        assert files.keys() == alone[0].keys()
        assert [name for name in files if files[name] != alone[0][name]] == []
        assert reports == alone[1]
