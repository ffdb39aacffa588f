"""Every undamaged checkpoint is accepted: all architectures, dtypes, shards, shared weights."""

from __future__ import annotations

import json
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

import converter
from converter.commands.verify import verify
from tests import factories
from tests.sampling import quick_sample
from tests.transformers.tiny import LIBRARY, MODEL_TYPES, tiny

TOKENS: dict[str, Any] = {"decoder_start_token": 3, "eos_token": 2, "pad_token": 1}
PLAYED = [(name, list(LIBRARY.architecture(name).roles)) for name in MODEL_TYPES]
ROLES = [(name, played[at % len(played)]) for at, (name, played) in enumerate(PLAYED) if played]
"""Each architecture in one of its roles; ``tests/transformers`` composes it in all."""

WAYS: list[dict[str, Any]] = [
    {"dtype": dtype, "max_shard_size": size, "init": rule}
    for dtype, size, rule in zip(
        ("keep", "float16", "bfloat16", "float32", "bfloat16"),
        (None, 30_000, None, 9_000, 60_000),
        ("normal", "normal", "truncated-normal", "normal", "truncated-normal"),
        strict=True,
    )
]


@pytest.mark.parametrize(
    ("architecture", "role", "way"),
    quick_sample(
        [(*pair, way) for pair, way in zip(ROLES, cycle(range(len(WAYS))), strict=False)], 4
    ),
)
def test_a_composed_model_is_verified(
    tmp_path: Path, architecture: str, role: str, way: int
) -> None:
    for submodel, name in {"encoder": "bert", "decoder": "bert", role: architecture}.items():
        (tmp_path / submodel).mkdir()
        config = {**tiny(name).config, "model_type": name}
        (tmp_path / submodel / "config.json").write_text(json.dumps(config))
    converter.compose(
        tmp_path / "encoder",
        tmp_path / "decoder",
        tmp_path / "out",
        random=["encoder", "decoder"],
        pytorch_format="both",
        seed=way,
        force=True,
        **TOKENS,
        **WAYS[way],
    )
    result = verify(tmp_path / "out")
    assert result.verified, result.problems
    for what, passed in result.checks.items():
        held, _, composite = passed.removesuffix(" tensors compared").partition(" of ")
        assert held == composite, what
    (tmp_path / "out" / "converter-manifest.json").unlink()
    result = verify(tmp_path / "out", against=[tmp_path / "out"])
    assert result.verified, result.problems
    assert {origin.verdict for origin in result.origins.values()} == {"equal"}


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("dtype", ["keep", "bfloat16"])
def test_shared_submodels_are_verified(tmp_path: Path, share: bool, dtype: str) -> None:
    source = factories.make(tmp_path / "bert", "bert", "BertForMaskedLM").directory
    options: dict[str, Any] = {"pytorch_format": "both", "max_shard_size": 40_000, "dtype": dtype}
    converter.compose(source, source, tmp_path / "out", share=share, **options)
    result = verify(tmp_path / "out", against=[source, source] if dtype == "keep" else ())
    assert result.verified, result.problems
    converter.convert(tmp_path / "out", tmp_path / "again", pytorch_format="both")
    assert verify(tmp_path / "again", against=[tmp_path / "out"]).verified


@pytest.mark.parametrize("file_format", ["safetensors", "torch", "keras-hdf5", "flax-msgpack"])
def test_files_of_other_tools_are_verified(tmp_path: Path, file_format: str) -> None:
    dialect = {"keras-hdf5": "tensorflow", "flax-msgpack": "flax"}.get(file_format, "pytorch")
    for architecture, model in (("bert", "BertModel"), ("gpt2", "GPT2LMHeadModel")):
        made = factories.make(
            tmp_path / architecture, architecture, model, dialect=dialect, file_format=file_format
        ).directory
        assert verify(made).verified
        converter.convert(made, tmp_path / f"{architecture}-out", pytorch_format="both")
        assert verify(tmp_path / f"{architecture}-out", against=[made]).verified
