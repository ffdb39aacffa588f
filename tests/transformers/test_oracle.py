"""The checks pass for what transformers saved, and fail for damaged files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.transformers import oracle_checks
from tests.transformers.damage import break_flax, break_pytorch, break_tensorflow
from tests.transformers.models import (
    EQUAL,
    SINGLES,
    SMALL,
    class_name,
    combined_flax,
    combined_pytorch,
    combined_tensorflow,
    configuration,
    has_class,
)
from tests.transformers.oracle import Loaded, agree, check, compare, load
from tests.transformers.rounding import LIMIT, TOLERANCE, scaled_difference
from tests.transformers.source_cache import SourceCache
from tests.transformers.tiny import build, source_fields, tiny
from tests.transformers.weight_files import FRAMEWORKS

pytestmark = pytest.mark.peer

QUERY = "encoder.layer.0.attention.self.query.weight"
KEY = "encoder.layer.0.attention.self.key.weight"


@pytest.mark.parametrize(("architecture", "head"), SINGLES)
def test_the_listed_classes_exist_in_transformers(architecture: str, head: str) -> None:
    for framework in ("pytorch", "tensorflow", "flax"):
        assert has_class(framework, architecture, head) == bool(
            class_name(framework, architecture, head)
        )


@pytest.mark.parametrize(("architecture", "head"), SINGLES)
def test_transformers_converts_single_models_correctly(
    source_cache: SourceCache, architecture: str, head: str
) -> None:
    """The basis of all other tests: one model in each format, with equal outputs and values."""
    loaded: list[Loaded] = []
    for file_format, framework in FRAMEWORKS.items():
        if has_class(framework, architecture, head):
            loaded += check(
                source_cache.source(architecture, head, file_format=file_format)
            ).values()
    first, *others = loaded
    assert first.outputs
    for other in others:
        assert not compare(first, other)


@pytest.fixture(scope="module")
def combined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save an encoder-decoder with transformers, PyTorch only."""
    path = tmp_path_factory.mktemp("combined")
    parts = configuration("bert", SMALL), configuration("bert", EQUAL)
    combined_pytorch(*parts).save_pretrained(path)
    return path


def test_encoder_decoders_saved_by_transformers_pass(combined: Path, tmp_path: Path) -> None:
    parts = configuration("bert", SMALL), configuration("gpt2", EQUAL)
    check(combined, only=("safetensors",))
    combined_tensorflow(*parts).save_pretrained(tmp_path / "tf")
    check(tmp_path / "tf", only=("h5",))
    combined_flax(*parts).save_pretrained(tmp_path / "flax")
    check(tmp_path / "flax", only=("msgpack",))


@pytest.fixture
def trio(source_cache: SourceCache, tmp_path: Path) -> Path:
    """One model in all three frameworks in one directory."""
    directory = tmp_path / "trio"
    directory.mkdir()
    for file_format in ("safetensors", "h5", "msgpack"):
        for file in source_cache.source("bert", file_format=file_format).iterdir():
            (directory / file.name).write_bytes(file.read_bytes())
    (directory / "config.json").write_bytes(
        (source_cache.source("bert") / "config.json").read_bytes()
    )
    check(directory, only=("safetensors", "h5", "msgpack"))
    return directory


def swap(tensors: dict[str, np.ndarray], names: tuple[str, str]) -> None:
    """Exchange two tensors of one shape."""
    tensors[names[0]], tensors[names[1]] = tensors[names[1]], tensors[names[0]]


def turn(tensors: dict[str, np.ndarray], names: tuple[str, str]) -> None:
    """Transpose one square matrix."""
    tensors[names[0]] = np.ascontiguousarray(tensors[names[0]].T)


def nudge(tensors: dict[str, np.ndarray], names: tuple[str, str]) -> None:
    """Change the last bit of one value."""
    tensors[names[0]].reshape(-1)[3] = np.nextafter(
        tensors[names[0]].reshape(-1)[3], np.float32(9), dtype=np.float32
    )


