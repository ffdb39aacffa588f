"""Copies of the bundled tables with mistakes in them."""

from __future__ import annotations

from pathlib import Path

from converter.architectures.lint import lint
from converter.file_names import tables_directory

MAPPINGS = tables_directory()


def changed(directory: Path, table: str, *changes: tuple[str, str]) -> Path:
    """Return a copy of a table with parts of its text replaced, each of which must occur once."""
    text = (MAPPINGS / f"{table}.toml").read_text()
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {table}"
        text = text.replace(old, new)
    path = directory / f"{table}.toml"
    path.write_text(text)
    return path


def findings(path: Path) -> list[str]:
    """Return the findings of lint for a table, each with all its parts."""
    problems = lint(path)
    for problem in problems:
        assert problem.file is not None and str(path) in problem.file, problem
        assert problem.what, problem
    return [str(problem) for problem in problems]
