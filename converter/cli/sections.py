"""Help texts of commands with many options, in sections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

Decorator = Callable[[Any], Any]

_OTHER = "Other options"


class Sectioned(click.Command):
    """A command whose help lists its options under the titles that `section` gave them."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list a section, in the order in which sections begin; the others last."""
        lists: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record and isinstance(param, click.Option):
                lists.setdefault(getattr(param, "section", _OTHER), []).append(record)
        for title in sorted(lists, key=lambda title: title == _OTHER):
            with formatter.section(title):
                formatter.write_dl(lists[title])


def section(title: str, options: Sequence[Decorator]) -> tuple[Decorator, ...]:
    """`options`, to be listed under `title`."""
    return tuple(_under(title, option) for option in options)


def _under(title: str, option: Decorator) -> Decorator:
    def decorate(function: Any) -> Any:
        decorated = option(function)
        decorated.__click_params__[-1].section = title
        return decorated

    return decorate
