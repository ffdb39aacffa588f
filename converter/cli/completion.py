"""What the shell offers for an argument, told without importing what the command needs.

Each function is a ``shell_complete`` of click's: context, parameter and what is typed so far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.resources import files
from typing import TypeAlias

import click
from click.shell_completion import CompletionItem

Completion: TypeAlias = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def sources(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """A checkpoint that lies here, which the shell knows best how to offer."""
    return [CompletionItem(incomplete, type="file")]


def families(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The families and composites, as the tables' files are called."""
    tables = (table.name for table in files("converter.mappings").iterdir())
    stems = (name.removesuffix(".toml") for name in tables if name.endswith(".toml"))
    return _starting(incomplete, {stem: "" for stem in stems if not stem.startswith("_")})


def recipes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The configurations of the literature, with the paper of each."""
    import tomllib

    text = files("converter.mappings").joinpath("_recipes.toml").read_text("utf-8")
    return _starting(incomplete, {n: each["paper"] for n, each in tomllib.loads(text).items()})


def comma_separated(names: Iterable[str]) -> Completion:
    """Some of `names`, with commas between them."""
    known = tuple(names)

    def complete(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        before, comma, last = incomplete.rpartition(",")
        given = before.split(",")
        free = {name: "" for name in known if name not in given}
        return _starting(last, free, before + comma)

    return complete


def _starting(incomplete: str, names: Mapping[str, str], lead: str = "") -> list[CompletionItem]:
    """The names that begin so, each with what is said of it."""
    return [
        CompletionItem(lead + name, help=said or None)
        for name, said in sorted(names.items())
        if name.startswith(incomplete)
    ]
