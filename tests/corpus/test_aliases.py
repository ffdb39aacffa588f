"""One tensor under two names: folded where the bytes agree, an error that names both where not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file

import converter
from converter.errors import MatchError
from tests.corpus.conversion_checks import CONFIG, HEAD
from tests.factories import Array, make, model_spec, stored, write

WORDS = "bert.embeddings.word_embeddings.weight"
Names = tuple[str, str]


def pytorch(home: Path, file_format: str, differ: bool) -> Names:
    """Add the tied output layer to the embeddings, and an old name to the new one."""
    arrays = stored(model_spec(CONFIG, HEAD))
    old = "bert.embeddings.LayerNorm.gamma"
    arrays["cls.predictions.decoder.weight"] = arrays[WORDS].copy()
    arrays[old] = arrays["bert.embeddings.LayerNorm.weight"].copy()
    arrays[old][3] += differ
    write(home, CONFIG, arrays, file_format)
    return old, "bert.embeddings.LayerNorm.weight"


def hdf5(home: Path, file_format: str, differ: bool) -> Names:
    """Repeat the embeddings under the head, as separate copies."""
    make(home.parent / "plain", "bert", HEAD)
    converter.convert(home.parent / "plain", home, to=["tensorflow"])
    again = "mlm___cls/tf_bert_for_masked_lm/bert/embeddings/word_embeddings/weight:0"
    with h5py.File(home / "tf_model.h5", "r+") as file:
        values = file[again][...]
        del file[again]
        values[0, 3] += differ
        file[again] = values
    name = "bert/embeddings/word_embeddings/weight:0"
    return name, name


def msgpack(home: Path, file_format: str, differ: bool) -> Names:
    """Add the same parameters without the wrapper."""
    arrays: dict[str, Array] = stored(model_spec(CONFIG, HEAD), "flax")
    name = "bert/embeddings/LayerNorm/scale"
    wrapped = {f"params/{key}": array for key, array in arrays.items()}
    copy = arrays[name].copy()
    copy[3] += differ
    write(home, CONFIG, {**wrapped, name: copy}, file_format)
    return name, f"params/{name}"


CASES: dict[str, Callable[[Path, str, bool], Names]] = {
    "safetensors": pytorch,
    "torch": pytorch,
    "keras-hdf5": hdf5,
    "flax-msgpack": msgpack,
}


@pytest.mark.parametrize("file_format", CASES)
def test_equal_copies_are_merged(file_format: str, tmp_path: Path) -> None:
    CASES[file_format](tmp_path / "source", file_format, False)
    converter.convert(tmp_path / "source", tmp_path / "out", to=["pytorch"])
    actual = load_file(tmp_path / "out/model.safetensors")
    expected = stored(model_spec(CONFIG, HEAD))
    assert actual.keys() == expected.keys()
    np.testing.assert_array_equal(actual[WORDS], expected[WORDS])


@pytest.mark.parametrize("file_format", CASES)
def test_copies_that_differ_are_refused(file_format: str, tmp_path: Path) -> None:
    names = CASES[file_format](tmp_path / "source", file_format, True)
    with pytest.raises(MatchError, match="copies of one tensor differ") as caught:
        converter.convert(tmp_path / "source", tmp_path / "out", to=["pytorch"])
    for name in names:
        assert name in str(caught.value)
    assert "1 different element" in str(caught.value)
    assert not (tmp_path / "out").exists()
