"""Recipe files, YAML or JSON: parsed into jobs with all problems at once, and written."""

from __future__ import annotations

import json
import re
import reprlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice, product
from pathlib import Path
from string import Template
from typing import Any

import msgspec

from converter.display import Displayed
from converter.errors import OutputError, Problem, UsageError
from converter.formats.file_handle import sanitize
from converter.option_declaration import closest_name, did_you_mean
from converter.recipes.schema import (
    COMMANDS,
    JOB_KEYS,
    SOURCES,
    TOP_LEVEL,
    VERSION,
    choices_of,
    convert_value,
    expected_value,
    recipe_options,
)
from converter.safe_json import read_small_file
from converter.storage.atomic_directory import write_file
from converter.storage.hub_upload import check_push
from converter.storage.references import display_name, location_key, parse_url

_MAX_BYTES = 2 << 20
_MAX_YAML_BYTES = 256 << 10
"""PyYAML takes up to 3 seconds for these."""
_MAX_VALUES = 200_000
"""In YAML, what aliases repeat included."""
_MAX_DEPTH = 20
_MAX_JOBS = 10_000
_MAX_LINE = 4096
"""Characters of an option, paths included; a description may have more, on several lines."""
_MAX_FILLED = 16 << 20
"""Characters and values that filling in the variables of a recipe may make."""
_MAX_PROBLEMS = 200
_MAX_DIGITS = 100
"""More than 64 bits have in base 2."""
_LONG = ("description", "commit_message")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_ONE_VARIABLE = re.compile(r"\$(?:\{[_a-zA-Z][_a-zA-Z0-9]*\}|[_a-zA-Z][_a-zA-Z0-9]*)")


@dataclass(frozen=True, repr=False)
class Job(Displayed):
    """One checkpoint to write."""

    name: str
    command: str
    options: Mapping[str, Any]
    push: Mapping[str, Any] | None
    position: int = 0
    """Its index in the list of jobs of its recipe."""
    follows_another: bool = False
    """If true, another job of the run writes a source of it, which must hold what that wrote."""

    @property
    def output(self) -> str:
        """The directory that it writes, a path or a URL."""
        return str(self.options["output"])

    def needed(self, outputs: Mapping[str, int]) -> list[int]:
        """Return the jobs that write its sources, given location of an output → job."""
        sources = [location_key(self.options[name]) for name in SOURCES[self.command]]
        locations = {location for source in sources for location in _outwards(source)}
        return sorted(outputs[location] for location in locations if location in outputs)


def read_recipes(paths: Iterable[Path], variables: Mapping[str, str] | None = None) -> list[Job]:
    """Return all jobs of some recipes, or raise UsageError with every problem of every file.

    `variables` take precedence over those of the recipes.
    """
    given = dict(variables or {})
    parsers = [_Parser(path, _read(path), given) for path in paths]
    parsed = [(parser, job) for parser in parsers for job in parser.jobs()]
    problems = [problem for parser in parsers for problem in parser.problems]
    used = {name for parser in parsers for name in parser.used}
    problems += [
        Problem("is not used by any recipe", tensor=name) for name in given if name not in used
    ]
    problems += islice(_conflicts(parsed), _MAX_PROBLEMS)
    if problems:
        raise UsageError("recipes: cannot be run; nothing was started", problems)
    return [job for _, job in parsed]


def _read(path: Path) -> str:
    limit = _MAX_BYTES if path.suffix == ".json" else _MAX_YAML_BYTES
    try:
        return read_small_file(path, limit, UsageError).decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error


def _outwards(location: str) -> Iterator[str]:
    """Yield a location, the one that it is in, and so on."""
    while location:
        yield location
        location = location.rpartition("/")[0]


def _conflicts(jobs: Iterable[tuple[_Parser, Job]]) -> Iterator[Problem]:
    """Yield the problems of jobs with the same name or output, or one output inside another."""
    names: dict[str, tuple[_Parser, Job]] = {}
    outputs: dict[str, tuple[_Parser, Job]] = {}
    for parser, job in jobs:
        location = location_key(job.output)
        for what, key, before in (("name", job.name, names), ("output", location, outputs)):
            if key in before:
                places = list(dict.fromkeys((_place(parser, job), _place(*before[key]))))
                text = ": ".join((f"another job has the same {what}", *places[1:]))
                yield Problem(text, places[0], job.name)
            before.setdefault(key, (parser, job))
    for location, (parser, job) in outputs.items():
        outwards = _outwards(location.rpartition("/")[0])
        outer = next((each for each in outwards if each in outputs), None)
        if outer:
            what = f"its output is inside that of {outputs[outer][1].name}"
            yield Problem(what, _place(parser, job), job.name, found=location)


