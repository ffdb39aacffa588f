"""One public Python function for each command, with the options of the command line."""

from __future__ import annotations

import importlib
import inspect

import click
import pytest

import converter
from converter.cli import COMMANDS, Commands
from converter.cli.options import GENERAL

FUNCTIONS = {name: name.replace("-", "_") for name in COMMANDS if name != "app"}
SHELL_ONLY = {"json", "save_recipe", "push", "tensors", "html", "summary", "long"}
SHELL_ONLY |= {str(each.name) for each in GENERAL}


@pytest.mark.parametrize(("command", "function"), FUNCTIONS.items())
def test_each_command_is_a_function_of_the_same_name(command: str, function: str) -> None:
    home = "converter.recipes.scheduler" if command == "run" else f"converter.commands.{function}"
    assert getattr(converter, function) is getattr(importlib.import_module(home), function)


@pytest.mark.parametrize(("command", "function"), FUNCTIONS.items())
def test_the_function_takes_the_options_of_the_command(command: str, function: str) -> None:
    parser = Commands().get_command(click.Context(Commands()), command)
    assert parser is not None
    flags = {param.name for param in parser.params} - SHELL_ONLY
    if command in ("compose", "convert"):  # those of --push
        flags -= set(inspect.signature(converter.push).parameters)
    assert flags <= set(inspect.signature(getattr(converter, function)).parameters)


@pytest.mark.parametrize("function", FUNCTIONS.values())
def test_the_result_is_a_public_frozen_value_with_a_document(function: str) -> None:
    result = getattr(converter, inspect.signature(getattr(converter, function)).return_annotation)
    assert result.__dataclass_params__.frozen
    assert callable(result.to_dict)
