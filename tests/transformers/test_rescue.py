"""What TensorFlow's and Flax's own classes save becomes a PyTorch checkpoint with equal outputs.

A sample; ``python -m tests.transformers.rescue`` runs every class.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import converter
from converter.errors import MatchError
from tests.transformers.rescue import (
    SavedClass,
    existing_classes,
    listed_classes,
    rescue,
    sample,
    verdict,
)
from tests.transformers.transformers_5 import Transformers5

pytestmark = pytest.mark.peer


def test_the_list_has_every_class_of_transformers() -> None:
    listed = [(saved.folder, saved.name) for saved in listed_classes()]
    existing = existing_classes()
    assert listed == [(folder, name) for folder, names in existing.items() for name in names]


@pytest.mark.parametrize("saved", sample(), ids=lambda saved: saved.name)
def test_a_saved_model_becomes_a_pytorch_checkpoint(
    tmp_path: Path, transformers_5: Transformers5, saved: SavedClass
) -> None:
    result = rescue(saved, tmp_path, transformers_5)
    assert not result.problems, verdict(saved, result)[1]


USED = {
    "TFEsmForMaskedLM": "",
    "TFXGLMForCausalLM": "",
    "TFMobileBertForPreTraining": "",
    "TFMistralForCausalLM": "tied",
    "FlaxMistralForCausalLM": "tied",
}
"""Classes with an output layer of their own, and the variant whose configuration ties it."""


@pytest.mark.parametrize("name", USED)
def test_an_output_layer_that_differs_from_the_embeddings_unties_the_model(
    tmp_path: Path, name: str
) -> None:
    [saved] = [each for each in listed_classes() if each.name == name]
    assert rescue(saved, tmp_path, None, USED[name]).problems == []
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    plan = converter.convert(tmp_path / "saved", tmp_path / "unused", dry_run=True).plan
    assert [text for text in plan.warnings if "tie_word_embeddings is set to false" in text]
    assert converter.verify(tmp_path / "out", against=[tmp_path / "saved"]).verified
    assert converter.verify(tmp_path / "saved").verified
    # ESM's two copies have one name, so that nothing says which is the output layer.
    hint = "copies of one tensor differ" if "Esm" in name else "tie_word_embeddings=false"
    with pytest.raises(MatchError, match=hint):
        tied = ["tie_word_embeddings=true"]
        converter.convert(tmp_path / "saved", tmp_path / "tied", to=["pytorch"], set=tied)


@pytest.mark.parametrize("name", ["TFCTRLLMHeadModel", "TFBertForMaskedLM", "TFAlbertForMaskedLM"])
def test_an_untied_model_of_a_class_without_an_output_layer_is_tied(
    tmp_path: Path, name: str
) -> None:
    """TensorFlow's class uses the word embeddings, whatever the configuration says."""
    [saved] = [each for each in listed_classes() if each.name == name]
    assert rescue(saved, tmp_path, None, "untied").problems == []
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
    plan = converter.convert(tmp_path / "saved", tmp_path / "unused", dry_run=True).plan
    assert [text for text in plan.warnings if "tie_word_embeddings is set to true" in text]
    assert converter.verify(tmp_path / "out", against=[tmp_path / "saved"]).verified
    assert converter.verify(tmp_path / "saved").verified
