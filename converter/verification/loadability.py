"""Whether transformers can load a finished checkpoint: formats, names, pickles, configurations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from converter.errors import ConverterError, Problem
from converter.file_names import (
    CONFIG,
    FLAX_WEIGHTS,
    GENERATION_CONFIG,
    INDEX_SUFFIX,
    PYTORCH_WEIGHTS,
    SAFETENSORS_WEIGHTS,
    TENSORFLOW_WEIGHTS,
    TOKENIZER,
    TOKENIZER_CONFIG,
)
from converter.formats.file_handle import sanitize
from converter.formats.registry import open_file
from converter.models.model import Model
from converter.safe_json import read_json_object
from converter.verification.result import Findings

TOKEN_FIELDS = ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
_REQUIRED_FIELDS = ("decoder_start_token_id", "pad_token_id")
"""Fields without which an encoder-decoder model can neither be trained nor generate."""

_TOKENIZERS = (TOKENIZER, TOKENIZER_CONFIG, "vocab.txt", "vocab.json", "spiece.model")

_EXPECTED = {
    SAFETENSORS_WEIGHTS: ("safetensors", "pytorch"),
    PYTORCH_WEIGHTS: ("torch", "pytorch"),
    TENSORFLOW_WEIGHTS: ("keras-hdf5", "tensorflow"),
    FLAX_WEIGHTS: ("flax-msgpack", "flax"),
}
"""Weight file → the format and the dialect that its loader expects."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")


def check_configs(home: Path, model: Model) -> Findings:
    """Check that token ids are inside the vocabulary, and that both configurations agree."""
    problems = []
    config_path, generation_path = str(home / CONFIG), str(home / GENERATION_CONFIG)
    generation: Mapping[str, Any] = {}
    if (home / GENERATION_CONFIG).is_file():
        try:
            generation = read_json_object(home / GENERATION_CONFIG)
        except ConverterError as error:
            problems.append(Problem(error.message))
    vocabulary = _vocabulary_size(model)
    for field in TOKEN_FIELDS:
        what, expected = "the token is outside the vocabulary", f"an id below {vocabulary}"
        problems += [
            Problem(what, path, field, expected, str(token))
            for path, config in ((config_path, model.raw), (generation_path, generation))
            for token in _token_ids(config.get(field))
            if vocabulary is not None and not 0 <= token < vocabulary
        ]
        ours, theirs = model.raw.get(field), generation.get(field)
        if ours is not None and theirs is not None and _token_ids(ours) != _token_ids(theirs):
            what = "configuration and generation configuration disagree"
            expected = f"{ours} as in {CONFIG}"
            problems.append(Problem(what, generation_path, field, expected, str(theirs)))
    stored = model.checkpoint.config
    for submodel in model.submodels:
        field = model.composite.configs[submodel] if model.composite else submodel
        fields = stored.get(field)
        what = "is not what transformers needs to build the model"
        remedy = "write it again with `converter convert`"
        problems += [
            Problem(what, config_path, f"{submodel}.{field}", str(value), None, remedy)
            for field, value in model.configs[submodel].raw.items()
            if isinstance(fields, dict) and fields.get(field) != value
        ]
    if model.composite and model.composite.generates:
        what = "is not set, without which generate() fails"
        remedy = "set it with `converter convert --set FIELD=ID`"
        problems += [
            Problem(what, config_path, field, remedy=remedy)
            for field in _REQUIRED_FIELDS
            if model.raw.get(field) is None and generation.get(field) is None
        ]
    return Findings(problems)


def _vocabulary_size(model: Model) -> int | None:
    """Return the vocabulary size of the model, or of its decoder."""
    config = model.configs.get(model.submodels[1] if model.submodels else "")
    size = config.attribute("vocabulary") if config else None
    return size if isinstance(size, int) else None


def _token_ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, int) and not isinstance(item, bool)]


def check_loadable(home: Path, models: Mapping[str, Model]) -> Findings:
    """Check the format, names and pickle imports of each weight file, and other files in `home`."""
    problems = [each for label, model in models.items() for each in _check_file(label, model)]
    weights = {path for model in models.values() for path in model.checkpoint.files}
    notes = list(_pickle_notes(home, weights))
    missing = _without_tokenizer(home, next(iter(models.values())))
    if missing:
        notes.append("holds no tokenizer" + (f" of the {missing[0]}" if len(missing) == 1 else ""))
    return Findings(problems, notes)


def _without_tokenizer(home: Path, model: Model) -> list[str]:
    """Return the submodels of texts for which there is no tokenizer."""

    def has(place: Path) -> bool:
        return any((place / name).is_file() for name in _TOKENIZERS)

    return [
        submodel
        for submodel in model.submodels
        if model.configs[submodel].attribute("vocabulary") is not None
        if not has(home) and not has(home / f"{submodel}_tokenizer")
    ]


def _check_file(label: str, model: Model) -> Iterator[Problem]:
    """Check that a file is in the format and dialect of its name, and builds only tensors."""
    checkpoint, report = model.checkpoint, model.key_match
    path = str(checkpoint.directory / label)
    file_format, dialect = _EXPECTED[label.removesuffix(INDEX_SUFFIX)]
    if checkpoint.file_format != file_format:
        yield Problem(
            "is not in the format that its name says",
            path,
            expected=file_format,
            found=checkpoint.file_format,
            remedy="`converter convert` writes each file in its format",
        )
    if report.dialect != dialect:
        yield Problem(
            "its tensors have another framework's names and layouts; they are newly initialized"
            " when it is loaded",
            path,
            expected=dialect,
            found=report.dialect,
            remedy="write it again with `converter convert`",
        )
    if reason := model.unsupported_reasons.get(dialect):
        what = f"no class of {dialect} can hold the model"
        remedy = "remove the file, or change the configuration"
        yield Problem(what, path, found=reason, remedy=remedy)
    metadata = checkpoint.metadata.get("format", "none")
    if file_format == "safetensors" and metadata != "pt":
        yield Problem("transformers 4 refuses it", path, "metadata: format", "pt", metadata)
    prefix = report.prefix or checkpoint.wrapper
    if prefix:
        yield Problem(
            f"its tensors have the prefix {prefix.rstrip('./')!r}, which the frameworks do not"
            " expect; they are newly initialized when it is loaded",
            path,
            remedy="write it again with `converter convert`",
        )

    if checkpoint.imports:
        yield Problem(
            "its pickle does more than build tensors, which torch.load(weights_only=True) refuses",
            str(checkpoint.files[0]),
            expected="only torch's own functions that make tensors",
            found=sanitize(", ".join(checkpoint.imports)),
            remedy="none of it was executed; `converter convert` writes only the tensors",
        )


def _pickle_notes(home: Path, weights: set[Path]) -> Iterator[str]:
    """Yield a note on each pickle next to the weights."""
    for path in sorted(home.iterdir()):
        if path in weights or path.suffix not in _PICKLES or not path.is_file():
            continue
        try:
            with open_file(path) as reader:
                names = sanitize(", ".join(reader.imports))
            content = f"does more than build tensors: {names}" if names else "holds only tensors"
        except ConverterError as error:
            first = error.problems[0] if error.problems else None
            reason = (first.found or first.what) if first else error.message
            content = f"is not a file of tensors ({reason})"
        yield f"{path.name} is a pickle that {content}; load it only if trusted"
