"""The small files of a finished checkpoint: do they agree with each other and with the weights?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from converter.checkpoint.opening import Checkpoint
from converter.errors import ConverterError, Problem
from converter.file_names import (
    CONFIG,
    FLAX_WEIGHTS,
    GENERATION_CONFIG,
    INDEX_SUFFIX,
    MODEL_CARD,
    PYTORCH_WEIGHTS,
    SAFETENSORS_WEIGHTS,
    TENSORFLOW_WEIGHTS,
    TOKENIZER,
    TOKENIZER_CONFIG,
)
from converter.formats.registry import open_file
from converter.models.model import Model
from converter.safe_json import read_json_object
from converter.verification.result import Verification

TOKEN_FIELDS = ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
_NEEDED = ("decoder_start_token_id", "pad_token_id")
"""Without these a combined model can neither be trained nor generate."""

_FREE = (MODEL_CARD,)
"""Files that are meant to be edited."""


def check_documents(home: Path, model: Model) -> list[Problem]:
    """Token ids lie inside the vocabularies, and all configurations say the same."""
    problems = []
    config_file = str(home / CONFIG)
    generation: Mapping[str, Any] = {}
    if (home / GENERATION_CONFIG).is_file():
        try:
            generation = read_json_object(home / GENERATION_CONFIG)
        except ConverterError as error:
            problems.append(Problem(error.message))
    vocabulary = _vocabulary(model)
    for field in TOKEN_FIELDS:
        for file, raw in ((config_file, model.raw), (str(home / GENERATION_CONFIG), generation)):
            for number in _ids(raw.get(field)):
                if vocabulary is not None and not 0 <= number < vocabulary:
                    problems.append(
                        Problem(
                            "the token lies outside the vocabulary",
                            file,
                            field,
                            expected=f"an id below {vocabulary}",
                            found=str(number),
                        )
                    )
        ours, theirs = model.raw.get(field), generation.get(field)
        if ours is not None and theirs is not None and _ids(ours) != _ids(theirs):
            problems.append(
                Problem(
                    "configuration and generation configuration disagree",
                    str(home / GENERATION_CONFIG),
                    field,
                    expected=f"{ours} as in {CONFIG}",
                    found=str(theirs),
                )
            )
    if model.submodels:
        problems += [
            Problem(
                "is not set, without which generate() fails",
                config_file,
                field,
                remedy="set it with `converter convert --set FIELD=ID`",
            )
            for field in _NEEDED
            if model.raw.get(field) is None and generation.get(field) is None
        ]
    return problems


def check_manifest_files(home: Path, manifest: Mapping[str, Any]) -> tuple[list[Problem], str]:
    """The files are those that the manifest lists, with the sizes and hashes it states.

    Returns:
        What is wrong, and how many files are right.

    """
    problems = []
    listed = manifest.get("files")
    entries = listed if isinstance(listed, dict) else {}
    for name, entry in entries.items():
        if name in _FREE:
            continue
        path = home / name
        stated = entry if isinstance(entry, dict) else {}
        if Path(name).is_absolute() or ".." in Path(name).parts or not path.is_file():
            problems.append(Problem("the manifest lists it, but it is not there", str(path)))
            continue
        size = path.stat().st_size
        if stated.get("bytes") != size:
            problems.append(
                Problem(
                    "has another size than when it was made",
                    str(path),
                    expected=f"{stated.get('bytes')} bytes",
                    found=f"{size} bytes",
                )
            )
        elif "sha256" in stated:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != stated["sha256"]:
                problems.append(
                    Problem(
                        "has other bytes than when it was made",
                        str(path),
                        expected=f"SHA-256 {stated['sha256']}",
                        found=digest,
                    )
                )
    return problems, f"{len(entries) - len(problems)} of {len(entries)}"


def _vocabulary(model: Model) -> int | None:
    """The number of tokens of the half that generates."""
    config = model.configs.get(model.submodels[1] if model.submodels else "")
    size = config.attribute("vocabulary") if config else None
    return size if isinstance(size, int) else None


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, int) and not isinstance(item, bool)]


_EXPECTED = {
    SAFETENSORS_WEIGHTS: ("safetensors", "pytorch"),
    PYTORCH_WEIGHTS: ("torch", "pytorch"),
    TENSORFLOW_WEIGHTS: ("keras-hdf5", "tensorflow"),
    FLAX_WEIGHTS: ("flax-msgpack", "flax"),
}
"""Weight file → the container and the dialect that its loader takes it for."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")


