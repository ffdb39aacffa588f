"""Checkpoints of tasks: which class they are of, how many labels they have, what becomes of them.

That every class loads in its frameworks is tested against transformers (`peer`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import converter
from converter.architectures.model_config import ModelConfig
from converter.errors import MatchError
from tests.factories import bundled_registry, make

LIBRARY = bundled_registry()
TASKS = ("SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice")
CLASSES = [
    (name, model)
    for name in ("bert", "roberta", "camembert", "distilbert", "electra", "albert", "gpt2")
    for model in LIBRARY.architecture(name).models
    if model.endswith(TASKS)
]
LABELS: list[tuple[dict[str, Any], int]] = [
    ({}, 2),
    ({"num_labels": 3}, 3),
    ({"id2label": {"0": "a", "1": "b", "2": "c"}}, 3),
    ({"id2label": {"0": "a", "1": "b", "2": "c"}, "num_labels": 5}, 3),
    ({"id2label": None, "num_labels": 3}, 3),
    ({"id2label": {str(n): "" for n in range(20_000)}}, 20_000),
]


@pytest.mark.parametrize(("architecture", "name"), CLASSES)
def test_the_tensors_decide_the_class(tmp_path: Path, architecture: str, name: str) -> None:
    make(tmp_path / "in", architecture, name)
    converter.convert(tmp_path / "in", tmp_path / "out", to=["pytorch"])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [name]


@pytest.mark.parametrize(
    ("stated", "fields", "converted"),
    [
        ("BertForMultipleChoice", {"num_labels": 4}, "BertForMultipleChoice"),
        (None, {"num_labels": 4}, "BertForMultipleChoice"),
        ("BertForSequenceClassification", {"num_labels": 1}, "BertForSequenceClassification"),
        (None, {"num_labels": 1}, "BertForSequenceClassification"),
    ],
)
def test_one_row_is_of_multiple_choice_or_of_one_label(
    tmp_path: Path, stated: str | None, fields: dict[str, Any], converted: str
) -> None:
    """As the configuration states, or else by the number of labels that it gives."""
    made = make(tmp_path / "in", "bert", "BertForMultipleChoice")
    config = {**made.config, **fields, "architectures": [stated] if stated else None}
    (made.directory / "config.json").write_text(json.dumps(config))
    converter.convert(made.directory, tmp_path / "out", to=["pytorch"])
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["architectures"] == [converted]


@pytest.mark.parametrize(("fields", "number"), LABELS)
def test_labels_are_counted_as_transformers_does(fields: dict[str, Any], number: int) -> None:
    architecture = LIBRARY.architecture("bert")
    (row,) = architecture.heads["classifier"]
    assert ModelConfig(architecture, fields).size(row.sizes[1]) == number


def test_what_has_more_labels_than_the_configuration_says_is_refused(tmp_path: Path) -> None:
    made = make(tmp_path / "in", "bert", "BertForTokenClassification", num_labels=3)
    made.config["num_labels"] = 4
    (made.directory / "config.json").write_text(json.dumps(made.config))
    with pytest.raises(MatchError) as refused:
        converter.convert(made.directory, tmp_path / "out")
    assert {problem.tensor for problem in refused.value.problems} == {
        "classifier.weight",
        "classifier.bias",
    }


@pytest.mark.parametrize(("architecture", "name"), CLASSES)
def test_as_an_encoder_it_leaves_its_head_behind(
    tmp_path: Path, architecture: str, name: str
) -> None:
    made = make(tmp_path / "in", architecture, name)
    make(tmp_path / "decoder", "bert", "BertLMHeadModel")
    result = converter.compose(tmp_path / "in", tmp_path / "decoder", tmp_path / "out")
    heads = {
        param
        for param in made.values
        if param.split(".")[0]
        in {"classifier", "pre_classifier", "qa_outputs", "score", "sequence_summary"}
    }
    assert heads
    (dropped,) = [item.key_match.ignored for item in result.sources if item.label == "encoder"]
    assert heads <= dropped.keys()
    assert all("which has no" in dropped[name] for name in heads)
