"""Writes `families.md`, what is supported and how it is checked: ``python docs/families.py``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from converter.tables.library import Library
from converter.tables.schema import FRAMEWORKS, Family

PAGE = Path(__file__).with_name("families.md")
_TINY = Path(__file__).parents[1] / "tests" / "peer" / "tiny"
_MARKS = {"pytorch": "PyTorch", "tensorflow": "TensorFlow", "flax": "Flax"}
_INTRODUCTION = """# Families

Every family has one table in [`mappings/`](../mappings). This page is made from the tables and from
the tests' tiny configurations by `python docs/families.py`; a test keeps it true.

One parametrised test (`tests/peer/test_every_table.py`) goes over all of them with transformers
4.57.6: a tiny model with noise on every parameter and distinct sizes is composed in each role, and
converted PyTorch → TensorFlow → Flax → PyTorch in each class. transformers' own classes must load
every file with no missing, unexpected or new tensor, every value must be in place, and *outputs*
must agree across frameworks; where transformers cannot run a model, *values* are compared with its
own saved tensors. Each variant of a configuration that changes the tensors is checked as well.

With transformers 5 (5.23 so far) the PyTorch composites of all families that it still has load and
give the outputs of 4.57.6, but for BigBird-Pegasus as decoder, whose head it forgets to tie:
`CONVERTER_TRANSFORMERS_5=PYTHON python -m pytest tests/peer/test_transformers_5.py`. It has no
ERNIE-M, Mega, NEZHA and XLM-ProphetNet.
"""


def text() -> str:
    """The whole page."""
    library = Library()
    names = sorted(name for name in library.names if not library.is_composite(name))
    families = [library.family(name) for name in names]
    lines = [_INTRODUCTION]
    for role in ("encoder", "decoder"):
        rows = [row for family in families for row in _roles(family, role, library)]
        lines += [f"## As {role}: {len(rows)}\n"]
        lines += [
            "| family | composite | frameworks | checked by | variants |",
            "|---|---|---|---|---|",
        ]
        lines += [*rows, ""]
    lines += ["## Stand-alone classes\n", "| family | classes | frameworks |", "|---|---|---|"]
    lines += [row for family in families for row in _classes(family)]
    lines += ["", "## What transformers cannot do\n"]
    lines += ["Found by the tests, or read from transformers' sources; stated in the tables.\n"]
    lines += [row for family in families for row in _faults(family)]
    return "\n".join(lines) + "\n"


def _tiny(family: Family) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((_TINY / f"{family.name}.json").read_text("utf-8"))
    return data


def _roles(family: Family, role: str, library: Library) -> Iterator[str]:
    if role not in family.roles:
        return
    entry, tiny = family.roles[role], _tiny(family)
    classes = family.models[entry.model].classes
    possible = set(entry.frameworks) & set(classes)
    if role == "encoder":
        possible &= set(library.composite(entry.composite).classes)
    frameworks = [_MARKS[name] for name in FRAMEWORKS if name in possible]
    checked = "values" if role in tiny.get("cannot_run", {}) else "values and outputs"
    composite = entry.composite if role == "encoder" else "any"
    variants = ", ".join(tiny.get("variants", {})) or "–"
    yield f"| {family.name} | {composite} | {', '.join(frameworks)} | {checked} | {variants} |"


def _classes(family: Family) -> Iterator[str]:
    grouped: dict[str, list[str]] = {}
    for model in family.models.values():
        frameworks = ", ".join(_MARKS[name] for name in FRAMEWORKS if name in model.classes)
        grouped.setdefault(frameworks, []).append(model.name)
    for frameworks, names in grouped.items():
        yield f"| {family.name} | {', '.join(names)} | {frameworks} |"


def _faults(family: Family) -> Iterator[str]:
    for role, entry in family.roles.items():
        if entry.why:
            yield f"- **{family.name}** as {role}: {entry.why}."
    for limit in family.limits:
        where = ", ".join(_MARKS[name] for name in limit.frameworks)
        yield f"- **{family.name}** with `{limit.when}`, {where}: {limit.reason}."
    for what, reason in _tiny(family).get("cannot_run", {}).items():
        yield f"- **{family.name}**, `{what}` is compared by values only: {reason}."


if __name__ == "__main__":
    PAGE.write_text(text(), "utf-8")
