"""Tokenizers and processors that go with a composition, its conversion and its halves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from converter import compose, convert, split, verify
from converter.file_names import auxiliary_files
from converter.options import TokenizerChoice
from tests.factories import make

WORDS = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n"


@pytest.fixture
def submodels(tmp_path: Path) -> tuple[Path, Path]:
    encoder = make(tmp_path / "bert", "bert").directory
    decoder = make(tmp_path / "gpt2", "gpt2", "GPT2LMHeadModel").directory
    (encoder / "vocab.txt").write_text(WORDS)
    (decoder / "vocab.json").write_text('{"a": 0}')
    (decoder / "merges.txt").write_text("")
    (decoder / "tokenizer_config.json").write_text('{"model_max_length": 30}')
    return encoder, decoder


def _stated(directory: Path) -> Any:
    return json.loads((directory / "tokenizer_config.json").read_text())


def _files(directory: Path) -> set[str]:
    known = ("vocab.txt", "vocab.json", "merges.txt", "tokenizer_config.json")
    return {path.name for path in directory.iterdir() if path.name in known}


def test_the_class_is_written_where_no_file_of_the_tokenizer_states_it(
    submodels: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    compose(*submodels, out, to=["pytorch"])
    assert _stated(out) == {"tokenizer_class": "BertTokenizer"}
    own = {"model_max_length": 30, "tokenizer_class": "GPT2Tokenizer"}
    assert _stated(out / "decoder_tokenizer") == own
    config = submodels[1] / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "tokenizer_class": "X"}))
    compose(*submodels, out, to=["pytorch"], overwrite=True)
    assert _stated(out / "decoder_tokenizer")["tokenizer_class"] == "X"
    (submodels[1] / "tokenizer_config.json").write_text('{"tokenizer_class":"Y"}')
    compose(*submodels, out, to=["pytorch"], overwrite=True)
    copy = (out / "decoder_tokenizer" / "tokenizer_config.json").read_text()
    assert copy == '{"tokenizer_class":"Y"}'
    (submodels[1] / "tokenizer_config.json").write_text("damaged")
    compose(*submodels, out, to=["pytorch"], overwrite=True)
    assert (out / "decoder_tokenizer" / "tokenizer_config.json").read_text() == "damaged"


def test_equal_files_of_two_classes_are_two_tokenizers(tmp_path: Path) -> None:
    encoder = make(tmp_path / "bert", "bert").directory
    decoder = make(tmp_path / "roformer", "roformer", "RoFormerForCausalLM").directory
    for submodel in (encoder, decoder):
        (submodel / "vocab.txt").write_text(WORDS)
    compose(encoder, decoder, tmp_path / "out", to=["pytorch"])
    assert _stated(tmp_path / "out" / "decoder_tokenizer")["tokenizer_class"] == "RoFormerTokenizer"
    again = make(tmp_path / "again", "bert", "BertLMHeadModel", seed=1).directory
    (again / "vocab.txt").write_text(WORDS)
    compose(encoder, again, tmp_path / "one", to=["pytorch"])
    assert not (tmp_path / "one" / "decoder_tokenizer").exists()


@pytest.mark.parametrize(
    ("wanted", "root", "own"),
    [
        ("both", {"vocab.txt", "tokenizer_config.json"}, True),
        ("encoder", {"vocab.txt", "tokenizer_config.json"}, False),
        ("decoder", {"vocab.json", "merges.txt", "tokenizer_config.json"}, False),
        ("none", set(), False),
    ],
)
def test_whose_tokenizer_goes_where(
    submodels: tuple[Path, Path], tmp_path: Path, wanted: TokenizerChoice, root: set[str], own: bool
) -> None:
    compose(*submodels, tmp_path / "out", to=["pytorch"], tokenizer=wanted)
    assert _files(tmp_path / "out") == root
    assert (tmp_path / "out" / "decoder_tokenizer").is_dir() == own


@pytest.mark.parametrize(("missing", "other"), [("decoder", "encoder"), ("encoder", "decoder")])
def test_the_only_tokenizer_is_not_where_it_would_be_taken_for_both(
    submodels: tuple[Path, Path], tmp_path: Path, missing: str, other: str
) -> None:
    for path in submodels[missing == "decoder"].iterdir():
        if path.name.startswith(("vocab", "merges", "tokenizer")):
            path.unlink()
    result = compose(*submodels, tmp_path / "out", to=["pytorch"])
    [warning] = [text for text in result.warnings if text.startswith(f"{missing}: no tokenizer")]
    assert f"save the {missing}'s in {missing}_tokenizer/" in warning
    assert f'tokenizer="{other}" if both use the same' in warning
    assert not _files(tmp_path / "out")
    assert f"holds no tokenizer of the {missing}" in verify(tmp_path / "out").notes
    own = _files(tmp_path / "out" / f"{other}_tokenizer")
    assert "tokenizer_config.json" in own
    convert(tmp_path / "out", tmp_path / "again", to=["flax"])
    assert _files(tmp_path / "again" / f"{other}_tokenizer") == own
    split(tmp_path / "out", tmp_path / "parts")
    assert _files(tmp_path / "parts" / other) == own
    assert not _files(tmp_path / "parts" / missing)
    one: TokenizerChoice = "encoder" if other == "encoder" else "decoder"
    asked = compose(*submodels, tmp_path / "one", to=["pytorch"], tokenizer=one)
    assert _files(tmp_path / "one") == own
    assert not any("tokenizer files" in text for text in asked.warnings)
    none: TokenizerChoice = "decoder" if other == "encoder" else "encoder"
    refused = compose(*submodels, tmp_path / "none", to=["pytorch"], tokenizer=none)
    assert not _files(tmp_path / "none")
    assert any(text.endswith("none are copied") for text in refused.warnings)


def test_both_tokenizers_stay_through_conversion_and_splitting(
    submodels: tuple[Path, Path], tmp_path: Path
) -> None:
    compose(*submodels, tmp_path / "out")
    convert(tmp_path / "out", tmp_path / "converted", to=["flax"])
    split(tmp_path / "converted", tmp_path / "halves")
    for name in _files(tmp_path / "out" / "decoder_tokenizer"):
        own = (tmp_path / "out" / "decoder_tokenizer" / name).read_bytes()
        assert (tmp_path / "converted" / "decoder_tokenizer" / name).read_bytes() == own
        assert (tmp_path / "halves" / "decoder" / name).read_bytes() == own
    assert _files(tmp_path / "halves" / "encoder") == {"vocab.txt", "tokenizer_config.json"}


def test_an_encoder_of_images_has_no_tokenizer_when_split_off(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"image_size": 8, "patch_size": 4, "num_channels": 3}
    encoder = make(tmp_path / "vit", "vit", **sizes).directory
    (encoder / "preprocessor_config.json").write_text("{}")
    decoder = make(tmp_path / "bert", "bert", "BertLMHeadModel").directory
    (decoder / "vocab.txt").write_text(WORDS)
    compose(encoder, decoder, tmp_path / "out", to=["pytorch"])
    split(tmp_path / "out", tmp_path / "halves")
    assert not _files(tmp_path / "halves" / "encoder")
    assert (tmp_path / "halves" / "encoder" / "preprocessor_config.json").is_file()
    assert _files(tmp_path / "halves" / "decoder") == {"vocab.txt", "tokenizer_config.json"}


def test_templates_of_chats_stay_through_conversion_and_splitting(
    submodels: tuple[Path, Path], tmp_path: Path
) -> None:
    source = submodels[1]
    (source / "additional_chat_templates").mkdir()
    names = ("chat_template.jinja", "additional_chat_templates/tools.jinja")
    for name in names:
        (source / name).write_text(name)
    (source / "chat_template.json").write_text("{}")
    convert(source, tmp_path / "again", to=["flax"])
    compose(*submodels, tmp_path / "out", to=["pytorch"])
    split(tmp_path / "out", tmp_path / "parts")
    for directory in ("again", "out/decoder_tokenizer", "parts/decoder"):
        for name in names:
            assert (tmp_path / directory / name).read_text() == name
    assert (tmp_path / "again/chat_template.json").read_text() == "{}"


def test_a_remote_checkpoint_is_fetched_with_all_that_goes_along() -> None:
    names = [
        "encoder_tokenizer/vocab.txt",
        "question_encoder_tokenizer/vocab.txt",
        "additional_chat_templates/tools.jinja",
        "decoder_tokenizer/additional_chat_templates/tools.jinja",
        "LICENSE",
        "LICENSE.txt",
        "NOTICE",
        "USE_POLICY.md",
    ]
    assert auxiliary_files([*names, "onnx/vocab.txt", "CONTRIBUTING.md", "LICENSE.pdf"]) == names


def test_a_decoder_does_not_get_a_tokenizer_of_more_tokens_than_it_has(
    submodels: tuple[Path, Path], tmp_path: Path
) -> None:
    """As a model that was trained and saved without the tokenizer of its decoder."""
    vocabularies = {"bert": 61, "gpt2": 41}
    encoder = make(tmp_path / "large", "bert", vocab_size=vocabularies["bert"]).directory
    (encoder / "vocab.txt").write_text(WORDS + "".join(f"w{number}\n" for number in range(50)))
    decoder = make(
        tmp_path / "small", "gpt2", "GPT2LMHeadModel", vocab_size=vocabularies["gpt2"]
    ).directory
    tokens: Any = {"decoder_start_token": 1, "eos_token": 2, "pad_token": 3}
    compose(encoder, decoder, tmp_path / "out", to=["pytorch"], tokenizer="encoder", **tokens)
    result = split(tmp_path / "out", tmp_path / "parts", to=["pytorch"])
    [warning] = [text for text in result.warnings if "gets no tokenizer" in text]
    assert warning.startswith("decoder: ") and "54 tokens, more than its 41" in warning
    assert _files(tmp_path / "parts/encoder") == {"vocab.txt", "tokenizer_config.json"}
    assert not _files(tmp_path / "parts/decoder")
