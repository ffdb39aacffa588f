"""What may stand in a recipe, read off the signatures of the functions that do the work.

So an option of a command is an option of a recipe from the day there is one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from converter.composition.compose import compose
from converter.composition.convert import convert
from converter.composition.options import OutputOptions
from converter.composition.split import split
from converter.hub.push import push

MAKERS: Mapping[str, Callable[..., Any]] = {"compose": compose, "convert": convert, "split": split}
"""The commands that make a checkpoint; a job has exactly one."""

SOURCES = {"compose": ("encoder", "decoder"), "convert": ("source",), "split": ("source",)}
_NOT_IN_RECIPES = {"progress", "dry_run", "directory", "overwrite", "token"}
VERSION = 1


@cache
def options(command: str) -> dict[str, dict[str, Any]]:
    """Option → its JSON Schema, for one of `MAKERS` or ``push``."""
    function = {**MAKERS, "push": push}[command]
    found = {
        name: str(parameter.annotation)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    if command != "push":
        found |= {field.name: str(field.type) for field in fields(OutputOptions)}
    return {name: _typed(kind) for name, kind in found.items() if name not in _NOT_IN_RECIPES}


def required(command: str) -> tuple[str, ...]:
    """The options that a command cannot do without."""
    return ("repo_id",) if command == "push" else (*SOURCES[command], "output")


def _typed(annotation: str) -> dict[str, Any]:
    """The JSON Schema of a value that is annotated so."""
    if "Mapping[" in annotation:
        return {"type": "object"}
    if "Sequence[" in annotation:
        text: dict[str, Any] = {"type": "string"}
        return {"anyOf": [text, {"type": "array", "items": text}]}
    if annotation == "bool":
        return {"type": "boolean"}
    names = {"int": "integer", "str": "string"}
    kinds = [kind for name, kind in names.items() if name in annotation.split(" | ")]
    return {"type": kinds if len(kinds) > 1 else kinds[0]}


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of recipes, for editors."""
    blocks = {name: _block(name) for name in (*MAKERS, "push")}
    job = {
        "type": "object",
        "properties": {"name": {"type": "string"}, **blocks},
        "oneOf": [{"required": [name]} for name in MAKERS],
        "additionalProperties": False,
    }
    every = {name: schema for command in MAKERS for name, schema in options(command).items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Recipe of converter",
        "type": "object",
        "properties": {
            "version": {"const": VERSION},
            "variables": {
                "type": "object",
                "additionalProperties": {"type": ["string", "integer"]},
            },
            "defaults": {"type": "object", "properties": every, "additionalProperties": False},
            "jobs": {"type": "array", "items": job, "minItems": 1},
        },
        "required": ["jobs"],
        "additionalProperties": False,
    }


def _block(command: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": options(command),
        "required": list(required(command)),
        "additionalProperties": False,
    }


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value is of the type that the schema of an option states."""
    if "anyOf" in schema:
        return any(fits(value, each) for each in schema["anyOf"])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if isinstance(value, bool):
        return "boolean" in kinds
    if isinstance(value, list):
        return "array" in kinds and all(fits(item, schema["items"]) for item in value)
    known = {str: "string", int: "integer", dict: "object"}
    return known.get(type(value)) in kinds
