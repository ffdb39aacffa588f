"""English text for the two tasks: 250 papers of computational linguistics, from aclsum (MIT).

The package is only read as files; what it depends on is not needed.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

WORDS = range(5, 15)
"""Lengths of the sentences that are restored."""
DROPPED = 0.15
"""Share of words that the first task drops."""
WINDOW = 3
"""Words move by less than this many places in the first task."""

Pair = tuple[str, str]


@dataclass(frozen=True)
class Task:
    """Pairs of input and output, for training and for evaluation, from different papers."""

    train: Sequence[Pair]
    held_out: Sequence[Pair]
    input_tokens: int
    output_tokens: int


def directory() -> Path:
    """Return the data of the installed package aclsum."""
    return Path(str(distribution("aclsum").locate_file("aclsum/dataset")))


def restore(place: Path) -> Task:
    """Return sentences to restore: some words are dropped, the others moved a little.

    The corruption of a sentence depends on its text alone, so that every run sees the same.
    """
    parts: tuple[list[Pair], list[Pair]] = ([], [])
    for path in sorted(place.glob("paper_jsons/*.json")):
        paper = json.loads(path.read_text())
        passages = [each["text"] for each in paper["pdf_parse"]["body_text"]]
        for sentence in sentences([paper["abstract"] or "", *passages]):
            parts[is_held_out(path.stem)].append((corrupt(sentence), sentence))
    return Task(unique(parts[0]), unique(parts[1]), input_tokens=28, output_tokens=32)


def summarize(place: Path) -> Task:
    """Return abstracts with title and summaries; the first word of the input says which."""
    parts: tuple[list[Pair], list[Pair]] = ([], [])
    for path in sorted(place.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            paper = json.loads(line)
            name = str(paper["id"])
            abstract = " ".join(paper["sentences"]["abstract"])
            for aspect, text in {"title": paper["title"], **paper["summary"]}.items():
                parts[is_held_out(name)].append((f"{aspect}: {abstract}", text))
    return Task(unique(parts[0]), unique(parts[1]), input_tokens=96, output_tokens=48)


TASKS = {"restore": restore, "summarize": summarize}


def is_held_out(paper: str) -> bool:
    """Return whether the paper is one of the tenth that is never trained on."""
    return hashlib.sha256(paper.encode()).digest()[0] < 26


def sentences(passages: Sequence[str]) -> Iterator[str]:
    """Yield the sentences of plain words, without formulas and remains of tables."""
    for passage in passages:
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", passage):
            words = sentence.split()
            plain = re.fullmatch(r"[A-Z][A-Za-z0-9 ,;:'()%/\"-]+[.!?]", sentence)
            if plain and len(words) in WORDS:
                yield " ".join(words)


def corrupt(sentence: str) -> str:
    """Return the sentence with words dropped and moved, always in the same manner."""
    chance = random.Random(sentence)
    words = [word for word in sentence.split() if chance.random() >= DROPPED]
    places = [number + chance.random() * WINDOW for number in range(len(words))]
    return " ".join(word for _, word in sorted(zip(places, words, strict=True)))


def unique(pairs: Sequence[Pair]) -> list[Pair]:
    """Return each pair once, in an order that does not depend on papers."""
    different = sorted(set(pairs))
    random.Random(0).shuffle(different)
    return different
