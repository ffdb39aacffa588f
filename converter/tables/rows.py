"""From the rows of a table, each a module, to `Row`."""

from __future__ import annotations

import re

from converter.tables.expressions import Expression
from converter.tables.schema import FRAMEWORKS, Init, Row, Vocabulary
from converter.tables.section import Section, split_sizes
from converter.tables.templates import Template

_INIT = re.compile(
    r"(normal|truncated-normal|uniform|constant|sinusoidal|frequencies|window-distances|count)\((.+)\)"
)
_ROW_KEYS = ("when", "without", "init", "path", "leaf", "also", "not_in")


def load_rows(section: Section, vocabulary: Vocabulary) -> tuple[Row, ...]:
    """The rows of a section: of each path one, or alternatives that conditions choose from."""
    rows = []
    for path, entry in [(key, each) for key in section for each in section.alternatives(key)]:
        kinds = [key for key in entry if key in vocabulary.kinds]
        if len(kinds) != 1:
            entry.complain(
                f"must name one kind of module, not {len(kinds)}",
                remedy="kinds: " + ", ".join(vocabulary.kinds),
            )
            continue
        kind = vocabulary.kinds[kinds[0]]
        texts = split_sizes(entry.take(kind.name, str, ""))
        if len(texts) != len(kind.sizes):
            entry.complain(f"{kind.name} takes sizes '{' -> '.join(kind.sizes)}'", kind.name)
        sizes = [entry.parsed(kind.name, Expression, text) for text in texts]
        init = entry.take("init", str, "")
        without = entry.names("without", tuple(leaf.name for leaf in kind.leaves))
        template = entry.parsed("", Template, path)
        paths = {
            dialect: entry.parsed("path", Template, str(text))
            for dialect, text in by_dialect(entry, "path", vocabulary).items()
        }
        for dialect, other in paths.items():
            if other and template and set(other.places) != set(template.places):
                entry.complain(f"the {dialect} path has other places than the row", "path")
        rows.append(
            Row(
                path=template or Template("?"),
                kind=kind,
                sizes=tuple(size for size in sizes if size),
                when=entry.expression("when"),
                without=frozenset(without),
                init=load_init(entry, "init", init) if init else None,
                paths={dialect: other for dialect, other in paths.items() if other},
                leaves=by_dialect(entry, "leaf", vocabulary),
                also=_also(entry, vocabulary),
                not_in=frozenset(entry.names("not_in", _may_lack(vocabulary))),
            )
        )
        entry.finish(", ".join((*_ROW_KEYS, "or one kind of module")))
    return tuple(rows)


def load_init(section: Section, key: str, text: str) -> Init:
    """A rule for fresh weights from `text`; a slip becomes a problem at `key`."""
    found = _INIT.fullmatch(text)
    if not found:
        section.complain(
            f"{text!r} is none of normal(…), truncated-normal(…), uniform(…), constant(…), "
            "sinusoidal(…), frequencies(…), window-distances(…), count(…)",
            key,
        )
        return Init("normal", Expression("0.02"))
    scale = section.parsed(key, Expression, found[2])
    return Init(found[1], scale or Expression("0.02"))


def _may_lack(vocabulary: Vocabulary) -> tuple[str, ...]:
    """The dialects that may lack a module: all but that of the canonical names."""
    return tuple(name for name in vocabulary.dialects if name != FRAMEWORKS[0])


def by_dialect(section: Section, key: str, vocabulary: Vocabulary) -> dict[str, str]:
    """Take a table of one text for each dialect."""
    spelled = section.section(key)
    found = {name: spelled.take(name, str, "") for name in spelled if name in vocabulary.dialects}
    spelled.finish(", ".join(vocabulary.dialects))
    return found


def _also(section: Section, vocabulary: Vocabulary) -> dict[str, tuple[Template, ...]]:
    listed = section.section("also")
    found = {}
    for dialect in listed:
        if dialect in vocabulary.dialects:
            templates = [listed.parsed(dialect, Template, name) for name in listed.names(dialect)]
            found[dialect] = tuple(template for template in templates if template)
    listed.finish(", ".join(vocabulary.dialects))
    return found
