"""Command-line options, made from the declarations in `converter.options`, and their completion.

Completion imports nothing that only the command itself needs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import cleandoc
from typing import Any, NoReturn

import click
from click import Context, Parameter
from click.shell_completion import CompletionItem

from converter._version import __version__
from converter.cli.console import LEVELS, set_quiet, show_logs
from converter.errors import UsageError
from converter.file_names import tables_directory, tables_in, user_tables
from converter.option_declaration import (
    EXECUTION,
    GROUPS,
    OTHER,
    Option,
    closest_name,
    options_of,
    parse_size,
)

Completion = list[CompletionItem]


class PathText(click.Path):
    """A path that the system can represent."""

    def convert(self, value: Any, param: Parameter | None, ctx: Context | None) -> Any:
        """Return the path if it is valid."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            from converter.storage.references import similar_path

            if self.exists and (hint := similar_path(value)):
                return self.fail(f"{error.message} {hint}", param, ctx)
            raise
        except ValueError:  # of `os.stat`, for a null character or an unpaired surrogate
            return self.fail(f"{value!r} is not a name that a file can have.", param, ctx)


FILE = PathText(exists=True, dir_okay=False, readable=True, path_type=None)
NEW_FILE = PathText(dir_okay=False)
# A path or a URL is kept as given: `Path` would take one of the slashes of ``s3://``.
PATH_OR_URL = PathText()


