"""Slips in what a table says of how cross-attention begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from converter.architectures.lint import lint

MAPPINGS = Path(__file__).parents[2] / "mappings"


@pytest.mark.parametrize(
    ("architecture", "right", "wrong", "message"),
    [
        ("gpt2", '"attn.c_proj"', '"attn.proj"', "copies from 'attn.proj', which no model has"),
        ("gpt2", 'ln_cross_attn = "ln_1"', 'ln_across = "ln_1"', "is in no path"),
        (
            "gpt2",
            'zero_output         = ["crossattention.c_proj"]',
            'zero_output = ["c_out"]',
            "is not a module",
        ),
        ("gpt2", 'zero_output         = ["crossattention.c_proj"]', "", "zero_output: is empty"),
        ("gpt2", 'norm                = "pre"', 'norm = "around"', "'pre' or 'post'"),
        ("gpt2", 'norm                = "pre"', 'norms = "pre"', "unknown key 'norms'"),
        (
            "bert",
            'copy_self_attention = { crossattention = "attention" }',
            "",
            "is a copy, without copy_self_attention",
        ),
        ("bert", '"copy-self-attention"', '"xavier"', "'normal' or 'copy-self-attention'"),
        ("mbart", 'norm = "pre"', 'norm = "post"', "changes nothing"),
        (
            "distilbert",
            "[modules]",
            '[cross_attention_init]\nnorm = "post"\n\n[modules]',
            "concerns cross-",
        ),
    ],
)
def test_a_slip_is_told(
    tmp_path: Path, architecture: str, right: str, wrong: str, message: str
) -> None:
    text = (MAPPINGS / f"{architecture}.toml").read_text()
    assert right in text
    (tmp_path / f"{architecture}.toml").write_text(text.replace(right, wrong, 1))
    assert any(message in str(problem) for problem in lint(tmp_path / f"{architecture}.toml"))
