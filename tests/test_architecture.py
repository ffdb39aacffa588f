"""What holds the house together: who may import whom, how long files are, where knowledge lies."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from converter.architectures.registry import ArchitectureRegistry

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "converter"

LAYERS = (
    {"errors", "_version"},
    {"file_names", "optional_imports", "name_ranges", "safe_json", "progress"},
    {"option_declaration"},
    {"options"},
    {"tensors"},
    {"mappings"},
    {"architectures"},
    {"formats"},
    {"initializers"},
    {"storage"},
    {"checkpoint"},
    {"plan"},
    {"models"},
    {"planning"},
    {"execution"},
    {"frameworks", "verification"},
    {"commands"},
    {"report"},
    {"verified_push"},
    {"recipes"},
    {""},
    {"cli"},
    {"__main__"},
)
"""Rooms from the ground up; a room may import from those below it, and from itself."""

CORE = {
    "click",
    "numpy",
    "ml_dtypes",
    "safetensors",
    "h5py",
    "msgpack",
    "msgspec",
    "huggingface_hub",
    "rich",
}
"""What is installed with the package."""

MAX_LINES = 600

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """``converter.architectures.loader`` → ``architectures``; the public interface is ``""``."""
    return [*module.split("."), ""][1]


NAMES = {name_of(path) for path in MODULES}


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports anywhere in it, with the line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports relatively"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner if inner in NAMES else str(node.module)), node.lineno


def at_start(path: Path) -> Iterator[str]:
    """The modules that importing a file imports at once."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)


def test_every_room_has_its_place():
    rooms = {room(name) for name in NAMES}
    assert rooms <= set().union(*LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_downwards(path):
    level = {name: height for height, names in enumerate(LAYERS) for name in names}
    own = room(name_of(path))
    upward = [
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for module, line in imports(path)
        if module.split(".")[0] == "converter"
        and room(module) != own
        and level[room(module)] >= level[own]
        and room(module) != "_version"
    ]
    assert not upward


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_start_needs_only_what_is_installed(path):
    foreign = {module.split(".")[0] for module in at_start(path)} - CORE - {"converter"}
    assert foreign <= set(sys.stdlib_module_names)


def test_no_module_imports_itself_in_a_circle():
    graph = {
        name_of(path): {module for module, _ in imports(path)} & NAMES - {name_of(path)}
        for path in MODULES
        if name_of(path) != "converter"
    }
    typing_only = {
        ("converter.formats.base", "converter.formats.file_handle"),
    }
    done: set[str] = set()

    def visit(module: str, chain: tuple[str, ...]) -> None:
        assert module not in chain, " → ".join((*chain, module))
        if module not in done:
            for other in graph.get(module, set()):
                if (module, other) not in typing_only:
                    visit(other, (*chain, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


@cache
def names_of_models() -> set[str]:
    """Names of families, of their classes and of their base models, but for plain words."""
    registry = ArchitectureRegistry()
    found = set(registry.names)
    for name in registry.names:
        if registry.is_composite(name):
            found |= set(registry.composite(name).classes.values())
            continue
        architecture = registry.architecture(name)
        found |= {*architecture.base_model_prefix.values()}
        for model in architecture.models.values():
            found |= {model.name, *model.classes.values()}
    return found - {"", "transformer", "model"}


MAY_NAME = {
    ("architectures/schema.py", "encoder-decoder"),  # the composite of a role that names none
}
"""Where a name may stand all the same: file and name."""


def constants(path: Path) -> Iterator[tuple[str, int]]:
    """The strings of a file, its docstrings left out."""
    tree = ast.parse(path.read_text())
    documented = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node not in documented
        ):
            yield node.value, node.lineno


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_code_knows_no_models_name(path):
    file = str(path.relative_to(PACKAGE))
    named = [
        f"{file}:{line}: {text!r}"
        for text, line in constants(path)
        if text in names_of_models() and (file, text) not in MAY_NAME
    ]
    assert not named


@cache
def name_within_text() -> re.Pattern[str]:
    """Match the name of an architecture as a word."""
    registry = ArchitectureRegistry()
    names = [name for name in registry.names if not registry.is_composite(name)]
    return re.compile(rf"(?<![\w/-])({'|'.join(map(re.escape, names))})(?![\w-])", re.IGNORECASE)


EXAMPLES = {
    ("checkpoint/opening.py", "bert"),  # what a configuration might state
    ("planning/tokenizer_files.py", "prophetnet"),  # a tokenizer's file is called so
}
"""Where a family may be named within a longer text: file and name."""


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_longer_text_hides_a_family(path):
    """Paths such as ``fixtures/bert-tiny`` and the examples of help texts aside."""
    file = str(path.relative_to(PACKAGE))
    word = name_within_text()
    named = [
        f"{file}:{line}: {found[1]} in {text!r}"
        for text, line in constants(path)
        if "Examples:" not in text
        for found in word.finditer(text)
        if text not in names_of_models() and (file, found[1].lower()) not in EXAMPLES
    ]
    assert not named