class GroupedOption(click.Option):
    """An option that the help lists under the heading `group`."""

    def __init__(self, *args: Any, group: str = OTHER, **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self.group = group


_FLAG = re.compile(r"(?<![\w/-])--[a-z][a-z-]+")
_COMMAND_LINE = re.compile(r"`[^`]*`|^ *converter .*", re.MULTILINE)


class GroupedCommand(click.Command):
    """A command whose help lists its options by group, and whose errors say whose others are."""

    def invoke(self, ctx: Context) -> Any:
        """Run the command; an error that names an option of other commands names those."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            from converter.errors import ConverterError, resource_error

            known = error if isinstance(error, ConverterError) else resource_error(error)
            if known is None:
                raise
            texts = [known.remedy or "", *(each.remedy or "" for each in known.problems)]
            notes = [*self._options_of_others(ctx, "\n".join(texts))]
            known.remedy = "\n".join(filter(None, (known.remedy, " ".join(notes)))) or None
            if known is error:
                raise
            raise known from error

    def _options_of_others(self, ctx: Context, text: str) -> Iterator[str]:
        """Yield a sentence for each option in a text that other commands have, and not this one."""
        flags = dict.fromkeys(_FLAG.findall(_COMMAND_LINE.sub("", text)))
        other = set(flags) - {flag for each in self.get_params(ctx) for flag in each.opts}
        group = ctx.find_root().command
        if other and isinstance(group, click.Group):
            commands = {name: group.get_command(ctx, name) for name in group.list_commands(ctx)}
            opts = {n: {o for p in c.params for o in p.opts} for n, c in commands.items() if c}
            for flag in (each for each in flags if each in other):
                names = [name for name, each in opts.items() if flag in each]
                if names:
                    yield f"{flag} is an option of {', '.join(names)}."

    def format_options(self, ctx: Context, formatter: click.HelpFormatter) -> None:
        """Write one list for each group."""
        groups: dict[str, list[tuple[str, str]]] = {name: [] for name in GROUPS}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record and isinstance(param, click.Option):
                groups[getattr(param, "group", OTHER)].append(record)
        for name, records in groups.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


class Size(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2
    """A number of bytes such as ``512MB``."""

    name = "size"

    def convert(self, value: Any, param: Parameter | None, ctx: Context | None) -> str | int:
        """Return the value unchanged if it is a size."""
        try:
            parse_size(value)
        except UsageError as error:
            self.fail(f"{error.message}; write it like 512MB or 2GiB.", param, ctx)
        return value  # type: ignore[no-any-return]


class Choice(click.Choice):  # type: ignore[type-arg]  # generic since click 8.2
    """One of some names, of which the closest is suggested."""

    def convert(self, value: Any, param: Parameter | None, ctx: Context | None) -> Any:
        """Return the name."""
        if value not in self.choices:
            fail_choice(self, value, self.choices, param, ctx)
        return value


def fail_choice(
    kind: click.ParamType,  # type: ignore[type-arg]  # generic since click 8.2
    value: str,
    choices: Sequence[str],
    param: Parameter | None,
    ctx: Context | None,
) -> NoReturn:
    """Fail for a value that is not one of the choices."""
    hint = f" {closest}" if (closest := closest_name(value, choices)) else ""
    kind.fail(f"{value!r} is not one of {', '.join(choices)}.{hint}", param, ctx)


class Names(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2
    """Some of `choices`, with commas between them."""

    name = "names"

    def __init__(self, choices: Sequence[str]) -> None:
        self.choices = choices

    def convert(self, value: Any, param: Parameter | None, ctx: Context | None) -> tuple[str, ...]:
        """Return the names."""
        names = tuple(name.strip() for name in value.split(","))
        for name in names:
            if name not in self.choices:
                fail_choice(self, name, self.choices, param, ctx)
        return names

    def shell_complete(self, ctx: Context, param: Parameter, incomplete: str) -> Completion:
        """Offer the names that are not given yet."""
        before, comma, last = incomplete.rpartition(",")
        free = {name: "" for name in self.choices if name not in before.split(",")}
        return _starting_with(last, free, before + comma)


class Assignment(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2
    """``NAME=VALUE``."""

    name = "assignment"

    def convert(self, value: Any, param: Parameter | None, ctx: Context | None) -> tuple[str, str]:
        """Return name and value."""
        name, equals, text = value.partition("=")
        if not equals or not name.isidentifier():
            self.fail(f"{value!r} is not NAME=VALUE.", param, ctx)
        return name, text


def _flatten(
    ctx: Context, param: Parameter, values: tuple[tuple[str, ...], ...]
) -> tuple[str, ...] | None:
    return tuple(dict.fromkeys(name for names in values for name in names)) or None


def _as_dict(ctx: Context, param: Parameter, values: tuple[tuple[str, str], ...]) -> dict[str, str]:
    return dict(values)


def _complete_table(ctx: Context, param: Parameter, incomplete: str) -> Completion:
    """Offer the architectures and composites by the file names of their tables."""
    own, stated = user_tables()
    stems = (path.stem for path in (*tables_in(tables_directory()), *own, *stated))
    return _starting_with(incomplete, {stem: "" for stem in stems if not stem.startswith("_")})


def _complete_preset(ctx: Context, param: Parameter, incomplete: str) -> Completion:
    """Offer the presets, with the paper of each."""
    import tomllib

    text = (tables_directory() / "_presets.toml").read_text("utf-8")
    papers = {name: preset["paper"] for name, preset in tomllib.loads(text).items()}
    return _starting_with(incomplete, papers)


def _starting_with(incomplete: str, names: Mapping[str, str], prefix: str = "") -> Completion:
    return [
        CompletionItem(prefix + name, help=text or None)
        for name, text in sorted(names.items())
        if name.startswith(incomplete)
    ]


_COMPLETION: dict[str, Callable[[Context, Parameter, str], Completion]] = {
    "checkpoint": lambda ctx, param, incomplete: [CompletionItem(incomplete, type="file")],
    "table": _complete_table,
    "preset": _complete_preset,
}


def _type(option: Option) -> Any:
    """Return the click type of a single value."""
    kinds = {"file": FILE, "size": Size(), "output": PATH_OR_URL, "directory": PATH_OR_URL}
    if option.declared.kind in kinds:
        return kinds[option.declared.kind]
    if option.declared.kind == "list":
        return Names(option.choices)
    if option.choices:
        return Choice(option.choices)
    if any(isinstance(each, type) and issubclass(each, str) for each in option.items):
        return str
    if float in option.items:
        return click.FloatRange(min=option.declared.minimum)
    if int in option.items:
        least, most = option.declared.minimum, option.declared.maximum
        return int if least is None and most is None else click.IntRange(least, most)
    return Assignment()


def click_argument(argument: Option) -> click.Argument:
    """Return the click argument of a declared argument."""
    metavar = argument.declared.metavar
    return click.Argument(
        [argument.name],
        metavar=f"{metavar}..." if argument.repeats else metavar,
        nargs=-1 if argument.repeats else 1,
        required=argument.is_required,
        type=_type(argument),
        shell_complete=_COMPLETION.get(argument.declared.kind),
    )


def click_option(option: Option) -> GroupedOption:
    """Return the click option of a declared option."""
    declared = option.declared
    kind = _type(option) if bool not in option.items else None
    repeats = option.repeats or isinstance(kind, Assignment)
    help = declared.help + (" May repeat." if repeats and declared.kind != "list" else "")
    if option.choices and declared.metavar:  # which takes the place of the choices
        help += f" One of {', '.join(option.choices)}."
    callbacks: dict[type, Callable[..., Any]] = {Names: _flatten, Assignment: _as_dict}
    attrs: dict[str, Any] = {"is_flag": True}
    if kind is not None:
        attrs = {
            "type": kind,
            "multiple": repeats,
            "default": () if repeats else option.default,
            "show_default": not repeats and option.default is not None,
            "metavar": declared.metavar,
            "callback": callbacks.get(type(kind)),
            "shell_complete": _COMPLETION.get(declared.kind),
        }
    return GroupedOption(
        [option.flag, option.name],
        help=help + (f"  [default: {declared.absent}]" if declared.absent else ""),
        group=declared.group,
        envvar=declared.envvar,
        **attrs,
    )


JSON = GroupedOption(
    ["--json"], is_flag=True, help="Print one JSON document instead of text.", group=EXECUTION
)


def _show_more(ctx: Context, param: Parameter, times: int) -> None:
    """Show log records: of level info, or debug if the option is given twice."""
    show_logs(ctx, param, (None, "info", "debug")[min(times, 2)])


def _show_version(ctx: Context, param: Parameter, given: bool) -> None:
    if given and not ctx.resilient_parsing:
        click.echo(f"converter, version {__version__}", color=ctx.color)
        ctx.exit()


_QUIET = GroupedOption(
    ["--quiet", "-q"],
    is_flag=True,
    expose_value=False,
    callback=set_quiet,
    help="Print no progress and no report, only warnings and errors.",
    group=EXECUTION,
)
_VERBOSE = GroupedOption(
    ["--verbose", "-v"],
    count=True,
    expose_value=False,
    callback=_show_more,
    help="Log downloads and choices to standard error; -vv also logs each tensor.",
    group=EXECUTION,
)
_VERSION = click.Option(
    ["--version", "-V"],
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the version and exit.",
)
_LOG_LEVEL = click.Option(
    ["--log-level"],
    type=Choice(LEVELS),
    envvar="CONVERTER_LOG_LEVEL",
    expose_value=False,
    is_eager=True,
    callback=show_logs,
    metavar="LEVEL",
    help="Log to standard error: error, warning, info (as with -v) or debug (as with -vv).",
)
GENERAL: tuple[click.Option, ...] = (_QUIET, _VERBOSE, _LOG_LEVEL, _VERSION)
"""Options of every command and of the group."""


def command(
    name: str,
    declared: type[Any],
    epilog: str,
    extra: Sequence[Parameter] = (),
    kind: type[click.Command] = GroupedCommand,
) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a function a command with the arguments and options that a dataclass declares.

    The help ends with `epilog`; only the command line has the options `extra`. `kind` is the class.
    """
    options = [each for each in options_of(declared).values() if each.in_cli]
    params: list[Parameter] = [click_argument(each) for each in options if each.is_argument]
    params += [click_option(each) for each in options if not each.is_argument]

    def decorate(function: Callable[..., Any]) -> click.Command:
        return kind(
            name,
            params=[*params, *extra, JSON, *GENERAL],
            callback=function,
            help=cleandoc(function.__doc__ or ""),
            epilog=epilog,
        )

    return decorate
