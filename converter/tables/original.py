"""From ``[original]`` of a family's table to `Original`: how its first releases are told."""

from __future__ import annotations

from collections.abc import Collection

from converter.tables.schema import Original
from converter.tables.section import Section
from converter.tables.templates import Template


def load_original(
    section: Section, fields: Collection[str], models: Collection[str]
) -> Original | None:
    """Read the section, ``None`` where a table has none.

    Args:
        section: what the table says.
        fields: the configuration fields that the table knows.
        models: the classes that it knows.
    """
    if not list(section):
        return None
    named, without = section.names("fields"), section.names("without")
    if not named:
        section.complain("must name the fields that a configuration is told by", "fields")
    templates = [section.parsed("tensors", Template, text) for text in section.names("tensors")]
    if not templates:
        section.complain("must name a tensor that a release is told by", "tensors")
    renamed = section.section("rename")
    rename = {old: renamed.take(old, str, "") for old in renamed}
    for old, new in rename.items():
        if new not in fields:
            renamed.complain(f"{new!r} is no field under [config]", old)
    model = section.take("model", str, "") or None
    if model is not None and model not in models:
        section.complain(f"there is no model {model!r} under [models]", "model")
    section.finish("fields, without, tensors, rename, model")
    return Original(
        fields=frozenset(named),
        without=frozenset(without),
        tensors=tuple(template for template in templates if template),
        rename=rename,
        model=model,
    )
