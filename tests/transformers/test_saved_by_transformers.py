"""What TensorFlow's and Flax's own classes save is read exactly.

These models never were PyTorch models: TensorFlow and Flax compute the expected outputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter
from tests.transformers.models import (
    DECODERS,
    EQUAL,
    LARGE,
    SINGLES,
    SMALL,
    STEMS,
    combined_flax,
    combined_tensorflow,
    configuration,
    flax_model,
    has_class,
    tensorflow_model,
)
from tests.transformers.oracle import check, compare
from tests.transformers.submodel_checks import DECODER_KINDS, ENCODER_KINDS, expected_kinds

pytestmark = pytest.mark.peer

BUILD = {"h5": tensorflow_model, "msgpack": flax_model}
COMBINE = {"h5": combined_tensorflow, "msgpack": combined_flax}
FRAMEWORK = {"h5": "tensorflow", "msgpack": "flax"}


def converted(model: Any, kind: str, directory: Path) -> dict[str, Any]:
    """Save, convert to all frameworks, and return what each loads, the source's own first."""
    model.save_pretrained(directory / "source")
    [original] = check(directory / "source", only=(kind,)).values()
    converter.convert(directory / "source", directory / "out")
    return {"source": original, **check(directory / "out")}


@pytest.mark.parametrize(
    ("architecture", "head", "kind"),
    [
        (architecture, head, kind)
        for architecture, head in SINGLES
        for kind, framework in FRAMEWORK.items()
        if has_class(framework, architecture, head)
        and (architecture != "albert" or kind != "h5" or head == "base")  # see the last test here
    ],
)
def test_single_models(tmp_path: Path, architecture: str, head: str, kind: str) -> None:
    proof = converted(BUILD[kind](architecture, head, SMALL), kind, tmp_path)
    assert {"safetensors", kind} <= proof.keys()
    original = proof.pop("source")
    for loaded in proof.values():
        assert not compare(original, loaded)


PAIRS = [
    *((encoder, "gpt2" if encoder != "gpt2" else "bert") for encoder in STEMS),
    *(("bert", decoder) for decoder in DECODERS),
]


@pytest.mark.parametrize(
    ("encoder", "decoder", "kind"),
    [
        (encoder, decoder, kind)
        for encoder, decoder in PAIRS
        for kind in FRAMEWORK
        if kind in ENCODER_KINDS[encoder] and kind in DECODER_KINDS[decoder]
    ],
)
def test_combined_models(tmp_path: Path, encoder: str, decoder: str, kind: str) -> None:
    small = configuration(encoder, SMALL if encoder == "bert" else LARGE)
    model = COMBINE[kind](small, configuration(decoder, EQUAL))
    proof = converted(model, kind, tmp_path)
    original = proof.pop("source")
    assert set(proof) == set(expected_kinds(encoder, decoder))
    for loaded in proof.values():
        assert not compare(original, loaded)


def test_of_two_output_biases_the_one_that_the_class_uses_is_read(tmp_path: Path) -> None:
    """TFAlbertMLMHead has separate ``bias`` (unused) and ``decoder/bias``; PyTorch ties them."""
    from safetensors.numpy import load_file

    model = tensorflow_model("albert", "mlm", SMALL)
    model.save_pretrained(tmp_path / "source")
    result = converter.convert(tmp_path / "source", tmp_path / "out", to=["pytorch"])
    [used] = [w.numpy() for w in model.weights if w.name.endswith("predictions/decoder/bias:0")]
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert np.array_equal(written["predictions.bias"], used)
    assert "predictions/bias:0" in result.plan.ignored["source"]
    assert converter.verify(tmp_path / "out", against=[tmp_path / "source"]).verified
