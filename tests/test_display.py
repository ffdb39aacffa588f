"""What public values show of themselves: a ``repr`` of one screen, and tables in a notebook."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import converter
from converter.display import Displayed
from converter.notebook import MAX_ROWS, view
from converter.text import printable
from converter.verification.result import Difference

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "fixtures"
HOSTILE = "<script>alert(1)</script>\x1b[2J\u202e" + "x" * 9_000


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return one value of each public type that a call returns, and some more."""
    home = tmp_path_factory.mktemp("displayed")
    bert, gpt2, out = FIXTURES / "bert-tiny", FIXTURES / "gpt2-tiny", home / "out"
    recipe = home / "jobs.yaml"
    sources = f"source: {bert}, output: {home / 'made'}"
    recipe.write_text(f"jobs:\n  - name: first\n    convert: {{{sources}}}\n", encoding="utf-8")
    composed = converter.compose(bert, gpt2, out)
    ran = converter.run(recipe)
    with converter.open_checkpoint(bert) as opened:
        return {
            "composed": composed,
            "planned": converter.convert(bert, home / "none", dry_run=True),
            "split": converter.split(out, home / "split"),
            "plan": composed.plan,
            "target": composed.plan.tensors[0],
            "inspection": converter.inspect(out, stats=True),
            "no config": converter.inspect(bert / "model.safetensors", config=bert / "config.json"),
            "verified": converter.verify(out, against=[bert, gpt2], value_report=True),
            "differs": converter.verify(FIXTURES / "bert-gpt2-tiny-tf", against=[bert, gpt2]),
            "equal": converter.diff(bert, FIXTURES / "bert-tiny-tf"),
            "different": converter.diff(out, FIXTURES / "bert-gpt2-tiny-tf"),
            "families": converter.families(),
            "family": converter.families("gpt2", rows=True),
            "composite": converter.families("encoder-decoder"),
            "table": converter.check_table(ROOT / "mappings" / "gpt2.toml"),
            "draft": converter.check_table(draft=bert),
            "run": ran,
            "job": ran.results[0],
            "opened": opened,
            "weights": opened.to_tensorflow(),
            "lazy": opened["pooler.dense.bias"],
            "pushed": converter.PushResult(
                repo_id="a/b",
                url="https://huggingface.co/a/b",
                revision="main",
                commit=None,
                created=False,
                pull_request=None,
                continued=False,
                sent=("model.safetensors",),
                unchanged=tuple(f"file-{number}" for number in range(500)),
                kept=("README.md",),
            ),
        }


def test_each_result_fits_a_screen_and_says_what_it_is(values: dict[str, Any]) -> None:
    for name, value in values.items():
        shown = repr(value)
        assert shown == str(value)
        assert shown.startswith(f"<{type(value).__name__}"), name
        assert len(shown) <= 1_500 and shown.count("\n") < 20, name


def reachable(value: Any, depth: int = 5) -> Iterator[Any]:
    """Yield a value and the dataclasses in its fields, one of each container."""
    yield value
    if isinstance(value, dict):
        inner = list(value.values())[:1]
    elif isinstance(value, list | tuple):
        inner = list(value[:1])
    elif dataclasses.is_dataclass(value):
        inner = [getattr(value, each.name) for each in dataclasses.fields(value)]
    else:
        return
    for each in inner if depth else ():
        yield from reachable(each, depth - 1)


def test_so_do_the_values_within_a_result(values: dict[str, Any]) -> None:
    """Of containers only one element: a list of a thousand tensors is a long list."""
    seen: dict[str, int] = {}
    for value in values.values():
        for each in reachable(value):
            if type(each).__module__.startswith("converter"):
                seen[type(each).__name__] = max(seen.get(type(each).__name__, 0), len(repr(each)))
    assert {"Model", "Checkpoint", "KeyMatch", "ModelSpec", "OutputFile"} <= seen.keys()
    assert {name: length for name, length in seen.items() if length > 1_500} == {}


def test_the_result_of_a_command_says_what_to_look_at_next(values: dict[str, Any]) -> None:
    for name in ("composed", "planned", "plan", "inspection", "verified", "equal", "run", "opened"):
        assert re.search(r"\n  see .*\.\w+", repr(values[name])), name
    assert "\n  see converter.verify(" in repr(values["composed"])
    assert "needs training" in repr(values["composed"])
    assert "nothing was written" in repr(values["planned"])
    assert "NOT verified" in repr(values["differs"])
    assert "67 of 67" in repr(values["verified"])


def test_attributes_that_are_named_exist(values: dict[str, Any]) -> None:
    for value in values.values():
        if isinstance(value, Displayed):
            for expression in view(value).next:
                attribute = re.match(r"\.(\w+)", expression)
                assert not attribute or hasattr(value, attribute[1])


class Tags(HTMLParser):
    """The tags of a piece of HTML, which must be closed in order, and the number of rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.rows = self.most = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.rows = self.rows + (tag == "tr") if tag != "tbody" else 0
        self.most = max(self.most, self.rows)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


ALLOWED = set("div p b table thead tbody tr th td details summary code".split())


def test_a_notebook_shows_bounded_tables(values: dict[str, Any]) -> None:
    tables = 0
    for name, value in values.items():
        text = value._repr_html_() if isinstance(value, Displayed) else None
        if text is None:
            continue
        tags = Tags(text)
        assert not tags.open
        assert tags.tags <= ALLOWED and tags.attributes <= {"style"}, name
        assert tags.most <= MAX_ROWS, name
        assert len(text) < 60_000, name
        assert "color" not in text, "the notebook's own colors fit dark and light"
        tables += "table" in tags.tags
    assert tables >= 14
    assert "encoder.layer.{0,1}.attention" in values["plan"]._repr_html_().replace(" ", "")
    assert "cross-attention" in values["composed"]._repr_html_()


def test_hostile_names_are_escaped_and_cut() -> None:
    differences = {
        f"{HOSTILE}{number}": Difference(HOSTILE, 1, 1, 1.0, 1.0, 0.0, (HOSTILE, HOSTILE))
        for number in range(300)
    }
    names = [HOSTILE] * 300
    comparison = converter.Comparison(
        HOSTILE, HOSTILE, 0.0, differences, names, names, {HOSTILE: ((1,), (2,))}, {HOSTILE: names}
    )
    text, html = repr(comparison), comparison._repr_html_() or ""
    assert len(text) <= 1_500 and text.count("\n") < 20
    assert text.replace("\n", "").isprintable()
    assert "<script" not in html
    assert Tags(html).tags <= ALLOWED
    assert len(html) < 60_000
    assert printable(html.replace("\n", ""), 10**6) == html.replace("\n", "")


def test_many_problems_are_counted() -> None:
    problems = [converter.Problem(f"fault {HOSTILE}", tensor=f"t{n}.weight") for n in range(900)]
    found = converter.Verification("out", ["model.safetensors"], problems=problems)
    assert "900 problems" in repr(found)
    assert len(repr(found)) <= 1_500
    html = found._repr_html_() or ""
    assert "… and more" in html and len(html) < 60_000
