"""Damaged, hostile and huge mapping tables of a user's own: refused at a bounded price."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from converter import TableError, UnsupportedError
from converter.architectures.registry import ArchitectureRegistry
from converter.cli import commands
from converter.errors import ConfigError, ConverterError, ConverterWarning
from tests.factories import make
from tests.formats.work import work_at_most

UNITS = 40
"""The largest price, in units of `tests.formats.work`; the dearest takes 15 of them."""
HEAD = 'model_type = "own"\ntitle = "one"\n'
BASE = HEAD + "[config]\nhidden_size = 8\n[models]\nOwn = {}\n"
LAYERS = 'layers = { a = "1000", b = "1000", c = "1000" }\n'
ROW = '"m{0}" = {{ linear = "hidden_size -> {1}" }}\n'
PARTS = ".".join(["a"] * 500)

REFUSED = {
    "not UTF-8": (b"\xff\xfe" + HEAD.encode("utf-16-le"), "not a TOML file"),
    "cut off": (BASE[:-4].encode(), "not a TOML file"),
    "nested arrays": (f"{HEAD}a = ".encode() + b"[\n" * 5000, "not a TOML file"),
    "a number of a thousand digits": (f"{HEAD}a = {'9' * 1000}\n".encode(), "64 bits"),
    "too large": (f"{HEAD}# {'x' * 80}\n".encode() * 4000, "larger than 262144 bytes"),
    "a key of many parts": (f"{HEAD}{PARTS}.{PARTS}.{PARTS} = 1\n".encode(), "a line of more than"),
    "keys of many parts": (
        (HEAD + "".join(f"b{i}.{PARTS} = 1\n" for i in range(100))).encode(),
        "unknown key",
    ),
    "unknown keys": (
        (HEAD + "".join(f"key{i} = 1\n" for i in range(20_000))).encode(),
        "200 problems or more",
    ),
    "extends itself": (f'{HEAD}extends = "own"\n'.encode(), "extends itself"),
    "parentheses": (
        f'{BASE}[attributes]\nwidth = "{"(" * 400}1{")" * 400}"\n'.encode(),
        "attributes.width",
    ),
    "a long path": (f'{BASE}[modules]\n"{"{layer}." * 200}m" = {{ linear = "1" }}\n'.encode(), "m"),
    "no model type": (b'title = "one"\n', "neither model_type nor composite"),
    "control characters": (f'{HEAD}"\\u001b[31m" = 1\n'.encode(), "unknown key"),
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory for tables of the user's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    directory = tmp_path / "settings/converter/mappings"
    directory.mkdir(parents=True)
    return directory


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_table_is_refused_at_a_bounded_price(own: Path, name: str) -> None:
    content, message = REFUSED[name]
    path = own.parents[2] / "table.toml"
    path.write_bytes(content)
    ArchitectureRegistry().architecture("bert")  # what all tables share is parsed already
    with work_at_most(UNITS), pytest.raises(TableError) as caught:
        ArchitectureRegistry.for_user([path]).architecture("own")
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_a_table_of_many_rows_is_loaded_at_a_bounded_price(own: Path) -> None:
    path = own.parents[2] / "table.toml"
    rows = "".join(ROW.format(number, "hidden_size") for number in range(4000))
    path.write_text(BASE + "[modules]\n" + rows)
    with work_at_most(2 * UNITS):
        assert len(ArchitectureRegistry.for_user([path]).architecture("own").modules) == 4000


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (BASE + "[modules]\n" + ROW.format(0, "9 ** 9 ** 9 ** 9"), "9"),
        (BASE + "[modules]\n" + ROW.format(0, "hidden_size // 0"), "hidden_size"),
        (
            HEAD + LAYERS + BASE.removeprefix(HEAD) + "[modules]\n" + ROW.format(".{a}.{b}.{c}", 1),
            "asks for more than",
        ),
    ],
    ids=["powers", "a division by zero", "a billion layers"],
)
def test_what_a_table_computes_is_bounded(
    own: Path, tmp_path: Path, table: str, message: str
) -> None:
    path = tmp_path / "table.toml"
    path.write_text(table)
    source = make(tmp_path / "source", "bert").directory
    (source / "config.json").write_text('{"model_type": "own", "hidden_size": 8}')
    from converter import inspect

    with work_at_most(UNITS), pytest.raises((TableError, ConfigError), match=message):
        inspect(source, mapping=[path])


def test_a_bad_table_in_the_directory_stops_no_other_and_one_in_the_variable_is_named(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("cut off", "too large", "not UTF-8", "no model type")):
        (own / f"{number}.toml").write_bytes(REFUSED[name][0])
    os.mkfifo(own / "pipe.toml")
    (own / "directory.toml").mkdir()
    (own / "gone.toml").symlink_to(own / "nothing")
    with work_at_most(UNITS), pytest.warns(ConverterWarning, match="it is left out"):
        registry = ArchitectureRegistry.for_user()
    assert registry.architecture("bert").config["hidden_size"] == 768
    with pytest.raises(UnsupportedError):
        registry.architecture("missing")
    path = tmp_path / "cut.toml"
    path.write_bytes(REFUSED["cut off"][0])
    monkeypatch.setenv("CONVERTER_MAPPINGS", str(path))
    with (
        pytest.warns(ConverterWarning),
        pytest.raises(ConverterError, match=r"cut.toml(.|\n)*CONVERTER_MAPPINGS lists it"),
    ):
        ArchitectureRegistry.for_user()


def test_what_a_table_says_is_printed_without_control_characters(own: Path, tmp_path: Path) -> None:
    path = tmp_path / "table.toml"
    path.write_bytes(REFUSED["control characters"][0])
    source = make(tmp_path / "source", "bert").directory
    (source / "config.json").write_text('{"model_type": "own"}')
    result = CliRunner().invoke(commands, ["inspect", str(source), "--mapping", str(path)])
    assert result.exit_code == 1 and "\x1b" not in result.output and "31m" in result.output
