"""safetensors files that the library reads and others write: headers, dtypes, indexes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy

import converter
from tests.corpus.conversion_checks import same_as_library
from tests.factories import Made, make


@pytest.fixture
def bert(tmp_path: Path) -> Made:
    return make(tmp_path / "bert", "bert")


def with_header(path: Path, change: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Replace texts in the file's header, and return what the library reads."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].decode()
    for old, new in change.items():
        assert old in header
        header = header.replace(old, new, 1)
    path.write_bytes(len(header.encode()).to_bytes(8, "little") + header.encode() + data[8 + length :])
    return safetensors.numpy.load_file(path)


HEADERS = {
    "space": {"{": " {"},
    "much white space": {"{": " \t\r\n" * 50 + "{"},
    "metadata null": {'{"format":"pt"}': "null"},
    "both": {'{"__metadata__":{"format":"pt"}': '\n{ "__metadata__" : null '},
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_the_library_reads(bert: Made, name: str, tmp_path: Path) -> None:
    path = bert.file
    expected = with_header(path, HEADERS[name])
    same_as_library(path, expected)
    converter.convert(bert.directory, tmp_path / "out", to=["pytorch"])
    actual = safetensors.numpy.load_file(tmp_path / "out/model.safetensors")
    assert {name: array.tobytes() for name, array in actual.items()} == {
        name: array.tobytes() for name, array in expected.items()
    }
