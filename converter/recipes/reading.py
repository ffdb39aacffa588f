"""Reading recipes, YAML or JSON, into jobs; everything that is wrong is told at once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from converter.errors import Problem, UsageError
from converter.recipes.schema import MAKERS, SOURCES, VERSION, fits, options, required

_MAX_BYTES = 4 << 20
_TOP = ("version", "variables", "defaults", "jobs")


@dataclass(frozen=True)
class Job:
    """One checkpoint to be made."""

    name: str
    command: str
    options: Mapping[str, Any]
    push: Mapping[str, Any] | None

    @property
    def output(self) -> str:
        """The directory that it makes."""
        return str(self.options["output"])

    def needs(self, other: Job) -> bool:
        """Whether a source of this job is made by another one."""
        made = os.path.realpath(other.output)
        sources = [os.path.realpath(self.options[name]) for name in SOURCES[self.command]]
        return any(source == made or source.startswith(made + os.sep) for source in sources)


def read_recipes(paths: Iterable[Path]) -> list[Job]:
    """All jobs of some recipes, in their order.

    Raises:
        UsageError: with every problem of every file.
    """
    problems: list[Problem] = []
    jobs: list[Job] = []
    for path in paths:
        jobs += _Reading(str(path), problems).jobs(_load(path))
    for kind in ("name", "output"):
        taken: set[str] = set()
        for job in jobs:
            value = job.name if kind == "name" else os.path.realpath(job.output)
            if value in taken:
                problems.append(Problem(f"another job has the same {kind}", tensor=job.name))
            taken.add(value)
    if problems:
        raise UsageError("recipes: cannot be run; nothing was started", problems)
    return jobs


def _load(path: Path) -> Any:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(f"{path}: over {_MAX_BYTES} bytes, which no recipe has")
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    try:
        if path.suffix == ".json":
            return json.loads(text)
        import yaml

        return yaml.safe_load(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is no JSON: {error}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: is no YAML: {' '.join(str(error).split())[:300]}") from error


@dataclass
class _Reading:
    file: str
    problems: list[Problem]

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
        self.variables = {str(key): str(value) for key, value in sections["variables"].items()}
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
        name = str(raw.get("name") or "")
        known = {key: value for key, value in defaults.items() if key in options(command)}
        made = self.block(command, raw[command], name or f"job {number}", known)
        push = None
        if raw.get("push") is not None:
            push = self.block("push", raw["push"], name or f"job {number}", {})
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
            filled = self.fill(value, place)
            if not fits(filled, schemas[key]):
                self.wrong("is of the wrong type", place, found=repr(value)[:100])
                continue
            is_list = any(each.get("type") == "array" for each in schemas[key].get("anyOf", ()))
            found[key] = [filled] if is_list and isinstance(filled, str) else filled
        for key in required(command):
            if key not in found and key not in raw:
                self.wrong("is missing", f"{name}.{command}.{key}")
        return found

    def fill(self, value: Any, place: str) -> Any:
        if isinstance(value, list):
            return [self.fill(item, place) for item in value]
        if not isinstance(value, str):
            return value
        try:
            return Template(value).substitute(self.variables)
        except (KeyError, ValueError):
            self.wrong("names a variable that there is not", place, found=value[:100])
            return value

    def wrong(self, what: str, place: str, **more: str) -> None:
        self.problems.append(Problem(what, self.file, place, **more))
