"""Tables that include rows of others, and configurations inside configurations."""

from __future__ import annotations

from pathlib import Path

import pytest

from converter.architectures.expressions import Expression
from converter.architectures.lint import lint
from converter.architectures.model_config import ModelConfig
from converter.architectures.model_spec import ModelSpecBuilder
from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import Architecture
from converter.errors import ConfigError, TableError

TOWER = """
model_type = "tower"
title = "Tower"
layers = { layer = "len(depths)", block = "depths[layer]" }
nullable = ["window"]
[config]
depths = [2, 1]
width = 8
kind = "width"
[models]
TowerModel = { parts = ["pooler"] }
[modules]
"in.emb" = { embedding = "width -> width", when = "kind == 'width'", path.tensorflow = "in/a_._b" }
"in.h.{layer}.{block}.norm" = [
    { layer_norm = "width", when = "window == null" },
    { rms_norm = "width", when = "window != null" },
]
"out" = { linear = "width -> width", init = "normal(1 / width)" }
[parts.pooler]
"pooler" = { linear = "width -> width" }
"""

PAIR = """
model_type = "pair"
title = "Pair"
class_prefix = "Pair"
[config]
width = 3
[models]
PairModel = { parts = ["inner"] }
[modules]
"one" = { include = "tower", from = "in", config = "one_config", fields = { kind = "sort" } }
"join" = { linear = "width -> one_config.width" }
[parts.inner]
"two" = { include = "tower", config = "two_config", parts = ["pooler"] }
"two.out" = { linear = "width -> two_config.width" }
"""


def registry(directory: Path, *texts: str) -> ArchitectureRegistry:
    paths = []
    for number, text in enumerate(texts):
        paths.append(directory / f"{number}.toml")
        paths[-1].write_text(text)
    return ArchitectureRegistry(paths)


SIDES = ("one", "two.in")


@pytest.fixture
def pair(tmp_path: Path) -> Architecture:
    return registry(tmp_path, TOWER, PAIR).architecture("pair")


def test_rows_are_included_at_their_new_place(tmp_path: Path, pair: Architecture) -> None:
    tables = registry(tmp_path, TOWER, PAIR)
    config = ModelConfig(pair, {"one_config": {"width": 4, "depths": [1]}, "two_config": None})
    spec = ModelSpecBuilder(tables.conventions).model(config)
    shapes = {param.name: param.canonical.shape for param in spec.params}
    assert shapes == {
        "one.emb.weight": (4, 4),
        "one.h.0.0.norm.weight": (4,),
        "one.h.0.0.norm.bias": (4,),
        "join.weight": (4, 3),
        "join.bias": (4,),
        "two.in.emb.weight": (8, 8),
        **{
            f"two.in.h.{layer}.{block}.norm.{leaf}": (8,)
            for layer, block in ((0, 0), (0, 1), (1, 0))
            for leaf in ("weight", "bias")
        },
        "two.out.weight": (8, 3),
        "two.out.bias": (8,),
        "two.pooler.weight": (8, 8),
        "two.pooler.bias": (8,),
    }
    names = [spec.by_name[f"{key}.emb.weight"].stored_as["tensorflow"].name for key in SIDES]
    assert names == ["one/a_._b/embeddings:0", "two/in/a_._b/embeddings:0"]


def test_conditions_and_null_follow_the_nested_configuration(
    tmp_path: Path, pair: Architecture
) -> None:
    raw = {
        "one_config": {"window": 7, "sort": "x", "kind": "width"},
        "two_config": {"window": None},
    }
    spec = ModelSpecBuilder(registry(tmp_path).conventions).model(ModelConfig(pair, raw))
    assert "one.h.0.0.norm.bias" not in spec.by_name
    assert "two.in.h.0.0.norm.bias" in spec.by_name
    assert "one.emb.weight" not in spec.by_name


def test_the_result_and_its_checksum_depend_on_the_included_table(tmp_path: Path) -> None:
    digests = {
        registry(tmp_path, TOWER.replace('"Tower"', title), PAIR).architecture("pair").sha256
        for title in ('"Tower"', '"Castle"')
    }
    assert len(digests) == 2
    path = tmp_path / "1.toml"
    assert lint(path, registry(tmp_path, TOWER)) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('include = "tower"', 'include = "tour"', "not a table"),
        ('include = "tower"', 'include = "pair"', "itself"),
        ('from = "in"', 'form = "in"', "unknown field `form`"),
        ('from = "in"', 'from = "into"', "includes no rows"),
        ('parts = ["pooler"]', 'parts = ["pool"]', "'pool'"),
        ("width = 3", "width = 3\ndepth.s = 1", "depth"),
    ],
)
def test_an_invalid_inclusion_is_an_error(tmp_path: Path, old: str, new: str, problem: str) -> None:
    path = tmp_path / "pair.toml"
    path.write_text(PAIR.replace(old, new, 1))
    found = [str(each) for each in lint(path, registry(tmp_path, TOWER))]
    assert any(problem in each for each in found), found


def test_problems_of_the_included_table_are_reported(tmp_path: Path) -> None:
    tables = registry(tmp_path, TOWER.replace("width = 8", "widths = 8"), PAIR)
    with pytest.raises(TableError) as caught:
        tables.architecture("pair")
    assert any("'width'" in str(problem) for problem in caught.value.problems)


@pytest.mark.parametrize("nested", ["8", 8, [8], True])
def test_a_nested_configuration_of_another_type_is_refused(
    pair: Architecture, nested: object
) -> None:
    config = ModelConfig(pair, {"one_config": nested})
    with pytest.raises(ConfigError, match="not usable"):
        config.size(Expression("one_config.width"))
