"""What `split` left: two checkpoints side by side, and what belongs to neither."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from converter.architectures.registry import ArchitectureRegistry
from converter.checkpoint.opening import open_files
from converter.errors import ConverterError, Problem, UnsupportedError
from converter.file_names import CONFIG, INDEX_SUFFIX, JOINT_WEIGHTS, MANIFEST, WEIGHT_FILES
from converter.formats.registry import open_file
from converter.models.model import resolve_model
from converter.options import SUBMODELS
from converter.plan import SourceTensor
from converter.safe_json import read_json_object
from converter.tensors import Axes, Rearrangement
from converter.verification.difference_classifier import tensor_sha256
from converter.verification.loadability import check_manifest_files
from converter.verification.result import Verification
from converter.verification.value_report import WHOLE, ReportSection, ValueReport


def weight_files(home: Path) -> list[str]:
    """The weight files and indexes of a checkpoint directory."""
    return [
        name
        for whole in WEIGHT_FILES
        for name in (whole, whole + INDEX_SUFFIX)
        if (home / name).is_file()
    ]


def is_split(home: Path) -> bool:
    """Whether a directory holds no checkpoint, but one in each of its directories of the halves."""
    return not weight_files(home) and all(
        (home / submodel / CONFIG).is_file() and weight_files(home / submodel)
        for submodel in SUBMODELS
    )


def verify_halves(
    home: Path,
    label: str,
    against: Sequence[str | Path],
    registry: ArchitectureRegistry,
    prove: Callable[[Path, str, Sequence[str | Path]], Verification],
) -> Verification:
    """Prove both halves, and the file of what lies between them; one report of all.

    Args:
        home: the directory that holds them.
        label: what the user calls it.
        against: what they were made from: combined models, or the halves' own sources.
        registry: the mapping tables.
        prove: verifies one checkpoint: its place, what to call it, what it was made from.

    Raises:
        UnsupportedError: if a source belongs to neither half.
        ConverterError: if a source cannot be opened or understood.

    """
    whole = Verification(label, [])
    sources = _shared_out(home, against, registry)
    for submodel in SUBMODELS:
        found = prove(home / submodel, f"{label}/{submodel}", sources[submodel])
        whole.formats = [*whole.formats, *(f"{submodel}/{name}" for name in found.formats)]
        whole.checks |= {f"{submodel}: {what}": much for what, much in found.checks.items()}
        whole.problems += found.problems
        whole.notes += [f"{submodel}: {note}" for note in found.notes]
        whole.origins = {
            **whole.origins,
            **{f"{submodel}.{name}": origin for name, origin in found.origins.items()},
        }
        whole.portrait = _joined(whole.portrait, submodel, found.portrait)
    _check_joint(home, whole)
    return whole


def _shared_out(
    home: Path, against: Sequence[str | Path], registry: ArchitectureRegistry
) -> dict[str, list[str | Path]]:
    """Half → its sources: each combined model for both, others for the first of their family."""
    shared: dict[str, list[str | Path]] = {submodel: [] for submodel in SUBMODELS}
    families = {
        submodel: read_json_object(home / submodel / CONFIG).get("model_type")
        for submodel in SUBMODELS
    }
    for reference in against:
        with open_files(reference) as checkpoint:
            model = resolve_model(checkpoint, registry, label=str(reference))
        if model.submodels:
            for submodel in SUBMODELS:
                shared[submodel].append(reference)
            continue
        architecture = model.configs[""].architecture.name
        free = [
            submodel
            for submodel in SUBMODELS
            if families[submodel] == architecture and not shared[submodel]
        ]
        if not free:
            raise UnsupportedError(
                f"{reference}: is a {architecture} model, and no half is left that is one",
                remedy="Of two sources of one family, give the encoder first.",
            )
        shared[free[0]].append(reference)
    return shared


def _joined(
    whole: ValueReport | None, submodel: str, part: ValueReport | None
) -> ValueReport | None:
    """The portrait of what was seen so far, and that of one half."""
    if part is None:
        return whole
    title = submodel.capitalize()
    panels = [
        ReportSection(
            title if each.title == WHOLE else f"{title}: {each.title.lower()}", each.layers
        )
        for each in part.panels
    ]
    for panel in panels:
        for layer in panel.layers:
            layer.names = [f"{submodel}.{name}" for name in layer.names]
    origins = dict.fromkeys([submodel], *part.origins.values())
    tensors = {f"{submodel}.{name}": seen for name, seen in part.tensors.items()}
    if whole is None:
        return ValueReport(part.model, part.parameters, origins, tensors, panels)
    return ValueReport(
        f"{whole.model} and {part.model}",
        whole.parameters + part.parameters,
        {**whole.origins, **origins},
        {**whole.tensors, **tensors},
        [*whole.panels, *panels],
    )


def _check_joint(home: Path, found: Verification) -> None:
    """What belongs to neither half: its files, and its tensors' hashes, by the manifest."""
    if not (home / MANIFEST).is_file():
        return
    try:
        manifest = read_json_object(home / MANIFEST)
    except ConverterError:
        return  # each half has told it
    files = _between(manifest.get("files"), "/")
    problems, held = check_manifest_files(home, {"files": files})
    found.problems += problems
    found.checks["between the halves: files that the manifest lists"] = held
    stated = _between(manifest.get("tensors"), ".")
    path = home / JOINT_WEIGHTS
    if not stated or not path.is_file():
        return
    held_tensors = 0
    try:
        with open_file(path) as reader:
            for name, entry in stated.items():
                tensor = reader.tensors.get(name)
                if tensor is None:
                    found.problems.append(Problem("missing tensor", str(path), name))
                    continue
                axes = Axes(tuple(f"axis{number}" for number in range(len(tensor.spec.shape))))
                stored = SourceTensor("joint", tensor, Rearrangement(axes, axes))
                print_ = tensor_sha256(stored, tensor.spec.dtype).hex()
                if isinstance(entry, dict) and print_ == entry.get("sha256"):
                    held_tensors += 1
                    continue
                wrong = "its values are not those that were written"
                found.problems.append(Problem(wrong, str(path), name, found=f"SHA-256 {print_}"))
            odd = [name for name in reader.tensors if name not in stated]
            found.problems += [Problem("the manifest does not know it", str(path), n) for n in odd]
    except ConverterError as error:
        found.problems += error.problems or [Problem(error.message)]
    found.checks["between the halves: tensors with the hash that the manifest states"] = (
        f"{held_tensors} of {len(stated)}"
    )


def _between(entries: Any, mark: str) -> dict[str, Any]:
    """The entries that are of neither half."""
    leads = tuple(f"{submodel}{mark}" for submodel in SUBMODELS)
    known = entries.items() if isinstance(entries, dict) else ()
    return {name: entry for name, entry in known if not name.startswith(leads)}
