"""Orbax directories that lead elsewhere: TensorStore reads nothing outside, waits for nothing."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from converter.errors import FormatError
from converter.formats.file_handle import LocalFile
from converter.formats.orbax import FORMAT
from tests.hostile.crafted_files import move_data, write_listing, write_orbax

pytest.importorskip("tensorstore")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    return directory


def read(place: Path) -> dict[str, np.ndarray]:
    with FORMAT.open(LocalFile(place / "_METADATA")) as reader:
        return {name: tensor.read() for name, tensor in reader.tensors.items()}


def test_a_manifest_may_name_any_data_files_inside(place: Path) -> None:
    move_data(place, b"e/")
    expected = np.arange(1, 21, dtype=np.float32).reshape(5, 4)
    assert all(np.array_equal(array, expected) for array in read(place).values())


@pytest.mark.parametrize("prefix", [b"../", b"//", b"/t", b"d\0"])
def test_a_manifest_cannot_name_data_files_outside(place: Path, prefix: bytes) -> None:
    move_data(place, prefix)
    with pytest.raises(FormatError, match="_METADATA"):
        read(place)


@pytest.mark.parametrize("name", ["params.a", "params.a/.zarray", "params.a/0.0"])
def test_pipes_are_not_waited_for(place: Path, name: str) -> None:
    write_orbax(place, False)
    (place / name).rename(place / "unused")
    os.mkfifo(place / name)
    with pytest.raises(FormatError, match="neither a file nor a directory"):
        read(place)


@pytest.mark.parametrize("key", ["..", "../x", "/etc", "a/../../x"])
def test_keys_are_names(place: Path, key: str) -> None:
    write_orbax(place, True)
    write_listing(place, True, key)
    with pytest.raises(FormatError, match=r"not plain names|cannot be opened"):
        read(place)


@pytest.mark.parametrize("ocdbt", [True, False])
@pytest.mark.parametrize("name", ["a%41b", "..%2Fsecret", "a?b#c", "a b ü"])
def test_directories_of_any_name_are_read_and_no_other(place: Path, name: str, ocdbt: bool) -> None:
    write_orbax(place, ocdbt)
    expected = read(place)
    assert expected
    renamed = place.rename(place.with_name(name))
    actual = read(renamed)
    assert actual.keys() == expected.keys()
    assert all(np.array_equal(array, actual[key]) for key, array in expected.items())


@pytest.mark.parametrize("key", ["a\\b", "C:", "a|b", "a."])
def test_arrays_are_in_directories_that_every_system_can_name(place: Path, key: str) -> None:
    write_orbax(place, False)
    write_listing(place, False, key)
    with pytest.raises(FormatError, match="a directory whose name"):
        read(place)


@pytest.mark.parametrize("dtype", ["|S9", "|V9"])
def test_dtypes_that_no_tensor_has(place: Path, dtype: str) -> None:
    write_orbax(place, False)
    layout = place / "params.a" / ".zarray"
    layout.write_text(layout.read_text().replace("<f4", dtype).replace("0.0", "null"))
    with pytest.raises(FormatError, match="unsupported dtype"):
        read(place)


def test_a_missing_chunk_is_not_taken_for_zeros(place: Path) -> None:
    """Orbax states in the listing that it has stored every chunk, those of zeros too."""
    write_orbax(place, False)
    (place / "params.a" / "1.0").unlink()
    with pytest.raises(FormatError, match="params/a: cannot be decoded"):
        read(place)


def test_old_checkpoints_may_omit_chunks_of_zeros(place: Path) -> None:
    write_orbax(place, False)
    (place / "params.a" / "1.0").unlink()
    listing = place / "_METADATA"
    listing.write_text(listing.read_text().replace("store_array", "x"))
    assert not read(place)["params/a"][3:].any()
