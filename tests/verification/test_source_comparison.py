"""Comparison with sources: copied, initialized and damaged tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter
from converter.commands.verify import verify
from converter.errors import UnsupportedError
from tests import factories
from tests.verification import damage
from tests.verification.damage import DENSE, FILES, KEY, QUERY, alter, copy_of, key_of, update
from tests.verification.test_damage import SINGLE


def alone(sound: Path, directory: Path, name: str) -> Path:
    """Make a checkpoint of one file without a manifest."""
    copy_of(sound, directory)
    for other in (*FILES, "converter-manifest.json"):
        if other != name:
            (directory / other).unlink()
    return directory


def test_initialized_tensors_are_listed_exactly(sound: Path, sources: tuple[Path, Path]) -> None:
    result = verify(sound, against=sources)
    planned = converter.compose(*sources, sound.parent / "never", dry_run=True)
    initialized = {
        name for name, origin in result.origins.items() if origin.verdict == "initialized"
    }
    assert initialized == set(planned.to_dict()["initialized"])
    equal = {origin.source for name, origin in result.origins.items() if name not in initialized}
    assert equal == set(map(str, sources))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", SINGLE, ids=lambda change: change.__name__)
def test_damage_is_diagnosed(
    sound: Path, sources: tuple[Path, Path], tmp_path: Path, name: str, change: Callable[..., None]
) -> None:
    directory = alone(sound, tmp_path / "it", name)
    key = key_of(directory / name, QUERY)
    alter(directory / name, [key], change)
    assert verify(directory).verified
    result = verify(directory, against=sources)
    assert [(p.tensor, SINGLE[change] in p.what) for p in result.problems] == [(key, True)]
    assert result.origins[f"encoder.{QUERY}.weight"].verdict == result.problems[0].what


@pytest.mark.parametrize("name", FILES)
def test_swapped_tensors_name_each_other(
    sound: Path, sources: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    directory = alone(sound, tmp_path / "it", name)
    keys = [key_of(directory / name, module) for module in (QUERY, KEY)]
    alter(directory / name, keys, damage.swapped)
    verdicts = {p.tensor: p.what for p in verify(directory, against=sources).problems}
    assert verdicts == {
        keys[0]: f"holds the values of encoder.{KEY}.weight",
        keys[1]: f"holds the values of encoder.{QUERY}.weight",
    }


@pytest.mark.parametrize("name", FILES)
def test_a_duplicated_tensor_is_named(
    sound: Path, sources: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    directory = alone(sound, tmp_path / "it", name)
    keys = [key_of(directory / name, module) for module in (QUERY, KEY)]
    alter(directory / name, keys, damage.duplicated)
    [problem] = verify(directory, against=sources).problems
    assert (problem.tensor, problem.what) == (
        keys[1],
        f"holds the values of encoder.{QUERY}.weight",
    )


@pytest.mark.parametrize("name", FILES)
def test_another_set_of_tensors_is_named(
    sound: Path, sources: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    """Missing, cast and grown tensors in a single file."""
    directory = alone(sound, tmp_path / "it", name)
    lost, cast, grown = (key_of(directory / name, module) for module in (QUERY, KEY, DENSE))

    def damage_tensors(tensors: dict[str, damage.Array]) -> None:
        del tensors[lost]
        tensors[cast] = tensors[cast].astype(np.float16)
        tensors[grown] = np.concatenate([tensors[grown], tensors[grown][:1]])

    damage.rewrite(directory / name, damage_tensors)
    problems = verify(directory, against=sources).problems
    verdicts = {(str(problem.tensor), problem.what) for problem in problems}
    assert (cast, "was rounded to float16") in verdicts
    assert (grown, "wrong shape") in verdicts
    assert (lost, "missing tensor") in verdicts
    assert (f"encoder.{QUERY}.weight", "is missing, but the source has it") in verdicts
    assert len(verdicts) == 4


def test_unrelated_weights_are_reported(
    sound: Path, sources: tuple[Path, Path], tmp_path: Path
) -> None:
    other = factories.make(tmp_path / "other", "bert", seed=5).directory
    result = verify(sound, against=[other, sources[1]])
    wrong = {p.what for p in result.problems}
    assert wrong == {
        "is unrelated: newly initialized, or from another checkpoint",
        f"nothing of {other} is in the checkpoint",
    }
    assert all(o.verdict != "equal" for n, o in result.origins.items() if n.startswith("encoder."))
    assert result.checks["tensors equal to their source"].startswith("28 of ")


def test_added_rows_are_a_shape_mismatch(
    sound: Path, sources: tuple[Path, Path], tmp_path: Path
) -> None:
    larger = factories.make(tmp_path / "larger", "bert", vocab_size=70).directory
    problems = verify(sound, against=[larger, sources[1]]).problems
    shaped = [p for p in problems if "shape" in p.what]
    assert [p.tensor for p in shaped] == ["encoder.embeddings.word_embeddings.weight"]


def test_two_sources_of_one_architecture_are_assigned_in_order(
    sources: tuple[Path, Path], tmp_path: Path
) -> None:
    second = factories.make(tmp_path / "b", "bert", "BertForMaskedLM", seed=4).directory
    converter.compose(sources[0], second, tmp_path / "out")
    assert verify(tmp_path / "out", against=[sources[0], second]).verified
    assert not verify(tmp_path / "out", against=[second, sources[0]]).verified
    with pytest.raises(UnsupportedError, match="no submodel left"):
        verify(tmp_path / "out", against=[sources[0], second, second])


def test_a_converted_model_equals_its_source(sources: tuple[Path, Path], tmp_path: Path) -> None:
    converter.convert(sources[1], tmp_path / "out")
    result = verify(tmp_path / "out", against=[sources[1]])
    assert result.verified
    assert {origin.verdict for origin in result.origins.values()} == {"equal"}
    converter.convert(sources[1], tmp_path / "half", dtype="float16")
    result = verify(tmp_path / "half", against=[sources[1]])
    assert {p.what for p in result.problems} == {"was rounded to float16"}


def test_special_tokens_that_are_not_set(sound: Path, tmp_path: Path) -> None:
    directory = alone(sound, tmp_path / "it", FILES[0])
    for name in ("config.json", "generation_config.json"):
        update(directory / name, pad_token_id=None)
    [problem] = verify(directory).problems
    assert problem.tensor == "pad_token_id"
    assert "generate()" in problem.what


def _two(home: Path) -> tuple[Path, Path]:
    """Make sources whose tokenizers and embeddings differ in size, with four layers."""
    first = factories.make(home / "first", "bert", num_hidden_layers=4).directory
    second = factories.make(home / "second", "gpt2", "GPT2LMHeadModel", seed=3, n_layer=4).directory
    (first / "vocab.txt").write_text("".join(f"w{number}\n" for number in range(50)))
    (second / "vocab.json").write_text('{"w": 69}')
    return first, second


EXPECTED_DIFFERENCES: dict[str, tuple[dict[str, Any], int, str]] = {
    "layers": (
        {"layers": ["decoder=3,1", "encoder=last:2"]},
        0,
        "decoder.h.{0,2}.attn.c_attn.bias",
    ),
    "mean": ({"resize_embeddings": True}, 0, ""),
    "rows": ({"resize_embeddings": True, "resize_with": "normal"}, 0, ""),
    "random": ({"random": ["decoder"]}, 52, "initialized on request: decoder.h.{0…3}"),
    "copies": ({"init": "copy-self-attention", "layers": ["decoder=0,2"]}, -8, ""),
}
"""Options, how many more tensors are initialized, and a note."""


@pytest.mark.parametrize("case", EXPECTED_DIFFERENCES)
def test_expected_differences_are_not_faults(tmp_path: Path, case: str) -> None:
    options, more, messages = EXPECTED_DIFFERENCES[case]
    sources, out = _two(tmp_path), tmp_path / "out"
    planned = converter.compose(*sources, out, **options).to_dict()
    result = verify(out, against=sources)
    assert result.verified, [str(problem) for problem in result.problems]
    initialized = {
        name for name, origin in result.origins.items() if origin.verdict == "initialized"
    }
    assert initialized == set(planned["initialized"])
    plain = {"layers": options.get("layers", ())}
    usual = converter.compose(*sources, tmp_path / "never", dry_run=True, **plain).to_dict()
    assert len(initialized) - len(usual["initialized"]) == more
    assert any(messages in note for note in result.notes) or not messages


@pytest.mark.parametrize("case", EXPECTED_DIFFERENCES)
def test_expected_differences_are_compared_too(tmp_path: Path, case: str) -> None:
    """Alter one value in the last row of what the options changed."""
    from safetensors.numpy import load_file, save_file

    sources, out = _two(tmp_path), tmp_path / "out"
    converter.compose(*sources, out, to=["pytorch"], **EXPECTED_DIFFERENCES[case][0])
    key = {
        "layers": "decoder.transformer.h.0.mlp.c_fc.weight",
        "copies": "decoder.transformer.h.1.crossattention.c_proj.weight",
        "random": "encoder.encoder.layer.3.output.dense.weight",
    }.get(case, "decoder.transformer.wte.weight")
    tensors = load_file(out / "model.safetensors")
    tensors[key][-1, -1] += 1
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    problems = verify(out, against=sources).problems
    assert any(p.tensor == key and "differs in 1 value" in p.what for p in problems)


def test_shared_submodels_have_one_source(tmp_path: Path) -> None:
    bert = factories.make(tmp_path / "bert", "bert", "BertForMaskedLM").directory
    converter.compose(bert, bert, tmp_path / "out", share=True)
    for sources in ([bert], [bert, bert]):
        result = verify(tmp_path / "out", against=sources)
        assert result.verified
        initialized = {
            name for name, origin in result.origins.items() if origin.verdict == "initialized"
        }
        assert initialized and all(
            "crossattention" in name or "pooler" in name for name in initialized
        )
