"""Writes `api.md`, the reference of all public names: ``python docs/api.py``."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import converter
import converter.progress

PAGE = Path(__file__).with_name("api.md")
_INTRODUCTION = """# Reference of the Python interface

Every public name: `from converter import NAME`. This page is made by `python docs/api.py` from the
docstrings; [From Python](python.md) shows how to use them.
"""
FUNCTIONS = (
    "compose", "convert", "split", "open_checkpoint", "inspect", "verify", "diff", "push", "run",
    "families", "check_table", "env",
)  # fmt: skip
_SECTION = re.compile(r"^(Args|Returns|Raises):$", re.MULTILINE)


def text() -> str:
    """Return the page."""
    public = [name for name in converter.__all__ if not name.startswith("_")]
    errors = [name for name in public if _is_error(name)]
    classes = [name for name in public if name not in (*FUNCTIONS, *errors, "Progress")]
    parts = [_INTRODUCTION, "## Functions\n"]
    parts += [_function(name, getattr(converter, name), "###") for name in FUNCTIONS]
    parts += ["## Reports and other types\n"]
    parts += [_class(name) for name in classes]
    parts += ["### Progress\n", _alias()]
    parts += ["## Errors\n", _body(inspect.getdoc(inspect.getmodule(converter.Problem)) or "")]
    return "\n".join(parts)


def _is_error(name: str) -> bool:
    value = getattr(converter, name)
    return isinstance(value, type) and issubclass(value, Exception)


def _function(name: str, function: Any, heading: str) -> str:
    return f"{heading} {name}\n\n{_signature(name, function)}\n{_body(inspect.getdoc(function))}"


def _signature(name: str, function: Any) -> str:
    """Return the call, one argument a line where it does not fit on one line."""
    signature = inspect.signature(function)
    arguments: list[str] = []
    for each in signature.parameters.values():
        if each.kind is each.KEYWORD_ONLY and "*" not in arguments:
            arguments.append("*")
        arguments.append(_argument(each))
    call = f"{name}({', '.join(arguments)}) -> {signature.return_annotation}"
    if len(call) > 88:
        lines = "".join(f"    {argument},\n" for argument in arguments)
        call = f"{name}(\n{lines}) -> {signature.return_annotation}"
    return f"```python\n{call}\n```\n"


def _argument(parameter: inspect.Parameter) -> str:
    """Return an argument such as ``seed: int = 0``."""
    end = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
    annotation = parameter.annotation
    kind = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    plain = re.sub(r"\b(?:[a-z_]+\.)+([A-Z])", r"\1", kind)
    return f"{parameter.name}: {plain}{end}"


def _class(name: str) -> str:
    cls = getattr(converter, name)
    return f"### {name}\n\n{_body(inspect.getdoc(cls))}\n{_members(cls)}"


def _members(cls: type) -> str:
    """Fields, properties and methods, in the order of the source."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(tree, ast.ClassDef)
    lines = list(_described(tree.body))
    return "".join(f"- {line}\n" for line in lines) + "\n" if lines else ""


def _described(body: list[ast.stmt]) -> Iterator[str]:
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if not node.target.id.startswith("_"):
                what = f"`{node.target.id}: {ast.unparse(node.annotation)}`"
                yield what + _said(after if isinstance(after, ast.Expr) else None)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            doc = next((each for each in node.body if isinstance(each, ast.Expr)), None)
            if any(ast.unparse(mark) == "property" for mark in node.decorator_list):
                assert node.returns
                yield f"`{node.name}: {ast.unparse(node.returns)}`{_said(doc)}"
            else:
                yield f"`{_call(node)}`{_said(doc)}"


def _call(node: ast.FunctionDef) -> str:
    arguments = ast.unparse(node.args)
    arguments = re.sub(r"^(self|cls)(, )?", "", arguments)
    assert node.returns
    return f"{node.name}({arguments}) -> {ast.unparse(node.returns)}"


def _said(node: ast.Expr | None) -> str:
    """Return the first paragraph of a docstring, after a colon."""
    if node is None or not isinstance(node.value, ast.Constant):
        return ""
    first = inspect.cleandoc(str(node.value.value)).partition("\n\n")[0]
    return f": {_prose(' '.join(first.split()))}"


def _body(doc: str | None) -> str:
    """Return a docstring as Markdown, its sections as lists."""
    pieces = _SECTION.split(doc or "")
    parts = [_paragraphs(pieces[0])]
    for title, content in zip(pieces[1::2], pieces[2::2], strict=True):
        items = _items(textwrap.dedent(content.strip("\n")), named=title != "Returns")
        parts.append(f"{title}:\n\n" + "".join(f"- {item}\n" for item in items))
    return "\n".join(parts)


def _paragraphs(doc: str) -> str:
    """Prose with its line breaks; what is indented stays a block."""
    parts = []
    for paragraph in doc.strip().split("\n\n"):
        if paragraph.startswith("    "):
            parts.append(f"```text\n{textwrap.dedent(paragraph)}\n```\n")
        else:
            parts.append(_prose(paragraph.removesuffix("::") + "\n"))
    return "\n".join(parts)


def _items(content: str, named: bool) -> Iterator[str]:
    """Return the entries of a section: name and description, further lines indented."""
    for entry in re.split(r"\n(?=\S)", content.strip()):
        flat = " ".join(entry.split())
        name, colon, said = flat.partition(": ")
        yield f"`{name}`: {_prose(said)}" if named and colon else _prose(flat)


def _prose(said: str) -> str:
    return said.replace("``", "`")


def _alias() -> str:
    """Return the type that `Progress` is an alias of, and its documentation."""
    body = ast.parse(inspect.getsource(converter.progress)).body
    at, node = next((n, each) for n, each in enumerate(body) if isinstance(each, ast.AnnAssign))
    said = body[at + 1]
    assert node.value and isinstance(said, ast.Expr) and isinstance(said.value, ast.Constant)
    text = _prose(inspect.cleandoc(str(said.value.value)))
    return f"`{ast.unparse(node.value)}`\n\n{text}\n"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
