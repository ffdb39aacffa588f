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

from converter._version import __version__
from converter.architectures.schema import Architecture, Composite
from converter.errors import UsageError
from converter.models.model import InputModel
from converter.options import CardOptions, OutputOptions
from converter.plan import InitializedTensor, Plan, SourceTensor
from converter.planning.flax_generation import FlaxCalls
from converter.safe_json import read_small_file
from converter.storage.hub_card import PLACEHOLDER, is_generated, stated_license, with_checksum
from converter.text import collapse_ranges, redact

_TITLES = {"pytorch": "PyTorch", "tensorflow": "TensorFlow", "flax": "Flax"}
_OTHER = "other"


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

    @property
    def reference(self) -> str:
        """The argument of a command for it."""
        return f"{self.repo_id}@{self.commit}" if self.repo_id else self.display_name


def make_model_card(
    plan: Plan, existing: bytes | None, options: OutputOptions, sources: Sequence[InputModel]
) -> bytes:
    """Return the model card of an output: the user's, an existing handwritten one, or a new one.

    The `existing` card of the directory is kept unless it was generated. Raise UsageError if the
    user's card cannot be read.
    """
    if isinstance(options, CardOptions) and options.card is not None:
        return read_small_file(options.card, error=UsageError)
    if existing is not None and not is_generated(existing):
        return existing
    origins = [_card_source(source, plan) for source in sources]
    title = options.title if isinstance(options, CardOptions) else None
    lines = (
        *_front_matter(plan, origins),
        *_introduction(plan, origins, title),
        *_new_weights(plan),
        *_loading(plan, _flax_calls(plan, sources)),
        *_making(plan, origins, options),
    )
    return with_checksum("\n".join(lines))


def _card_source(source: InputModel, plan: Plan) -> _CardSource:
    checkpoint = source.checkpoint
    repo_id, described = checkpoint.source.repo_id, checkpoint.source.describe()
    name = described["reference"]
    return _CardSource(
        source.label,
        repo_id,
        described.get("revision"),
        repo_id or _plain(name),
        stated_license(checkpoint.directory),
        source.label in plan.settings.get("random", ()),
    )


def _plain(text: str) -> str:
    """Return `text` without what ends a code span or a line."""
    return "".join(char for char in text if char.isprintable() and char != "`")


def _markdown(text: str) -> str:
    """Return `text`, escaped so that it is no link, no HTML and no cell of a table."""
    return re.sub(r"([\\\[\]<>|&])", r"\\\1", _plain(text))


def _front_matter(plan: Plan, origins: Sequence[_CardSource]) -> Iterator[str]:
    yield "---"
    parents = [o.repo_id for o in origins if o.repo_id and not o.random]
    if parents:
        yield "base_model:"
        yield from (f"- {parent}" for parent in dict.fromkeys(parents))
        if plan.command == "compose":
            yield "base_model_relation: merge"
    yield "library_name: transformers"
    yield from _license(origins)
    yield "tags:"
    closed = [each for each in plan.tables if isinstance(each, Composite) and each.closed]
    yield from (
        f"- {name}" if re.fullmatch(r"[A-Za-z][\w.-]*", name) else f"- {json.dumps(name)}"
        for name in dict.fromkeys(table.name for table in closed or reversed(plan.tables))
    )
    yield "---"
    yield ""


def _license(origins: Sequence[_CardSource]) -> Iterator[str]:
    """Yield the license that all sources state, or ``other`` with all that they state."""
    stated = [origin.license for origin in origins if not origin.random]
    if not stated or None in stated:
        return
    if len(set(stated)) == 1:
        yield f"license: {stated[0]}"
    else:
        yield f"license: {_OTHER}"
        yield f"license_name: {'-and-'.join(dict.fromkeys(map(str, stated)))}"


def _introduction(plan: Plan, origins: Sequence[_CardSource], title: str | None) -> Iterator[str]:
    names = dict.fromkeys(_markdown(origin.display_name) for origin in origins)
    yield f"# {_markdown(title).strip() if title else ' and '.join(names)}"
    yield ""
    titles = [_markdown(each.title) for each in plan.tables if isinstance(each, Architecture)]
    composite = next((each for each in plan.tables if isinstance(each, Composite)), None)
    composed = _markdown(composite.title) if composite and composite.closed else None
    if plan.command == "compose":
        what = f"{composed}:" if composed else "One encoder-decoder model of"
        yield (
            f"{what} {titles[0]} as encoder and {titles[1]} as decoder. **It was put together, not "
            "trained**: before it is fine-tuned it generates noise."
        )
    else:
        what = composed or " and ".join(dict.fromkeys(titles))
        yield f"{what}: the same model for other frameworks or in other files."
    if composite and len(composite.classes) == 1:
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
    if plan.command == "compose":
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
    yield f"{count:,} of {len(plan.tensors):,} tensors are in no source and are newly initialized."
    yield ""
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


def _flax_calls(plan: Plan, sources: Sequence[InputModel]) -> FlaxCalls:
    composites = [table for table in plan.tables if isinstance(table, Composite)]
    configs = {name: config for source in sources for name, config in source.configs.items()}
    return FlaxCalls.of(configs, composites[0] if composites else None)


def _loading(plan: Plan, flax_calls: FlaxCalls) -> Iterator[str]:
    classes = plan.classes[""]
    written = dict.fromkeys(file.framework for file in plan.files)
    shadowed = any(file.file_format == "safetensors" for file in plan.files)
    yield "## Load it"
    yield ""
    for framework in (name for name in written if name in classes):
        # transformers 4 prefers safetensors to h5, and fails on them
        more = ", use_safetensors=False" if framework == "tensorflow" and shadowed else ""
        older = "" if framework == "pytorch" else " (transformers before version 5)"
        calls = flax_calls if framework == "flax" else FlaxCalls()
        name = classes[framework]
        yield f"{_TITLES[framework]}{older}:"
        yield ""
        yield "```python"
        yield from calls.imports(name)
        yield ""
        yield f'model = {name}.from_pretrained("{PLACEHOLDER}"{more})'
        yield from calls.example()
        yield "```"
        yield ""


def _making(plan: Plan, origins: Sequence[_CardSource], options: OutputOptions) -> Iterator[str]:
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
        "`converter-manifest.json` says where every tensor comes from"
        f"{'' if options.no_hash else ', with its SHA-256'}."
    )
    yield ""
    yield "```sh"
    yield _plain(redact(shlex.join(words)))
    yield "```"
    yield ""
