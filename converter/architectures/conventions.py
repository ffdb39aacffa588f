"""From the content of ``_dialects.toml`` to `Conventions`, refusing every slip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converter.architectures.schema import (
    FRAMEWORKS,
    Conventions,
    Dialect,
    LayerType,
    Param,
    ParamLayout,
)
from converter.architectures.toml_section import TomlSection, raise_if_problems, split_sizes
from converter.errors import Problem
from converter.tensors import Axes

_BASE = {"always": True, "beside a head": False}


def load_conventions(data: Mapping[str, Any], file: str) -> Conventions:
    """What families share, from the content of ``_dialects.toml``.

    Raises:
        TableError: with every problem found.

    """
    problems: list[Problem] = []
    root = TomlSection(data, "", problems, file)
    dialects = {}
    listed = root.section("dialects")
    for name in listed:
        entry = listed.section(name)
        base = entry.require("base", str, "always")
        if base not in _BASE:
            entry.add_problem(f"{base!r} is none of {', '.join(_BASE)}", "base")
        dialects[name] = Dialect(
            name,
            separator=entry.require("separator", str, "."),
            index_separator=entry.require("index", str, "."),
            always_prefixed=_BASE.get(base, True),
            suffix=entry.take("suffix", str, ""),
            prefixes=entry.names("wrappers"),
            inner_prefixes=entry.names("inside"),
            flat_separator=entry.take("flat", str, ""),
            config_files=entry.names("configs"),
            ignore=entry.section("drop").reasons(),
        )
        entry.finish("separator, index, base, suffix, wrappers, inside, flat, configs, drop")
    kinds = {name: _kind(name, root.section(name), dialects) for name in root}
    return raise_if_problems(Conventions(dialects, kinds), problems, file)


def _kind(name: str, section: TomlSection, dialects: Mapping[str, Dialect]) -> LayerType:
    sizes = tuple(split_sizes(section.require("sizes", str, "")))
    leaves = []
    for leaf_name in section:
        entry = section.section(leaf_name)
        init = entry.require("init", str, "normal")
        if init not in ("normal", "zeros", "ones"):
            entry.add_problem(f"{init!r} is none of normal, zeros, ones", "init")
        dtype = entry.take("dtype", str, "")
        if dtype not in ("", "int64"):
            entry.add_problem(f"{dtype!r} is not int64", "dtype")
        stored_as = {}
        for dialect in entry:
            if dialect not in dialects:
                entry.add_problem(f"{dialect!r} is no dialect")
                entry.take(dialect, dict, {})
                continue
            spelled = entry.section(dialect)
            axes = spelled.parsed("axes", Axes.parse, spelled.require("axes", str, ""))
            if axes and not set(axes.names) <= set(sizes):
                spelled.add_problem(f"'{axes}' names axes that are not among the sizes", "axes")
            leaf = spelled.require("leaf", str, "")
            stored_as[dialect] = ParamLayout(leaf, axes or Axes(()), spelled.names("also"))
            spelled.finish("leaf, axes, also")
        for framework in FRAMEWORKS:
            if framework in dialects and framework not in stored_as:
                entry.add_problem(f"lacks {framework!r}")
        if len({frozenset(spelling.axes.names) for spelling in stored_as.values()}) > 1:
            entry.add_problem("its dialects name different axes")
        leaves.append(Param(leaf_name, init, stored_as, dtype))
    return LayerType(name, sizes, tuple(leaves))
