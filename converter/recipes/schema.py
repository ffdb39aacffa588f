"""What may stand in a recipe, read off the signatures of the functions that do the work.

So an option of a command is an option of a recipe from the day there is one.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from converter.architectures.presets import load_presets
from converter.architectures.schema import FRAMEWORKS
from converter.commands.compose import compose
from converter.commands.convert import convert
from converter.commands.split import split
from converter.options import DTYPES, PYTORCH_FORMATS, OutputOptions
from converter.planning.compose_options import SUBMODELS
from converter.planning.cross_attention_init import CROSS_ATTENTION_RULES
from converter.planning.resize_embeddings import NEW_ROWS
from converter.planning.tokenizer_files import TOKENIZERS
from converter.storage.hub_upload import push

MAKERS: Mapping[str, Callable[..., Any]] = {"compose": compose, "convert": convert, "split": split}
"""The commands that make a checkpoint; a job has exactly one."""

_FUNCTIONS = {**MAKERS, "push": push}

SOURCES = {"compose": ("encoder", "decoder"), "convert": ("source",), "split": ("source",)}
_NOT_IN_RECIPES = {"progress", "dry_run", "directory", "overwrite", "token"}
VERSION = 1


@cache
def options(command: str) -> dict[str, dict[str, Any]]:
    """Option → its JSON Schema, for one of `MAKERS` or ``push``."""
    told = _told(_FUNCTIONS[command])
    choices = _choices()
    return {
        name: {**_typed(kind, choices.get(name, ())), **told.get(name, {})}
        for name, kind in _annotations(command).items()
    }


def paths(command: str) -> set[str]:
    """The options of a command that are paths."""
    return {name for name, kind in _annotations(command).items() if "Path" in kind}


def _annotations(command: str) -> dict[str, str]:
    """Option → its annotation."""
    found = {
        name: str(parameter.annotation)
        for name, parameter in inspect.signature(_FUNCTIONS[command]).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    if command != "push":
        found |= {field.name: str(field.type) for field in fields(OutputOptions)}
    return {name: kind for name, kind in found.items() if name not in _NOT_IN_RECIPES}


def required(command: str) -> tuple[str, ...]:
    """The options that a command cannot do without."""
    return ("repo_id",) if command == "push" else (*SOURCES[command], "output")


def _choices() -> dict[str, tuple[str, ...]]:
    """Option → the values that there are, where they are few."""
    return {
        "to": tuple(FRAMEWORKS),
        "pytorch_format": tuple(PYTORCH_FORMATS),
        "dtype": tuple(DTYPES),
        "random": tuple(SUBMODELS),
        "tokenizer": tuple(TOKENIZERS),
        "init": tuple(CROSS_ATTENTION_RULES),
        "resize_with": tuple(NEW_ROWS),
        "like": tuple(load_presets()),
    }


def _told(function: Callable[..., Any]) -> dict[str, dict[str, str]]:
    """Option → its description, as the function's docstring has it."""
    _, _, section = (inspect.getdoc(function) or "").partition("\nArgs:\n")
    lines = section.partition("\n\n")[0]
    found = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", lines, re.MULTILINE)
    return {
        name: {"description": " ".join(text.replace("``", "`").split())} for name, text in found
    }


def _typed(annotation: str, choices: tuple[str, ...]) -> dict[str, Any]:
    """The JSON Schema of a value that is annotated so."""
    text: dict[str, Any] = {"type": "string"}
    if choices:
        text["enum"] = list(choices)
    if "Sequence[" in annotation:
        return {"anyOf": [text, {"type": "array", "items": text}]}
    if annotation == "bool":
        return {"type": "boolean"}
    names = {"int": "integer", "str": "string"}
    kinds = [kind for name, kind in names.items() if name in annotation.split(" | ")]
    return {**text, "type": kinds if len(kinds) > 1 else kinds[0]}


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
