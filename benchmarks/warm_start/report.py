"""The table and the picture of what was measured."""

from __future__ import annotations

import io
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.warm_start.setups import Setup

TITLES = {"restore": "Restore sentences", "summarize": "Title and summaries from an abstract"}


@dataclass(frozen=True)
class Report:
    """Runs by task and setup, one of each seed."""

    runs: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
    groups: Mapping[str, Sequence[str]]

    @classmethod
    def read(
        cls, work: Path, groups: Mapping[str, Mapping[str, Setup]], tasks: Sequence[str]
    ) -> Report:
        """Read the results of all finished runs."""
        names = {group: list(setups) for group, setups in groups.items()}
        runs = {
            task: {
                name: [
                    json.loads(path.read_text())
                    for path in sorted(path_of(work, task, name, 0).parent.glob("*.json"))
                ]
                for setups in names.values()
                for name in setups
            }
            for task in tasks
        }
        return cls(runs, names)

    def table(self) -> str:
        """Return Markdown: a table for each task."""
        return "\n\n".join(self._table(task) for task in self.runs)

    def _table(self, task: str) -> str:
        runs = self.runs[task]
        goal = _final(runs["rnd2rnd"])[0]
        lines = [
            f"**{TITLES[task]}** ({_budget(runs['rnd2rnd'])})",
            "",
            "| | seeds | loss | ROUGE-L | exact match | steps to rnd2rnd's final loss |",
            "|---|---|---|---|---|---|",
        ]
        for group, names in self.groups.items():
            rows = [name for name in names if runs[name]]
            if rows:
                lines.append(f"| *{group}* | | | | | |")
            for name in rows:
                each = runs[name]
                loss = "{:.3f} ± {:.3f}".format(*_final(each))
                rouge, exact = (
                    " ± ".join(f"{value:.1%}" for value in _spread([run[key] for run in each]))
                    for key in ("rouge_l", "exact_match")
                )
                cells = (name, len(each), loss, rouge, exact, _reached(each, goal))
                lines.append(f"| {' | '.join(map(str, cells))} |")
        return "\n".join(lines)

    def picture(self) -> str:
        """Return an SVG: held-out loss over steps, with the range of seeds; a panel a task."""
        import matplotlib as mpl

        mpl.use("svg")
        mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "warm start", "font.size": 9})
        from matplotlib import pyplot

        figure, panels = pyplot.subplots(1, len(self.runs), figsize=(9.6, 3.6), squeeze=False)
        for panel, (task, runs) in zip(panels[0], self.runs.items(), strict=True):
            for name in self.groups["Presets"]:
                curves = [dict(run["held_out"]) for run in runs[name]]
                steps = sorted(set.intersection(*(set(curve) for curve in curves)))
                middle = [statistics.mean(curve[step] for curve in curves) for step in steps]
                (line,) = panel.plot(steps, middle, label=name, linewidth=1.6)
                low = [min(curve[step] for curve in curves) for step in steps]
                high = [max(curve[step] for curve in curves) for step in steps]
                panel.fill_between(steps, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
            panel.set_title(TITLES[task])
            panel.set_xlabel("training steps")
            panel.spines[["top", "right"]].set_visible(False)
        panels[0][0].set_ylabel("held-out loss per token")
        panels[0][-1].legend(frameon=False)
        figure.tight_layout()
        output = io.StringIO()
        figure.savefig(output, format="svg", metadata={"Date": None})
        pyplot.close(figure)
        return output.getvalue()


def path_of(work: Path, task: str, name: str, seed: int) -> Path:
    """Return the path of the result of one run."""
    return work / "runs" / task / re.sub(r"\W+", "-", name) / f"{seed}.json"


def _final(runs: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    return _spread([run["held_out"][-1][1] for run in runs])


def _spread(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation, which is 0 for one value."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _reached(runs: Sequence[Mapping[str, Any]], goal: float) -> str:
    """Return after how many steps the mean curve has reached a loss, at the grid's accuracy."""
    curves = [dict(run["held_out"]) for run in runs]
    for step in sorted(set.intersection(*(set(curve) for curve in curves))):
        if statistics.mean(curve[step] for curve in curves) <= goal:
            return str(step)
    return "not reached"


def _budget(runs: Sequence[Mapping[str, Any]]) -> str:
    settings = runs[0]["settings"]
    return f"{settings['steps']} steps of {settings['batch']} pairs"
