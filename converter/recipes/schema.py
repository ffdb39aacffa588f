"""What may stand in a recipe, read off the signatures of the functions that do the work.

So an option of a command is an option of a recipe from the day there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from converter.architectures.presets import load_presets
from converter.commands.compose import compose
from converter.commands.convert import convert
from converter.commands.split import split
from converter.option_declaration import Option, options_of
from converter.options import ComposeOptions, ConvertOptions, PushOptions, SplitOptions

MAKERS: Mapping[str, Callable[..., Any]] = {"compose": compose, "convert": convert, "split": split}
"""The commands that make a checkpoint; a job has exactly one."""

SOURCES = {"compose": ("encoder", "decoder"), "convert": ("source",), "split": ("source",)}
VERSION = 1


_FIELDS = {
    "compose": ComposeOptions,
    "convert": ConvertOptions,
    "split": SplitOptions,
    "push": PushOptions,
}


@cache
def options(command: str) -> dict[str, dict[str, Any]]:
    """Return option → its JSON Schema, for one of `MAKERS` or ``push``."""
    return {
        each.name: {"description": each.description, **_typed(each)}
        for each in options_of(_FIELDS[command]).values()
        if each.declared.recipe
    }


def paths(command: str) -> set[str]:
    """Return the options of a command that are paths."""
    return {
        each.name
        for each in options_of(_FIELDS[command]).values()
        if each.declared.recipe and Path in each.items
    }


def required(command: str) -> tuple[str, ...]:
    """The options that a command cannot do without."""
    return ("repo_id",) if command == "push" else (*SOURCES[command], "output")


def _typed(option: Option) -> dict[str, Any]:
    """Return the JSON Schema of an option's value."""
    names = {int: "integer", str: "string", bool: "boolean"}
    kinds = [names[each] for each in option.items if each in names] or ["string"]
    value: dict[str, Any] = {"type": kinds if len(kinds) > 1 else kinds[0]}
    choices = load_presets() if option.declared.kind == "preset" else option.choices
    if choices:
        value["enum"] = list(choices)
    if option.repeats:
        return {"anyOf": [value, {"type": "array", "items": value}]}
    return value


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of recipes, for editors.

    Any value may be a text with variables instead.
    """
    blocks = {name: _block(name) for name in (*MAKERS, "push")}
    job = {
        "type": "object",
        "properties": {
            "name": {
                "type": "string",
                "description": "What the job is called; the last part of its output unless given.",
            },
            **blocks,
        },
        "oneOf": [{"required": [name]} for name in MAKERS],
        "additionalProperties": False,
    }
    every = {name: schema for command in MAKERS for name, schema in options(command).items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Recipe of converter",
        "type": "object",
        "properties": {
            "$schema": {"type": "string"},
            "version": {"const": VERSION},
            "variables": {
                "type": "object",
                "description": "Values that ${name} stands for; --var NAME=VALUE wins over them.",
                "additionalProperties": {"type": ["string", "number", "boolean"]},
            },
            "defaults": {
                "type": "object",
                "description": "Options of every job whose command has them.",
                "properties": {name: _or_variable(schema) for name, schema in every.items()},
                "additionalProperties": False,
            },
            "jobs": {"type": "array", "items": job, "minItems": 1},
        },
        "required": ["jobs"],
        "additionalProperties": False,
    }


def _block(command: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: _or_variable(each) for name, each in options(command).items()},
        "required": list(required(command)),
        "additionalProperties": False,
    }


def _or_variable(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a value before its variables are filled in."""
    told = {key: value for key, value in schema.items() if key == "description"}
    bare = {key: value for key, value in schema.items() if key != "description"}
    if is_valid("${any}", bare):
        return {**bare, **told}
    variable = {"type": "string", "pattern": r"\$"}
    inner = bare.get("anyOf", [bare])
    return {"anyOf": [*inner, variable], **told}


def is_valid(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value is one that the schema of an option allows."""
    if "anyOf" in schema:
        return any(is_valid(value, each) for each in schema["anyOf"])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if isinstance(value, bool):
        return "boolean" in kinds
    if isinstance(value, list):
        return "array" in kinds and all(is_valid(item, schema["items"]) for item in value)
    known = {str: "string", int: "integer"}
    return known.get(type(value)) in kinds and value in schema.get("enum", (value,))


def expected_type(schema: Mapping[str, Any]) -> str:
    """What an option may be, in words."""
    if "anyOf" in schema:
        return f"{expected_type(schema['anyOf'][0])}, or a list of such"
    if "enum" in schema:
        return " or ".join(schema["enum"])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    words = {"string": "text", "integer": "a whole number", "boolean": "true or false"}
    return " or ".join(words[kind] for kind in kinds)
