"""Around the circle PyTorch → TensorFlow → Flax → PyTorch, bit for bit, each step loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import converter
from converter.options import PytorchFormat
from tests.transformers.models import (
    DECODERS,
    EQUAL,
    LARGE,
    SINGLES,
    SMALL,
    STEMS,
    combined_pytorch,
    configuration,
    has_class,
    weights,
)
from tests.transformers.oracle import Loaded, check, compare, load
from tests.transformers.source_cache import SourceCache
from tests.transformers.submodel_checks import DECODER_KINDS, ENCODER_KINDS
from tests.transformers.weight_files import FRAMEWORKS

pytestmark = pytest.mark.peer

KINDS = {"pytorch": "safetensors", "tensorflow": "h5", "flax": "msgpack"}


def same_bits(first: Loaded, second: Loaded) -> None:
    """Assert that two PyTorch files have the same names and the same bits."""
    assert first.stored.keys() == second.stored.keys()
    for key, value in first.stored.items():
        assert np.array_equal(value, second.stored[key]), key


def around(source: Path, directory: Path, frameworks: list[str]) -> list[Loaded]:
    """Convert step by step, each from the step before; returns each step, loaded and faultless."""
    steps: list[Loaded] = []
    for framework in frameworks:
        out = directory / framework
        while out.exists():
            out = out.with_name(out.name + "-again")
        converter.convert(source, out, to=[framework])  # type: ignore[list-item]
        steps += check(out, only=(KINDS[framework],)).values()
        source = out
    return steps


@pytest.mark.parametrize(("architecture", "head"), SINGLES)
def test_single_models_survive_a_round_trip(
    source_cache: SourceCache, tmp_path: Path, architecture: str, head: str
) -> None:
    source = source_cache.source(architecture, head)
    [original] = check(source).values()
    circle = [
        framework
        for framework in ("tensorflow", "flax", "pytorch")
        if has_class(framework, architecture, head)
    ]
    steps = around(source, tmp_path, circle)
    for step in steps:
        assert not compare(original, step)
        framework = FRAMEWORKS[step.kind]
        if framework != "pytorch":
            expected = source_cache.converted_weights(
                source_cache.source(architecture, head, file_format="bin"),
                framework,
                architecture,
                head,
            )
            mine = weights(step.model, framework)
            assert mine.keys() == expected.keys()
            for key, value in expected.items():
                assert np.array_equal(mine[key], value), f"{step.kind}: {key}"
    same_bits(original, steps[-1])


@pytest.mark.parametrize(("architecture", "head"), SINGLES)
def test_by_default_every_framework_with_a_class_is_written(
    source_cache: SourceCache, tmp_path: Path, architecture: str, head: str
) -> None:
    converter.convert(source_cache.source(architecture, head, file_format="bin"), tmp_path / "out")
    kinds = tuple(
        kind for framework, kind in KINDS.items() if has_class(framework, architecture, head)
    )
    proof = check(tmp_path / "out", only=kinds)
    same_bits(load(source_cache.source(architecture, head), "safetensors"), proof["safetensors"])


PAIRS = [
    *((encoder, "gpt2" if encoder != "gpt2" else "bert", True) for encoder in STEMS),
    *(("bert", decoder, False) for decoder in DECODERS),
]


@pytest.mark.parametrize(("encoder", "decoder", "projected"), PAIRS)
def test_encoder_decoders_survive_a_round_trip(
    tmp_path: Path, encoder: str, decoder: str, projected: bool
) -> None:
    """With noise on every parameter, cross-attention and projection included."""
    model = combined_pytorch(
        configuration(encoder, LARGE if projected else SMALL),
        configuration(decoder, SMALL if projected else EQUAL),
    )
    source = tmp_path / "source"
    model.save_pretrained(source)
    [original] = check(source).values()
    kinds = set(ENCODER_KINDS[encoder]) & set(DECODER_KINDS[decoder])
    steps = around(
        source,
        tmp_path,
        [name for name in ("tensorflow", "flax", "pytorch") if KINDS[name] in kinds],
    )
    for step in steps:
        assert not compare(original, step)
    same_bits(original, steps[-1])
    assert any("enc_to_dec_proj" in key for key in original.stored) == projected


@pytest.mark.parametrize("form", ["bin", "both"])
def test_the_pytorch_file_can_be_a_bin(
    source_cache: SourceCache, tmp_path: Path, form: PytorchFormat
) -> None:
    kinds = ("bin",) if form == "bin" else ("safetensors", "bin")
    converter.convert(
        source_cache.source("bert", "mlm"), tmp_path / "out", to=["pytorch"], pytorch_format=form
    )
    check(tmp_path / "out", only=kinds)
    converter.compose(
        source_cache.source("bert"),
        source_cache.source("gpt2", "causal"),
        tmp_path / "composed",
        to=["pytorch"],
        pytorch_format=form,
    )
    check(tmp_path / "composed", only=kinds)


def test_the_bin_file_has_the_names_that_transformers_writes(
    source_cache: SourceCache, tmp_path: Path
) -> None:
    """Tied names included, which safetensors leaves out."""
    for architecture in ("bert", "roberta", "gpt2", "electra"):
        converter.convert(
            source_cache.source(architecture, "causal"),
            tmp_path / architecture,
            to=["pytorch"],
            pytorch_format="both",
        )
        for kind in ("safetensors", "bin"):
            mine = load(tmp_path / architecture, kind).stored
            expected = load(
                source_cache.source(architecture, "causal", file_format=kind), kind
            ).stored
            assert mine.keys() == expected.keys(), (architecture, kind)
