"""What keeps the frameworks from loading a directory that others made, whatever its values are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from converter.checkpoint import Checkpoint
from converter.composition.model import Model
from converter.containers.registry import open_container
from converter.errors import ConverterError, Problem
from converter.proof.verification import Verification

_EXPECTED = {
    "model.safetensors": ("safetensors", "pytorch"),
    "pytorch_model.bin": ("torch", "pytorch"),
    "tf_model.h5": ("keras-hdf5", "tensorflow"),
    "flax_model.msgpack": ("flax-msgpack", "flax"),
}
"""Weight file → the container and the dialect that its loader takes it for."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")


def audit(home: Path, models: Mapping[str, Model], found: Verification) -> None:
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
    halves = next(iter(models.values())).halves
    if halves and not any((home / name).is_file() for name in _TOKENIZERS):
        found.notes.append("holds no tokenizer")


_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model")


def _form(label: str, model: Model) -> Iterator[Problem]:
    """Whether the file is what its name says, in the names that its framework looks for."""
    checkpoint, report = model.checkpoint, model.report
    place = str(checkpoint.directory / label)
    container, dialect = _EXPECTED[label.removesuffix(".index.json")]
    if checkpoint.container != container:
        yield Problem(
            "is no such file as its name says",
            place,
            expected=container,
            found=checkpoint.container,
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
    if reason := model.obstacles.get(dialect):
        yield Problem(
            f"no class of {dialect} can hold the model",
            place,
            found=reason,
            remedy="leave the file out, or change the configuration",
        )
    if container == "safetensors" and checkpoint.metadata.get("format") != "pt":
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
            with open_container(path) as reader:
                names = reader.metadata.get("imports")
                what = f"does more than build tensors: {names}" if names else "holds tensors alone"
        except ConverterError as error:
            first = error.problems[0] if error.problems else None
            what = (first.found or first.what) if first else error.message
            what = f"is no file of tensors ({what})"
        yield f"{path.name} is a pickle beside the weights, which {what}; load it only if trusted"
