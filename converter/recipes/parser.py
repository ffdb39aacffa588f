"""Reading recipes, YAML or JSON, into jobs; everything that is wrong is told at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

from converter.errors import Problem, UsageError
from converter.recipes.schema import (
    MAKERS,
    SOURCES,
    VERSION,
    expected_type,
    is_valid,
    options,
    required,
)
from converter.storage.url import same_location_key, url_of

_MAX_BYTES = 4 << 20


def load(path: Path) -> Any:
    """What a file says: JSON if its name ends in ``.json``, YAML otherwise.

    Raises:
        UsageError: if it cannot be read, or is neither.

    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(f"{path}: over {_MAX_BYTES} bytes, which no recipe has")
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    try:
        return _json(text) if path.suffix == ".json" else _yaml(text)
    except (ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        told = " ".join(str(error).split())[:300]
        raise UsageError(f"{path}: is no recipe in {kind}: {told}") from error


def _json(text: str) -> Any:
    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"{twice!r} stands twice")
        return found

    return json.loads(text, object_pairs_hook=table)


def _yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if key.value != "<<" and (name := str(key.value)) in seen:
                    line = key.start_mark.line + 1
                    raise ValueError(f"{name!r} stands twice, the second time in line {line}")
                seen.add(str(key.value))
            found: dict[Any, Any] = super().construct_mapping(node, deep)
            return found

    try:
        return yaml.load(text, Loader)  # which is a safe one
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


_WHOLE = re.compile(r"\$(?:\{([_a-zA-Z][_a-zA-Z0-9]*)\}|([_a-zA-Z][_a-zA-Z0-9]*))")


class Variables:
    """The variables of one recipe.

    Args:
        own: those of the recipe.
        given: those of the command line, which win.

    """

    def __init__(self, own: Mapping[Any, Any], given: Mapping[str, str]) -> None:
        self._values: dict[str, Any] = {**{str(key): value for key, value in own.items()}, **given}
        self.used: set[str] = set(map(str, own))
        """Names that the recipe declares or uses."""

    def fill(self, value: Any, schema: Mapping[str, Any]) -> Any:
        """A value with its variables filled in; where it is one variable, of the type asked for.

        Args:
            value: as it stands in the recipe.
            schema: what the option wants to be.

        Raises:
            KeyError: with the name of a variable that there is not.
            ValueError: for a ``$`` that begins no name; ``$$`` stands for itself.

        """
        if isinstance(value, list):
            return [self._text(item) if isinstance(item, str) else item for item in value]
        if not isinstance(value, str):
            return value
        filled = self._text(value)
        if (whole := _WHOLE.fullmatch(value)) and not is_valid(filled, schema):
            return _typed(self._values[whole[1] or whole[2]])
        return filled

    def _text(self, text: str) -> str:
        template = Template(text)
        self.used |= set(template.get_identifiers())
        return template.substitute(self._values)


def _typed(value: Any) -> Any:
    """The number or truth value that a text writes, else the text."""
    if not isinstance(value, str):
        return value
    if value in ("true", "false"):
        return value == "true"
    return int(value) if re.fullmatch(r"[+-]?\d{1,30}", value) else value


_TOP = ("$schema", "version", "variables", "defaults", "jobs")


@dataclass(frozen=True)
class Job:
    """One checkpoint to be made."""

    name: str
    command: str
    options: Mapping[str, Any]
    push: Mapping[str, Any] | None

    @property
    def output(self) -> str:
        """The directory that it makes, a path or a URL."""
        return str(self.options["output"])

    def needs(self, other: Job) -> bool:
        """Whether a source of this job is made by another one."""
        made = same_location_key(other.output)
        sources = [same_location_key(self.options[name]) for name in SOURCES[self.command]]
        return any(f"{source}/".startswith(f"{made}/") for source in sources)


def read_recipes(paths: Iterable[Path], variables: Mapping[str, str] | None = None) -> list[Job]:
    """All jobs of some recipes, in their order.

    Args:
        paths: YAML or JSON files.
        variables: values that win over those of the recipes.

    Raises:
        UsageError: with every problem of every file.

    """
    problems: list[Problem] = []
    jobs: list[Job] = []
    given = dict(variables or {})
    used: set[str] = set()
    for path in paths:
        reading = _Reading(str(path), problems, given)
        jobs += reading.jobs(load(path))
        used |= reading.variables.used
    problems += [
        Problem("no recipe uses this variable", tensor=name) for name in given if name not in used
    ]
    problems += _conflicts(jobs)
    if problems:
        raise UsageError("recipes: cannot be run; nothing was started", problems)
    return jobs


