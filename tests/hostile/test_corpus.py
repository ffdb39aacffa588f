"""Inputs that coverage-guided fuzzing kept are read or refused: see `coverage.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.formats.work import without_old_objects
from tests.hostile.readers import CORPUS, READERS, corpus


@pytest.mark.parametrize("name", READERS)
def test_every_kept_input_is_read_or_refused(name: str, tmp_path: Path) -> None:
    try:
        reader = READERS[name](tmp_path)
    except ImportError as error:
        pytest.skip(f"{error.name} is not installed")
    with without_old_objects():
        for data in (*reader.seeds, *corpus(name).values()):
            reader.run(data)


def test_every_corpus_belongs_to_a_reader() -> None:
    assert {path.stem for path in CORPUS.glob("*")} <= set(READERS)
    assert sum(path.stat().st_size for path in CORPUS.glob("*")) < 400_000
