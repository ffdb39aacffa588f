"""Configurations of an output: ``config.json`` and ``generation_config.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from converter.architectures.expressions import Value
from converter.architectures.model_config import parse_settings
from converter.architectures.schema import Composite, Role
from converter.errors import ConfigError, Problem
from converter.file_names import GENERATION_CONFIG
from converter.planning.tokenizer_files import non_negative_int
from converter.safe_json import file_to_copy, read_config, to_json

TOKEN_FIELDS = {
    "start": "decoder_start_token_id",
    "end": "eos_token_id",
    "pad": "pad_token_id",
    "bos": "bos_token_id",
}
"""Role → the field of configurations, and of ``generation_config.json``, that holds its id."""

FORCED = "forced_bos_token_id"
"""The field of the token that every output must start with."""

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
has them (``PretrainedConfig._get_global_generation_defaults``, without output flags)."""

_TOKEN_SETTINGS = (
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

_OTHER_FIELDS = ("_from_model_config", "transformers_version")
"""Fields of ``generation_config.json`` that are not settings."""


@dataclass(frozen=True)
class GenerationSettings:
    """What a checkpoint states about generation."""

    tokens: Mapping[str, Any]
    """Field of `TOKEN_FIELDS` → its value in ``generation_config.json``."""
    settings: Mapping[str, Any]
    """Every other setting that differs from its default."""
    file: str

    @classmethod
    def of(
        cls, config: Mapping[str, Any], directory: Path, changes: Mapping[str, Any]
    ) -> GenerationSettings:
        """Return the settings in a directory, of ``generation_config.json`` and older configs.

        The former takes precedence, and the user's `changes` over both; one that is ``None`` is
        removed. Raise ConfigError if the file is not a JSON object.
        """
        path = file_to_copy(directory, GENERATION_CONFIG)
        stated = read_config(path) if path else {}
        merged = {**{key: config[key] for key in DEFAULTS if key in config}, **stated, **changes}
        settings = {
            key: value
            for key, value in merged.items()
            if value is not None
            and key not in (*TOKEN_FIELDS.values(), *_OTHER_FIELDS)
            and not (key in DEFAULTS and value == DEFAULTS[key])
        }
        tokens = {key: value for key, value in stated.items() if key in TOKEN_FIELDS.values()}
        return cls(tokens, settings, str(path) if stated else "its configuration")

    def check(self, vocabulary: Value) -> None:
        """Raise ConfigError for token ids that a decoder with this vocabulary does not have."""
        problems = []
        for field in _TOKEN_SETTINGS:
            wrong = [
                value
                for value in _token_ids(self.settings.get(field))
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
                        remedy=f"remove it: --set {field}=null",
                    )
                )
        if problems:
            raise ConfigError("the decoder's settings for generation do not fit it", problems)


def is_setting(field: str) -> bool:
    """Return whether a field of a configuration is a setting for generation."""
    return field in DEFAULTS or field in _NEWER


_CLOSE = 0.75
"""The least similarity of a field that is suggested for another."""
_COMMON_FIELDS = frozenset(
    (
        "_attn_implementation _name_or_path add_cross_attention architectures attn_implementation "
        "bos_token_id chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id "
        "dtype eos_token_id finetuning_task gradient_checkpointing id2label is_decoder "
        "is_encoder_decoder label2id model_type num_labels output_attentions output_hidden_states "
        "output_scores pad_token_id prefix problem_type pruned_heads return_dict "
        "return_dict_in_generate sep_token_id task_specific_params tf_legacy_loss "
        "tie_encoder_decoder tie_word_embeddings tokenizer_class torch_dtype torchscript "
        "transformers_version use_bfloat16 use_cache"
    ).split()
)
"""Fields of every configuration, but for settings for generation (``PretrainedConfig``)."""


def unknown_field_warnings(settings: Sequence[str], fields: dict[str, set[str]]) -> Iterator[str]:
    """Yield a warning for each field that is set and that no source is known to have.

    `settings` are those of `parse_settings`; `fields` are target → names of fields, those of the
    configuration itself under ``""``.
    """
    for target, changes in parse_settings(settings, [*filter(None, fields)]).items():
        for name in changes:
            own, prefix = fields.get(target, ()), f"{target}." if target else ""
            if name in own or name in _COMMON_FIELDS or is_setting(name):
                continue
            close = [
                f"{other}.{name}" for other in reversed(fields) if other and name in fields[other]
            ]
            close += [prefix + each for each in get_close_matches(name, own, 1, _CLOSE)]
            hint = f"; did you mean {close[0]}?" if close else ""
            field = prefix + name
            yield f"set: {field} is not a field of the source's configuration, and is added{hint}"


def _token_ids(value: Any) -> Iterator[Any]:
    """Yield the ids in a setting, which may be nested lists; ``None`` holds none."""
    if isinstance(value, list):
        for item in value:
            yield from _token_ids(item)
    elif value is not None:
        yield value


def composed_config(
    composite: Composite,
    submodels: Mapping[str, Mapping[str, Any]],
    tokens: Mapping[str, int],
    changes: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the ``config.json`` of a composite, as the frameworks' classes read it.

    The configurations of the submodels are complete; `changes` are fields that the user set,
    without generation settings.
    """
    decoder = submodels["decoder"]
    return {
        "architectures": [composite.classes["pytorch"]],
        "dtype": decoder.get("dtype", decoder.get("torch_dtype")),
        "is_encoder_decoder": True,
        "model_type": composite.name,
        **_token_fields(tokens),
        **{submodel: dict(config) for submodel, config in submodels.items()},
        **changes,
    }


def decoder_config(raw: Mapping[str, Any], tokens: Mapping[str, int]) -> dict[str, Any]:
    """Return a decoder's configuration with the composite's tokens, and no generation settings.

    The settings are in ``generation_config.json``. ``pad_token_id`` is unchanged, since RoBERTa and
    its derivatives count positions from it.
    """
    ids = {name: i for name, i in _token_fields(tokens).items() if name != TOKEN_FIELDS["pad"]}
    return {**{key: value for key, value in raw.items() if not is_setting(key)}, **ids}


def _token_fields(tokens: Mapping[str, int]) -> dict[str, int]:
    return {field: tokens[role] for role, field in TOKEN_FIELDS.items() if role in tokens}


def submodel_config(raw: Mapping[str, Any], role: Role, dtype: str) -> dict[str, Any]:
    """Return a source's configuration as that of a submodel."""
    return with_dtype({**raw, **role.config, "architectures": [role.model]}, dtype)


def with_dtype(raw: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Return a configuration with `dtype`, in the field it used before (renamed in 2025)."""
    changed = dict(raw)
    if "torch_dtype" in changed:
        changed["torch_dtype"] = dtype
    if "dtype" in changed or "torch_dtype" not in changed:
        changed["dtype"] = dtype
    return changed


def generation_config(tokens: Mapping[str, int], settings: Mapping[str, Any]) -> bytes:
    """Return the ``generation_config.json`` of an output.

    It lacks ``_from_model_config``, with which TensorFlow's and Flax's `generate()` ignore the file
    and follow the decoder's configuration, with the defaults of its class: BART's force an end.
    """
    return to_json({**settings, **_token_fields(tokens)})
