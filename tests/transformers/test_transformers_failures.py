"""Where transformers is wrong without a warning, the converter is correct, or refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import converter
from converter.errors import ConverterError, MatchError
from tests.transformers.models import EQUAL, LARGE, SMALL, combined_pytorch, configuration
from tests.transformers.oracle import check, compare, load
from tests.transformers.source_cache import SourceCache
from tests.transformers.weight_files import read_msgpack

pytestmark = pytest.mark.peer


def right_or_refused(action: Callable[[], object], out: Path) -> bool:
    """Run; either the output is correct, or there is none and a ConverterError."""
    try:
        action()
    except ConverterError:
        assert not out.exists()
        return False
    check(out)
    return True


def test_a_missing_projection_is_an_error(tmp_path: Path) -> None:
    """Transformers fills ``enc_to_dec_proj`` with uninitialized memory."""
    from safetensors.numpy import load_file, save_file

    combined_pytorch(configuration("bert", LARGE), configuration("gpt2", SMALL)).save_pretrained(
        tmp_path / "source"
    )
    path = tmp_path / "source" / "model.safetensors"
    tensors = load_file(path)
    del tensors["enc_to_dec_proj.bias"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(MatchError, match=r"enc_to_dec_proj\.bias"):
        converter.convert(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("width", [48, 99])
def test_cross_attention_hidden_size_works_or_is_refused(
    source_cache: SourceCache, tmp_path: Path, width: int
) -> None:
    """Transformers accepts any value and fails when the model is called."""
    out = tmp_path / "out"
    right_or_refused(
        lambda: converter.compose(
            source_cache.source("bert", size="large"),
            source_cache.source("gpt2", "causal"),
            out,
            set=[f"decoder.cross_attention_hidden_size={width}"],
        ),
        out,
    )


def test_a_shared_model_is_written_completely_or_refused(tmp_path: Path) -> None:
    """With ``tie_encoder_decoder`` transformers stores one copy, which TensorFlow and Flax miss."""
    import transformers

    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        configuration("bert", SMALL), configuration("bert", SMALL), tie_encoder_decoder=True
    )
    model = transformers.EncoderDecoderModel(config)
    model.save_pretrained(tmp_path / "source")
    out = tmp_path / "out"
    if right_or_refused(lambda: converter.convert(tmp_path / "source", out), out):
        first, second = load(tmp_path / "source", "safetensors"), load(out, "safetensors")
        assert not compare(first, second, values=False)


def test_a_wrapped_flax_tree_is_read_or_refused(source_cache: SourceCache, tmp_path: Path) -> None:
    """Transformers newly initializes everything if the tree is below ``params``."""
    from flax.serialization import msgpack_serialize
    from flax.traverse_util import unflatten_dict

    source = source_cache.source("bert", file_format="msgpack")
    wrapped = tmp_path / "wrapped"
    wrapped.mkdir()
    (wrapped / "config.json").write_bytes((source / "config.json").read_bytes())
    tree = unflatten_dict(read_msgpack(source / "flax_model.msgpack"), sep="/")
    (wrapped / "flax_model.msgpack").write_bytes(msgpack_serialize({"params": tree}))
    out = tmp_path / "out"
    if right_or_refused(lambda: converter.convert(wrapped, out), out):
        assert not compare(
            load(source_cache.source("bert"), "safetensors"), load(out, "safetensors")
        )


def test_an_unknown_tensor_is_an_error(source_cache: SourceCache, tmp_path: Path) -> None:
    """Transformers only logs it."""
    from safetensors.numpy import load_file, save_file

    source = tmp_path / "source"
    source.mkdir()
    for file in source_cache.source("bert").iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    tensors = load_file(source / "model.safetensors")
    tensors["encoder.layer.0.adapter.weight"] = np.ones((3, 4), np.float32)
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MatchError, match="adapter"):
        converter.compose(source, source_cache.source("gpt2", "causal"), tmp_path / "out")


def test_a_wrong_shape_is_an_error_even_if_the_sizes_fit(
    source_cache: SourceCache, tmp_path: Path
) -> None:
    """TensorFlow reshapes without a warning; a kernel of the reversed shape must not pass."""
    import h5py

    source = tmp_path / "source"
    source.mkdir()
    for file in source_cache.source("bert", file_format="h5").iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    with h5py.File(source / "tf_model.h5", "r+") as file:
        actual: list[str] = []
        file.visit(lambda name: actual.append(name))
        [name] = [item for item in actual if item.endswith("layer_._0/intermediate/dense/kernel:0")]
        value = np.asarray(file[name]).T
        del file[name]
        file[name] = value
    with pytest.raises(ConverterError, match="intermediate"):
        converter.convert(source, tmp_path / "out")


@pytest.mark.parametrize(
    "architecture", ["xlm-roberta", "camembert", "roberta-prelayernorm", "gpt2"]
)
def test_the_encoder_that_transformers_loses_is_present(
    source_cache: SourceCache, tmp_path: Path, architecture: str
) -> None:
    """In TensorFlow it is below the main layer's name, not below ``model_type``."""
    source, out = tmp_path / "source", tmp_path / "out"
    combined_pytorch(
        configuration(architecture, SMALL), configuration("bert", EQUAL)
    ).save_pretrained(source)
    converter.convert(source, out, to=["tensorflow"])
    mine = check(out, only=("h5",))["h5"]
    assert not compare(load(source, "safetensors"), mine)
    main = {"gpt2": "transformer", "roberta-prelayernorm": "roberta_prelayernorm"}.get(
        architecture, "roberta"
    )
    assert any(f"encoder/{main}/" in key for key in mine.stored)
    config = json.loads((out / "config.json").read_text())
    assert config["encoder"]["model_type"] == architecture
