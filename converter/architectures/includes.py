"""Rows that a table includes from another one: the encoders inside a larger model.

``"vision_model" = { include = "vit", from = "encoder", config = "vision_config" }`` in a section of
rows stands for the rows of ``vit`` below ``encoder``, whose configuration is in the field
``vision_config``. Paths, placeholders and expressions are rewritten: the result is an ordinary
table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from converter.architectures.schema import Dialect
from converter.errors import Problem, TableError

_QUOTED = re.compile(r"('[^']*')")
_WORD = re.compile(r"(?<![\w.])[A-Za-z_]\w*")
_PLACE = re.compile(r"\{(\w+)\}")

INCLUDE = b"include"
"""What the text of a table contains that includes rows."""

Table = Mapping[str, Any]


class Inclusion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row that stands for rows of another table."""

    include: str
    """The other table."""
    below: str = msgspec.field(default="", name="from")
    """The module whose rows are included, if not all."""
    config: str = ""
    """The field that contains the configuration of the included model."""
    fields: dict[str, str] = {}
    """Field of the other table → its name in this configuration, if it is another one."""
    parts: tuple[str, ...] = ()
    """Parts and heads of the other table that are included as well."""

    def rename(self, text: str, other: Table) -> str:
        """Return an expression of the other table with its fields and placeholders renamed."""
        fields, layers = (
            {*other.get("config", {}), *other.get("nullable", ())},
            other.get("layers", {}),
        )

        def renamed(word: re.Match[str]) -> str:
            name = word[0]
            if not self.config or (name not in fields and name not in layers):
                return name
            name = self.fields.get(name, name)
            return f"{self.config}{'_' if name in layers else '.'}{name}"

        parts = _QUOTED.split(text)
        return "".join(part if n % 2 else _WORD.sub(renamed, part) for n, part in enumerate(parts))

    def defaults(self, other: Table) -> dict[str, Any]:
        """Return the fields of the other table, by their names in this one."""
        return {self.rename(name, other): value for name, value in other.get("config", {}).items()}

    def layers(self, other: Table) -> dict[str, str]:
        """Return the placeholders of the other table, by their names in this one."""
        layers = other.get("layers", {})
        return {self.rename(name, other): self.rename(layers[name], other) for name in layers}

    def rows(self, path: str, other: Table, dialects: Mapping[str, Dialect]) -> dict[str, Any]:
        """Return the included rows, with `path` in place of the module that contains them."""
        sections = [other.get("modules", {})]
        for part in self.parts:
            sections += [other.get(kind, {}).get(part, {}) for kind in ("parts", "heads")]
        rows = {}
        for section in sections:
            for name, row in section.items():
                if not self.below or f"{name}.".startswith(f"{self.below}."):
                    each = row if isinstance(row, list) else [row]
                    moved = [self._row(path, entry, other, dialects) for entry in each]
                    place = self._path(path, self.below, name, ".", other)
                    rows[place] = moved if isinstance(row, list) else moved[0]
        return rows

    def _row(
        self, path: str, row: Table, other: Table, dialects: Mapping[str, Dialect]
    ) -> dict[str, Any]:
        def moved(dialect: str, name: str) -> str:
            known = dialects[dialect]
            roots = (known.path(path), known.path(self.below))
            return self._path(*roots, name.removeprefix("/"), known.separator, other)

        changed: dict[str, Any] = {}
        for key, value in row.items():
            if key in ("path", "aliases"):
                changed[key] = {
                    dialect: moved(dialect, names)
                    if isinstance(names, str)
                    else [moved(dialect, name) for name in names]
                    for dialect, names in value.items()
                }
            elif key in ("param", "not_in") or not isinstance(value, str):
                changed[key] = value
            else:
                changed[key] = self.rename(value, other)
        return changed

    def _path(self, root: str, below: str, name: str, separator: str, other: Table) -> str:
        if below:
            name = name.removeprefix(below).removeprefix(separator)
        name = _PLACE.sub(lambda place: f"{{{self.rename(place[1], other)}}}", name)
        return separator.join(part for part in (root, name) if part)


def expand_includes(
    data: dict[str, Any],
    file: str,
    read: Callable[[str], Table],
    dialects: Callable[[], Mapping[str, Dialect]],
) -> dict[str, Any]:
    """Return a table with the rows that it includes, and the fields and layers of these.

    `read` returns another table. Raise TableError for an inclusion that is not valid.
    """
    added: dict[str, Any] = {"config": {}, "layers": {}, "nullable": []}

    def expanded(section: Any, place: str) -> Any:
        rows: dict[str, Any] = {}
        if not isinstance(section, dict):
            return section
        for path, row in section.items():
            if not isinstance(row, dict) or "include" not in row:
                rows[path] = row
                continue
            try:
                inclusion = msgspec.convert(row, Inclusion)
            except msgspec.ValidationError as error:
                problem = Problem(str(error), file, f"{place}.{path}")
                raise TableError(f"{file}: an inclusion is not valid", [problem]) from error
            other = read(inclusion.include)
            missing = {*inclusion.parts} - {*other.get("parts", {}), *other.get("heads", {})}
            included = inclusion.rows(path, other, dialects())
            if missing or not included:
                what = f"has no {sorted(missing)}" if missing else "includes no rows"
                problem = Problem(what, file, f"{place}.{path}")
                raise TableError(f"{file}: an inclusion is not valid", [problem])
            rows |= included
            added["config"] |= inclusion.defaults(other)
            added["layers"] |= inclusion.layers(other)
            added["nullable"] += [inclusion.rename(f, other) for f in other.get("nullable", ())]
        return rows

    changed = {"modules": expanded(data.get("modules", {}), "modules")}
    for kind in ("parts", "heads"):
        groups = data.get(kind, {})
        if isinstance(groups, dict):
            changed[kind] = {key: expanded(rows, f"{kind}.{key}") for key, rows in groups.items()}
    if not added["config"]:
        return data
    merged = {**data, **{key: value for key, value in changed.items() if value}}
    for key, value in added.items():
        own = data.get(key, type(value)())
        if isinstance(own, type(value)):  # anything else is reported when it is decoded
            merged[key] = {**value, **own} if isinstance(own, dict) else [*value, *own]
    return merged
