"""The model card of an output: its sources, what has to be trained, how to load it.

Front matter as https://huggingface.co/docs/hub/model-cards describes it. No machine paths, no
times: the same inputs give the same card.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from converter._version import __version__
from converter.architectures.schema import Architecture, Composite
from converter.errors import UsageError
from converter.file_names import CONFIG, MANIFEST
from converter.models.model import InputModel
from converter.options import CardOptions, OutputOptions
from converter.plan import InitializedTensor, Plan, SourceTensor
from converter.planning.generation_calls import CALLS, FlaxCalls, PytorchCalls
from converter.planning.manifest import dictionary, lineage
from converter.safe_json import read_small_file
from converter.storage.hub_card import (
    PLACEHOLDER,
    is_generated,
    stated_fields,
    stated_license,
    with_checksum,
)
from converter.text import collapse_ranges, redact

_TITLES = {"pytorch": "PyTorch", "tensorflow": "TensorFlow", "flax": "Flax"}
_OTHER = "other"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPOSITORY = re.compile(r"[\w.-]{1,96}(?:/[\w.-]{1,96})?", re.ASCII)
_YAML_WORDS = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))


@dataclass(frozen=True)
class _CardSource:
    """A source as the card describes it."""

    label: str
    repo_id: str | None
    commit: str | None
    display_name: str
    license: str | None
    random: bool
    """Whether only its configuration was used."""
    fields: Mapping[str, Sequence[str]]
    """What its own card states."""
    base_models: Sequence[str]
    """The repositories that it is or comes from."""

    @property
    def reference(self) -> str:
        """The argument of a command for it."""
        return f"{self.repo_id}@{self.commit}" if self.repo_id else self.display_name


def make_model_card(
    plan: Plan,
    existing: bytes | None,
    options: OutputOptions,
    sources: Sequence[InputModel],
    directory: str = "",
) -> bytes:
    """Return the model card of an output: the user's, an existing handwritten one, or a new one.

    `directory` is that of one of the output's models, the submodel's name if it is not ``""``.

    The `existing` card there is kept unless it was generated. Raise UsageError if the
    user's card cannot be read.
    """
    if isinstance(options, CardOptions) and options.card is not None:
        return read_small_file(options.card, error=UsageError)
    if existing is not None and not is_generated(existing):
        return existing
    origins = [_card_source(source, plan, directory) for source in sources]
    title = options.title if isinstance(options, CardOptions) else None
    lines = (
        *_front_matter(plan, origins, directory),
        *_introduction(plan, origins, directory, title),
        *(_new_weights(plan) if not directory else ()),
        *_loading(plan, sources, directory),
        *_making(plan, origins, options, directory),
    )
    return with_checksum("\n".join(lines))


def _card_source(source: InputModel, plan: Plan, submodel: str) -> _CardSource:
    checkpoint = source.checkpoint
    fields = stated_fields(checkpoint.directory)
    made = dictionary(lineage(checkpoint.directory).get("sources"))
    own = [*_repositories({submodel: made[submodel]})] if submodel in made else []
    stated = own or [*fields.get("base_model", ())] or [*_repositories(made)]
    repo_id, described = checkpoint.source.repo_id, checkpoint.source.describe()
    name = described["reference"]
    return _CardSource(
        source.label,
        repo_id,
        described.get("revision"),
        repo_id or _plain(name),
        stated_license(checkpoint.directory),
        source.label in plan.settings.get("random", ()),
        fields,
        [repo_id] if repo_id and not own else stated,
    )


def _repositories(sources: Mapping[str, Any]) -> Iterator[str]:
    """Yield the repositories of the Hub that the sources of a manifest are, or were made of."""
    for source in sources.values():
        name = source.get("reference", "")
        if _COMMIT.fullmatch(source.get("revision", "")) and _REPOSITORY.fullmatch(name):
            yield name
        else:
            yield from _repositories(dictionary(dictionary(source.get("made_by")).get("sources")))


def _plain(text: str) -> str:
    """Return `text` without what ends a code span or a line."""
    return "".join(char for char in text if char.isprintable() and char != "`")


def _markdown(text: str) -> str:
    """Return `text`, escaped so that it is no link, no HTML and no cell of a table."""
    return re.sub(r"([\\\[\]<>|&])", r"\\\1", _plain(text))


def _front_matter(plan: Plan, origins: Sequence[_CardSource], submodel: str) -> Iterator[str]:
    yield "---"
    parents = [parent for origin in origins if not origin.random for parent in origin.base_models]
    if parents:
        yield "base_model:"
        yield from (f"- {_scalar(parent)}" for parent in dict.fromkeys(parents))
        if plan.command == "compose":
            yield "base_model_relation: merge"
    [fields, *others] = [origin.fields for origin in origins]
    for name in ("language", "datasets", "pipeline_tag") if not others else ():
        values = fields.get(name, ())
        if values and not (submodel and name == "pipeline_tag"):
            one = len(values) == 1
            yield f"{name}: {_scalar(values[0])}" if one else f"{name}:"
            yield from (f"- {_scalar(value)}" for value in values if not one)
    yield "library_name: transformers"
    yield from _license(origins)
    yield "tags:"
    names = (
        [str(json.loads(plan.documents[f"{submodel}/{CONFIG}"]).get("model_type"))]
        if submodel
        else []
    )
    closed = [each for each in plan.tables if isinstance(each, Composite) and each.closed]
    tables = [table.name for table in closed or reversed(plan.tables)]
    yield from (f"- {_scalar(name)}" for name in dict.fromkeys(names or tables))
    yield "---"
    yield ""


def _scalar(text: str) -> str:
    """Return a text as YAML, quoted unless it is a plain name."""
    is_name = re.fullmatch(r"[A-Za-z][\w.-]*(/[\w.-]+)?", text, re.ASCII)
    return text if is_name and text.lower() not in _YAML_WORDS else json.dumps(text)


def _license(origins: Sequence[_CardSource]) -> Iterator[str]:
    """Yield the license that all sources state, or ``other`` with all that they state."""
    stated = [origin.license for origin in origins if not origin.random]
    if not stated or None in stated:
        return
    if len(set(stated)) == 1:
        yield f"license: {stated[0]}"
        for name in ("license_name", "license_link") if stated[0] == _OTHER else ():
            values = {origin.fields.get(name, ()) for origin in origins if not origin.random}
            yield from (f"{name}: {_scalar(value)}" for value in values.pop() if not values)
    else:
        yield f"license: {_OTHER}"
        yield f"license_name: {'-and-'.join(dict.fromkeys(map(str, stated)))}"


def _introduction(
    plan: Plan, origins: Sequence[_CardSource], submodel: str, title: str | None
) -> Iterator[str]:
    names = dict.fromkeys(_markdown(origin.display_name) for origin in origins)
    own = f"{f'{submodel} of ' if submodel else ''}{' and '.join(names)}"
    yield f"# {_markdown(title).strip() if title else own}"
    yield ""
    titles = [_markdown(each.title) for each in plan.tables if isinstance(each, Architecture)]
    composite = next((each for each in plan.tables if isinstance(each, Composite)), None)
    composed = _markdown(composite.title) if composite and composite.closed else None
    generates = composite is None or composite.generates
    if plan.command == "compose" and composite and not generates:
        yield (
            f"{_markdown(composite.title)}: {titles[0]}, and {titles[1]}. **They were put "
            "together, not trained**: until they are, what compares their outputs returns noise."
        )
    elif plan.command == "compose":
        what = f"{composed}:" if composed else "One encoder-decoder model of"
        yield (
            f"{what} {titles[0]} as encoder and {titles[1]} as decoder. **It was put together, not "
            "trained**: before it is fine-tuned it generates noise."
        )
    elif submodel:
        yield f"The {submodel} of a combined model, as a model of its own."
    else:
        what = composed or " and ".join(dict.fromkeys(titles))
        yield f"{what}: the same model for other frameworks or in other files."
    if composite and len(composite.classes) == 1 and not submodel:
        yield f"transformers has its class for {_TITLES[next(iter(composite.classes))]} only."
    yield ""
    yield "| part | from | commit | license |"
    yield "|---|---|---|---|"
    for origin in origins:
        shown = origin.display_name.replace("|", r"\|")
        link = f"[{origin.display_name}](https://huggingface.co/{origin.repo_id})"
        reference = link if origin.repo_id else f"`{shown}`"
        random = " (its configuration; the weights are newly initialized)" if origin.random else ""
        commit = f"`{origin.commit}`" if origin.commit else "–"
        license = origin.license or "not stated"
        yield f"| {origin.label} | {reference}{random} | {commit} | {license} |"
    yield ""
    if plan.command == "compose" and generates:
        yield from ("```mermaid", "flowchart LR")
        yield f'    text[input] --> encoder["encoder: {titles[0]}"]'
        yield f'    encoder -- cross-attention --> decoder["decoder: {titles[1]}"]'
        yield from ("    decoder --> output", "```", "")


def _new_weights(plan: Plan) -> Iterator[str]:
    reasons: dict[str, list[str]] = {}
    for tensor in plan.tensors:
        if tensor.needs_training and isinstance(tensor.origin, InitializedTensor):
            reasons.setdefault(tensor.origin.reason, []).append(tensor.spec.name)
    copies = _copies(plan)
    if not reasons and not copies:
        return
    count = sum(map(len, reasons.values()))
    yield "## Newly initialized weights, which need training"
    yield ""
    if copies:
        yield f"{len(copies):,} tensors of cross-attention are copies of those of self-attention:"
        yield from ("", *(f"- `{name}`" for name in collapse_ranges(copies)), "")
    if count:
        tensors = f"{count:,} of {len(plan.tensors):,} tensors"
        yield from (f"{tensors} are in no source and are newly initialized.", "")
    for reason, names in reasons.items():
        yield f"- {reason}:"
        yield from (f"  - `{name}`" for name in collapse_ranges(names))
    yield ""


def _copies(plan: Plan) -> list[str]:
    """Return the tensors that have the values of a tensor before them, of the same source."""
    taken, copies = set[tuple[str, str]](), []
    for tensor in plan.tensors if plan.command == "compose" else ():
        if isinstance(tensor.origin, SourceTensor):
            source = tensor.origin.source, tensor.origin.tensor.spec.name
            if source in taken:
                copies.append(tensor.spec.name)
            taken.add(source)
    return copies


def _calls(plan: Plan, sources: Sequence[InputModel], framework: str) -> FlaxCalls | PytorchCalls:
    composites = [table for table in plan.tables if isinstance(table, Composite)]
    configs = {name: config for source in sources for name, config in source.configs.items()}
    return CALLS[framework].of(configs, composites[0] if composites else None)


def _loading(plan: Plan, sources: Sequence[InputModel], submodel: str) -> Iterator[str]:
    classes = plan.classes[submodel]
    own = f"{submodel}/" if submodel else ""
    files = [file for file in plan.files if file.path.startswith(own)]
    written = dict.fromkeys(file.framework for file in files)
    shadowed = any(file.file_format == "safetensors" for file in files)
    yield "## Load it"
    yield ""
    for framework in (name for name in written if name in classes):
        # transformers 4 prefers safetensors to h5, and fails on them
        more = ", use_safetensors=False" if framework == "tensorflow" and shadowed else ""
        older = "" if framework == "pytorch" else " (transformers before version 5)"
        has_calls = framework in CALLS and not submodel
        calls = _calls(plan, sources, framework) if has_calls else None
        name = classes[framework]
        yield f"{_TITLES[framework]}{older}:"
        yield ""
        yield "```python"
        yield from calls.imports(name) if calls else [f"from transformers import {name}"]
        yield ""
        yield f'model = {name}.from_pretrained("{PLACEHOLDER}"{more})'
        yield from calls.example() if calls else ()
        yield "```"
        yield ""


def _making(
    plan: Plan, origins: Sequence[_CardSource], options: OutputOptions, submodel: str
) -> Iterator[str]:
    words = ["converter", plan.command, *(origin.reference for origin in origins), "OUTPUT"]
    decisive = {
        "to": ",".join(options.to or ()),
        "pytorch_format": options.pytorch_format,
        "dtype": options.dtype,
        "max_shard_size": options.max_shard_size,
        **plan.settings,
        "title": options.title if isinstance(options, CardOptions) else None,
    }
    for name, value in decisive.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, Mapping):
            value = [
                f"{submodel}={','.join(map(str, each)) if isinstance(each, list | tuple) else each}"
                for submodel, each in value.items()
            ]
        if value is True:
            words.append(flag)
        elif isinstance(value, list | tuple):
            words += [word for item in value for word in (flag, str(item))]
        elif value not in (None, False, "", "keep") or name == "seed":
            words += [flag, str(value)]
    yield "## How it was made"
    yield ""
    yield (
        f"With encdec-converter {__version__}. "
        f"`{'../' if submodel else ''}{MANIFEST}` says where every tensor comes from"
        f"{'' if options.no_hash else ', with its SHA-256'}."
    )
    yield ""
    yield "```sh"
    yield _plain(redact(shlex.join(words)))
    yield "```"
    yield ""
