"""``converter diff``."""

from __future__ import annotations

from typing import Any

from converter.cli.console import emit_json, print_report, progress_bar
from converter.cli.options import command as make_command
from converter.options import DiffOptions

_EPILOG = """\b
Examples:
  converter diff bert rescued
  converter diff bert/model.safetensors rescued --json
  converter diff gpt2 gpt2-bf16/pytorch_model.bin --tolerance 1e-2

A and B may have any formats, frameworks and dtypes; tensors are compared by canonical name."""


@make_command("diff", DiffOptions, _EPILOG)
def command(json: bool, **values: Any) -> int:
    """Compare two checkpoints, tensor by tensor.

    For every tensor that differs: the largest and the mean absolute difference, and the cosine
    similarity; layers that differ alike are folded. The exit code is 1 if anything differs.
    """
    from converter.commands.diff import diff

    with progress_bar() as progress:
        comparison = diff(**values, progress=progress)
    if json:
        emit_json(comparison.to_dict())
    else:
        from converter.report.verification import describe_comparison

        print_report(describe_comparison(comparison), styled=True)
    return int(not comparison.equal)
