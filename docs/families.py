"""Writes `families.md`, what is supported and how it is checked: ``python docs/families.py``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import FRAMEWORKS, Architecture
from converter.text import natural_key

PAGE = Path(__file__).with_name("families.md")
_TINY = Path(__file__).parents[1] / "tests" / "transformers" / "tiny"
_CLASSES = _TINY.with_name("rescue.json")
_MARKS = {"pytorch": "PyTorch", "tensorflow": "TensorFlow", "flax": "Flax"}
_INTRODUCTION = """# Families

Every family has one table in [`mappings/`](../mappings). This page is made from the tables and from
the tests' tiny configurations by `python docs/families.py`; a test keeps it true.

One parametrized test (`tests/transformers/test_every_table.py`) covers all of them: a tiny model
with noise on every parameter and distinct sizes is composed with BERT in each role, and converted
PyTorch → TensorFlow → Flax → PyTorch in each class. transformers' own classes must load every file
with no missing, unexpected or new tensor, and every value must be in place:

- transformers 4.57.6 loads the files of all three frameworks. *Outputs* must agree across them;
  where transformers cannot run a model, *values* are compared with its own saved tensors.
- transformers 5.23, which has PyTorch alone, loads every PyTorch file as well, must save the same
  values again, and give the outputs of 4.57.6. What 4.57.6 does not have is built and judged by
  5.23 alone.