def _place(parser: _Parser, job: Job) -> str:
    """Return the file and the line of a job."""
    return parser.place(("jobs", job.position))


@dataclass
class _Parser:
    """One recipe on its way to jobs."""

    path: Path
    text: str
    given: Mapping[str, str]
    """Variables of the command line."""
    problems: list[Problem] = field(default_factory=list)
    variables: dict[str, Any] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    """Names of the variables that the recipe declares or uses."""
    filled: int = 0
    """Characters and values that were filled in so far, at most."""

    def load(self) -> Any:
        """Return the content: JSON if the file name ends in ``.json``, YAML otherwise."""
        kind = "JSON" if self.path.suffix == ".json" else "YAML"
        try:
            if kind == "YAML":
                return _construct(self.root)
            return json.loads(self.text, object_pairs_hook=_unique, parse_int=_integer)
        except (ValueError, RecursionError) as error:
            line, reason = self.line_and_reason(error)
            reason = " ".join(reason.split())[:300]
            place = f"{self.path}:{line}" if line else str(self.path)
            raise UsageError(f"{place}: is not a recipe in {kind}: {reason}") from error

    def line_and_reason(self, error: Exception) -> tuple[int | None, str]:
        """Return the line that a parser names in an error, and what it says is wrong there."""
        if isinstance(error, json.JSONDecodeError):
            return error.lineno, error.msg
        if self.path.suffix == ".json" and isinstance(error, ValueError) and self.root:
            with suppress(RecursionError):
                try:
                    _count_values(self.root, {})
                except ValueError as same:  # with the line
                    error = same
        mark, what = (getattr(error.__cause__, name, None) for name in ("problem_mark", "problem"))
        return (mark.line + 1, str(what)) if mark and what else (None, str(error))

    def jobs(self) -> list[Job]:
        """Return the jobs of the recipe but for those with problems."""
        recipe = self.load()
        self.check(recipe, ())
        self.check(self.given, ("--var",))
        if not isinstance(recipe, dict) or not isinstance(recipe.get("jobs"), list):
            self.add("must be a list of jobs", "jobs", ())
        elif len(recipe["jobs"]) > _MAX_JOBS:
            self.add(f"has more than {_MAX_JOBS:,} jobs", "jobs", ("jobs",))
        if self.problems:
            return []
        for key in (each for each in recipe if each not in TOP_LEVEL):
            self.add("is unknown", str(key), (key,), remedy=did_you_mean(str(key), TOP_LEVEL))
        if recipe.get("version", VERSION) != VERSION:
            self.add("is unknown", "version", ("version",), expected=str(VERSION))
        self.variables = self.section(recipe, "variables")
        for key, value in self.variables.items():
            if not isinstance(value, str | int | float):
                place = (f"variables.{key}", ("variables", key))
                self.add("must be text or a number", *place, found=_shown(value))
        self.used |= self.variables.keys()
        self.variables |= self.given
        defaults = self.section(recipe, "defaults")
        names = {name: None for command in COMMANDS for name in recipe_options(command)}
        for key in (each for each in defaults if each not in names):
            remedy = did_you_mean(key, names)
            self.add("is not an option", f"defaults.{key}", ("defaults", key), remedy=remedy)
        repeated = (
            job
            for number, raw in enumerate(recipe["jobs"])
            for job in self.repeat(raw, number, defaults)
        )
        jobs = list(islice(repeated, _MAX_JOBS + 1))
        if len(jobs) > _MAX_JOBS:
            self.add(f"makes more than {_MAX_JOBS:,} jobs", "jobs", ("jobs",))
        return jobs

    def check(self, value: Any, at: tuple[Any, ...]) -> None:
        """Add a problem for what no recipe needs: control characters, numbers beyond 64 bits."""
        if isinstance(value, dict | list):
            if len(at) >= _MAX_DEPTH:
                self.add(f"is nested more than {_MAX_DEPTH} levels deep", str(at[0]), at)
                return
            for key, each in value.items() if isinstance(value, dict) else enumerate(value):
                if isinstance(key, str) and _CONTROL.search(key):
                    self.add("has a control character", key, at)
                self.check(each, (*at, key))
            return
        label = ".".join(map(str, at))
        if isinstance(value, str) and _CONTROL.search(value):
            self.add("has a control character", label, at, found=_shown(value))
        elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
            self.add("is a number of more than 64 bits", label, at)

    def check_line(self, text: str, label: str, at: tuple[Any, ...]) -> None:
        """Add a problem if a text is too long or has several lines."""
        if len(text) > _MAX_LINE or not {"\n", "\t"}.isdisjoint(text):
            what = f"must be one line of at most {_MAX_LINE:,} characters"
            self.add(what, label, at, found=_shown(text))

    def section(self, recipe: Mapping[str, Any], key: str) -> dict[str, Any]:
        """Return a section of the recipe, empty if it is not there or not a mapping."""
        section = recipe.get(key) or {}
        if isinstance(section, dict):
            return {str(name): value for name, value in section.items()}
        self.add("must be a mapping", key, (key,))
        return {}

    def repeat(self, raw: Any, number: int, defaults: Mapping[str, Any]) -> Iterator[Job]:
        """Yield a job once for each combination of the values under ``for_each``, if any.

        After the first one with problems none follows: they would have the same.
        """
        lists = raw.get("for_each", {}) if isinstance(raw, dict) else {}
        at = ("jobs", number, "for_each")
        if not isinstance(lists, dict) or not all(
            isinstance(values, list) and all(isinstance(each, str | int | float) for each in values)
            for values in lists.values()
        ):
            self.add("must map variables to lists of texts or numbers", f"job {number + 1}", at)
            return
        variables = self.variables
        for values in product(*lists.values()):
            self.variables = {**variables, **dict(zip(map(str, lists), values, strict=True))}
            job = self.job(raw, number, defaults)
            if not job:
                break
            yield job
        self.variables = variables

    def job(self, raw: Any, number: int, defaults: Mapping[str, Any]) -> Job | None:
        """Return a job, ``None`` if it has problems."""
        before = len(self.problems)
        at: tuple[Any, ...] = ("jobs", number)
        label = f"job {number + 1}"
        commands = [key for key in raw if key in COMMANDS] if isinstance(raw, dict) else []
        others = [key for key in raw if key not in JOB_KEYS] if isinstance(raw, dict) else []
        if others and not commands:
            for key in others:
                remedy = did_you_mean(str(key), COMMANDS)
                self.add("is not a command", f"{label}.{key}", (*at, key), remedy=remedy)
            return None
        if len(commands) != 1:
            self.add("must have exactly one command", label, at, expected=", ".join(COMMANDS))
            return None
        (command,) = commands
        for key in (each for each in raw if each not in (*JOB_KEYS, command)):
            remedy = did_you_mean(str(key), (*JOB_KEYS, *COMMANDS))
            self.add("is unknown", f"{label}.{key}", (*at, key), remedy=remedy)
        name, place = raw.get("name") or "", (f"{label}.name", (*at, "name"))
        if isinstance(name, dict | list | set):
            self.add("must be text", *place, found=_shown(name))
            return None
        name = str(self.fill(str(name), *place))
        self.check_line(name, *place)
        own = {key: value for key, value in defaults.items() if key in recipe_options(command)}
        options = self.block(command, raw[command], name or label, (*at, command), own)
        push = None
        if raw.get("push") is not None:
            push = self.block("push", raw["push"], name or label, (*at, "push"), {})
            if parse_url(str(options.get("output"))):
                self.add("requires an output that is a path", f"{name}.push", (*at, "push"))
            self.check_push(push, f"{name}.push", (*at, "push"))
        if len(self.problems) > before:
            return None
        name = name or Path(str(options["output"])).name
        return Job(name, command, options, push, number)

    def block(
        self, command: str, raw: Any, name: str, at: tuple[Any, ...], defaults: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the options of a command, variables filled in."""
        if not isinstance(raw, dict):
            self.add("must be a mapping of options", f"{name}.{command}", at)
            return {}
        declared = recipe_options(command)
        options: dict[str, Any] = {}
        for key, value in {**defaults, **raw}.items():
            label = f"{name}.{command}.{key}"
            location = (*at, key) if key in raw else ("defaults", key)
            if key not in declared:
                remedy = did_you_mean(str(key), declared) or f"see `converter {command} --help`"
                self.add("is not an option", label, location, remedy=remedy)
                continue
            filled = self.fill(value, label, location)
            if isinstance(filled, str) and key not in _LONG:
                self.check_line(filled, label, location)
            is_variable = isinstance(value, str) and _ONE_VARIABLE.fullmatch(value)
            try:
                options[key] = convert_value(command, key, filled, lax=bool(is_variable))
                self.check(options[key], location)
            except msgspec.ValidationError:
                more = {"expected": expected_value(command, key), "found": _shown(filled)}
                hint = _meant(filled, choices_of(command, key))
                self.add("has a wrong value", label, location, remedy=hint, **more)
        for key, option in declared.items():
            if option.is_required and key not in raw and key not in options:
                self.add("is missing", f"{name}.{command}.{key}", at)
        return options

    def fill(self, value: Any, label: str, at: tuple[Any, ...]) -> Any:
        """Return a value with its variables replaced, in a string or a list of strings."""
        if isinstance(value, list):
            self.count(16 * len(value))
            return [self.fill(each, label, at) if isinstance(each, str) else each for each in value]
        if not isinstance(value, str) or "$" not in value:
            return value
        template = Template(value)
        names = (match["named"] or match["braced"] for match in template.pattern.finditer(value))
        self.count(len(value) + sum(len(str(self.variables.get(name, ""))) for name in names))
        try:
            self.used |= set(template.get_identifiers())
            return template.substitute(self.variables)
        except LookupError as error:
            name = str(error.args[0])[:80]
            step = f"set it with --var {name}=VALUE, or under variables"
            remedy = " Or ".join(filter(None, (_meant(name, self.variables), step)))
            self.add("uses an unknown variable", label, at, found=_shown(value), remedy=remedy)
        except ValueError:
            step = "write $$ for a dollar sign"
            self.add("has a $ without a variable", label, at, found=_shown(value), remedy=step)
        return value

    def count(self, amount: int) -> None:
        """Raise UsageError if filling in variables makes too much."""
        self.filled += amount
        if self.filled > _MAX_FILLED:
            raise UsageError(
                f"{self.path}: its variables make more than {_MAX_FILLED:,} characters"
            )

    def check_push(self, push: Mapping[str, Any], label: str, at: tuple[Any, ...]) -> None:
        """Report what would let the push of a finished output fail at once."""
        repo_id, revision = push.get("repo_id"), push.get("revision")
        if isinstance(repo_id, str):
            try:
                check_push(repo_id, revision, bool(push.get("create_pr")))
            except UsageError as error:
                self.add(error.message, label, at, remedy=error.remedy)

    def add(self, what: str, label: str, at: tuple[Any, ...], **more: str | None) -> None:
        """Add a problem of the value at a path of keys and list positions."""
        self.problems.append(Problem(what, self.place(at), sanitize(label), **more))
        if len(self.problems) == _MAX_PROBLEMS:
            message = f"{self.path}: has {_MAX_PROBLEMS} problems or more; nothing was started"
            raise UsageError(message, self.problems)

    def place(self, at: tuple[Any, ...]) -> str:
        """Return the file, and the line of the value at a path, if it is known."""
        line = self.line_of(at)
        return f"{self.path}:{line}" if line else str(self.path)

    @cached_property
    def root(self) -> Any:
        """The YAML node of the file, ``None`` if it is JSON that YAML does not contain."""
        is_json = self.path.suffix == ".json"
        if is_json and len(self.text) > _MAX_YAML_BYTES:
            return None
        try:
            return _compose(self.text)
        except (ValueError, RecursionError):
            if is_json:
                return None
            raise

    def line_of(self, at: tuple[Any, ...]) -> int | None:
        """Return the line of the value at a path, or of the innermost part of it that exists."""
        mark, node = None, self.root
        for step in at:
            if not node or not isinstance(node.value, list):
                break
            entries = node.value
            if entries and isinstance(entries[0], tuple):
                entries = [pair for pair in entries if pair[0].value == str(step)]
                step = 0
            if not isinstance(step, int) or step >= len(entries):
                break
            entry = entries[step]
            key, node = entry if isinstance(entry, tuple) else (entry, entry)
            mark = key.start_mark
        return mark.line + 1 if mark else None


_REPR = reprlib.Repr()
_REPR.maxlevel = 2
_REPR.maxstring = _REPR.maxother = 100


def _shown(value: Any) -> str:
    """Return the beginning of a value, without writing out all of it first."""
    return _REPR.repr(value)[:100]


def _meant(value: Any, names: Collection[str]) -> str | None:
    """Return a question for the name that a wrong value, or one in a list, is closest to."""
    values = value if isinstance(value, list) else [value]
    texts = [each[:80] for each in values[:80] if isinstance(each, str) and each not in names]
    return next(filter(None, (closest_name(text, names) for text in texts)), None)


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; raise ValueError if a key occurs twice."""
    for key, times in Counter(key for key, _ in pairs).items():
        if times > 1:
            raise ValueError(f"{key[:80]!r} occurs twice")
    return dict(pairs)


def _compose(text: str) -> Any:
    """Return the node of a YAML document, ``None`` if it is empty; raise ValueError."""
    import yaml

    try:
        return yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _construct(root: Any) -> Any:
    """Return the content of a YAML document; raise ValueError if it is wrong."""
    import yaml

    if root is None:
        return None
    _count_values(root, {})
    try:
        return yaml.SafeLoader("").construct_document(root)
    # Further errors: PyYAML raises them for explicit tags such as `!!bool x` and `!!timestamp x`.
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _count_values(node: Any, counts: dict[int, int]) -> int:
    """Return how many values a YAML node holds with its aliases written out.

    `counts` has the count of each node, 0 while it is being counted. Raise ValueError if it is too
    large, a node contains itself, a key occurs twice, or a number is too long.
    """
    line = node.start_mark.line + 1
    if id(node) in counts:
        if not counts[id(node)]:
            raise ValueError(f"the value in line {line} contains itself")
        return counts[id(node)]
    counts[id(node)] = 0
    children = node.value if isinstance(node.value, list) else []
    if children and isinstance(children[0], tuple):
        keys = set()
        for key, _ in children:
            if isinstance(key.value, str) and key.value != "<<":
                if key.value in keys:
                    line = key.start_mark.line + 1
                    name = key.value[:80]
                    raise ValueError(f"{name!r} occurs twice, the second time in line {line}")
                keys.add(key.value)
        children = [each for pair in children for each in pair]
    elif node.tag.endswith(":int") and len(node.value) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(node.value):,} digits in line {line}")
    counts[id(node)] = 1 + sum(_count_values(child, counts) for child in children)
    if counts[id(node)] > _MAX_VALUES:
        raise ValueError(f"more than {_MAX_VALUES:,} values, those of aliases included")
    return counts[id(node)]


