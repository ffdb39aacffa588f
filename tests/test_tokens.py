"""Special tokens and vocabularies: who is believed, what is refused, what is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from converter import ConverterError, compose
from converter.composition.tokenizer import Tokenizer
from converter.errors import ConfigError
from tests.factories import TOKENS, make
from tests.reading import config_of

IDS = ("decoder_start_token_id", "eos_token_id", "pad_token_id", "bos_token_id")
NO_TOKENS = dict.fromkeys(TOKENS)


def _tokenizer(directory: Path, vocabulary: dict[str, int], **roles: Any) -> None:
    (directory / "vocab.json").write_text(json.dumps(vocabulary))
    (directory / "tokenizer_config.json").write_text(json.dumps(roles))


def _halves(home: Path, **decoder: Any) -> tuple[Path, Path]:
    encoder = make(home / "bert", "bert").directory
    return encoder, make(home / "gpt2", "gpt2", "GPT2LMHeadModel", **decoder).directory


def _ids(home: Path, **options: Any) -> dict[str, int]:
    out = home / "out"
    compose(home / "bert", home / "gpt2", out, to=["pytorch"], overwrite=True, **options)
    config, generation = config_of(out), json.loads((out / "generation_config.json").read_text())
    found = {field: config[field] for field in IDS if field in config}
    assert {field: generation[field] for field in found} == found
    assert {field: config["decoder"][field] for field in found if field != "pad_token_id"} == {
        field: number for field, number in found.items() if field != "pad_token_id"
    }
    return found


def test_the_tokenizer_tells_what_the_configuration_does_not(tmp_path: Path) -> None:
    _, decoder = _halves(tmp_path, **NO_TOKENS)
    _tokenizer(decoder, {"<s>": 7, "</s>": 8}, bos_token="<s>", eos_token={"content": "</s>"})
    assert _ids(tmp_path) == dict(zip(IDS, (7, 8, 8, 7), strict=True))
    _tokenizer(
        decoder, {"<s>": 7, "</s>": 8, "_": 9}, bos_token="<s>", eos_token="</s>", pad_token="_"
    )
    assert _ids(tmp_path) == dict(zip(IDS, (7, 8, 9, 7), strict=True))


def test_the_configurations_own_start_is_not_questioned(tmp_path: Path) -> None:
    """mBART starts with the code of a language, which no role of its tokenizer names."""
    _, decoder = _halves(tmp_path, **{**NO_TOKENS, "decoder_start_token_id": 30})
    _tokenizer(decoder, {"</s>": 8, "ro_RO": 30, "en_XX": 31}, bos_token="</s>", eos_token="</s>")
    assert _ids(tmp_path)["decoder_start_token_id"] == 30
    assert _ids(tmp_path, decoder_start_token="en_XX")["decoder_start_token_id"] == 31


def test_configuration_and_tokenizer_that_disagree_are_refused(tmp_path: Path) -> None:
    _, decoder = _halves(tmp_path, **{**NO_TOKENS, "bos_token_id": 7, "eos_token_id": 3})
    _tokenizer(decoder, {"<s>": 7, "</s>": 8}, bos_token="<s>", eos_token="</s>")
    with pytest.raises(ConfigError) as refused:
        _ids(tmp_path)
    (end, pad) = refused.value.problems
    assert "the end token is ambiguous" in str(end)
    assert "3 by eos_token_id of the configuration" in str(end)
    assert "8 by the tokenizer" in str(end)
    assert "--eos-token 3 or --eos-token 8" in str(end)
    assert "--pad-token 3 or --pad-token 8" in str(pad)
    assert not (tmp_path / "out").exists()
    chosen = _ids(tmp_path, eos_token="</s>", pad_token=3)
    assert (chosen["eos_token_id"], chosen["pad_token_id"]) == (8, 3)


def test_a_token_beyond_the_embeddings_is_refused(tmp_path: Path) -> None:
    _, decoder = _halves(tmp_path, **NO_TOKENS)
    _tokenizer(
        decoder, {"<s>": 7, "[PAD]": 61}, bos_token="<s>", eos_token="<s>", pad_token="[PAD]"
    )
    with pytest.raises(ConfigError, match="pad token lies outside") as refused:
        _ids(tmp_path)
    assert "--resize-embeddings" in str(refused.value)


@pytest.mark.parametrize("name", ["nobody", "-1", "99999999999999"])
def test_a_token_that_nobody_knows_is_refused(tmp_path: Path, name: str) -> None:
    _halves(tmp_path)
    with pytest.raises(ConverterError, match="cannot tell the end token"):
        _ids(tmp_path, eos_token=name)


@pytest.mark.parametrize(
    ("files", "size"),
    [
        ({"vocab.txt": "a\nb\nc\n"}, 3),
        ({"vocab.json": '{"a": 0, "b": 9}'}, 10),
        ({"vocab.json": '{"a": 0}', "added_tokens.json": '{"x": 4}'}, 5),
        ({"tokenizer.json": '{"model": {"vocab": [["a", 0], ["b", -1]]}}'}, 2),
        (
            {
                "tokenizer.json": '{"model": {"vocab": {"a": 3}},'
                ' "added_tokens": [{"id": 6, "content": "<x>"}]}'
            },
            7,
        ),
        ({"added_tokens.json": '{"x": 4}', "spiece.model": ""}, None),
        ({"vocab.json": "[1"}, None),
        ({}, None),
    ],
)
def test_the_size_of_a_tokenizer(tmp_path: Path, files: dict[str, str], size: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert Tokenizer(tmp_path).size == size


def test_what_would_be_regretted_is_told(tmp_path: Path) -> None:
    encoder = make(tmp_path / "bert", "bert", max_position_embeddings=80).directory
    decoder = make(tmp_path / "gpt2", "gpt2", "GPT2LMHeadModel", n_head=5).directory
    words = {f"w{number}": number for number in range(70)}
    _tokenizer(encoder, words, do_lower_case=True)
    _tokenizer(decoder, words, do_lower_case=False, bos_token="w1", eos_token="w2", pad_token="w3")
    told = compose(encoder, decoder, tmp_path / "out", dry_run=True, pad_token=2).warnings
    for piece in (
        "decoder: its width 28 is no multiple of its 5 attention heads",
        "encoder: its tokenizer has 70 tokens and the model 61 embeddings",
        "decoder: has 30 positions and the encoder 80",
        "reads lower case only, the decoder's writes upper and lower case",
        "the encoder pads with token 3, the decoder with 2",
    ):
        assert any(piece in warning for warning in told), piece
    (decoder / "vocab.json").unlink()
    told = compose(encoder, decoder, tmp_path / "out", dry_run=True).warnings
    assert any("decoder: no vocabulary of a tokenizer" in warning for warning in told)
