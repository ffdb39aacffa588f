"""RAG: a question encoder and a generator in one file, as transformers saves them.

What TensorFlow's classes save is converted in ``rescue.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import converter
from converter.errors import UnsupportedError
from tests.transformers import oracle_checks
from tests.transformers.rescue import rag_batch, rag_config
from tests.transformers.tiny import add_noise
from tests.transformers.transformers_5 import Transformers5, differences

pytestmark = pytest.mark.peer

CLASSES = ("RagModel", "RagSequenceForGeneration", "RagTokenForGeneration")


def saved(name: str, directory: Path, generator: str = "bart") -> Any:
    """Save a PyTorch model with noise, and return it."""
    import transformers

    model = getattr(transformers, name)(rag_config("dpr", generator)).eval()
    add_noise(model, seed=3)
    model.save_pretrained(directory)
    return model


@pytest.mark.parametrize("name", CLASSES)
def test_tensorflow_computes_the_same_and_the_way_back_restores_every_bit(
    tmp_path: Path, name: str
) -> None:
    saved(name, tmp_path / "own")
    batch = rag_batch("dpr", "bart")
    converter.convert(tmp_path / "own", tmp_path / "out")
    native = oracle_checks.load(tmp_path / "own", "safetensors", name, batch)
    loaded = oracle_checks.load(tmp_path / "out", "h5", f"TF{name}", batch)
    assert not loaded.problems, loaded.problems
    assert not oracle_checks.oracle.compare(native, loaded, 1e-5)
    config = json.loads((tmp_path / "out/config.json").read_text())
    del config["architectures"]  # the names of the tensors show whether there is a class around it
    (tmp_path / "out/config.json").write_text(json.dumps(config))
    converter.convert(tmp_path / "out/tf_model.h5", tmp_path / "back", to=["pytorch"])
    again = load_file(tmp_path / "back/model.safetensors")
    assert again.keys() == load_file(tmp_path / "own/model.safetensors").keys()
    assert all(np.array_equal(again[key], native.stored[key]) for key in again)


def test_a_t5_is_a_generator_in_pytorch_only(tmp_path: Path, transformers_5: Transformers5) -> None:
    saved(CLASSES[1], tmp_path / "own", "t5")
    result = converter.convert(tmp_path / "own", tmp_path / "out")
    assert any("TFRagModel cannot build a T5" in warning for warning in result.warnings)
    batch = rag_batch("dpr", "t5")
    own, out = (
        oracle_checks.load(tmp_path / each, "safetensors", CLASSES[1], batch)
        for each in ("own", "out")
    )
    assert not out.problems and not oracle_checks.oracle.compare(own, out, 0)
    later = transformers_5.load(tmp_path / "out", CLASSES[1], batch, ())
    assert later and not differences(out, later, 1e-5)
    with pytest.raises(UnsupportedError, match="'bert' is not supported in rag"):
        converter.convert(
            tmp_path / "own", tmp_path / "no", set=["generator.model_type=bert"], to=["pytorch"]
        )


def test_split_writes_both_with_the_tokenizer_of_each(tmp_path: Path) -> None:
    import transformers

    model = saved(CLASSES[2], tmp_path / "own")
    for submodel in ("question_encoder", "generator"):
        directory = tmp_path / "own" / f"{submodel}_tokenizer"
        directory.mkdir()
        (directory / "special_tokens_map.json").write_text(json.dumps({"pad_token": submodel}))
    converter.convert(tmp_path / "own", tmp_path / "copy", to=["pytorch"], dtype="float16")
    converter.split(tmp_path / "own", tmp_path / "parts", to=["pytorch"])
    for submodel, name in (
        ("question_encoder", "DPRQuestionEncoder"),
        ("generator", "BartForConditionalGeneration"),
    ):
        tokens = json.loads((tmp_path / "parts" / submodel / "special_tokens_map.json").read_text())
        assert tokens == {"pad_token": submodel}
        assert (tmp_path / "copy" / f"{submodel}_tokenizer/special_tokens_map.json").is_file()
        part, info = getattr(transformers, name).from_pretrained(
            tmp_path / "parts" / submodel, output_loading_info=True
        )
        assert not any(info.values()), info
        native = getattr(model.rag, submodel).state_dict()
        assert all(value.equal(native[key]) for key, value in part.state_dict().items())
        assert converter.diff(tmp_path / "own", tmp_path / "parts" / submodel).equal
    result = converter.verify(tmp_path / "parts", against=[tmp_path / "own"])
    assert result.verified, result.problems
    result = converter.verify(tmp_path / "own", run=True)
    assert result.verified, result.problems