Each variant of a configuration that changes the tensors is checked as well. Of encoders and
decoders of other families, a sample is composed and loaded in each framework
(`tests/transformers/test_pairs.py`): each family in each role meets two partners, one as wide as
itself and one of another width. Every pair is planned (`tests/planning/test_every_pair.py`).
"""
_RESCUED = """By folder of transformers 4.57.6, the classes whose own files become a PyTorch
checkpoint: a tiny model with noise on every weight is saved by the class and converted; PyTorch's
classes of 4.57.6 and 5.23 load it with no missing or unexpected tensor, and its outputs are equal,
up to 1e-5 of their scale (`python -m tests.transformers.rescue`).
"""


def text() -> str:
    """Return the complete page."""
    registry = ArchitectureRegistry()
    own = (
        name
        for name in registry.names
        if not registry.is_composite(name) and not registry.is_part(name)
    )
    names = sorted(own, key=natural_key)
    families = [registry.architecture(name) for name in names]
    lines = [_INTRODUCTION]
    for role in ("encoder", "decoder"):
        rows = [row for architecture in families for row in _roles(architecture, role, registry)]
        lines += [f"## As {role}: {len(rows)}\n"]
        lines += [
            "| family | composite | frameworks | 4.57.6 | 5.23 | variants |",
            "|---|---|---|---|---|---|",
        ]
        lines += [*rows, ""]
    lines += ["## Stand-alone classes\n", "| family | classes | frameworks |", "|---|---|---|"]
    lines += [row for architecture in families for row in _classes(architecture)]
    lines += ["", *_rescued(registry, families)]
    lines += ["", "## What transformers cannot do\n"]
    lines += ["Found by the tests, or read from transformers' sources; stated in the tables.\n"]
    shared: dict[str, list[str]] = {}
    for architecture in families:
        for fault in _faults(architecture):
            shared.setdefault(fault, []).append(architecture.name)
    lines += [f"- {fault}. **{', '.join(named)}**" for fault, named in sorted(shared.items())]
    return "\n".join(lines) + "\n"


def _tiny(architecture: Architecture) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((_TINY / f"{architecture.name}.json").read_text("utf-8"))
    return data


def _roles(architecture: Architecture, role: str, registry: ArchitectureRegistry) -> Iterator[str]:
    if role not in architecture.roles:
        return
    entry, tiny = architecture.roles[role], _tiny(architecture)
    classes = architecture.models[entry.model].classes
    possible = set(entry.frameworks) & set(classes)
    if role == "encoder":
        possible &= set(registry.composite(entry.composite).classes)
    frameworks = [_MARKS[name] for name in FRAMEWORKS if name in possible]
    checked = "values" if role in tiny.get("cannot_run", {}) else "values and outputs"
    earlier = "–" if "transformers_4" in tiny else checked
    composite = entry.composite if role == "encoder" else "any"
    variants = ", ".join(tiny.get("variants", {})) or "–"
    later = _later(tiny, checked)
    named = ", ".join(frameworks)
    yield f"| {architecture.name} | {composite} | {named} | {earlier} | {later} | {variants} |"


def _later(tiny: Mapping[str, Any], checked: str) -> str:
    """How transformers 5 has checked a family, where 4.57 has done it as `checked` says."""
    faults = tiny.get("transformers_5", {})
    if "" in faults:
        return "–"
    return f"{checked}, but not {', '.join(faults)}" if faults else checked


def _classes(architecture: Architecture) -> Iterator[str]:
    grouped: dict[str, list[str]] = {}
    for model in architecture.models.values():
        frameworks = ", ".join(_MARKS[name] for name in FRAMEWORKS if name in model.classes)
        grouped.setdefault(frameworks, []).append(model.name)
    for frameworks, names in grouped.items():
        yield f"| {architecture.name} | {', '.join(names)} | {frameworks} |"


def _rescued(registry: ArchitectureRegistry, families: Sequence[Architecture]) -> Iterator[str]:
    """Yield how many classes of each folder of transformers save what becomes PyTorch."""
    models = [model for table in families for model in table.models.values()]
    described = {name for model in models for name in model.classes.values()}
    for composite in filter(registry.is_composite, registry.names):
        described |= registry.composite(composite).class_names
    rows, totals = [], {"TF": [0, 0], "Flax": [0, 0]}
    for folder, classes in json.loads(_CLASSES.read_text("utf-8")).items():
        faults: dict[str, list[str]] = {}
        counts = {}
        for prefix, total in totals.items():
            own = {name: why for name, why in classes.items() if name.startswith(prefix)}
            for name, why in own.items():
                if why or name not in described:
                    faults.setdefault(why or "no mapping table names it", []).append(name)
            passed = sum(name in described and not why for name, why in own.items())
            counts[prefix] = f"{passed} of {len(own)}" if own else "–"
            totals[prefix] = [total[0] + passed, total[1] + len(own)]
        rest = "; ".join(f"{', '.join(names)}: {why}" for why, names in faults.items())
        rows.append(f"| {folder} | {counts['TF']} | {counts['Flax']} | {rest or '–'} |")
    sums = {prefix: "{} of {}".format(*total) for prefix, total in totals.items()}
    yield f"## From TensorFlow and Flax to PyTorch: {sums['TF']} and {sums['Flax']} classes\n"
    yield _RESCUED
    yield "| folder | TensorFlow | Flax | not converted |"
    yield "|---|---|---|---|"
    yield from rows


def _faults(architecture: Architecture) -> Iterator[str]:
    """Yield what an architecture does not support, without its name: many share it."""
    for role, entry in architecture.roles.items():
        if entry.reason:
            yield f"As {role}: {entry.reason}"
        own = {*entry.frameworks} & {*architecture.models[entry.model].classes}
        for name in sorted(own & {*entry.positions_as_types}):
            yield (
                f"As {role}, {_MARKS[name]}: `generate()` passes positions as token types, see "
                "[what to pass](ready.md#generate-in-flax)"
            )
        for name in sorted(own & {*entry.cannot_generate}):
            for composite, why in entry.cannot_generate[name].items():
                yield f"As {role} in {composite}, {_MARKS[name]}: `generate()` fails: {why}"
        for name in sorted(own & {*entry.unmasked}):
            for composite, why in entry.unmasked[name].items():
                yield (
                    f"As {role} in {composite}, {_MARKS[name]}: `generate()` needs "
                    f"`encoder_outputs`: {why}"
                )
        for name in sorted(own & {*entry.uncached}):
            why = entry.uncached[name]
            yield f"As {role}, {_MARKS[name]}: `generate()` needs `use_cache=False`: {why}"
    has = {framework for model in architecture.models.values() for framework in model.classes}
    for limit in architecture.unsupported.values():
        if where := ", ".join(_MARKS[name] for name in limit.frameworks if name in has):
            yield f"`{limit.when}`, {where}: {limit.reason}"
    tiny = _tiny(architecture)
    for what, reason in tiny.get("cannot_run", {}).items():
        yield f"`{what}`, compared by values only: {reason}"
    for what, told in tiny.get("cannot_build", {}).items():
        yield f"{what}, not checked: {told['why']}"
    for what, reason in tiny.get("own_files", {}).items():
        yield f"`{what}`, transformers 4.57.6: {reason}"
    if reason := tiny.get("transformers_4"):
        yield f"All, transformers 4.57.6: {reason}"
    for variant, reason in tiny.get("transformers_5", {}).items():
        yield f"{variant or 'All'}, transformers 5: {reason}"


if __name__ == "__main__":
    PAGE.write_text(text(), "utf-8")
