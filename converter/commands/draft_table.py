"""A first draft of a mapping table, from a checkpoint's names and its configuration.

What can be inferred is filled in; what a person must decide is marked ``decide:``. The draft is
valid, so that ``converter check-table`` can be run at every step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from converter.checkpoint.opening import Checkpoint, open_files
from converter.errors import UnsupportedError
from converter.tensors import FLOATING, TensorSpec
from converter.text import split_layer_index

_NUMBER = re.compile(r"(?<=\.)[0-9]{1,9}(?=\.)")
_OUTPUT = re.compile(r"head|proj|decoder|classifier|output|dense|predictions")
_WIDTHS = ("hidden_size", "n_embd", "d_model", "dim")
_EMBEDDING = re.compile(r"embed|wte|wpe|token")
_NORM = re.compile(r"norm|(^|[._])ln(_|$|\d)", re.IGNORECASE)
_WORD = re.compile(r"[a-z]+")
_MARK = "decide:"
_CLASS_FILES = {"tensorflow": ("modeling_tf_*.py", "TF"), "flax": ("modeling_flax_*.py", "Flax")}
"""Framework → files of transformers with its classes, and the start of their names."""


def open_marks(text: str) -> dict[int, str]:
    """Return the decisions that a draft still asks for: number of the line → what is to decide."""
    lines = enumerate(text.splitlines(), 1)
    marked = {number: line.partition(_MARK)[2] for number, line in lines if _MARK in line}
    return {number: what.strip().rstrip('"') for number, what in marked.items()}


@dataclass
class _Module:
    """The tensors of one module, layers folded."""

    path: str
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


def draft(source: str | Path, config: str | Path | None = None) -> str:
    """Return the text of a table for the model at `source`, a directory or a weight file.

    Raise CheckpointError if it cannot be opened, UnsupportedError if its names are not PyTorch's.
    """
    with open_files(source, config, headers=True) as checkpoint:
        if checkpoint.file_format not in ("safetensors", "torch"):
            raise UnsupportedError(
                f"{checkpoint.reference}: a table is drafted from PyTorch's names",
                remedy="Give model.safetensors or pytorch_model.bin.",
            )
        return "\n".join(_table(checkpoint)) + "\n"


def _table(checkpoint: Checkpoint) -> list[str]:
    fields = {
        key: value
        for key, value in checkpoint.config.items()
        if isinstance(value, int) and not isinstance(value, bool) and value > 1
    }
    stored = [tensor.spec for tensor in checkpoint.tensors.values()]
    specs = [spec for spec in stored if spec.dtype in FLOATING]
    buffers = [spec.name for spec in stored if spec.dtype not in FLOATING]
    base = _base(specs)
    modules, counts = _modules(specs, base)
    places, fits = _layer_counts(counts, fields)
    rows = _aligned([_row(module, fields) for module in modules["body"]])
    heads = _aligned([_row(module, fields) for module in modules["head"]])
    attributes = _aligned(_attributes(fields, rows))
    lines = (*rows, *heads, *places, *attributes)
    used = [name for name in fields if any(_uses(line, name) for line in lines)]
    model_type = str(checkpoint.config.get("model_type", "unknown"))
    model_class = _model_class(checkpoint.config, model_type)
    text = [
        f"model_type = {_quoted(model_type)}",
        f"title      = {_quoted(model_type)}  # {_MARK} a common name, and the paper",
        _frameworks(model_class),
        *([f"layers = {{ {', '.join(places)} }}  {fits}".rstrip()] if places else []),
        *([f"base_model_prefix = {_quoted(base)}"] if base else []),
        'init = "normal(initializer_range)"',
        "",
        f"[config]  # {_MARK} the defaults of the configuration class, not this model's values",
        *_aligned(
            [
                *(f"{name} = {fields[name]}" for name in used),
                f"initializer_range = {checkpoint.config.get('initializer_range', 0.02)}",
            ]
        ),
        "",
        f"[attributes]  # {_MARK} which fields say so",
        *attributes,
        'init_range = "initializer_range"',
        "",
        f"[models]  # {_MARK} its other classes, of which some may have other frameworks",
        model_class + (' = { heads = ["lm"] }' if heads else " = {}"),
        "",
        f"[roles]  # {_MARK} encoder, decoder or both; a decoder needs [parts.cross_attention]",
        f"encoder = {{ model = {_quoted(model_class)} }}",
        "",
        "[modules]",
        *rows,
    ]
    if heads:
        text += [
            "",
            f"[heads.lm]  # {_MARK} what the head is called, and what of it is tied",
            *heads,
        ]
    if buffers:
        text += ["", "[ignore.pytorch]"]
        names = dict.fromkeys(_with_placeholders(name.removeprefix(f"{base}.")) for name in buffers)
        text += [f"{_quoted(name)} = {_quoted(f'{_MARK} why is it no weight?')}" for name in names]
    return text


def _with_placeholders(name: str) -> str:
    """Return a name with placeholders for its numbers."""
    for level, _ in enumerate(_NUMBER.findall(name)):
        name = _NUMBER.sub("{layer}" if level == 0 else f"{{layer{level + 1}}}", name, count=1)
    return name


def _aligned(lines: Sequence[str]) -> list[str]:
    """Return the lines with their first equals signs aligned."""
    parts = [line.partition(" = ") for line in lines]
    width = max((len(key) for key, _, _ in parts), default=0)
    return [f"{key:<{width}} = {value}" for key, _, value in parts]


def _base(specs: Sequence[TensorSpec]) -> str:
    """Return the prefix of most tensors, if more than one layer follows it."""
    first: dict[str, int] = {}
    for spec in specs:
        head = spec.name.partition(".")[0]
        first[head] = first.get(head, 0) + 1
    name = max(first, key=lambda head: first[head], default="")
    below = {spec.name.split(".")[1] for spec in specs if spec.name.startswith(f"{name}.")}
    return (
        name
        if len(below) > 1
        and not any(part.isdigit() for part in below)
        and (first[name] > 0.8 * len(specs) and len(first) <= 3 and "encoder" not in name)
        else ""
    )


def _modules(
    specs: Sequence[TensorSpec], base: str
) -> tuple[dict[str, list[_Module]], dict[str, int]]:
    """Return the modules of the base model and of heads, and the count of each placeholder."""
    modules: dict[str, dict[str, _Module]] = {"body": {}, "head": {}}
    counts: dict[str, int] = {}
    for spec in sorted(specs, key=lambda spec: split_layer_index(spec.name)):
        inside = not base or spec.name.startswith(f"{base}.")
        name = spec.name.removeprefix(f"{base}.") if base else spec.name
        path = _with_placeholders(name)
        for level, number in enumerate(_NUMBER.findall(name)):
            place = "layer" if level == 0 else f"layer{level + 1}"
            counts[place] = max(counts.get(place, 0), int(number) + 1)
        module, _, param = path.rpartition(".")
        if param not in ("weight", "bias", "gamma", "beta"):
            module, param = path, ""
        group = modules["body" if inside else "head"]
        group.setdefault(module, _Module(module)).shapes.setdefault(param, spec.shape)
    return {name: list(group.values()) for name, group in modules.items()}, counts


def _layer_counts(counts: Mapping[str, int], fields: Mapping[str, int]) -> tuple[list[str], str]:
    """Return ``layer = "num_hidden_layers"`` for each placeholder, and a comment on guesses."""
    entries, unsure = [], []
    for place, count in counts.items():
        names = [name for name, value in fields.items() if value == count]
        likely = sorted(names, key=lambda name: "layer" not in name)
        entries.append(f"{place} = {_quoted(likely[0] if likely else str(count))}")
        if len(names) != 1:
            unsure.append(f"{place}: {', '.join(likely) or 'no field'} is {count}")
    return entries, f"# {_MARK} {'; '.join(unsure)}" if unsure else ""


def _row(module: _Module, fields: Mapping[str, int]) -> str:
    """Return one line of a table."""
    weight = module.shapes.get("weight", module.shapes.get("gamma"))
    bias = module.shapes.get("bias", module.shapes.get("beta"))
    doubts: list[str] = []
    extra = ""
    if weight is None and "" in module.shapes and len(module.shapes[""]) <= 2:
        shape = module.shapes[""]
        layer_type, sizes = ("vector", shape) if len(shape) == 1 else ("matrix", shape)
    elif weight is None:
        layer_type, sizes = "vector", next(iter(module.shapes.values()))
        doubts.append(f"which layer type? {module.shapes}")
    elif len(weight) == 1:
        layer_type, sizes = "layer_norm", weight
        if bias is None:
            layer_type = "rms_norm"
        elif not _NORM.search(module.path):
            doubts.append("a layer norm?")
    elif len(weight) == 2 and bias is None and _EMBEDDING.search(module.path):
        layer_type, sizes = "embedding", weight
    elif len(weight) == 2:
        layer_type, sizes = "linear", weight[::-1]
        if bias is None:
            extra = ", bias = false"
            if "{" not in module.path and not _OUTPUT.search(module.path):
                layer_type, sizes, extra = "embedding", weight, ""
                doubts.append("an embedding, or linear without a bias?")
        elif bias == (weight[1],) != (weight[0],):
            layer_type, sizes = "gpt2_conv1d", weight
        elif "c_" in module.path:
            doubts.append("linear, or gpt2_conv1d, which is stored transposed?")
    else:
        layer_type, sizes = "conv1d", weight
        doubts.append(f"which layer type? {list(weight)}")
    texts = [_size(module.path, length, fields, doubts) for length in sizes]
    comment = f"  # {_MARK} {'; '.join(doubts)}" if doubts else ""
    entry = f"{layer_type} = {_quoted(' -> '.join(texts))}{extra}"
    return f"{_quoted(module.path)} = {{ {entry} }}{comment}"


def _size(path: str, length: int, fields: Mapping[str, int], doubts: list[str]) -> str:
    """Return the field that has this value; add a doubt if several have, or none has."""
    words = set(_WORD.findall(path))
    names = sorted(
        (name for name, value in fields.items() if value == length and "token_id" not in name),
        key=lambda name: -len(words & set(_WORD.findall(name))),
    )
    if len(names) == 1:
        return names[0]
    doubts.append(f"{' or '.join(names) or 'no field'} is {length}")
    if names:
        return names[0]
    return next(
        (
            f"{times} * {name}"
            for name in (*_WIDTHS, *fields)
            for times in (2, 3, 4)
            if fields.get(name, 0) * times == length
        ),
        str(length),
    )


def _attributes(fields: Mapping[str, int], rows: Sequence[str]) -> list[str]:
    """Return the usual attributes, with the field that most rows depend on as the width."""
    common = max(fields, key=lambda name: sum(_uses(row, name) for row in rows), default="")
    guesses = {
        "width": (*_WIDTHS, common),
        "vocabulary": ("vocab_size",),
        "positions": ("max_position_embeddings", "n_positions"),
        "heads": ("num_attention_heads", "n_head", "n_heads"),
    }
    return [
        f"{attribute} = {_quoted(name)}"
        for attribute, names in guesses.items()
        for name in [next((name for name in names if name in fields), None)]
        if name
    ]


def _model_class(config: Mapping[str, Any], model_type: str) -> str:
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    return (
        first if isinstance(first, str) and first.isidentifier() else f"{model_type.title()}Model"
    )


def _frameworks(model_class: str) -> str:
    """Return the line with the frameworks in which the installed transformers has a class.

    Its files are searched, not imported; its version 5 has PyTorch alone.
    """
    package = find_spec("transformers")
    models = [
        Path(each) / "models" for each in (package and package.submodule_search_locations) or ()
    ]
    names = ["pytorch"]
    for framework, (files, prefix) in _CLASS_FILES.items():
        start = f"class {prefix}{model_class}(".encode()
        if any(start in file.read_bytes() for each in models for file in each.glob(f"*/{files}")):
            names.append(framework)
    installed = f"transformers {version('transformers')}" if models else "no transformers"
    patterns = [f"*/{files}" for files, _ in _CLASS_FILES.values()]
    doubtful = not any(any(each.glob(pattern)) for each in models for pattern in patterns)
    why = f"{_MARK} {installed} is installed; 4.57 may have TensorFlow and Flax classes"
    return f"frameworks = {json.dumps(names)}  # {why if doubtful else f'by {installed}'}"


def _uses(line: str, name: str) -> bool:
    """Return whether a line uses a field, ignoring its comment."""
    return re.search(rf"\b{re.escape(name)}\b", line.partition("#")[0]) is not None


def _quoted(text: str) -> str:
    return json.dumps(text)
