"""The bundled tables: where they are, and that a process loads each of them once."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import converter.file_names
from converter.architectures import registry
from converter.architectures.registry import ArchitectureRegistry
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
    for name in ("bert", "roberta"):
        assert own.architecture(name).config["hidden_size"] == 760
        assert ArchitectureRegistry().architecture(name).config["hidden_size"] == 768