def save_recipe(
    path: Path, command: str, given: Mapping[str, Any], push: Mapping[str, Any]
) -> None:
    """Write a command as a recipe of one job, as JSON if the file name ends in ``.json``.

    Options in `given` that recipes do not have are left out; `push` is empty if nothing is pushed.
    """
    name = Path(str(given["output"])).name
    job: dict[str, Any] = {"name": name, command: _saved(command, given)}
    if push:
        job["push"] = _saved("push", push)
    recipe = {"version": VERSION, "jobs": [job]}
    if path.suffix == ".json":
        text = json.dumps(recipe, indent=2, ensure_ascii=False) + "\n"
    else:
        import yaml

        text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    try:
        data = text.encode()
    except ValueError as error:  # a surrogate in a name
        raise OutputError(f"{path}: cannot be written: {error}") from error
    write_file(path, data)


def _saved(command: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options as a recipe has them."""
    values = {name: given.get(name) for name in recipe_options(command)}
    return {n: _escape(each) for n, each in values.items() if each not in (None, False, (), {})}


def _escape(value: Any) -> Any:
    """Return a value or tuple of values whose dollar signs start no variable, without secrets."""
    if isinstance(value, tuple):
        return [_escape(each) for each in value]
    return display_name(value).replace("$", "$$") if isinstance(value, str) else value
