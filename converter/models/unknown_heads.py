"""Heads of tasks of their own, which stand beside the base model and are no part of it."""

from __future__ import annotations

from collections.abc import Iterator

from converter.architectures.model_spec import BODY
from converter.architectures.schema import Conventions
from converter.models.source_model import SourceModel

REASON = "a foreign head: it lies beside the base model, and no table knows it"


def leave_out_foreign_heads(source: SourceModel, conventions: Conventions) -> None:
    """Give up the unknown tensors of `source` that are surely no part of its base model.

    A tensor is, if all of the base model's names begin with something that its name does not
    (``classifier.weight`` beside ``bert.…``), if no head that the table knows begins like it, and
    if its name does not end in that of a tensor of the base model: that would be a second model.
    Every other unknown tensor stays unmatched, which is an error.
    """
    report = source.report
    dialect = conventions.dialects[report.dialect]
    known = source.known.index(dialect.name)
    body = {name for name, param in known.items() if param.part == BODY}
    lead = _lead_of_body(source, dialect.separator)
    if not lead:
        return
    heads = {
        name.partition(dialect.separator)[0]
        for name, param in known.items()
        if param.part in source.architecture.heads
    }
    staying = []
    for spec in report.unmatched:
        bare = report.reading.bare(spec.name)
        first = bare.partition(dialect.separator)[0]
        inside = report.reading.plain(spec.name).startswith(lead)
        second = any(ending in body for ending in _endings(bare, dialect.separator))
        if inside or first in heads or second:
            staying.append(spec)
        else:
            report.dropped[spec.name] = REASON
    report.unmatched[:] = staying


def _lead_of_body(source: SourceModel, separator: str) -> str:
    """What the base model's names begin with in the file; ``""`` if with nothing."""
    report, params = source.report, source.known.by_name
    names = [
        report.reading.plain(stored.tensor.spec.name)
        for name, stored in report.matched.items()
        if name in params and params[name].part == BODY
    ]
    base = source.architecture.base_model_prefix.get(report.dialect)
    longer = f"{report.reading.lead}{base}{separator}"
    if base and 2 * sum(name.startswith(longer) for name in names) > len(names):
        return longer
    return report.reading.lead


def _endings(name: str, separator: str) -> Iterator[str]:
    """What stands behind each separator in `name`."""
    while separator in name:
        name = name.partition(separator)[2]
        yield name
