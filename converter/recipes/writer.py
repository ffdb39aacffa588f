"""A command as a recipe of one job."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converter.errors import OutputError
from converter.recipes.schema import VERSION, options


def save_recipe(
    path: Path, command: str, given: Mapping[str, Any], pushed: Mapping[str, Any]
) -> None:
    """Write the recipe of a command.

    Args:
        path: the file, JSON if its name ends in ``.json`` and YAML otherwise.
        command: ``compose``, ``convert`` or ``split``.
        given: its arguments and options; those that no recipe has are left out.
        pushed: options of `push`; none if nothing is pushed.

    Raises:
        OutputError: if the file cannot be written.

    """
    job: dict[str, Any] = {"name": Path(str(given["output"])).name, command: _plain(command, given)}
    if pushed:
        job["push"] = _plain("push", pushed)
    recipe = {"version": VERSION, "jobs": [job]}
    if path.suffix == ".json":
        text = json.dumps(recipe, indent=2, ensure_ascii=False) + "\n"
    else:
        import yaml

        text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def _plain(command: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a recipe has, as YAML and JSON have them."""
    found: dict[str, Any] = {}
    for name in options(command):
        value = given.get(name)
        if isinstance(value, list | tuple):
            value = [_text(item) for item in value]
        if value not in (None, False, [], {}):
            found[name] = _text(value)
    return found


def _text(value: Any) -> Any:
    """Paths as text, and every ``$`` so that it does not begin a variable."""
    text = str(value) if isinstance(value, Path) else value
    return text.replace("$", "$$") if isinstance(text, str) else text