def drop(tensors: dict[str, np.ndarray], names: tuple[str, str]) -> None:
    """Leave one tensor out."""
    del tensors[names[0]]


def poison(tensors: dict[str, np.ndarray], names: tuple[str, str]) -> None:
    """Put one NaN."""
    tensors[names[0]].reshape(-1)[5] = np.nan


@pytest.mark.parametrize("damage", [swap, turn, nudge, drop, poison])
@pytest.mark.parametrize("kind", ["safetensors", "h5", "msgpack"])
def test_damage_is_found(
    trio: Path, kind: str, damage: Callable[[dict[str, np.ndarray], tuple[str, str]], None]
) -> None:
    edit = {"safetensors": break_pytorch, "h5": break_tensorflow, "msgpack": break_flax}[kind]
    edit(trio, QUERY, KEY, damage)
    with pytest.raises(AssertionError, match=kind):
        check(trio)


def test_a_missing_tensor_is_found_in_each_framework(combined: Path) -> None:
    """Even the framework alone, with nothing to compare to, must object."""
    break_pytorch(combined, "encoder." + QUERY, "encoder." + KEY, drop)
    [problem] = [text for text in load(combined, "safetensors").problems if "missing_keys" in text]
    assert QUERY in problem


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Run SAM, whose masks depend on rounding more than the outputs of other models."""
    path, spec = tmp_path_factory.mktemp("sam"), tiny("sam")
    model = spec.table.models["SamModel"]
    name = model.classes["pytorch"]
    build(spec, name, source_fields("sam", model, "")).save_pretrained(path)
    batch = spec.batch("pytorch", model=model.name)
    return oracle_checks.load(path, "safetensors", name, batch, spec.keep)


def test_what_a_move_of_the_last_digit_explains_is_rounding(sam: Loaded) -> None:
    first = sam.outputs["pred_masks"]
    moved = max(scaled_difference(first, each["pred_masks"]) for each in sam.moved)
    scale = float(np.abs(first).max())

    def passes(gap: float, tolerance: float) -> bool:
        other = Loaded("h5", outputs={"pred_masks": first + np.float32(gap * scale)})
        return agree(other, sam, "pred_masks", tolerance, scaled_difference)

    assert 2 * moved < TOLERANCE < 7 * moved < 50 * moved < LIMIT * 2
    assert passes(7 * moved, TOLERANCE), "SAM's difference on another processor"
    assert not passes(7 * moved, 0)
    assert not passes(9 * moved, TOLERANCE)
    assert passes(7 * moved, 6.9 * moved)
    assert not passes(2 * LIMIT, TOLERANCE)
    assert not passes(np.nan, TOLERANCE)


@pytest.mark.parametrize("damage", ["rows exchanged", "noise of 0.001"])
def test_a_wrong_weight_is_not_rounding(sam: Loaded, damage: str) -> None:
    """Of the weights that change the outputs at all, a tenth changes them as little as rounding."""
    import torch

    assert sam.run_again
    effective, accepted = 0, []
    for name, weight in sam.model.named_parameters():
        own = weight.detach().clone()
        noise = torch.randn(own.shape, generator=torch.Generator().manual_seed(0)) * 1e-3
        with torch.no_grad():
            weight.copy_(own.roll(1, 0) if damage == "rows exchanged" else own + noise)
            other = Loaded("h5", outputs={**sam.run_again()})
            weight.copy_(own)
        gaps = [scaled_difference(sam.outputs[key], other.outputs[key]) for key in sam.outputs]
        effective += max(gaps) > TOLERANCE
        if all(agree(sam, other, key, TOLERANCE, scaled_difference) for key in sam.outputs):
            accepted += [name] if max(gaps) > TOLERANCE else []
    assert effective > 90
    assert len(accepted) < effective / 10, accepted
