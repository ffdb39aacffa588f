"""Calls of the public functions from Python: arguments, errors, warnings and progress.

The commands are functions of one options object; `takes` makes a Python function of each. Messages
are written in the words of the command line (``--overwrite``), where they appear unchanged; to
callers from Python they say ``overwrite=True``, see `in_python`.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, ParamSpec, TypeAlias, TypeVar

from converter.display import SURFACE
from converter.errors import ConverterError, ConverterWarning
from converter.option_declaration import Option, did_you_mean, options_of
from converter.options import COMMAND_OPTIONS
from converter.progress import show_progress
from converter.text import printable

_T = TypeVar("_T")
_P = ParamSpec("_P")


def takes(command: Callable[_P, Any]) -> Callable[[Callable[[Any], _T]], Callable[_P, _T]]:
    """Make a function of an options object one of its arguments and keyword options.

    The signature and the section ``Args`` of the docstring, before ``Returns`` or ``Raises``, come
    from `command`, a dataclass of `converter.options`. Called from Python, the function warns of
    the ``warnings`` of its result, and shows its progress in a notebook.
    """

    def decorate(function: Callable[[Any], _T]) -> Callable[_P, _T]:
        assert isinstance(command, type)
        name = function.__name__
        signature = _signature(command, inspect.signature(function).return_annotation)
        unit = "job" if name == "run" else "B"

        @functools.wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            if SURFACE.get() != "python":
                with errors_in_words():
                    result = function(command(*args, **kwargs))
                return _in_words(result, in_recipe) if SURFACE.get() == "recipe" else result
            _check_arguments(name, signature, args, kwargs)
            with errors_in_words(), ExitStack() as stack:
                if "progress" in signature.parameters:
                    progress: Any = kwargs.get("progress")
                    shown = show_progress(progress, name, unit)
                    kwargs["progress"] = stack.enter_context(shown)
                result = _in_words(function(command(*args, **kwargs)), in_python)
            for text in dict.fromkeys(getattr(result, "warnings", ())):
                warnings.warn(printable(text), ConverterWarning, stacklevel=2)
            return result

        call.__doc__ = _documented(function.__doc__ or "", command)
        call.__signature__ = signature  # type: ignore[attr-defined]
        return call

    return decorate


def _check_arguments(
    name: str, signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """Raise TypeError as Python does, in the name of the function."""
    for option in kwargs:
        if option not in signature.parameters:
            hint = did_you_mean(option, signature.parameters) or f"See help(converter.{name})."
            raise TypeError(f"{name}() got an unexpected keyword argument {option!r}. {hint}")
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{name}(): {error}") from None


def _signature(command: type[Any], returns: Any) -> inspect.Signature:
    """Return the signature that the dataclass gives to a function, with resolved types."""
    return inspect.Signature(
        [
            inspect.Parameter(
                each.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD
                if each.is_argument
                else inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if each.is_required else each.default,
                annotation=each.type,
            )
            for each in options_of(command).values()
        ],
        return_annotation=returns,
    )


def _documented(doc: str, command: type[Any]) -> str:
    """Return a docstring with the section ``Args`` that the dataclass gives."""
    options = options_of(command).items()
    lines = [f"    {name}: {in_python(each.description)}" for name, each in options]
    section = "\n".join(["Args:", *lines]) + "\n\n"
    text = inspect.cleandoc(doc)
    at = re.search(r"^(Returns|Raises):$", text, re.MULTILINE)
    return text[: at.start()] + section + text[at.start() :] if at else f"{text}\n\n{section}"


@contextmanager
def errors_in_words() -> Iterator[None]:
    """Put errors that leave the block in the words of the surface that it is called from."""
    try:
        yield
    except ConverterError as error:
        if (surface := SURFACE.get()) != "command line":
            error.reword(in_python if surface == "python" else in_recipe)
        raise


def _in_words(result: _T, change: Callable[[str], str]) -> _T:
    """Return a result with `change` applied to its warnings, notes and problems."""
    changes: dict[str, Any] = {}
    for name in ("plan", "warnings", "notes", "problems"):
        if name not in getattr(result, "__dataclass_fields__", ()):
            continue
        value = getattr(result, name)
        if name == "plan":
            changed = _in_words(value, change)
        elif not isinstance(value, Sequence):  # the problems of tables by file
            continue
        elif name == "problems":
            changed = tuple(each.reworded(change) for each in value)
        else:
            changed = tuple(map(change, value))
        if changed is not value and (name == "plan" or changed != tuple(value)):
            changes[name] = changed
    return replace(result, **changes) if changes else result  # type: ignore[type-var]


_CODE = re.compile(r"^ *(?:converter|python|hf) \S.*|`[^`]*`", re.MULTILINE)
"""A command for a shell, or what is marked as code."""
_COMMAND = re.compile(r"`converter ([a-z-]+)( .*)?`")
_FLAG = re.compile(r"""(?<![\w/-])--([a-z][\w-]*)(?:[ =]('[^']*'|"[^"]*"|[^\s`]*[^\s`.,;:)]))?""")
_PROSE = frozenset("a an and by for if in is it of or puts requires takes the to with".split())
"""Words of a sentence that may follow the name of an option."""
_IN_RECIPES = ("compose", "convert", "split", "push")


def in_python(text: str) -> str:
    """Return a message of the command line in the words of Python.

    ``--overwrite`` becomes ``overwrite=True``, ``--to pytorch,flax`` becomes ``to=["pytorch",
    "flax"]``, and ```converter diff``` becomes ```converter.diff()```. Other commands stay.
    """
    return _translated(text, _keyword, _call)


def in_recipe(text: str) -> str:
    """Return a message of the command line in the words of a recipe: ``to: [pytorch, flax]``."""
    return _translated(text, _entry, lambda match: match[0])


_Word: TypeAlias = Callable[[Option, Sequence[str]], str | None]


def _translated(text: str, word: _Word, command: Callable[[re.Match[str]], str]) -> str:
    if "--" not in text and "`converter " not in text:
        return text
    parts, start = list[str](), 0
    for match in _CODE.finditer(text):
        code = _COMMAND.sub(command, match[0])
        parts += [_with_keywords(text[start : match.start()], word), code]
        start = match.end()
    return "".join((*parts, _with_keywords(text[start:], word)))


def _call(match: re.Match[str]) -> str:
    """Return the call of the function that a command is named after."""
    name, options = match[1].replace("-", "_"), (match[2] or "").strip()
    if name not in COMMAND_OPTIONS:
        return match[0]
    if options == "--help":
        return f"`help(converter.{name})`"
    return f"`converter.{name}({_with_keywords(options, _keyword)})`"


def _with_keywords(text: str, word: _Word) -> str:
    """Return a text with what `word` returns in place of an option and its values, if anything."""
    uses = list[tuple[int, int, Option, list[str]]]()
    for match in _FLAG.finditer(text):
        if options := _by_flag().get(f"--{match[1]}"):
            # ``--force`` of compose has no value, that of run the name of a job
            option = max(
                options, key=lambda each: (_value(each, match) is not None, _is_flag(each))
            )
            value = _value(option, match)
            start, end = match.start(), match.end(1) if value is None else match.end()
            values = [] if value is None else [value]
            if (
                uses
                and uses[-1][2] is option
                and option.repeats
                and text[uses[-1][1] : start] == " "
            ):
                start, _, _, before = uses.pop()
                values = before + values
            uses.append((start, end, option, values))
    parts, done = list[str](), 0
    for start, end, option, values in uses:
        parts += [text[done:start], word(option, values) or text[start:end]]
        done = end
    return "".join((*parts, text[done:]))


def _is_flag(option: Option) -> bool:
    return bool in option.items


def _value(option: Option, match: re.Match[str]) -> str | None:
    """Return the value that follows a flag, if one does."""
    if _is_flag(option) or match[2] is None:
        return None
    if match[2][0] in "'\"":
        return match[2][1:-1]
    word = match[2]
    is_value = not word.isalpha() or word.isupper() or {*word.split(",")} <= {*option.choices}
    return word if is_value or (option.name == "ignore" and word not in _PROSE) else None


def _keyword(option: Option, values: Sequence[str]) -> str:
    """Return a keyword argument, such as ``seed=1``, ``to=["flax"]`` or ``config=FILE``."""
    if _is_flag(option):
        return f"{option.name}=True"
    if not values:
        return f"`{option.name}`"
    if option.name == "variables":
        name, _, value = values[0].partition("=")
        return f"variables={{{json.dumps(name)}: {json.dumps(value)}}}"
    values = values[0].split(",") if option.declared.kind == "list" else values
    texts = [each if each.isdecimal() or _is_place(each) else json.dumps(each) for each in values]
    return f"{option.name}=" + (f"[{', '.join(texts)}]" if option.repeats else texts[0])


def _is_place(word: str) -> bool:
    """Return whether a word, such as ``FILE``, is in the place of a value."""
    return word.isupper() and word.isalpha()


def _entry(option: Option, values: Sequence[str]) -> str | None:
    """Return an entry of a job, such as ``to: [flax]``; ``None`` for what recipes do not have."""
    if not any(options_of(COMMAND_OPTIONS[name]).get(option.name) for name in _IN_RECIPES):
        return None
    if not option.in_recipes:
        return None
    if _is_flag(option):
        return f"{option.name}: true"
    if not values:
        return f"`{option.name}`"
    values = values[0].split(",") if option.declared.kind == "list" else values
    return f"{option.name}: " + (f"[{', '.join(values)}]" if option.repeats else values[0])


@functools.cache
def _by_flag() -> Mapping[str, Sequence[Option]]:
    """Return the options of all commands by their flags."""
    by_flag = dict[str, list[Option]]()
    for command in COMMAND_OPTIONS.values():
        for option in options_of(command).values():
            if option.in_cli and not option.is_argument:
                by_flag.setdefault(option.flag, []).append(option)
    return by_flag
