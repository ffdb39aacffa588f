"""Layers, sizes of files and functions, and knowledge of models, which belongs in the tables."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from functools import cache
from pathlib import Path

import pytest

from converter.architectures.registry import ArchitectureRegistry

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "converter"

LAYERS = (
    {"system", "text", "display"},
    {"errors", "cleanup", "_version"},
    {"file_names", "optional_imports", "progress"},
    {"recognition"},
    {"safe_json"},
    {"option_declaration"},
    {"options"},
    {"python_calls"},
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
    {"notebook"},
    {""},
    {"app"},
    {"cli"},
    {"__main__"},
)
"""Packages from the lowest; each may import from those below it, and from itself."""

CORE = {
    "click",
    "google_crc32c",
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
MAX_FUNCTION_LINES = 90
MAX_COMMAND_LINES = 60
MAX_TOTAL_LINES = 36_400

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(module: str) -> str:
    """``converter.architectures.loader`` → ``architectures``; the public interface is ``""``."""
    return [*module.split("."), ""][1]


NAMES = {name_of(path) for path in MODULES}


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield every module that a file imports anywhere in it, with the line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports relatively"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner if inner in NAMES else str(node.module)), node.lineno


def at_start(path: Path) -> Iterator[str]:
    """Yield the modules that are imported when a file is."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)


def test_every_package_has_its_layer():
    packages = {package_of(name) for name in NAMES}
    assert packages <= set().union(*LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_downwards(path):
    level = {name: height for height, names in enumerate(LAYERS) for name in names}
    own = package_of(name_of(path))
    upward = [
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for module, line in imports(path)
        if module.split(".")[0] == "converter"
        and package_of(module) != own
        and level[package_of(module)] >= level[own]
        and package_of(module) != "_version"
    ]
    assert not upward


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_start_needs_only_what_is_installed(path):
    foreign = {module.split(".")[0] for module in at_start(path)} - CORE - {"converter"}
    assert foreign <= set(sys.stdlib_module_names)


def test_imports_have_no_cycles():
    graph = {
        name_of(path): {module for module, _ in imports(path)} & NAMES - {name_of(path)}
        for path in MODULES
        if name_of(path) != "converter"
    }
    typing_only = {("converter.formats.base", "converter.formats.file_handle")}
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


def test_every_package_is_installed():
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    stated = {*setup["options"]["packages"].split()} - {"converter.mappings"}
    assert stated == {name_of(path) for path in MODULES if path.name == "__init__.py"}


def test_the_package_stays_small():
    assert sum(len(path.read_text().splitlines()) for path in MODULES) <= MAX_TOTAL_LINES


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_functions_stay_short(path):
    limit = MAX_COMMAND_LINES if package_of(name_of(path)) == "commands" else MAX_FUNCTION_LINES
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and body_lines(node) > limit
    ]
    assert not long


def body_lines(function: ast.FunctionDef) -> int:
    """Return the number of lines of a function's body, without its docstring."""
    has_docstring = ast.get_docstring(function) is not None and len(function.body) > 1
    first, last = function.body[1 if has_docstring else 0], function.body[-1]
    return (last.end_lineno or last.lineno) - first.lineno + 1


SYSTEM_MODULES = set("ctypes fcntl grp mmap msvcrt pty pwd resource select termios winreg".split())
PORTABLE = {
    "os": {
        *("PathLike", "_exit", "close", "environ", "fdopen", "fspath", "fstat", "ftruncate"),
        *("getpid", "path", "pathsep", "strerror", "urandom", "write"),
    },
    "signal": set(
        "SIGINT SIGTERM SIG_DFL SIG_IGN Signals default_int_handler getsignal signal".split()
    ),
}
"""What is the same on every system, of modules where much is not."""
PARTS_OF_STATUS = set("st_blksize st_blocks st_birthtime st_flags st_gid st_nlink st_uid".split())


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_one_module_calls_what_differs_between_systems(path):
    if name_of(path) == "converter.system":
        return
    file = path.relative_to(ROOT)
    calls = [f"{file}:{line}: {name}" for name, line in imports(path) if name in SYSTEM_MODULES]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.module not in PORTABLE, f"{file}:{node.lineno}: import {node.module} itself"
        if isinstance(node, ast.Attribute):
            module = node.value.id if isinstance(node.value, ast.Name) else ""
            if node.attr in PARTS_OF_STATUS or node.attr not in PORTABLE.get(module, {node.attr}):
                calls.append(f"{file}:{node.lineno}: {node.attr}")
    assert not calls


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_text_has_the_same_encoding_and_line_ends_on_every_system(path):
    """Files are opened in binary mode, or with an encoding; nothing translates line ends."""
    wrong = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        values = [each.value for each in node.args if isinstance(each, ast.Constant)]
        keys = {each.arg for each in node.keywords}
        is_text = name in ("read_text", "write_text") or (
            name in ("open", "fdopen") and not {"r", "w", "a", "x"}.isdisjoint(values)
        )
        has_encoding = "encoding" in keys or not {"utf-8", "ascii"}.isdisjoint(values)
        if is_text and (not has_encoding or (name == "write_text" and "newline" not in keys)):
            wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")
    assert not wrong


@cache
def names_of_models() -> set[str]:
    """Return the names of architectures, their classes and base models, without plain words."""
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
    ("architectures/schema.py", "encoder-decoder")  # the composite of a role that names none
}
"""Exceptions: file and name."""


def constants(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the strings of a file and their lines, without docstrings."""
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
def test_code_names_no_model(path):
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
    ("recognition.py", "t5"),  # the path of a script in transformers
    ("planning/tokenizer_files.py", "prophetnet"),  # a tokenizer's file is called so
}
"""Exceptions within longer texts: file and name."""


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_longer_text_names_an_architecture(path):
    """Except in paths such as ``fixtures/bert-tiny`` and the examples of help texts."""
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
