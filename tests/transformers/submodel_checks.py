"""Checks of the submodels of a composition against transformers models of the sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.transformers.models import STEMS, class_name, weights
from tests.transformers.oracle import Loaded, inputs
from tests.transformers.rounding import assert_close
from tests.transformers.source_cache import SourceCache
from tests.transformers.weight_files import FRAMEWORKS

ENCODER_KINDS = {
    architecture: ("safetensors", "h5")
    if architecture in ("camembert", "distilbert", "electra")
    else ("safetensors", "h5", "msgpack")
    for architecture in STEMS
}
"""Model type → frameworks whose encoder-decoder class can hold and call it as encoder."""

DECODER_KINDS = {
    "bert": ("safetensors", "h5", "msgpack"),
    "roberta": ("safetensors", "h5", "msgpack"),
    "xlm-roberta": ("safetensors", "h5", "msgpack"),
    "camembert": ("safetensors", "h5"),
    "roberta-prelayernorm": ("safetensors", "h5", "msgpack"),
    "gpt2": ("safetensors", "h5", "msgpack"),
    "electra": ("safetensors",),
}
"""Model type → frameworks whose encoder-decoder class can hold and call it as decoder."""


def expected_kinds(encoder: str, decoder: str) -> tuple[str, ...]:
    """Return the kinds of weight files that a composition has by default."""
    return tuple(kind for kind in ENCODER_KINDS[encoder] if kind in DECODER_KINDS[decoder])


def source_model(directory: Path, architecture: str, head: str) -> Any:
    """Load the source in PyTorch, in float32, for its role."""
    import transformers

    name = class_name("pytorch", architecture, head)
    changes = {"is_decoder": True} if head == "causal" else {}
    safe = (directory / "model.safetensors").exists()
    model = getattr(transformers, str(name)).from_pretrained(
        directory, use_safetensors=safe, **changes
    )
    return model.float().eval()


def check_encoder(loaded: Loaded, source: Any, config: dict[str, Any]) -> None:
    """Assert that the encoder computes what the source computes by itself."""
    import torch

    ids = torch.from_numpy(inputs(config)["input_ids"])

    def run() -> np.ndarray:
        with torch.no_grad():
            return np.asarray(source(input_ids=ids).last_hidden_state)

    assert_close(loaded.outputs["encoder_last_hidden_state"], source, run)


def check_decoder(loaded: Loaded, source: Any, config: dict[str, Any]) -> None:
    """Assert that the PyTorch decoder without encoder computes what the source computes."""
    import torch

    ids = torch.from_numpy(inputs(config)["decoder_input_ids"])

    def run(model: Any) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(model(input_ids=ids).logits)

    assert_close(run(loaded.model.decoder), source, lambda: run(source))


def check_pytorch_values(loaded: Loaded, encoder: Any, decoder: Any) -> set[str]:
    """Assert that every source tensor is in its submodel, bit for bit; return all other names."""
    native = {key: value.detach() for key, value in loaded.model.state_dict().items()}
    left = set(native)
    for prefix, source in (("encoder.", encoder), ("decoder.", decoder)):
        for key, value in source.state_dict().items():
            assert native[prefix + key].equal(value), f"{prefix}{key} is not its source's"
            left.discard(prefix + key)
    return left


def check_native_values(
    loaded: Loaded,
    source_cache: SourceCache,
    encoder: tuple[Path, str],
    decoder: tuple[Path, str, str],
) -> set[str]:
    """Check as `check_pytorch_values` in another framework, against the conversion by transformers.

    The sources must be PyTorch checkpoints of a base encoder and of a decoder with its head.
    """
    framework = FRAMEWORKS[loaded.kind]
    native = weights(loaded.model, framework)
    if framework == "tensorflow":  # remove the scopes before the submodel's name
        native = {_submodel_path(key): value for key, value in native.items()}
    left = set(native)
    for prefix, part in (("encoder/", (*encoder, "base")), ("decoder/", decoder)):
        for key, value in source_cache.converted_weights(
            part[0], framework, part[1], part[2]
        ).items():
            assert prefix + key in native, f"{loaded.kind}: no {prefix}{key}"
            assert np.array_equal(native[prefix + key], value), f"{loaded.kind}: {prefix}{key}"
            left.discard(prefix + key)
    return left


def _submodel_path(key: str) -> str:
    """Return ``tf_encoder_decoder_model/encoder/bert/…`` without the prefix of the submodel."""
    parts = key.split("/")
    for name in ("encoder", "decoder", "enc_to_dec_proj"):
        if name in parts[:2]:
            return "/".join(parts[parts.index(name) :])
    return key


def new_tensors(directory: Path) -> list[str]:
    """Return the tensors of a composed model that are in none of the submodels.

    They are initialized, or copies in cross-attention of what self-attention has.
    """
    tensors = json.loads((directory / "converter-manifest.json").read_text())["tensors"]
    return [
        name
        for name, entry in tensors.items()
        if entry["origin"] == "initialized"
        or ("crossattention" in name and "crossattention" not in entry.get("key", name))
    ]


def without_source(names: set[str]) -> bool:
    """Return whether all names are ones that no source of a composition can have."""
    marks = ("crossattention", "ln_cross_attn", "enc_to_dec_proj")
    return all(any(mark in name for mark in marks) for name in names)