def check_loadable(home: Path, models: Mapping[str, Model], found: Verification) -> None:
    """Look at what each file is, says of itself and asks for; faults go to the problems of `found`.

    Args:
        home: the checkpoint.
        models: weight file → the model that it holds.
        found: the verification in progress.

    """
    for label, model in models.items():
        found.problems += _form(label, model)
        found.problems += _imports(model.checkpoint)
    weights = {path for model in models.values() for path in model.checkpoint.files}
    found.notes += _pickles(home, weights)
    submodels = next(iter(models.values())).submodels
    if submodels and not any((home / name).is_file() for name in _TOKENIZERS):
        found.notes.append("holds no tokenizer")


_TOKENIZERS = (TOKENIZER, TOKENIZER_CONFIG, "vocab.txt", "vocab.json", "spiece.model")


def _form(label: str, model: Model) -> Iterator[Problem]:
    """Whether the file is what its name says, in the names that its framework looks for."""
    checkpoint, report = model.checkpoint, model.report
    place = str(checkpoint.directory / label)
    file_format, dialect = _EXPECTED[label.removesuffix(INDEX_SUFFIX)]
    if checkpoint.file_format != file_format:
        yield Problem(
            "is no such file as its name says",
            place,
            expected=file_format,
            found=checkpoint.file_format,
            remedy="`converter convert` writes each file as it should be",
        )
    if report.dialect != dialect:
        yield Problem(
            "its tensors have another framework's names and layouts, and are drawn anew when it"
            " is loaded",
            place,
            expected=dialect,
            found=report.dialect,
            remedy="write it again with `converter convert`",
        )
    if reason := model.unsupported_reasons.get(dialect):
        yield Problem(
            f"no class of {dialect} can hold the model",
            place,
            found=reason,
            remedy="leave the file out, or change the configuration",
        )
    if file_format == "safetensors" and checkpoint.metadata.get("format") != "pt":
        yield Problem(
            "transformers 4 refuses it",
            place,
            "metadata: format",
            expected="pt",
            found=checkpoint.metadata.get("format", "none"),
        )
    lead = report.reading.lead or checkpoint.metadata.get("wrapper", "")
    if lead:
        yield Problem(
            f"its tensors lie below {lead.rstrip('./')!r}, where the frameworks do not look;"
            " they are drawn anew when it is loaded",
            place,
            remedy="write it again with `converter convert`",
        )


def _imports(checkpoint: Checkpoint) -> Iterator[Problem]:
    if names := checkpoint.metadata.get("imports"):
        yield Problem(
            "its pickle does more than build tensors, which torch.load(weights_only=True) refuses",
            str(checkpoint.files[0]),
            expected="torch's own functions that make tensors",
            found=names,
            remedy="nothing of it was executed; `converter convert` writes the tensors alone",
        )


def _pickles(home: Path, weights: set[Path]) -> Iterator[str]:
    """Notes on pickles beside the weights."""
    for path in sorted(home.iterdir()):
        if path in weights or path.suffix not in _PICKLES or not path.is_file():
            continue
        try:
            with open_file(path) as reader:
                names = reader.metadata.get("imports")
                what = f"does more than build tensors: {names}" if names else "holds tensors alone"
        except ConverterError as error:
            first = error.problems[0] if error.problems else None
            what = (first.found or first.what) if first else error.message
            what = f"is no file of tensors ({what})"
        yield f"{path.name} is a pickle beside the weights, which {what}; load it only if trusted"
