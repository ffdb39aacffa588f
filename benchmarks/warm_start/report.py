"""The table and the picture of what was measured.

``python -m benchmarks.warm_start.report`` writes both into ``docs/`` from ``results.json``, and
some rows into ``README.md``.
"""

from __future__ import annotations

import io
import json
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.warm_start.setups import GROUPS, NEW, PRESETS, SETUPS

TITLES = {"restore": "Restore sentences", "summarize": "Title and summaries from an abstract"}
_PANELS: Sequence[tuple[str, str, Mapping[str, str]]] = (
    ("restore", "Restore sentences: presets", {name: name for name in PRESETS}),
    (
        "restore",
        "Restore sentences: bert2bert by --init",
        {"normal": "bert2bert"} | {rule: f"bert2bert, {rule}" for rule in NEW},
    ),
    ("summarize", "Title and summaries: presets", {name: name for name in PRESETS}),
)
"""Of the picture: task, title, and label of a line → its setup."""

RESULTS = Path(__file__).with_name("results.json")
"""The results that the documentation shows."""
PAGE = Path(__file__).parents[2] / "docs" / "warm-start.md"
README = PAGE.parents[1] / "README.md"
_TABLE = re.compile(r"(?<=<!-- table -->\n).*?(?=\n<!-- end of table -->)", re.DOTALL)

_HEADER = (
    "",
    "| | seeds | held-out loss | ROUGE-L | steps to rnd2rnd's final loss |",
    "|---|---|---|---|---|",
)

Result = Mapping[str, Any]
"""Of one run: ``settings``, ``held_out`` (pairs of step and loss), ``rouge_l``, ``exact_match``."""


def collect(work: Path) -> dict[str, dict[str, list[Result]]]:
    """Return task → setup → the results of its finished runs by seed, without training losses."""
    keys = ("settings", "seconds", "held_out", "rouge_l", "exact_match")
    return {
        task: {
            name: [
                {key: run[key] for key in keys if key in run}
                for path in sorted(path_of(work, task, name, 0).parent.glob("*.json"))
                for run in (json.loads(path.read_text()),)
            ]
            for name in SETUPS
        }
        for task in TITLES
    }


@dataclass(frozen=True)
class Report:
    """Results by task and setup, one of each seed."""

    runs: Mapping[str, Mapping[str, Sequence[Result]]]

    def table(self) -> str:
        """Return Markdown: a table for each task."""
        return "\n\n".join(
            "\n".join(
                (f"**{TITLES[task]}** ({_budget(runs['rnd2rnd'])})", *_HEADER, *self.rows(task))
            )
            for task, runs in self.runs.items()
            if runs["rnd2rnd"]
        )

    def rows(self, task: str) -> Iterator[str]:
        """Yield a row for each setup of which there are results, and one for each group."""
        runs = self.runs[task]
        goal = statistics.mean(run["held_out"][-1][1] for run in runs["rnd2rnd"])
        for group, names in GROUPS.items():
            measured = [name for name in names if runs[name]]
            if measured:
                yield f"| *{group}* | | | | |"
            for name in measured:
                each = runs[name]
                loss = _with_spread([run["held_out"][-1][1] for run in each], "{:.3f}")
                rouge = _with_spread([run["rouge_l"] for run in each], "{:.1%}")
                cells = (name, len(each), loss, rouge, _reached(each, goal))
                yield f"| {' | '.join(map(str, cells))} |"

    def picture(self) -> str:
        """Return an SVG: held-out loss over steps, with the range of seeds."""
        import matplotlib as mpl

        mpl.use("svg")
        mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "warm start", "font.size": 9})
        from matplotlib import pyplot

        shown = [
            each for each in _PANELS if all(self.runs[each[0]][name] for name in each[2].values())
        ]
        size = (1 + 3.7 * len(shown), 3.6)
        figure, panels = pyplot.subplots(1, len(shown), figsize=size, squeeze=False)
        for panel, (task, title, lines) in zip(panels[0], shown, strict=True):
            for label, name in lines.items():
                curves = [dict(run["held_out"]) for run in self.runs[task][name]]
                steps = sorted(set.intersection(*(set(curve) for curve in curves)))
                middle = [statistics.mean(curve[step] for curve in curves) for step in steps]
                (line,) = panel.plot(steps, middle, label=label, linewidth=1.6)
                low = [min(curve[step] for curve in curves) for step in steps]
                high = [max(curve[step] for curve in curves) for step in steps]
                panel.fill_between(steps, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
            panel.set_title(title)
            panel.set_xlabel("training steps")
            panel.spines[["top", "right"]].set_visible(False)
            panel.legend(frameon=False)
        panels[0][0].set_ylabel("held-out loss per token")
        figure.tight_layout()
        output = io.StringIO()
        figure.savefig(output, format="svg", metadata={"Date": None})
        pyplot.close(figure)
        return output.getvalue()


def path_of(work: Path, task: str, name: str, seed: int) -> Path:
    """Return the path of the result of one run."""
    return work / "runs" / task / re.sub(r"\W+", "-", name) / f"{seed}.json"


def _with_spread(values: Sequence[float], style: str) -> str:
    """Return the mean, and the standard deviation of several values."""
    mean = style.format(statistics.mean(values))
    return f"{mean} ± {style.format(statistics.stdev(values))}" if len(values) > 1 else mean


def _reached(runs: Sequence[Result], goal: float) -> str:
    """Return after how many steps the mean curve has reached a loss, at the grid's accuracy."""
    curves = [dict(run["held_out"]) for run in runs]
    for step in sorted(set.intersection(*(set(curve) for curve in curves))):
        if statistics.mean(curve[step] for curve in curves) <= goal:
            return str(step)
    return "not reached"


def _budget(runs: Sequence[Result]) -> str:
    settings = runs[0]["settings"]
    return f"{settings['steps']} steps of {settings['batch']} pairs"


def update_pages() -> None:
    """Write the committed results into the documentation: the table, its rows, and the picture."""
    report = Report(json.loads(RESULTS.read_text()))
    PAGE.write_text(_TABLE.sub(lambda _: f"\n{report.table()}\n", PAGE.read_text()))
    PAGE.with_suffix(".svg").write_text(report.picture())
    rows = {_name(row): row for row in report.rows("restore")}
    lines = README.read_text().splitlines()
    README.write_text("\n".join(rows.get(_name(line), line) for line in lines) + "\n")


def _name(row: str) -> str:
    """Return the first cell of a row of a table."""
    return row.split("|")[1].strip() if row.startswith("| ") else ""


if __name__ == "__main__":
    update_pages()
