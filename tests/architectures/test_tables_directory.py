"""The bundled tables are found in a checkout and in an installed package."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import converter.file_names
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
