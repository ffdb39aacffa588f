"""Words that are not to come back: private ones, and British spellings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXEMPT = {ROOT / "CHANGELOG.md", Path(__file__)}
"""The changelog names old words in its list of renames."""

PRIVATE = re.compile(
    r"(?<![a-z])(?:wish(?:es)?|regret(?:s|ted)?|travell?ing|draftsman|hand_over|portraits?|telling"
    r"|expanded anew|spoilt)(?![a-z])",
    re.IGNORECASE,
)
BRITISH = re.compile(
    r"initialis|colour|behaviour|normalis|quantis|serialis|licence|recognis|optimis|summaris",
    re.IGNORECASE,
)
EXCEPTIONS = re.compile("copied, rearranged, cast, tied or expanded anew")
"""A sentence of fixtures/make.py: the bytes of the fixtures' vocabularies depend on it."""

FILES = sorted(
    path
    for pattern in (
        "*.py",
        "*.md",
        "*.toml",
        "*.css",
        "*.cfg",
        "*.yml",
        "*.yaml",
        "*.json",
        "Dockerfile",
    )
    for folder in (
        "converter",
        "mappings",
        "tests",
        "docs",
        "benchmarks",
        "examples",
        "fixtures",
        ".github",
        "",
    )
    for path in ((ROOT / folder).rglob(pattern) if folder else ROOT.glob(pattern))
    if path not in EXEMPT and "__pycache__" not in path.parts
)


def lines(path: Path, words: re.Pattern[str]) -> Iterator[str]:
    """Yield the lines of a file that hold a word, with their numbers."""
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if words.search(EXCEPTIONS.sub("", line)):
            yield f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"


@pytest.mark.parametrize("words", [PRIVATE, BRITISH], ids=["private", "British"])
def test_words_stay_away(words: re.Pattern[str]) -> None:
    assert [line for path in FILES for line in lines(path, words)] == []
