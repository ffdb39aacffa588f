"""Tables that extend others: added, changed, taken away."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from converter.architectures.registry import ArchitectureRegistry
from converter.errors import TableError
from tests.factories import bundled_registry

BASE = """
model_type = "base"
title = "Base"
base_model_prefix = "base"
layers = { layer = "n" }
[config]
n = 2
width = 8
flag = true
[attributes]
width = "width"
[models]
BaseModel = { parts = ["pooler", "extra"] }
[modules]
"emb" = { embedding = "width -> width", when = "flag == true" }
"h.{layer}.norm" = { layer_norm = "width" }
[parts.pooler]
"pooler" = { linear = "width -> width" }
[parts.extra]
"extra.a" = { linear = "width -> width" }
"extra.b" = { linear = "width -> width" }
[ignore.pytorch]
"old" = "because"
"older" = "because"
"""

CHILD = 'model_type = "child"\ntitle = "Child"\nextends = "base"\n'


def registry(directory: Path, *texts: str) -> ArchitectureRegistry:
    paths = []
    for number, text in enumerate(texts):
        paths.append(directory / f"{number}.toml")
        paths[-1].write_text(text)
    return ArchitectureRegistry(paths)


def child(directory: Path, text: str):
    return registry(directory, BASE, CHILD + text).architecture("child")


def paths(rows) -> dict[str, str]:
    return {row.path.text: row.layer_type.name for row in rows}


def test_inherits_everything(tmp_path):
    architecture, base = child(tmp_path, ""), registry(tmp_path, BASE).architecture("base")
    assert (architecture.name, architecture.title) == ("child", "Child")
    assert (architecture.modules, architecture.parts, architecture.ignore) == (
        base.modules,
        base.parts,
        base.ignore,
    )
    assert (architecture.config, architecture.models, architecture.base_model_prefix) == (
        base.config,
        base.models,
        base.base_model_prefix,
    )


def test_adds_changes_and_takes_away_rows(tmp_path):
    architecture = child(
        tmp_path,
        '[config]\nflag = false\nmore = 3\n[modules]\n"emb" = { linear = "width -> more" }\n'
        '"h.{layer}.norm" = false\n"h.{layer}.new" = { layer_norm = "width" }\n'
        '"last" = { layer_norm = "width" }\n[parts.extra]\n"extra.a" = false\n'
        '[ignore.pytorch]\n"old" = false\n"oldest" = "why not"\n[parts.pooler]\n'
        '"pooler" = { linear = "width -> width", when = "flag == true" }',
    )
    assert paths(architecture.modules) == {
        "emb": "linear",
        "h.{layer}.new": "layer_norm",
        "last": "layer_norm",
    }
    assert paths(architecture.parts["extra"]) == {"extra.b": "linear"}
    assert {str(name) for name in architecture.ignore["pytorch"]} == {"older", "oldest"}
    assert architecture.config == {"n": 2, "width": 8, "flag": False, "more": 3}


def test_takes_a_whole_part_away(tmp_path):
    architecture = child(
        tmp_path,
        '[models]\nBaseModel = false\nChildModel = { parts = ["pooler"] }\n[parts]\nextra = false',
    )
    assert set(architecture.parts) == {"pooler"}
    assert set(architecture.models) == {"ChildModel"}


def test_extends_over_several_steps(tmp_path):
    grandchild = (
        'model_type = "grandchild"\ntitle = "G"\nextends = "child"\n'
        '[modules]\n"last" = { linear = "width -> width" }'
    )
    middle = CHILD + '[modules]\n"last" = { layer_norm = "width" }'
    found = registry(tmp_path, BASE, middle, grandchild).architecture("grandchild")
    assert paths(found.modules)["last"] == "linear"
    assert paths(found.modules)["emb"] == "embedding"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[modules]\n"nothing" = false', "nothing"),
        ("[parts]\nnothing = false", "nothing"),
        ('[parts.extra]\n"extra.c" = false', "extra.c"),
        ("[attributes]\nheads = false", "heads"),
        ('[ignore.pytorch]\n"oldest" = false', "oldest"),
    ],
)
def test_taking_away_what_is_not_there_is_refused(tmp_path, text, named):
    with pytest.raises(TableError, match=r"not there") as caught:
        child(tmp_path, text)
    assert named in str(caught.value)


@pytest.mark.parametrize("circle", [("a", "a"), ("a", "b", "a"), ("a", "b", "c", "b")])
def test_a_circle_is_refused(tmp_path, circle):
    texts = [
        f'model_type = "{one}"\ntitle = "t"\nextends = "{other}"' for one, other in pairwise(circle)
    ]
    with pytest.raises(TableError, match="extends itself"):
        registry(tmp_path, *texts).architecture("a")


def test_an_unknown_parent_is_refused(tmp_path):
    text = 'model_type = "a"\ntitle = "t"\nextends = "nobody"'
    with pytest.raises(TableError, match="nobody"):
        registry(tmp_path, text).architecture("a")


def test_a_change_of_the_parent_shows_in_the_checksum(tmp_path):
    before = child(tmp_path, "").sha256
    changed = registry(tmp_path, BASE.replace("because", "therefore"), CHILD).architecture("child")
    assert before != changed.sha256
    assert before == child(tmp_path, "").sha256


def test_a_users_table_takes_precedence(tmp_path):
    own = registry(tmp_path, BASE.replace('"base"\ntitle', '"bert"\ntitle'))
    assert own.architecture("bert").title == "Base"
    assert bundled_registry().architecture("bert").title != "Base"


PREFIXED = """
class_prefix = "Base"
[roles]
encoder = { model = "BaseModel", config = { note = "BaseModel" } }
[unsupported]
wide = { when = "width > 8", frameworks = ["flax"], reason = "too wide" }
deep = { when = "n > 2", frameworks = ["flax"], reason = "too deep" }
"""


def prefixed(directory: Path, text: str):
    top, rest = BASE.split("[config]", 1)
    prefix, sections = PREFIXED.split("[roles]", 1)
    base = f"{top}{prefix}[config]{rest}[roles]{sections}"
    return registry(directory, base, CHILD + text).architecture("child")


def test_class_names_follow_from_the_class_prefix(tmp_path):
    child = prefixed(tmp_path, 'class_prefix = "Child"')
    assert set(child.models) == {"ChildModel"}
    assert dict(child.models["ChildModel"].classes) == {
        "pytorch": "ChildModel",
        "tensorflow": "TFChildModel",
        "flax": "FlaxChildModel",
    }
    assert child.roles["encoder"].model == "ChildModel"
    assert child.roles["encoder"].config == {"note": "BaseModel"}  # not a class name


def test_without_a_class_prefix_the_classes_are_inherited_unchanged(tmp_path):
    assert set(prefixed(tmp_path, "").models) == {"BaseModel"}


def test_unsupported_configurations_are_merged_by_name(tmp_path):
    text = (
        '[unsupported]\nwide = false\nnew = { when = "n > 3", frameworks = ["flax"], reason = "x" }'
    )
    child = prefixed(tmp_path, text)
    assert {name: each.reason for name, each in child.unsupported.items()} == {
        "deep": "too deep",
        "new": "x",
    }


def test_a_section_that_is_replaced_is_not_inherited(tmp_path):
    child = prefixed(tmp_path, 'replaces = ["unsupported", "parts"]\n[models]\nBaseModel = {}')
    assert not child.unsupported and not child.parts


@pytest.mark.parametrize("value", ['["config", "title"]', '"config"', "[1]"])
def test_only_sections_can_be_replaced(tmp_path, value):
    with pytest.raises(TableError, match="replaces"):
        prefixed(tmp_path, f"replaces = {value}")
