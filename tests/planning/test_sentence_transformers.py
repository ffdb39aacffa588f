"""The files of a SentenceTransformer besides its encoder, as ``SentenceTransformer.save`` has them.

Source: sentence_transformers/SentenceTransformer.py and models/Pooling.py, version 3.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from converter import compose, convert
from converter.errors import CheckpointError
from converter.file_names import auxiliary_files
from tests.factories import make

POOLING = {"word_embedding_dimension": 24, "pooling_mode_mean_tokens": True}


def modules(*kinds: str) -> list[dict[str, object]]:
    return [
        {
            "idx": number,
            "name": str(number),
            "path": f"{number}_{kind}" if number else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for number, kind in enumerate(kinds)
    ]


def save(path: Path, *kinds: str) -> Path:
    make(path, "bert")
    (path / "modules.json").write_text(json.dumps(modules(*kinds)))
    (path / "sentence_bert_config.json").write_text('{"max_seq_length": 32}')
    (path / "config_sentence_transformers.json").write_text('{"prompts": {}}')
    for module in modules(*kinds)[1:]:
        (path / str(module["path"])).mkdir()
        if not str(module["path"]).endswith("Normalize"):
            (path / str(module["path"]) / "config.json").write_text(json.dumps(POOLING))
    return path


def test_its_files_travel_with_the_encoder(tmp_path: Path) -> None:
    source = save(tmp_path / "source", "Transformer", "Pooling", "Normalize")
    result = convert(source, tmp_path / "out")
    assert not result.warnings
    for name in (
        "modules.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "1_Pooling/config.json",
    ):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()


def test_they_stay_behind_where_no_class_reads_them(tmp_path: Path) -> None:
    source = save(tmp_path / "source", "Transformer", "Pooling")
    decoder = make(tmp_path / "decoder", "gpt2", "GPT2LMHeadModel")
    result = convert(source, tmp_path / "flax", to=["flax"])
    assert any("are not copied: PyTorch alone has them" in text for text in result.warnings)
    compose(source, decoder.directory, tmp_path / "pair", to=["pytorch"])
    for out in ("flax", "pair"):
        assert not (tmp_path / out / "modules.json").exists()


@pytest.mark.parametrize("kind", ["Dense", "CNN"])
def test_a_module_with_weights_is_named(kind: str, tmp_path: Path) -> None:
    source = save(tmp_path / "source", "Transformer", "Pooling", kind)
    result = convert(source, tmp_path / "out")
    assert any(f"since 2_{kind} cannot be" in warning for warning in result.warnings)
    assert not (tmp_path / "out/modules.json").exists()
    assert not (tmp_path / "out/1_Pooling").exists()


@pytest.mark.parametrize("path", ["../outside", "/etc", "a/../../outside", ".", "", None, 3])
def test_no_file_outside_the_checkpoint_is_copied(path: object, tmp_path: Path) -> None:
    source = save(tmp_path / "source", "Transformer", "Pooling")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/config.json").write_text("{}")
    entries = modules("Transformer", "Pooling")
    entries[1]["path"] = path
    (source / "modules.json").write_text(json.dumps(entries))
    result = convert(source, tmp_path / "out")
    assert any("the output is its encoder alone" in warning for warning in result.warnings)
    assert not (tmp_path / "out/modules.json").exists()


def test_a_link_out_of_the_checkpoint_is_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "source", "Transformer", "Pooling")
    (tmp_path / "secret.json").write_text("{}")
    (source / "1_Pooling/config.json").unlink()
    (source / "1_Pooling/config.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(CheckpointError):
        convert(source, tmp_path / "out")


@pytest.mark.parametrize("content", ["{", "{}", "3", '[3, null, {"path": []}]'])
def test_a_damaged_list_of_modules(content: str, tmp_path: Path) -> None:
    source = save(tmp_path / "source", "Transformer", "Pooling")
    (source / "modules.json").write_text(content)
    convert(source, tmp_path / "out")
    assert not (tmp_path / "out/modules.json").exists()


def test_they_are_fetched_from_the_hub() -> None:
    names = [
        "1_Pooling/config.json",
        "modules.json",
        "2_Dense/model.safetensors",
        "a/b/config.json",
    ]
    assert auxiliary_files(names) == ["1_Pooling/config.json", "modules.json"]
