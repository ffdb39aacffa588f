"""Every encoder with every decoder gives a valid plan, or is refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from converter import compose
from converter.architectures.schema import FRAMEWORKS
from tests.factories import bundled_registry
from tests.sampling import quick_sample
from tests.transformers.tiny import tiny

LIBRARY = bundled_registry()
MODEL_TYPES = [
    LIBRARY.architecture(name)
    for name in LIBRARY.names
    if not LIBRARY.is_composite(name) and not LIBRARY.is_part(name)
]
ENCODERS = [architecture.name for architecture in MODEL_TYPES if "encoder" in architecture.roles]
DECODERS = [architecture.name for architecture in MODEL_TYPES if "decoder" in architecture.roles]
TOKENS: dict[str, Any] = {"decoder_start_token": 3, "eos_token": 2, "pad_token": 1}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a directory with only the tiny configuration, for each architecture."""
    home = tmp_path_factory.mktemp("pairs")
    for name in {*ENCODERS, *DECODERS}:
        (home / name).mkdir()
        config = {**tiny(name).config, "model_type": name}
        (home / name / "config.json").write_text(json.dumps(config))
    return {name: home / name for name in {*ENCODERS, *DECODERS}}


@pytest.mark.parametrize("encoder", quick_sample(ENCODERS, 32))
def test_every_decoder_goes_with_it(encoder: str, places: dict[str, Path], tmp_path: Path) -> None:
    composite = LIBRARY.composite(LIBRARY.architecture(encoder).roles["encoder"].composite)
    for decoder in DECODERS:
        result = compose(
            places[encoder],
            places[decoder],
            tmp_path / "out",
            random=["encoder", "decoder"],
            dry_run=True,
            force=True,
            **TOKENS,
        )
        planned = {tensor.spec.name for tensor in result.plan.tensors}
        assert any(name.startswith("encoder.") for name in planned)
        assert any(name.startswith("decoder.") for name in planned)
        assert "pytorch" in result.frameworks, decoder
        for framework in FRAMEWORKS:
            if framework not in result.frameworks:
                text = [w for w in result.warnings if w.startswith(f"{framework} is skipped: ")]
                assert text, f"{decoder}: nobody says why not {framework}"
        for file in result.plan.files:
            assert {entry.tensor for entry in file.entries} <= planned
            names = [entry.spec.name for entry in file.entries]
            assert len(names) == len(set(names)), f"{decoder}: {file.path}"
        assert composite.classes["pytorch"] == result.classes[""]["pytorch"]
    assert not (tmp_path / "out").exists()
