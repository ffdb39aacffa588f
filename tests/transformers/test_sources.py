"""One model in every format, with every head: always the same composition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import converter
from tests.transformers.models import DECODERS, SINGLES, STEMS, class_name, has_class
from tests.transformers.oracle import check, load
from tests.transformers.source_cache import SourceCache
from tests.transformers.weight_files import FRAMEWORKS

pytestmark = pytest.mark.peer


def stored(directory: Path) -> dict[str, np.ndarray]:
    """Return the PyTorch tensors of a composition that passes the checks."""
    loaded = load(directory, "safetensors")
    assert not loaded.problems, loaded.problems
    return loaded.stored


def equal(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    """Assert that both have the same names and the same bits."""
    return first.keys() == second.keys() and all(
        np.array_equal(value, second[key]) for key, value in first.items()
    )


@pytest.mark.parametrize("architecture", STEMS)
def test_an_encoder_is_the_same_from_every_format(
    source_cache: SourceCache, tmp_path: Path, architecture: str
) -> None:
    decoder = source_cache.source("gpt2", "causal", seed=1)
    results = {}
    for file_format, framework in FRAMEWORKS.items():
        if has_class(framework, architecture, "base"):
            source = source_cache.source(architecture, "base", file_format=file_format)
            converter.compose(source, decoder, tmp_path / file_format, to=["pytorch"])
            results[file_format] = stored(tmp_path / file_format)
    first = results.pop("safetensors")
    assert results
    for file_format, other in results.items():
        assert equal(first, other), file_format


@pytest.mark.parametrize("architecture", DECODERS)
def test_a_decoder_is_the_same_from_every_format(
    source_cache: SourceCache, tmp_path: Path, architecture: str
) -> None:
    encoder = source_cache.source("bert", seed=1)
    results = {}
    for file_format, framework in FRAMEWORKS.items():
        if has_class(framework, architecture, "causal"):
            source = source_cache.source(architecture, "causal", file_format=file_format)
            converter.compose(encoder, source, tmp_path / file_format, to=["pytorch"])
            results[file_format] = stored(tmp_path / file_format)
    first = results.pop("safetensors")
    assert results
    for file_format, other in results.items():
        assert equal(first, other), file_format


HEADS = [(architecture, head) for architecture, head in SINGLES if head != "base"]


@pytest.mark.parametrize(
    ("architecture", "head", "file_format"),
    [
        (architecture, head, file_format)
        for architecture, head in HEADS
        for file_format, framework in FRAMEWORKS.items()
        if has_class(framework, architecture, head)
    ],
)
def test_an_encoder_comes_out_of_a_model_with_a_head(
    source_cache: SourceCache, tmp_path: Path, architecture: str, head: str, file_format: str
) -> None:
    """The base model below any head is the encoder, value by value."""
    import transformers

    source = source_cache.source(architecture, head, file_format=file_format)
    converter.compose(
        source, source_cache.source("gpt2", "causal", seed=1), tmp_path / "out", to=["pytorch"]
    )
    composed = stored(tmp_path / "out")
    name = str(class_name("pytorch", architecture, head))
    original = getattr(transformers, name).from_pretrained(source_cache.source(architecture, head))
    base = original.base_model.state_dict()
    assert base
    for key, value in base.items():
        assert np.array_equal(composed["encoder." + key], value.numpy()), key
    left = {key.removeprefix("encoder.") for key in composed if key.startswith("encoder.")}
    assert all(key.startswith("pooler") for key in left - base.keys()), left - base.keys()


@pytest.mark.parametrize("architecture", [name for name in DECODERS if name != "gpt2"])
def test_a_decoder_comes_out_of_a_masked_language_model(
    source_cache: SourceCache, tmp_path: Path, architecture: str
) -> None:
    """As decoder it is the causal model with the same values."""
    if architecture == "electra":
        kinds: tuple[str, ...] = ("safetensors",)
    else:
        kinds = ("safetensors", "h5") + (() if architecture == "camembert" else ("msgpack",))
    source = source_cache.source(architecture, "mlm")
    converter.compose(source_cache.source("bert", seed=1), source, tmp_path / "out")
    composed = check(tmp_path / "out", only=kinds)["safetensors"].stored
    original = load(source, "safetensors").stored
    for key, value in original.items():
        assert np.array_equal(composed["decoder." + key], value), key


def test_an_encoder_without_pooler_composes_completely(
    source_cache: SourceCache, tmp_path: Path
) -> None:
    """The classes have a pooler, so the file must have one; nothing may be left to the loader."""
    source = source_cache.source("bert", pooler=False)
    converter.compose(source, source_cache.source("gpt2", "causal"), tmp_path / "out")
    proof = check(tmp_path / "out", only=("safetensors", "h5", "msgpack"))
    assert "encoder.pooler.dense.weight" in proof["safetensors"].stored


def test_each_submodel_can_take_the_other_role(source_cache: SourceCache, tmp_path: Path) -> None:
    """A decoder's weights as encoder, an encoder's as decoder."""
    converter.compose(
        source_cache.source("gpt2", "causal", "large"),
        source_cache.source("bert", "pretraining"),
        tmp_path / "out",
    )
    check(tmp_path / "out", only=("safetensors", "h5", "msgpack"))
