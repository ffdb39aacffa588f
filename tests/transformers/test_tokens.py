"""Special tokens, by the configurations of transformers and by the start tokens of its models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import converter
from tests.transformers.tiny import LIBRARY, MODEL_TYPES, tiny

pytestmark = pytest.mark.peer

DECODERS = [name for name in MODEL_TYPES if "decoder" in LIBRARY.architecture(name).roles]
FIELDS = {"start": "decoder_start_token_id", "end": "eos_token_id", "pad": "pad_token_id"}
RELEASED = {
    ("prophetnet", "start"): "prophetnet-large-uncased states 102, and BERT's vocabulary",
    ("prophetnet", "end"): "prophetnet-large-uncased states 102",
    ("xlm-prophetnet", "start"): "its tokenizer begins what is written with [SEP]",
    ("camembert", "start"): "camembert-base states 5",
    ("camembert", "end"): "camembert-base states 6: four tokens go before its sentencepieces",
    ("big_bird", "end"): "its texts end with [SEP]; the class states <s>",
}
"""Token ids of releases that differ from the default of the class."""


@pytest.mark.parametrize("architecture", DECODERS)
def test_the_table_has_the_ids_of_the_peers_class(architecture: str) -> None:
    from transformers import CONFIG_MAPPING

    config, table = CONFIG_MAPPING[architecture](), LIBRARY.architecture(architecture).tokens
    for role, field in FIELDS.items():
        stated = {getattr(config, name, None) for name in (field, f"{table[role].token}_token_id")}
        agree = stated <= {None, table[role].id}
        assert agree != ((architecture, role) in RELEASED), (role, stated)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every decoder randomly initialized with a BERT, its tokens read only from its own files."""
    directory = tmp_path_factory.mktemp("tokens")
    for name in {"bert", *DECODERS}:
        (directory / name).mkdir()
        messages = {key for key in tiny(name).config if "token_id" in key} - {"pad_token_id"}
        sizes = {key: value for key, value in tiny(name).config.items() if key not in messages}
        config = {**sizes, "model_type": name}
        (directory / name / "config.json").write_text(json.dumps(config))
    return directory


def _tokenizer(directory: Path, architecture: str) -> dict[str, Any]:
    """Save a word tokenizer whose special tokens have unique ids."""
    table, words = LIBRARY.architecture(architecture).tokens, {"<unk>": 40}
    special = dict.fromkeys(token.token for token in table.values())
    roles = {name: f"<{name}>" for name in special}
    words |= {f"<{name}>": 41 + path for path, name in enumerate(special)}
    if "pad_token_id" in tiny(architecture).config:
        words["<pad>"] = tiny(architecture).config["pad_token_id"]
    if LIBRARY.architecture(architecture).languages:
        words["en_XX" if architecture == "mbart" else "__en_XX__"] = 60
    (directory / "vocab.json").write_text(json.dumps(words))
    messages = {f"{name}_token": text for name, text in roles.items()}
    (directory / "tokenizer_config.json").write_text(json.dumps({**messages, "tgt_lang": "en_XX"}))
    return {name: words[text] for name, text in roles.items()}


@pytest.mark.parametrize("architecture", DECODERS)
def test_training_and_generation_start_with_the_same_tokens(
    home: Path, tmp_path: Path, architecture: str
) -> None:
    """Labels shifted by transformers start with the same token as ``generate()``.

    It is also the one that the decoder's own class puts before labels.
    """
    import torch
    from transformers import EncoderDecoderModel

    ids = _tokenizer(home / architecture, architecture)
    converter.compose(
        home / "bert",
        home / architecture,
        tmp_path / "out",
        to=["pytorch"],
        random=["encoder", "decoder"],
    )
    model = EncoderDecoderModel.from_pretrained(tmp_path / "out").eval()
    table = LIBRARY.architecture(architecture)
    start = 60 if table.languages else ids[table.tokens["start"].token]
    end = ids[table.tokens["end"].token]
    labels = torch.tensor([[11, 12, 13, end, -100]])
    shifted = model.prepare_decoder_input_ids_from_labels(labels)
    assert shifted.tolist() == [[start, 11, 12, 13, end]]
    # 4.57.6 cannot cache the states of BigBird, Mega and XLM-ProphetNet with an encoder's
    written = model.generate(torch.tensor([[21, 22, 23]]), max_new_tokens=2, use_cache=False)
    assert int(written[0, 0]) == start
    assert model.generation_config.eos_token_id == end
    own = _own_shift(architecture, ids, labels, start)
    assert own is None or own == start


def _own_shift(architecture: str, ids: dict[str, Any], labels: Any, start: int) -> int | None:
    """Return the start token that the architecture's own sequence-to-sequence class gives labels.

    The labels are those of its tokenizer: the language code is last, and moved to the front.
    """
    import importlib
    from inspect import signature

    from transformers import CONFIG_MAPPING

    directory = CONFIG_MAPPING[architecture].__module__.replace(".configuration_", ".modeling_")
    module = importlib.import_module(directory)
    shift = getattr(module, "shift_tokens_right", None)
    if shift is None:
        return None
    labels = labels.clone()
    labels[labels == -100] = ids["pad"]
    if len(signature(shift).parameters) == 3:
        return int(shift(labels, ids["pad"], start)[0, 0])
    labels[0, -1] = start
    return int(shift(labels, ids["pad"])[0, 0])
