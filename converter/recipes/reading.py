"""Reading recipes, YAML or JSON, into jobs; everything that is wrong is told at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from converter.errors import Problem, UsageError
from converter.recipes.schema import MAKERS, SOURCES, VERSION, fits, options, required, wanted
from converter.recipes.text import load
from converter.recipes.variables import Variables
from converter.remote.url import place_of, url_of

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
        made = place_of(other.output)
        sources = [place_of(self.options[name]) for name in SOURCES[self.command]]
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
        place = place_of(job.output)
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
            if not fits(filled, schemas[key]):
                self.wrong(
                    "does not fit", place, expected=wanted(schemas[key]), found=repr(filled)[:100]
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
