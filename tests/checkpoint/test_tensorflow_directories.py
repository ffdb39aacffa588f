"""TensorFlow checkpoints in directories: SavedModels, and the file ``checkpoint``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from converter import convert
from converter.errors import CheckpointError
from converter.formats.file_handle import LocalFile
from converter.formats.tensorflow_checkpoint.protobuf import read_checkpoint_state
from tests.models.test_legacy_detection import release


def saved_model(directory: Path, below: str) -> dict[str, np.ndarray]:
    """Write a SavedModel below `directory`, which has the configuration; return its values."""
    values = release(directory / below / "variables", "bert", "variables")
    config = directory / below / "variables/bert_config.json"
    config.rename(directory / "bert_config.json")
    (directory / below / "saved_model.pb").write_bytes(b"\x08\x01\x12")
    return values


def same(
    source: Path, out: Path, values: dict[str, np.ndarray], config: Path | None = None
) -> None:
    """Convert, and compare every value."""
    convert(source, out, to=["pytorch"], config=config)
    read = load_file(out / "model.safetensors")
    assert read.keys() <= values.keys()
    for name, array in read.items():
        np.testing.assert_array_equal(array, values[name], err_msg=name)


@pytest.mark.parametrize("below", ["", "saved_model", "saved_model/1"])
@pytest.mark.parametrize("given", ["all", "directory", "graph", "variables", "prefix"])
def test_saved_models_are_read_by_their_variables(below: str, given: str, tmp_path: Path) -> None:
    values = saved_model(tmp_path / "in", below)
    saved = tmp_path / "in" / below
    source = {
        "all": tmp_path / "in",
        "directory": saved,
        "graph": saved / "saved_model.pb",
        "variables": saved / "variables",
        "prefix": saved / "variables/variables",
    }[given]
    same(source, tmp_path / "out", values)


def test_the_configuration_of_a_saved_model_is_not_looked_for_anywhere(tmp_path: Path) -> None:
    """Only ``saved_model`` and numbers may be between them."""
    values = saved_model(tmp_path / "in", "exported")
    config = tmp_path / "in/bert_config.json"
    with pytest.raises(CheckpointError, match=r"configuration not found[\s\S]*config=FILE"):
        convert(tmp_path / "in/exported", tmp_path / "out")
    same(tmp_path / "in/exported", tmp_path / "out", values, config=config)


def test_the_checkpoint_that_a_file_names_is_read(tmp_path: Path) -> None:
    directory = tmp_path / "in"
    release(directory, "albert", "model-1")
    values = release(directory, "bert", "model-2")
    release(directory, "albert", "model-30")
    (directory / "albert_config.json").unlink()
    state = directory / "checkpoint"
    for number, path in enumerate(("model-2", "/gone/model-2", "C:\\\\runs\\\\mo\\144el-2")):
        state.write_text(
            f'model_checkpoint_path: "{path}"\nall_model_checkpoint_paths: "model-1"\n'
        )
        same(directory, tmp_path / f"{number}", values)
        same(state, tmp_path / f"file {number}", values)
    for text in (
        "",
        'model_checkpoint_path: "model-3"',
        'model_checkpoint_path: "model',
        "\0" * 99,
    ):
        state.write_text(text)
        with pytest.raises(CheckpointError, match=r"holds 3 .*[\s\S]*model-1, model-2, model-30"):
            convert(directory, tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b'model_checkpoint_path: "ck-1"', "ck-1"),
        (b'# comment\n  model_checkpoint_path:"a b/ck-1"\n', "ck-1"),
        (b'model_checkpoint_path: "\\303\\251-\\"1\\""', 'é-"1"'),
        (b'model_checkpoint_path: "../ck-1/"', ""),
        (b'all_model_checkpoint_paths: "ck-1"', ""),
        (b'model_checkpoint_path: "ck-1', ""),
        (b'model_checkpoint_path: "\\777\\', ""),
        (b'model_checkpoint_path: "' + b"\\" * 65536, ""),
        (b"\x80\x02}q\x00", ""),
    ],
)
def test_the_state_file_is_parsed_as_text(text: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_bytes(text)
    assert read_checkpoint_state(LocalFile(tmp_path / "checkpoint")) == name
