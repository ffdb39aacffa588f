"""The bundled tables: where they are, and that a process loads each of them once."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import converter.file_names
from converter.architectures import registry
from converter.architectures.registry import ArchitectureRegistry
from converter.errors import ConverterWarning, TableError
from converter.file_names import tables_directory

ROOT = Path(__file__).parents[2]


def test_the_tables_of_a_checkout_are_next_to_the_package() -> None:
    assert tables_directory() == ROOT / "mappings"
    assert (tables_directory() / "_dialects.toml").is_file()


def test_the_tables_of_an_installed_package_are_inside_it(tmp_path: Path) -> None:
    package = tmp_path / "converter"
    (package / "mappings").mkdir(parents=True)
    shutil.copy(str(converter.file_names.__file__), package)
    spec = importlib.util.spec_from_file_location("installed", package / "file_names.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.tables_directory() == package / "mappings"


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, list[str]]]:
    """Yield a directory with a copy of the tables, and the files parsed or loaded from it."""
    directory, calls = tmp_path / "mappings", list[str]()
    shutil.copytree(ROOT / "mappings", directory, ignore=shutil.ignore_patterns("*.py", "__*"))
    monkeypatch.setattr(registry, "tables_directory", lambda: directory)
    monkeypatch.setattr(registry, "_LOADED", {})

    def recorded(function: Any) -> Any:
        def call(data: Any, file: str, *rest: Any) -> Any:
            calls.append(file)
            return function(data, file, *rest)

        return call

    for name in ("parse_toml", "load_architecture", "load_conventions"):
        monkeypatch.setattr(registry, name, recorded(getattr(registry, name)))
    registry._parse_bundled.cache_clear()
    yield directory, calls
    registry._parse_bundled.cache_clear()


def test_tables_are_parsed_and_loaded_once_in_a_process(bundled: tuple[Path, list[str]]) -> None:
    _, calls = bundled
    first = ArchitectureRegistry()
    first.names_by_class({"BertModel"})
    first.with_detection()
    assert calls.count("mappings/roberta.toml") == 2  # parsed, loaded
    calls.clear()
    second = ArchitectureRegistry()
    assert second.names_by_class({"BertModel"}) == ["bert"]
    assert second.architecture("roberta") is first.architecture("roberta")
    assert second.conventions is first.conventions
    assert not calls


def test_a_table_that_changes_is_loaded_again_and_what_extends_it(
    bundled: tuple[Path, list[str]],
) -> None:
    directory, _ = bundled
    before = ArchitectureRegistry()
    unchanged = before.architecture("gpt2")
    assert before.architecture("roberta").config["hidden_size"] == 768
    table = directory / "bert.toml"
    table.write_text(table.read_text().replace("= 768", "= 760"))
    after = ArchitectureRegistry()
    assert after.architecture("roberta").config["hidden_size"] == 760
    assert after.architecture("gpt2") is unchanged


def test_a_table_of_the_user_s_own_leaves_the_bundled_ones_unchanged(tmp_path: Path) -> None:
    text = (ROOT / "mappings" / "bert.toml").read_text()
    (tmp_path / "own.toml").write_text(text.replace("= 768", "= 760"))
    own = ArchitectureRegistry([tmp_path / "own.toml"])
    assert own.architecture("bert").config["hidden_size"] == 760
    assert own.architecture("roberta").config["hidden_size"] == 768  # which extends the bundled one
    assert ArchitectureRegistry().architecture("bert").config["hidden_size"] == 768


TABLE = 'model_type = "NAME"\ntitle = "Own"\nextends = "bert"\n[config]\nhidden_size = SIZE\n'


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory for tables of the user's own, which is empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    directory = tmp_path / "settings" / "converter" / "mappings"
    directory.mkdir(parents=True)
    return directory


def _write(path: Path, name: str, size: int) -> Path:
    path.write_text(TABLE.replace("NAME", name).replace("SIZE", str(size)))
    return path


def _size(registry: ArchitectureRegistry, name: str = "pebble") -> Any:
    return registry.architecture(name).config["hidden_size"]


def test_tables_are_found_in_the_user_s_directory_and_by_the_variable(
    user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(user / "a.toml", "pebble", 1)
    assert _size(ArchitectureRegistry.for_user()) == 1
    assert "pebble" not in ArchitectureRegistry()
    (tmp_path / "more").mkdir()
    listed = (_write(tmp_path / "b.toml", "pebble", 2), tmp_path / "more")
    _write(tmp_path / "more" / "c.toml", "pebble", 3)
    _write(tmp_path / "more" / "d.toml", "boulder", 4)
    monkeypatch.setenv("CONVERTER_MAPPINGS", os.pathsep.join(map(str, listed)))
    with pytest.warns(ConverterWarning, match=r"pebble: .*b.toml is used instead of .*c.toml"):
        assert _size(ArchitectureRegistry.for_user()) == 2  # the first in the variable
    assert _size(ArchitectureRegistry.for_user(), "boulder") == 4
    given = _write(tmp_path / "e.toml", "pebble", 5)
    assert _size(ArchitectureRegistry.for_user([given])) == 5


def test_a_table_that_replaces_a_bundled_one_is_named_when_it_is_used(user: Path) -> None:
    path = user / "own.toml"
    path.write_text((ROOT / "mappings" / "gpt2.toml").read_text().replace("= 768", "= 12"))
    registry = ArchitectureRegistry.for_user()
    assert registry.architecture("bert")
    with pytest.warns(ConverterWarning, match="own.toml is used instead of mappings/gpt2.toml"):
        assert registry.architecture("gpt2").config["n_embd"] == 12
    assert registry.own_file("gpt2") == str(path) and registry.own_file("bert") is None


def test_an_invalid_table_in_the_user_s_directory_stops_no_other(
    user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (user / "empty.toml").touch()  # as a failed `converter check-table --draft … > FILE` leaves it
    assert _size(ArchitectureRegistry.for_user(), "bert") == 768
    broken = user / "broken.toml"
    broken.write_text("model_type = ")
    with pytest.warns(ConverterWarning, match=r"broken.toml: not a TOML file: .*; it is left out"):
        assert _size(ArchitectureRegistry.for_user(), "bert") == 768
    monkeypatch.setenv("CONVERTER_MAPPINGS", str(broken))  # which somebody has asked for
    with (
        pytest.warns(ConverterWarning),
        pytest.raises(TableError, match=r"(?s)broken.toml: not a TOML.*CONVERTER_MAPPINGS lists"),
    ):
        ArchitectureRegistry.for_user()


def test_an_empty_table_next_to_the_bundled_ones_is_ignored(
    bundled: tuple[Path, list[str]],
) -> None:
    directory, _ = bundled
    (directory / "pebble.toml").touch()
    assert "pebble" not in ArchitectureRegistry()
