"""Special tokens and vocabularies: precedence, errors and warnings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from converter import ConverterError, compose
from converter.errors import ConfigError
from converter.planning.tokenizer_files import TokenizerFiles
from tests.factories import TOKENS, bundled_registry, make
from tests.reading import config_of

MBART = {"d_model": 24, "decoder_attention_heads": 4, "decoder_layers": 2, "decoder_ffn_dim": 40}
CODES = {"ro_RO": 30, "en_XX": 31, "fr_XX": 32}
IDS = ("decoder_start_token_id", "eos_token_id", "pad_token_id", "bos_token_id")
NO_TOKENS: dict[str, Any] = dict.fromkeys(TOKENS)


def _tokenizer(directory: Path, vocabulary: dict[str, int], **roles: Any) -> None:
    (directory / "vocab.json").write_text(json.dumps(vocabulary))
    (directory / "tokenizer_config.json").write_text(json.dumps(roles))


def _submodels(home: Path, **decoder: Any) -> tuple[Path, Path]:
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


def test_the_tokenizer_states_what_the_configuration_does_not(tmp_path: Path) -> None:
    _, decoder = _submodels(tmp_path, **NO_TOKENS)
    _tokenizer(decoder, {"<s>": 7, "</s>": 8}, bos_token="<s>", eos_token={"content": "</s>"})
    assert _ids(tmp_path) == dict(zip(IDS, (7, 8, 8, 7), strict=True))
    _tokenizer(
        decoder, {"<s>": 7, "</s>": 8, "_": 9}, bos_token="<s>", eos_token="</s>", pad_token="_"
    )
    assert _ids(tmp_path) == dict(zip(IDS, (7, 8, 9, 7), strict=True))


def test_the_configurations_own_start_is_not_questioned(tmp_path: Path) -> None:
    """MBART starts with the code of a language, which no role of its tokenizer names."""
    _, decoder = _submodels(tmp_path, **{**NO_TOKENS, "decoder_start_token_id": 30})
    _tokenizer(decoder, {"</s>": 8, "ro_RO": 30, "en_XX": 31}, bos_token="</s>", eos_token="</s>")
    assert _ids(tmp_path)["decoder_start_token_id"] == 30
    assert _ids(tmp_path, decoder_start_token="en_XX")["decoder_start_token_id"] == 31


def test_configuration_and_tokenizer_that_disagree_are_refused(tmp_path: Path) -> None:
    _, decoder = _submodels(tmp_path, **{**NO_TOKENS, "bos_token_id": 7, "eos_token_id": 3})
    _tokenizer(decoder, {"<s>": 7, "</s>": 8}, bos_token="<s>", eos_token="</s>")
    with pytest.raises(ConfigError) as refused:
        _ids(tmp_path)
    (end, pad) = refused.value.problems
    assert "the end token is ambiguous" in str(end)
    assert "3 by eos_token_id of the configuration" in str(end)
    assert "8 by the tokenizer" in str(end)
    assert "eos_token=3 or eos_token=8" in str(end)
    assert "pad_token=3 or pad_token=8" in str(pad)
    assert not (tmp_path / "out").exists()
    chosen = _ids(tmp_path, eos_token="</s>", pad_token=3)
    assert (chosen["eos_token_id"], chosen["pad_token_id"]) == (8, 3)


def test_a_token_beyond_the_embeddings_is_refused(tmp_path: Path) -> None:
    _, decoder = _submodels(tmp_path, **NO_TOKENS)
    _tokenizer(
        decoder, {"<s>": 7, "[PAD]": 61}, bos_token="<s>", eos_token="<s>", pad_token="[PAD]"
    )
    with pytest.raises(ConfigError, match="pad token is outside") as refused:
        _ids(tmp_path)
    assert "resize_embeddings=True" in str(refused.value)


def _writer(
    home: Path, architecture: str = "mbart", model: str = "MBartForCausalLM", **roles: Any
) -> Path:
    """Write a decoder that starts with a language code, and its tokenizer."""
    encoder = home / "bert"
    if not encoder.exists():
        make(encoder, "bert")
    changes: dict[str, Any] = {**NO_TOKENS, **MBART, "max_position_embeddings": 32}
    decoder = make(home / "decoder", architecture, model, seed=1, **changes).directory
    words = {
        "<s>": 0,
        "<pad>": 1,
        "</s>": 2,
        **(CODES if architecture == "mbart" else {"__java__": 33}),
    }
    if roles:
        _tokenizer(decoder, words, bos_token="<s>", eos_token="</s>", pad_token="<pad>", **roles)
    return decoder


def _written(home: Path, **options: Any) -> tuple[dict[str, Any], list[str]]:
    """Return ``generation_config.json``, and the warnings."""
    sources = (home / "bert", home / "decoder", home / "out")
    result = compose(*sources, to=["pytorch"], overwrite=True, **options)
    generation = json.loads((home / "out" / "generation_config.json").read_text())
    config = config_of(home / "out")
    for field in (name for name in IDS if name in config):
        assert config[field] == generation[field]
    return generation, list(result.warnings)


def test_outputs_start_with_the_code_of_the_target_language(tmp_path: Path) -> None:
    _writer(tmp_path, tgt_lang="fr_XX")
    assert _written(tmp_path)[0]["decoder_start_token_id"] == 32
    assert _written(tmp_path, decoder_start_token="en_XX")[0]["decoder_start_token_id"] == 31
    _writer(tmp_path, src_lang="en_XX")
    with pytest.raises(ConfigError, match="start token is ambiguous") as refused:
        _written(tmp_path)
    assert "en_XX (31), fr_XX (32), ro_RO (30)" in str(refused.value)
    assert 'decoder_start_token="fr_XX" or decoder_start_token="ro_RO"' in str(refused.value)
    _writer(tmp_path, architecture="plbart", model="PLBartForCausalLM", tgt_lang="java")
    assert _written(tmp_path)[0]["decoder_start_token_id"] == 33


def test_a_code_that_follows_the_start_is_forced(tmp_path: Path) -> None:
    """mBART-50 starts with its end token, and then writes the code."""
    _writer(tmp_path, tgt_lang="fr_XX", tokenizer_class="MBart50Tokenizer")
    written, warnings = _written(tmp_path)
    assert (written["decoder_start_token_id"], written["forced_bos_token_id"]) == (2, 32)
    assert not any("code of its language" in warning for warning in warnings)
    written, _ = _written(tmp_path, set=["forced_bos_token_id=30"])
    assert written["forced_bos_token_id"] == 30
    _writer(tmp_path, tokenizer_class="MBart50TokenizerFast")
    written, warnings = _written(tmp_path)
    assert "forced_bos_token_id" not in written
    assert any('set=["forced_bos_token_id=ID"]' in warning for warning in warnings)


def test_a_tokenizer_without_languages_has_the_usual_start_token(tmp_path: Path) -> None:
    decoder = _writer(tmp_path, tgt_lang=None)
    (decoder / "vocab.json").write_text(json.dumps({"<s>": 0, "<pad>": 1, "</s>": 2, "mot": 30}))
    assert _written(tmp_path)[0]["decoder_start_token_id"] == 2


def test_without_a_tokenizer_the_language_is_asked_for(tmp_path: Path) -> None:
    _writer(tmp_path)
    with pytest.raises(ConfigError, match="the start token is unknown") as refused:
        _written(tmp_path)
    assert "a language code" in str(refused.value)


@pytest.mark.parametrize(
    ("architecture", "vocabulary", "known"),
    [
        ("mbart", 250027, {"ar_AR": 250001, "en_XX": 250004, "ro_RO": 250020, "zh_CN": 250025}),
        ("mbart", 250054, {"ar_AR": 250001, "ro_RO": 250020, "af_ZA": 250026, "sl_SI": 250052}),
        ("plbart", 50005, {"__java__": 50001, "__python__": 50002, "__en_XX__": 50003}),
        ("plbart", 50008, {"__en_XX__": 50003, "__javascript__": 50004, "__go__": 50007}),
        ("mbart", 250030, {}),
    ],
)
def test_the_codes_of_the_architectures_own_vocabularies(
    architecture: str, vocabulary: int, known: dict[str, int]
) -> None:
    """Ids as in transformers' integration tests and by its tokenizers' arithmetic."""
    languages = bundled_registry().architecture(architecture).languages
    assert languages
    ids = languages.ids(vocabulary)
    assert {code: ids[code] for code in known} == known
    assert not known or vocabulary - max(ids.values()) in (1, 2)
    assert bool(ids) == bool(known)


def test_tokens_of_the_own_vocabulary_give_a_warning(tmp_path: Path) -> None:
    make(tmp_path / "bert", "bert")
    make(tmp_path / "decoder", "roberta", "RobertaForCausalLM", seed=1, **NO_TOKENS)
    written, warnings = _written(tmp_path)
    assert (written["decoder_start_token_id"], written["eos_token_id"]) == (0, 2)
    assert any("roberta's own vocabulary are used: start 0, end 2, pad 1" in t for t in warnings)


def test_the_tables_token_may_override_the_configuration(tmp_path: Path) -> None:
    """BigBird's configurations and tokenizers call others eos than what ends its texts."""
    make(tmp_path / "bert", "bert")
    changes = {**NO_TOKENS, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
    decoder = make(tmp_path / "decoder", "big_bird", "BigBirdForCausalLM", seed=1, **changes)
    words = {"<pad>": 0, "</s>": 1, "<s>": 2, "[CLS]": 55, "[SEP]": 56}
    _tokenizer(decoder.directory, words, eos_token="</s>", sep_token="[SEP]", cls_token="[CLS]")
    written, _ = _written(tmp_path)
    assert (written["decoder_start_token_id"], written["eos_token_id"]) == (55, 56)


SETTINGS = {
    "num_beams": 4,
    "no_repeat_ngram_size": 3,
    "max_length": 24,
    "bad_words_ids": [[7], [8, 9]],
}


def test_settings_of_generation_travel_on(tmp_path: Path) -> None:
    _, decoder = _submodels(tmp_path, forced_bos_token_id=5, min_length=2, do_sample=False)
    more = {"_from_model_config": True, "transformers_version": "4.1", "eos_token_id": 2}
    (decoder / "generation_config.json").write_text(json.dumps({**SETTINGS, **more}))
    assert _ids(tmp_path, set=["num_beams=2", "min_length=null"])["eos_token_id"] == 2
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    ids = {"bos_token_id": 1, "decoder_start_token_id": 4, "eos_token_id": 2, "pad_token_id": 3}
    assert written == {**SETTINGS, "num_beams": 2, "forced_bos_token_id": 5, **ids}
    config = config_of(tmp_path / "out")
    assert not {"num_beams", "min_length"} & config.keys()
    assert not {"forced_bos_token_id", "min_length", "do_sample"} & config["decoder"].keys()


def test_settings_that_name_no_token_of_the_decoder_are_refused(tmp_path: Path) -> None:
    _, decoder = _submodels(tmp_path)
    wrong = {"bad_words_ids": [[7], [61]], "forced_bos_token_id": "x", "suppress_tokens": [-1]}
    (decoder / "generation_config.json").write_text(json.dumps(wrong))
    with pytest.raises(ConfigError, match="settings for generation") as refused:
        _ids(tmp_path)
    problems = {str(problem.tensor): problem for problem in refused.value.problems}
    assert problems.keys() == wrong.keys()
    assert problems["bad_words_ids"].found == "61" and "below 61" in str(
        problems["bad_words_ids"].expected
    )
    assert 'set=["suppress_tokens=null"]' in str(problems["suppress_tokens"])
    _ids(tmp_path, set=[f"{field}=null" for field in wrong])
    assert not (tmp_path / "out" / "generation_config.json").read_text().count("bad_words")


def test_both_configurations_of_the_decoder_are_asked(tmp_path: Path) -> None:
    _, decoder = _submodels(tmp_path, **NO_TOKENS)
    ids = {"decoder_start_token_id": 9, "eos_token_id": [10, 11], "pad_token_id": 12}
    (decoder / "generation_config.json").write_text(json.dumps(ids))
    assert _ids(tmp_path) == {**ids, "eos_token_id": 10}
    config = json.loads((decoder / "config.json").read_text())
    (decoder / "config.json").write_text(json.dumps({**config, "decoder_start_token_id": 8}))
    with pytest.raises(ConfigError, match="start token is ambiguous") as refused:
        _ids(tmp_path)
    assert "8 by decoder_start_token_id of the configuration" in str(refused.value)
    assert "decoder_start_token=8 or decoder_start_token=9" in str(refused.value)


def test_a_token_that_is_set_as_a_field_is_set_everywhere(tmp_path: Path) -> None:
    _submodels(tmp_path)
    found = _ids(tmp_path, set=["eos_token_id=9", "bos_token_id=10"])
    assert (found["eos_token_id"], found["bos_token_id"]) == (9, 10)
    with pytest.raises(ConverterError, match="contradicts the option"):
        _ids(tmp_path, set=["eos_token_id=9"], eos_token=8)


@pytest.mark.parametrize("name", ["nobody", "-1", "99999999999999"])
def test_an_unknown_token_is_refused(tmp_path: Path, name: str) -> None:
    _submodels(tmp_path)
    with pytest.raises(ConverterError, match="the end token is unknown"):
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
    assert TokenizerFiles(tmp_path).size == size


def test_warnings_list_likely_problems(tmp_path: Path) -> None:
    encoder = make(tmp_path / "bert", "bert", max_position_embeddings=80).directory
    decoder = make(tmp_path / "gpt2", "gpt2", "GPT2LMHeadModel", n_head=5).directory
    words = {f"w{number}": number for number in range(70)}
    _tokenizer(encoder, words, do_lower_case=True)
    _tokenizer(decoder, words, do_lower_case=False, bos_token="w1", eos_token="w2", pad_token="w3")
    asked: dict[str, Any] = {"pad_token": 2, "set": ["max_length=31"]}
    warnings = compose(encoder, decoder, tmp_path / "out", dry_run=True, **asked).warnings
    for piece in (
        "decoder: its width 28 is not a multiple of its 5 attention heads",
        "encoder: its tokenizer has 70 tokens, the model 61 embeddings",
        "decoder: has 30 positions and the encoder 80",
        "decoder: max_length is 31 and it has 30 positions",
        "reads lower case only, the decoder's writes upper and lower case",
        "the encoder pads with token 3, the decoder with 2",
    ):
        assert any(piece in warning for warning in warnings), piece
    (decoder / "vocab.json").unlink()
    warnings = compose(
        encoder, decoder, tmp_path / "out", dry_run=True, set=["max_length=30"]
    ).warnings
    assert any("decoder: its tokenizer files have no vocabulary" in warning for warning in warnings)
    assert not any("max_length" in warning for warning in warnings)


def test_positions_behind_the_padding_are_not_counted(tmp_path: Path) -> None:
    """RoBERTa looks its positions up two rows further down, so that two are never used."""
    encoder = make(tmp_path / "bert", "bert").directory
    decoder = make(
        tmp_path / "roberta", "roberta", "RobertaForCausalLM", bos_token_id=0, pad_token_id=1
    ).directory
    rows = config_of(decoder)["max_position_embeddings"]
    for length, warned in ((rows - 2, False), (rows - 1, True)):
        settings = [f"max_length={length}"]
        warnings = compose(encoder, decoder, tmp_path / "out", dry_run=True, set=settings).warnings
        assert warned == any("max_length" in warning for warning in warnings)
