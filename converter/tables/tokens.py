"""From ``[tokens]`` and ``[languages]`` of a family's table to what generation begins with."""

from __future__ import annotations

from converter.tables.schema import Languages, Token
from converter.tables.section import Section


def load_tokens(section: Section) -> dict[str, Token]:
    """The special tokens by their roles in generation."""
    tokens = {}
    for name in section:
        entry = section.section(name)
        tokens[name] = Token(
            entry.require("token", str, ""),
            entry.require("id", int, 0),
            entry.take("always", bool, False),
        )
        entry.finish("token, id, always")
    return tokens


def load_languages(section: Section) -> Languages | None:
    """The codes of languages, ``None`` where a table has none."""
    if not list(section):
        return None
    groups = section.take("codes", list, [])
    if not groups or not all(
        isinstance(group, list) and group and all(isinstance(code, str) for code in group)
        for group in groups
    ):
        section.complain("must be lists of codes, one for each size of vocabulary", "codes")
        groups = []
    codes = [code for group in groups for code in group]
    for code in dict.fromkeys(code for code in codes if codes.count(code) > 1):
        section.complain(f"{code!r} stands twice", "codes")
    form = section.take("form", str, "{}")
    if form.count("{}") != 1 or form.replace("{}", "").strip("{}") != form.replace("{}", ""):
        section.complain("must have one {} for the name of the language", "form")
        form = "{}"
    found = Languages(
        codes=tuple(tuple(group) for group in groups),
        first=section.require("first", int, 0),
        form=form,
        follows=frozenset(section.names("follows")),
    )
    section.finish("codes, first, form, follows")
    return found
