"""Whether all files hold the same tensors, in the same dtypes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from converter.errors import Problem
from converter.models.model import Model
from converter.verification.result import Verification


def check_same_tensors(models: Mapping[str, Model], found: Verification) -> None:
    """Parts that a model may lack must be lacking in all files alike."""
    for label, model in models.items():
        mine, dialect = model.report.matched, model.report.dialect
        needed = {param.name for param in model.required}
        usual = model.target.missing_parts.get(dialect, frozenset())
        for name, param in model.target.by_name.items():
            holder = next((at for at in models if name in models[at].report.matched), None)
            if name in mine or name in needed or holder is None or param.part in usual:
                continue
            if dialect in param.stored_as and not param.tied_to:
                found.problems.append(
                    Problem(
                        f"missing, although {holder} has it",
                        str(model.checkpoint.directory / label),
                        param.stored_as[dialect].name,
                    )
                )


def note_dtypes(models: Mapping[str, Model], found: Verification) -> None:
    """Note where a file keeps numbers in another dtype than the first file does."""
    reference, *others = models
    first = models[reference].report.matched
    for label in others:
        pairs = Counter(
            (stored.tensor.spec.dtype, first[name].tensor.spec.dtype)
            for name, stored in models[label].report.matched.items()
            if name in first
        )
        found.notes += [
            f"{label} holds {count:,} tensor(s) as {mine} that {reference} holds as {theirs}"
            for (mine, theirs), count in pairs.items()
            if mine != theirs
        ]
    for label, model in models.items():
        kinds = Counter(s.tensor.spec.dtype for s in model.report.matched.values())
        if len(kinds) > 1:
            told = ", ".join(f"{count:,} {dtype}" for dtype, count in kinds.most_common())
            found.notes.append(f"{label} mixes dtypes: {told}")
