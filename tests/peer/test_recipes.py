"""The configurations of the literature, loaded natively: equal logits, and they generate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import converter
from converter.tables.recipes import recipes

from .files import configuration
from .oracle import check, inputs
from .workshop import Workshop

pytestmark = pytest.mark.peer


@pytest.mark.parametrize("name", sorted(recipes()))
def test_a_recipe_loads_and_generates_everywhere(
    workshop: Workshop, tmp_path: Path, name: str
) -> None:
    recipe = recipes()[name]
    decoder = workshop.source(recipe.decoder, "causal", "small", seed=1)
    encoder = decoder if recipe.share else workshop.source(recipe.encoder, "base", "small")
    out = tmp_path / name
    small = ["decoder.num_attention_heads=4"] if recipe.settings else []
    converter.compose(encoder, decoder, out, like=name, set=small)
    config = configuration(out)
    ids = inputs(config)["input_ids"]
    for kind, loaded in check(out).items():
        written = _generate(kind, loaded.model, ids)
        assert written.shape[0] == len(ids)
        assert int(written[:, 0].max()) == config["decoder_start_token_id"]
        assert int(written.max()) < config["decoder"]["vocab_size"]


def _generate(kind: str, model: Any, ids: Any) -> Any:
    """``generate()`` told nothing but the input, in each framework."""
    import numpy as np

    if kind == "safetensors":
        import torch

        return model.generate(torch.from_numpy(ids)).numpy()
    if kind == "h5":
        return np.asarray(model.generate(ids))
    return np.asarray(model.generate(ids).sequences)
