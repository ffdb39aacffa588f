"""What belongs to neither half of a combined model: the projection between two widths.

`split` keeps it beside the two halves, and `compose` of these two takes it from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from converter.architectures.model_spec import ParamSpec
from converter.checkpoint.opening import Checkpoint
from converter.errors import ConverterError, FormatError, Problem
from converter.file_names import JOINT_WEIGHTS, MANIFEST
from converter.formats.registry import open_file
from converter.plan import SourceTensor
from converter.planning.tensor_plan import SourceMatch
from converter.safe_json import read_json_object
from converter.tensors import Rearrangement


def split_manifest(encoder: Checkpoint, decoder: Checkpoint) -> Mapping[str, Any]:
    """What `split` noted of two directories, if it made them both; nothing otherwise."""
    manifest = encoder.directory.resolve().parent / MANIFEST
    if _parent(encoder) != _parent(decoder) or not manifest.is_file():
        return {}
    try:
        noted = read_json_object(manifest)
    except ConverterError:
        return {}
    return noted if noted.get("command") == "split" else {}


def projection_file(encoder: Checkpoint, decoder: Checkpoint) -> Path | None:
    """The file that `split` left beside these two directories, if it made them both."""
    path = encoder.directory.resolve().parent / JOINT_WEIGHTS
    return path if path.is_file() and split_manifest(encoder, decoder) else None


def _parent(submodel: Checkpoint) -> str:
    """Where the directory of a half lies, or lay before it was fetched from there."""
    if submodel.remote:
        return submodel.remote.url.bare.rpartition("/")[0]
    return str(submodel.directory.resolve().parent)


def projection_tensors(
    path: Path, params: Sequence[ParamSpec], stack: ExitStack
) -> dict[str, SourceMatch]:
    """Where the values of `params` lie in the file at `path`, which stays open until `stack` ends.

    Raises:
        FormatError: if a tensor is missing or has another shape.

    """
    reader = stack.enter_context(open_file(path))
    findings, problems = {}, []
    for param in params:
        spelling = param.canonical
        tensor = reader.tensors.get(spelling.name)
        if tensor is None or tensor.spec.shape != spelling.shape:
            problems.append(
                Problem(
                    "does not fit the two halves",
                    str(path),
                    spelling.name,
                    expected=str(list(spelling.shape)),
                    found=str(list(tensor.spec.shape)) if tensor else "nothing",
                )
            )
            continue
        stored = SourceTensor("joint", tensor, Rearrangement(spelling.axes, spelling.axes))
        findings[param.name] = SourceMatch(stored)
    if problems:
        raise FormatError(f"{path}: is not what split left there", problems)
    return findings
