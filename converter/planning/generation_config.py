"""How a decoder generates: the settings that travel on with it into ``generation_config.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.architectures.expressions import Value
from converter.errors import ConfigError, Problem
from converter.file_names import GENERATION_CONFIG
from converter.planning.tokenizer_files import non_negative_int
from converter.safe_json import read_config

TOKEN_FIELDS = {
    "start": "decoder_start_token_id",
    "end": "eos_token_id",
    "pad": "pad_token_id",
    "bos": "bos_token_id",
}
"""Role → the field of configurations, and of ``generation_config.json``, that holds its id."""

FORCED = "forced_bos_token_id"
"""The field of the token that generation must write first."""

DEFAULTS: Mapping[str, Any] = {
    "max_length": 20,
    "min_length": 0,
    "do_sample": False,
    "early_stopping": False,
    "num_beams": 1,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "num_return_sequences": 1,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "remove_invalid_values": False,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
}
"""The settings that older configurations held themselves, with their defaults, as transformers 4.57
has them (``PretrainedConfig._get_global_generation_defaults``, those of what is returned left
aside)."""

_OF_TOKENS = (
    "forced_bos_token_id",
    "forced_eos_token_id",
    "bad_words_ids",
    "force_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
)
"""Settings that hold ids of tokens, alone or in lists."""

_NEWER = (
    "max_new_tokens",
    "min_new_tokens",
    "force_words_ids",
    "renormalize_logits",
    "guidance_scale",
    "penalty_alpha",
    "epsilon_cutoff",
    "eta_cutoff",
)
"""Settings that only ``generation_config.json`` has held."""

_OTHERS = ("_from_model_config", "transformers_version")
"""What ``generation_config.json`` holds besides settings."""


@dataclass(frozen=True)
class GenerationSettings:
    """What a checkpoint says of generation."""

    tokens: Mapping[str, Any]
    """Field of `TOKEN_FIELDS` → its value in ``generation_config.json``."""
    settings: Mapping[str, Any]
    """Every other setting that is not as it is anyway."""
    file: str
    """Where they come from."""

    @classmethod
    def of(
        cls, config: Mapping[str, Any], directory: Path, changes: Mapping[str, Any]
    ) -> GenerationSettings:
        """What lies in a directory: ``generation_config.json``, and what older configurations held.

        Args:
            config: the configuration beside it; the other file goes before it.
            directory: of the checkpoint.
            changes: settings of the user; one that is ``None`` is left out.

        Raises:
            ConfigError: if the file is no JSON object.

        """
        path = directory / GENERATION_CONFIG
        stated = read_config(path) if path.is_file() else {}
        merged = {**{key: config[key] for key in DEFAULTS if key in config}, **stated, **changes}
        settings = {
            key: value
            for key, value in merged.items()
            if value is not None
            and key not in (*TOKEN_FIELDS.values(), *_OTHERS)
            and not (key in DEFAULTS and value == DEFAULTS[key])
        }
        tokens = {key: value for key, value in stated.items() if key in TOKEN_FIELDS.values()}
        return cls(tokens, settings, str(path) if stated else "its configuration")

    def check(self, vocabulary: Value) -> None:
        """Refuse ids of tokens that the decoder does not have.

        Args:
            vocabulary: how many it has.

        Raises:
            ConfigError: if there are any.

        """
        problems = []
        for field in _OF_TOKENS:
            wrong = [
                value
                for value in _leaves(self.settings.get(field))
                if non_negative_int(value) is None
                or (isinstance(vocabulary, int) and value >= vocabulary)
            ]
            if wrong:
                problems.append(
                    Problem(
                        "names tokens outside the vocabulary",
                        file=self.file,
                        tensor=field,
                        expected="ids" + (f" below {vocabulary}" if vocabulary else ""),
                        found=", ".join(repr(value)[:20] for value in wrong[:5]),
                        remedy=f"leave it out: --set {field}=null",
                    )
                )
        if problems:
            raise ConfigError("the decoder's settings for generation do not fit it", problems)


def is_setting(field: str) -> bool:
    """Whether a field of a configuration is a setting for generation."""
    return field in DEFAULTS or field in _NEWER


def _leaves(value: Any) -> Iterator[Any]:
    """The ids in a setting, which may be lists of lists; ``None`` holds none."""
    if isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    elif value is not None:
        yield value
