"""What a recipe may contain, made from the declarations in `converter.options`.

So every option of a command is an option of recipes, and of their JSON Schema.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, reduce
from operator import or_
from pathlib import Path
from typing import Any, Literal

import msgspec

from converter.architectures.loader import load_presets
from converter.commands.compose import compose
from converter.commands.convert import convert
from converter.commands.split import split
from converter.option_declaration import Option, options_of
from converter.options import ComposeOptions, ConvertOptions, PushOptions, SplitOptions

COMMANDS: Mapping[str, Callable[..., Any]] = {
    "compose": compose,
    "convert": convert,
    "split": split,
}
"""The commands that write a checkpoint; a job has exactly one."""

SOURCES = {"compose": ("encoder", "decoder"), "convert": ("source",), "split": ("source",)}
VERSION = 1
JOB_KEYS = ("name", "for_each", "push")
TOP_LEVEL = ("$schema", "version", "variables", "defaults", "jobs")

_DECLARED = {
    "compose": ComposeOptions,
    "convert": ConvertOptions,
    "split": SplitOptions,
    "push": PushOptions,
}
_NAMES = {str: "a string", int: "an integer", bool: "true or false"}


@cache
def recipe_options(command: str) -> dict[str, Option]:
    """Return the options of one of `COMMANDS` or ``push`` that a recipe may set, by name."""
    declared = options_of(_DECLARED[command]).values()
    return {each.name: each for each in declared if each.in_recipes}


@cache
def value_type(command: str, name: str) -> Any:
    """Return the type of an option's value in YAML and JSON."""
    option = recipe_options(command)[name]
    single: Any = reduce(or_, dict.fromkeys(str if each is Path else each for each in option.items))
    if option.declared.kind == "preset":
        single = Literal[tuple(load_presets())]
    return single | list[single] if option.repeats else single


def convert_value(command: str, name: str, value: Any, *, lax: bool) -> Any:
    """Return a value as its option takes it; a single value of one that repeats becomes a list.

    If `lax`, a string may also be the text of a number or truth value. Raise
    msgspec.ValidationError if the option does not take the value.
    """
    kind = value_type(command, name)
    try:
        converted = msgspec.convert(value, kind)
    except msgspec.ValidationError:
        if not lax:
            raise
        converted = msgspec.convert(value, kind, strict=False)
    repeats = recipe_options(command)[name].repeats
    return [converted] if repeats and not isinstance(converted, list) else converted


def choices_of(command: str, name: str) -> tuple[str, ...]:
    """Return the values to choose from, if there are only few."""
    option = recipe_options(command)[name]
    return (*load_presets(),) if option.declared.kind == "preset" else option.choices


def expected_value(command: str, name: str) -> str:
    """Return what an option takes, in words."""
    option = recipe_options(command)[name]
    choices = choices_of(command, name)
    types = dict.fromkeys(_NAMES.get(each, "a string") for each in option.items)
    return " or ".join(choices or types) + (", or a list of such" if option.repeats else "")


def recipe_schema() -> dict[str, Any]:
    """Return the JSON Schema of recipes, for editors.

    Any value may be a string with variables instead.
    """
    blocks = {command: _block(command) for command in (*COMMANDS, "push")}
    job = {
        "type": "object",
        "properties": {
            "name": {
                "type": "string",
                "description": "Name of the job. Default: the last part of its output.",
            },
            "for_each": {
                "type": "object",
                "description": "Variable → its values: one job for each combination of them.",
                "additionalProperties": {
                    "type": "array",
                    "items": {"type": ["string", "number", "boolean"]},
                },
            },
            **blocks,
        },
        "oneOf": [{"required": [name]} for name in COMMANDS],
        "additionalProperties": False,
    }
    defaults = {name: schema for each in COMMANDS for name, schema in _properties(each).items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Recipe of converter",
        "type": "object",
        "properties": {
            "$schema": {"type": "string"},
            "version": {"const": VERSION},
            "variables": {
                "type": "object",
                "description": "Values of ${name}; --var NAME=VALUE takes precedence.",
                "additionalProperties": {"type": ["string", "number", "boolean"]},
            },
            "defaults": {
                "type": "object",
                "description": "Options of every job whose command has them.",
                "properties": defaults,
                "additionalProperties": False,
            },
            "jobs": {"type": "array", "items": job, "minItems": 1},
        },
        "required": ["jobs"],
        "additionalProperties": False,
    }


def _block(command: str) -> dict[str, Any]:
    """Return the schema of a command's options."""
    return {
        "type": "object",
        "properties": _properties(command),
        "required": [name for name, each in recipe_options(command).items() if each.is_required],
        "additionalProperties": False,
    }


def _properties(command: str) -> dict[str, dict[str, Any]]:
    """Return option → the schema of its value, which may be a string with variables."""
    properties = {}
    for name, option in recipe_options(command).items():
        schema = msgspec.json.schema(value_type(command, name))
        alternatives = schema.get("anyOf", [schema])
        if not any(each.get("type") == "string" for each in alternatives):
            schema = {"anyOf": [*alternatives, {"type": "string", "pattern": r"\$"}]}
        properties[name] = {"description": option.description, **schema}
    return properties
