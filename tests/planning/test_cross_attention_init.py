"""How fresh cross-attention begins: every rule's statistics, the same in every file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter import UnsupportedError, compose
from converter.architectures.sample_configs import sample_configs
from converter.errors import TableError
from converter.options import INIT_RULES, InitRule
from tests.factories import bundled_registry, make
from tests.reading import FILES, manifest_of, values
from tests.sampling import quick_sample

LIBRARY = bundled_registry()
CROSS = ("crossattention", "ln_cross_attn")


def _composed(
    home: Path, init: InitRule, decoder: str = "gpt2"
) -> tuple[dict[str, Any], list[str]]:
    """Return the cross-attention of a composition, after comparing it in all its files."""
    width = {"gpt2": "n_embd", "bert": "hidden_size"}[decoder]
    model = {"gpt2": "GPT2LMHeadModel", "bert": "BertLMHeadModel"}[decoder]
    make(home / "encoder", "bert")
    changes: dict[str, Any] = {width: 64}
    make(home / "decoder", decoder, model, seed=1, **changes)
    result = compose(home / "encoder", home / "decoder", home / init, init=init, seed=11)
    first, *others = (values(home / init / name) for name in FILES)
    for other in others:
        assert other.keys() == first.keys()
        assert all(np.array_equal(first[name], other[name]) for name in first)
    cross = {name: v for name, v in first.items() if any(mark in name for mark in CROSS)}
    assert cross
    return cross, list(result.warnings)


def _matrices(cross: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in cross.items() if value.ndim == 2}


@pytest.mark.parametrize("decoder", ["bert", "gpt2"])
def test_normal_is_the_rule_of_the_table(tmp_path: Path, decoder: str) -> None:
    cross, _ = _composed(tmp_path, "normal", decoder)
    for name, value in _matrices(cross).items():
        scale = 0.02 / (math.sqrt(4) if "c_proj" in name else 1)
        assert value.std() == pytest.approx(scale, rel=0.05), name
        assert np.abs(value).max() > 2.6 * scale, name


@pytest.mark.parametrize("decoder", ["bert", "gpt2"])
def test_truncated_normal_ends_at_two_deviations(tmp_path: Path, decoder: str) -> None:
    cross, _ = _composed(tmp_path, "truncated-normal", decoder)
    for name, value in _matrices(cross).items():
        scale = 0.02 / (math.sqrt(4) if "c_proj" in name else 1)
        assert np.abs(value).max() <= np.float32(2 * scale), name
        assert value.std() == pytest.approx(0.8796 * scale, rel=0.05), name


@pytest.mark.parametrize("decoder", ["bert", "gpt2"])
def test_xavier_is_even_within_the_bound_of_the_shape(tmp_path: Path, decoder: str) -> None:
    cross, _ = _composed(tmp_path, "xavier", decoder)
    for name, value in _matrices(cross).items():
        bound = math.sqrt(6 / sum(value.shape))
        assert 0.99 * bound < np.abs(value).max() <= bound, name
        assert value.std() == pytest.approx(bound / math.sqrt(3), rel=0.05), name
        assert abs(value.mean()) < bound / 20, name
    assert all(not v.any() for name, v in cross.items() if name.endswith(".bias"))


@pytest.mark.parametrize(
    ("decoder", "output"), [("bert", "output.dense"), ("gpt2", "crossattention.c_proj")]
)
def test_zero_output_sets_the_last_module_to_zero(
    tmp_path: Path, decoder: str, output: str
) -> None:
    cross, warnings = _composed(tmp_path, "zero-output", decoder)
    plain, _ = _composed(tmp_path, "normal", decoder)
    zeroed = {name for name in cross if output in name}
    assert zeroed
    for name, value in cross.items():
        if name in zeroed:
            assert not value.any(), name
        else:
            assert np.array_equal(value, plain[name]), name
    message = [warning for warning in warnings if "normalizes the sum again" in warning]
    assert len(message) == (decoder == "bert")


def test_bert_copies_all_of_its_self_attention(tmp_path: Path) -> None:
    cross, warnings = _composed(tmp_path, "copy-self-attention", "bert")
    complete = values(tmp_path / "copy-self-attention" / FILES[0])
    for name, value in cross.items():
        assert np.array_equal(value, complete[name.replace("crossattention", "attention")]), name
    assert f"copy-self-attention: {len(cross)} tensors" in " ".join(warnings)
    assert not any("are newly initialized" in warning for warning in warnings)
    entry = manifest_of(tmp_path / "copy-self-attention")["tensors"]
    key = "decoder.encoder.layer.0.crossattention.self.query.weight"
    assert entry[key]["origin"] == "copied"
    assert entry[key]["key"].endswith("encoder.layer.0.attention.self.query.weight")


def test_gpt2_copies_what_it_can_and_says_what_it_cannot(tmp_path: Path) -> None:
    cross, warnings = _composed(tmp_path, "copy-self-attention")
    plain, _ = _composed(tmp_path, "normal")
    complete = values(tmp_path / "copy-self-attention" / FILES[0])
    entries = manifest_of(tmp_path / "copy-self-attention")["tensors"]
    for name, value in cross.items():
        if "c_attn" in name or "q_attn" in name:
            assert np.array_equal(value, plain[name]), name
            assert "cannot copy the self-attention" in entries[name]["reason"], name
            continue
        twin = name.replace("crossattention", "attn").replace("ln_cross_attn", "ln_1")
        assert np.array_equal(value, complete[twin]), name
        assert "reason" not in entries[name]
    assert "are copies, 8 are newly initialized" in " ".join(warnings)


def test_a_random_decoder_has_nothing_to_copy(tmp_path: Path) -> None:
    make(tmp_path / "bert", "bert", "BertForMaskedLM")
    result = compose(
        *(tmp_path / "bert", tmp_path / "bert", tmp_path / "out"),
        random=["decoder"],
        init="copy-self-attention",
    )
    reasons = [entry.get("reason", "") for entry in result.to_dict()["tensors"].values()]
    assert any("its counterpart is newly initialized" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("decoder", "options", "rule"),
    [
        ("bert", {}, "copy-self-attention"),
        ("bert", {"share": True}, "copy-self-attention"),
        ("bert", {"preset": "bert2bert"}, "normal"),  # as published
        ("bert", {"random": ["decoder"]}, "normal"),  # it has nothing to copy
        ("bert", {"init": "xavier"}, "xavier"),
        ("gpt2", {}, "normal"),  # not all of it can be a copy
        ("roberta-prelayernorm", {}, "normal"),
    ],
)
def test_the_default_is_that_of_the_decoder(
    tmp_path: Path, decoder: str, options: dict[str, Any], rule: str
) -> None:
    make(tmp_path / "encoder", "bert")
    model = LIBRARY.architecture(decoder).roles["decoder"].model
    make(tmp_path / "decoder", decoder, model, seed=1)
    one, other = tmp_path / ("decoder" if "share" in options else "encoder"), tmp_path / "decoder"
    tokens: dict[str, Any] = {"decoder_start_token": 1}
    warned = compose(one, other, tmp_path / "out", **options, **tokens).warnings
    assert manifest_of(tmp_path / "out")["init"] == rule
    assert any("are copies" in warning for warning in warned) == (rule == "copy-self-attention")
    asked = {**options, "init": rule}
    compose(one, other, tmp_path / "asked", **asked, **tokens)
    for name in {*FILES} & {path.name for path in (tmp_path / "out").iterdir()}:
        first, second = (values(tmp_path / each / name) for each in ("out", "asked"))
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[key], second[key]) for key in first)


def test_kept_cross_attention_is_left_alone(tmp_path: Path) -> None:
    make(tmp_path / "encoder", "bert")
    make(tmp_path / "decoder", "bert", "BertLMHeadModel", seed=1, cross_attention=True)
    result = compose(
        tmp_path / "encoder", tmp_path / "decoder", tmp_path / "out", init="zero-output"
    )
    assert "init zero-output has no effect" in " ".join(result.warnings)
    complete = values(tmp_path / "out")
    assert complete["decoder.encoder.layer.0.crossattention.output.dense.weight"].any()


def _decoders() -> Iterator[str]:
    for name in LIBRARY.names:
        with suppress(TableError):  # reported by the tests of that table
            if not LIBRARY.is_composite(name) and not LIBRARY.is_part(name):
                architecture = LIBRARY.architecture(name)
                if architecture.cross_attention_init and "decoder" in architecture.roles:
                    yield name


@pytest.mark.parametrize("architecture", quick_sample(_decoders(), 6))
def test_every_decoder_supports_every_rule(architecture: str, tmp_path: Path) -> None:
    """Each family's table leads from every fresh branch to its output and its counterparts."""
    table = LIBRARY.architecture(architecture)
    make(tmp_path / "encoder", "bert")
    small = {**sample_configs(table, architecture)[0][0].raw, "cross_attention_hidden_size": None}
    make(tmp_path / "decoder", architecture, table.roles["decoder"].model, **small)
    for init in INIT_RULES[3:]:
        result = compose(
            *(tmp_path / "encoder", tmp_path / "decoder", tmp_path / "out"),
            init=init,
            dry_run=True,
            decoder_start_token=1,
            eos_token=1,
            pad_token=0,
        )
        assert any(init in warning for warning in result.warnings) or init == "zero-output"


def test_a_table_without_the_section_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "gpt2.toml"
    text = (Path(__file__).parents[2] / "mappings" / "gpt2.toml").read_text()
    start, end = text.index("[cross_attention_init]"), text.index("[detection]")
    table.write_text(text[:start] + text[end:])
    make(tmp_path / "encoder", "bert")
    make(tmp_path / "decoder", "gpt2", "GPT2LMHeadModel")
    with pytest.raises(UnsupportedError, match="no \\[cross_attention_init\\]"):
        compose(
            *(tmp_path / "encoder", tmp_path / "decoder", tmp_path / "out"),
            init="zero-output",
            mapping=[table],
        )
