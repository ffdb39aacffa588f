"""Hostile configurations and mapping files: one clear error each, fast, in little memory."""

from __future__ import annotations

import gc
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import converter
from converter.errors import ConfigError, ConverterError, TableError
from tests.factories import Made, make
from tests.formats.work import work_at_most
from tests.sampling import quick_sample

UNITS = 270  # tracing allocations makes everything slower
BYTES = 200 << 20


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("made"), "bert", "BertForMaskedLM")


@contextmanager
def soon_and_small() -> Iterator[None]:
    gc.collect()
    tracemalloc.start()
    try:
        with work_at_most(UNITS):
            yield
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < BYTES, peak


def rest(made: Made, **fields: object) -> str:
    """Return the text of the configuration with changed fields."""
    return json.dumps({**made.config, **fields})


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


REFUSED = {
    "empty": lambda made: "",
    "a list": lambda made: "[]",
    "half": lambda made: rest(made)[:-3],
    "not text": lambda made: "\x00\x01",
    "deep": lambda made: f'{{"model_type": "bert", "x": {deep(100_000)}}}',
    "quite deep": lambda made: rest(made)[:-1] + f', "x": {deep(400)}}}',
    "many lists": lambda made: '{"x": [' + "[]," * 300_000 + "[]]}",
    "huge": lambda made: '{"x": "' + "a" * (5 << 20) + '"}',
    "two sizes": lambda made: rest(made)[:-1] + ', "hidden_size": 25}',
    "two sizes, nested": lambda made: rest(made)[:-1] + ', "a": {"b": 1, "b": 2}}',
    "a number of 10000 digits": lambda made: rest(made)[:-1] + f', "x": {"9" * 10_000}}}',
    "infinite": lambda made: rest(made).replace('"hidden_size": 24', '"hidden_size": 1e999'),
    "not a number": lambda made: rest(made).replace('"hidden_size": 24', '"hidden_size": NaN'),
    "many layers": lambda made: rest(made, num_hidden_layers=10**12),
    "a million layers": lambda made: rest(made, num_hidden_layers=10**6),
    "ten thousand layers": lambda made: rest(made, num_hidden_layers=10_000),
    "wide": lambda made: rest(made, hidden_size=2**62),
    "text": lambda made: rest(made, hidden_size="24"),
    "a list of sizes": lambda made: rest(made, hidden_size=[24] * 1000),
    "true": lambda made: rest(made, num_hidden_layers=True),
    "no model type": lambda made: rest(made, model_type=None),
    "a model type that is not a string": lambda made: rest(made, model_type={"a": 1}),
    "a model type with parent directories": lambda made: rest(made, model_type="../../etc/passwd"),
    "a shared table": lambda made: rest(made, model_type="_dialects"),
    "a composite of nothing": lambda made: rest(made, model_type="encoder-decoder"),
    "a composite of lists": lambda made: rest(
        made, model_type="encoder-decoder", encoder=[], decoder=3
    ),
    "a composite of composites": lambda made: rest(
        made,
        model_type="encoder-decoder",
        encoder={"model_type": "encoder-decoder"},
        decoder={"model_type": "encoder-decoder"},
    ),
}


@pytest.mark.parametrize("attack", quick_sample(REFUSED, 4))
def test_a_hostile_configuration(attack: str, made: Made, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(REFUSED[attack](made))
    with soon_and_small(), pytest.raises(ConverterError) as caught:
        converter.convert(made.file, tmp_path / "out", config=path)
    assert len(str(caught.value)) < 20_000
    assert not (tmp_path / "out").exists()


HARMLESS: dict[str, dict[str, Any]] = {
    "half a surrogate pair": {"_name_or_path": "\ud800"},
    "many labels": {"id2label": {str(n): "a" * 40 for n in range(1000)}},
    "invalid architectures": {"architectures": [1, None, {"a": 2}]},
    "architectures that are none": {"architectures": 7},
    "an invalid dtype": {"dtype": ["float32"], "torch_dtype": 5},
    "no number in a field of no concern": {"layer_norm_eps": float("nan")},
}


@pytest.mark.parametrize("case", HARMLESS)
def test_an_unusual_configuration_is_accepted(case: str, made: Made, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(rest(made, **HARMLESS[case]))
    converter.convert(made.file, tmp_path / "out", config=path, dtype="float16")
    kept = json.loads((tmp_path / "out/config.json").read_text())
    for field, value in HARMLESS[case].items():
        if field in ("_name_or_path", "id2label"):
            assert kept[field] == value


def test_a_duplicate_key_with_one_value_is_accepted(made: Made, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(rest(made)[:-1] + ', "hidden_size": 24}')
    converter.convert(made.file, tmp_path / "out", config=path)


TABLE = """
model_type = "bert"
title = "hostile"
layers = {{ layer = "{layers}" }}
base_model_prefix = "bert"
[config]
hidden_size = 24
num_hidden_layers = 3
[models]
BertForMaskedLM = {{}}
[modules]
"{path}" = {{ linear = "{size} -> hidden_size" }}
"""

TABLES = {
    "huge": "#" * (20 << 20),
    "not text": "\x00",
    "deep": "a = " + deep(20_000),
    "power": TABLE.format(layers="num_hidden_layers", path="a.{layer}", size="9 ** 9 ** 9"),
    "large power": TABLE.format(layers="9 ** 99", path="a.{layer}", size="hidden_size"),
    "calls": TABLE.format(layers="3", path="a", size="__import__('os').system('true')"),
    "attributes": TABLE.format(layers="3", path="a", size="hidden_size.__class__"),
    "long expression": TABLE.format(layers="3", path="a", size="1 + " * 50_000 + "1"),
    "deep expression": TABLE.format(layers="3", path="a", size="(" * 5000 + "1" + ")" * 5000),
    "text times number": TABLE.format(layers="3", path="a", size="'a' * 10 ** 9"),
    "many layers": TABLE.format(layers="10 ** 9", path="a.{layer}", size="hidden_size"),
    "layers in layers": TABLE.format(layers="9999", path="{layer}.{two}.{three}", size="1").replace(
        'layer = "9999"', 'layer = "9999", two = "9999", three = "9999"'
    ),
    "many placeholders": TABLE.format(layers="3", path="{layer}." * 5000, size="1"),
    "no such kind": TABLE.format(layers="3", path="a", size="1").replace("linear", "quadratic"),
}


@pytest.mark.parametrize("attack", quick_sample(TABLES, 4))
def test_a_hostile_mapping_file(attack: str, made: Made, tmp_path: Path) -> None:
    path = tmp_path / "hostile.toml"
    path.write_text(TABLES[attack])
    with soon_and_small(), pytest.raises((TableError, ConfigError)) as caught:
        converter.convert(made.directory, tmp_path / "out", mapping=[path])
    assert len(str(caught.value)) < 20_000
    assert not (tmp_path / "out").exists()