def _conflicts(jobs: Iterable[Job]) -> list[Problem]:
    """Jobs that have a name or an output in common, or of which one would replace another's."""
    problems = []
    names: set[str] = set()
    outputs: dict[str, str] = {}
    for job in jobs:
        if job.name in names:
            problems.append(Problem("another job has the same name", tensor=job.name))
        names.add(job.name)
        place = same_location_key(job.output)
        if place in outputs:
            problems.append(Problem("another job has the same output", tensor=job.name))
        outputs[place] = job.name
    for place, name in outputs.items():
        around = next((outer for outer in outputs if place.startswith(f"{outer}/")), None)
        if around:
            problems.append(
                Problem(f"its output lies in that of {outputs[around]}", tensor=name, found=place)
            )
    return problems


@dataclass
class _Reading:
    file: str
    problems: list[Problem]
    given: Mapping[str, str]
    variables: Variables = field(init=False)

    def __post_init__(self) -> None:
        self.variables = Variables({}, self.given)

    def jobs(self, recipe: Any) -> list[Job]:
        """The jobs of a recipe, those that are wrong left out and told."""
        if not isinstance(recipe, dict) or not isinstance(recipe.get("jobs"), list):
            self.wrong("must hold a list of jobs", "jobs")
            return []
        for key in recipe.keys() - set(_TOP):
            self.wrong("is unknown", str(key), expected=", ".join(_TOP))
        if recipe.get("version", VERSION) != VERSION:
            self.wrong("is unknown", "version", expected=str(VERSION))
        sections = {key: recipe.get(key) or {} for key in ("variables", "defaults")}
        for key, section in sections.items():
            if not isinstance(section, dict):
                self.wrong("must be a table", key)
                sections[key] = {}
        for key, value in sections["variables"].items():
            if not isinstance(value, str | int | float):
                self.wrong("must be text or a number", f"variables.{key}", found=repr(value)[:100])
        self.variables = Variables(sections["variables"], self.given)
        defaults = sections["defaults"]
        for key in defaults:
            if not any(key in options(command) for command in MAKERS):
                self.wrong("is no option of any command", f"defaults.{key}")
        found = [self.job(job, number, defaults) for number, job in enumerate(recipe["jobs"], 1)]
        return [job for job in found if job]

    def job(self, raw: Any, number: int, defaults: Mapping[str, Any]) -> Job | None:
        before = len(self.problems)
        commands = [key for key in raw if key in MAKERS] if isinstance(raw, dict) else []
        if len(commands) != 1:
            self.wrong("must have exactly one command", f"job {number}", expected=", ".join(MAKERS))
            return None
        (command,) = commands
        for key in raw.keys() - {"name", "push", command}:
            self.wrong("is unknown", f"job {number}.{key}")
        name = str(self.fill(str(raw.get("name") or ""), {"type": "string"}, f"job {number}.name"))
        known = {key: value for key, value in defaults.items() if key in options(command)}
        made = self.block(command, raw[command], name or f"job {number}", known)
        push = None
        if raw.get("push") is not None:
            push = self.block("push", raw["push"], name or f"job {number}", {})
            if url_of(str(made.get("output"))):
                self.wrong("can be of use only where output is a path", f"{name}.push")
        if len(self.problems) > before:
            return None
        return Job(name or Path(str(made["output"])).name, command, made, push)

    def block(
        self, command: str, raw: Any, name: str, defaults: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The options of a command, variables filled in."""
        if not isinstance(raw, dict):
            self.wrong("must be a table of options", f"{name}.{command}")
            return {}
        schemas = options(command)
        found: dict[str, Any] = {}
        for key, value in {**defaults, **raw}.items():
            place = f"{name}.{command}.{key}"
            if key not in schemas:
                self.wrong("is no option", place, expected=", ".join(sorted(schemas)))
                continue
            filled = self.fill(value, schemas[key], place)
            if not is_valid(filled, schemas[key]):
                self.wrong(
                    "does not fit",
                    place,
                    expected=expected_type(schemas[key]),
                    found=repr(filled)[:100],
                )
                continue
            is_list = any(each.get("type") == "array" for each in schemas[key].get("anyOf", ()))
            found[key] = [filled] if is_list and isinstance(filled, str) else filled
        for key in required(command):
            if key not in found and key not in raw:
                self.wrong("is missing", f"{name}.{command}.{key}")
        return found

    def fill(self, value: Any, schema: Mapping[str, Any], place: str) -> Any:
        """A value with its variables filled in."""
        try:
            return self.variables.fill(value, schema)
        except LookupError as error:
            self.wrong(
                "names a variable that there is not",
                place,
                found=str(value)[:100],
                remedy=f"give it with --var {error.args[0]}=VALUE, or under variables",
            )
        except ValueError:
            self.wrong("has a $ that begins no variable", place, found=str(value)[:100])
        return value

    def wrong(self, what: str, place: str, **more: str) -> None:
        self.problems.append(Problem(what, self.file, place, **more))
