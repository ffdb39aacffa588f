"""What a composition computes before it is trained, by how its cross-attention begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter

from .halves import source_model
from .workshop import Workshop

pytestmark = pytest.mark.peer

LANGUAGE_MODELS = ["gpt2", "roberta-prelayernorm", "bert"]
"""The first two normalise what goes into a branch, the last what comes out of the sum."""


def _logits(workshop: Workshop, home: Path, decoder: str, init: str) -> tuple[Any, Any]:
    """Logits of the composed decoder beside its encoder, and of the language model alone."""
    import torch
    from transformers import EncoderDecoderModel

    encoder = workshop.source("bert", "base", "large")
    source = workshop.source(decoder, "causal", "small", seed=1)
    converter.compose(encoder, source, home / init, to=["pytorch"], init=init)
    model = EncoderDecoderModel.from_pretrained(home / init).eval()
    alone = source_model(source, decoder, "causal")
    ids = torch.tensor([[5, 9, 3, 17, 8, 4], [7, 3, 3, 9, 1, 2]])
    with torch.no_grad():
        own = alone(input_ids=ids).logits.numpy()
        new = model(input_ids=ids, decoder_input_ids=ids).logits.numpy()
    return own, new


@pytest.mark.parametrize("decoder", LANGUAGE_MODELS)
def test_a_silent_branch_leaves_the_language_model_as_it_was(
    workshop: Workshop, tmp_path: Path, decoder: str
) -> None:
    own, silent = _logits(workshop, tmp_path, decoder, "zero-output")
    _, plain = _logits(workshop, tmp_path, decoder, "normal")
    gap, usual = (float(np.abs(own - new).max()) for new in (silent, plain))
    if decoder == "bert":
        assert gap > 1e-3, "then the note on layer norms behind the sum is no longer true"
    else:
        assert gap <= 1e-6
        assert usual > 1e-4


def test_the_projection_follows_transformers_5(workshop: Workshop, tmp_path: Path) -> None:
    """Normal of the decoder's own deviation, and no bias; transformers 4 draws it evenly."""
    from safetensors.numpy import load_file

    encoder = workshop.source("bert", "base", "large")
    decoder = workshop.source("gpt2", "causal", "small", seed=1, initializer_range=0.05)
    converter.compose(encoder, decoder, tmp_path / "out", to=["pytorch"])
    stored = load_file(tmp_path / "out" / "model.safetensors")
    weight = stored["enc_to_dec_proj.weight"]
    assert weight.std() == pytest.approx(0.05, rel=0.1)
    assert np.abs(weight).max() > 2.2 * 0.05
    assert not stored["enc_to_dec_proj.bias"].any()


def test_training_is_that_of_the_peers_own_composition(workshop: Workshop, tmp_path: Path) -> None:
    """Given the same fresh weights, the loss of each of 20 steps is the same."""
    import torch
    from transformers import EncoderDecoderModel

    encoder = workshop.source("bert", "base", "small")
    decoder = workshop.source("gpt2", "causal", "small", seed=1)
    converter.compose(encoder, decoder, tmp_path / "out", to=["pytorch"])
    ours = EncoderDecoderModel.from_pretrained(tmp_path / "out")
    peers = EncoderDecoderModel.from_encoder_decoder_pretrained(str(encoder), str(decoder))
    fresh = {
        name: value
        for name, value in ours.state_dict().items()
        if any(mark in name for mark in ("cross", "enc_to_dec_proj"))
    }
    missing, unexpected = peers.load_state_dict(fresh, strict=False)
    assert not unexpected and not any("cross" in name for name in missing)
    for field in ("decoder_start_token_id", "pad_token_id", "eos_token_id"):
        setattr(peers.config, field, getattr(ours.config, field))
    losses = [_losses(model, torch) for model in (peers, ours)]
    assert losses[0] == losses[1]
    assert losses[1][-1] < losses[1][0]


def _losses(model: Any, torch: Any) -> list[float]:
    torch.manual_seed(0)
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = torch.tensor([[5, 9, 3, 17, 8, 4], [7, 3, 3, 9, 1, 2]])
    found = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = model(input_ids=ids, labels=ids.flip(1)).loss
        loss.backward()
        optimiser.step()
        found.append(float(loss.detach()))
    return found
