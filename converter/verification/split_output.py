"""Verification of what `split` wrote: two checkpoints, and the tensors outside both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from converter.architectures.registry import ArchitectureRegistry
from converter.checkpoint.opening import open_files
from converter.errors import ConverterError, Problem
from converter.file_names import CONFIG, INDEX_SUFFIX, JOINT_WEIGHTS, MANIFEST, WEIGHT_FILES
from converter.formats.registry import open_file
from converter.models.model import resolve_model
from converter.options import SUBMODELS
from converter.plan import SourceTensor
from converter.planning.manifest import NO_HASH, split_submodels
from converter.safe_json import read_json_object
from converter.storage.references import display_name
from converter.tensors import Axes, Rearrangement
from converter.verification.difference_classifier import tensor_sha256
from converter.verification.manifest import check_manifest_files
from converter.verification.result import Findings, Provenance, ValueReport, Verification
from converter.verification.source_comparison import first_of_architecture
from converter.verification.value_report import MODEL

_JOINT = "outside the submodels"


def weight_files(home: Path) -> list[str]:
    """Return the names of the weight files and indexes of a checkpoint directory."""
    return [
        name
        for file in WEIGHT_FILES
        for name in (file, file + INDEX_SUFFIX)
        if (home / name).is_file()
    ]


def is_split(home: Path) -> bool:
    """Return whether a directory holds only the two checkpoints that `split` writes."""
    return not weight_files(home) and all(
        (home / submodel / CONFIG).is_file() and weight_files(home / submodel)
        for submodel in submodels_in(home)
    )


def submodels_in(home: Path) -> tuple[str, ...]:
    """Return the submodels in a directory that `split` wrote, by its manifest if it has one."""
    try:
        names = split_submodels(home)
    except ConverterError:
        names = ()
    return SUBMODELS if {*names} <= {*SUBMODELS} else names


def verify_split(
    home: Path,
    label: str,
    against: Sequence[str | Path],
    registry: ArchitectureRegistry,
    verify: Callable[[Path, str, Sequence[str | Path]], Verification],
) -> Verification:
    """Verify both submodels and the tensors outside them, in one report.

    The sources are encoder-decoder models, or those of each submodel. `verify` verifies one
    checkpoint, given its directory, label and sources.
    """
    submodels = submodels_in(home)
    sources = _assign_sources(home, submodels, against, registry)
    files, findings, value_report = [], Findings(), None
    origins: dict[str, Provenance] = {}
    for submodel in submodels:
        result = verify(home / submodel, f"{label}/{submodel}", sources[submodel])
        files += [f"{submodel}/{name}" for name in result.files]
        findings += Findings(
            result.problems,
            [f"{submodel}: {note}" for note in result.notes],
            {f"{submodel}: {title}": passed for title, passed in result.checks.items()},
        )
        origins |= {f"{submodel}.{name}": origin for name, origin in result.origins.items()}
        if result.value_report is not None:
            value_report = _join(value_report, submodel, result.value_report)
    findings += _check_joint(home, submodels, against, registry)
    return Verification(
        label, files, findings.checks, findings.problems, findings.notes, origins, value_report
    )


def _assign_sources(
    home: Path,
    submodels: Sequence[str],
    against: Sequence[str | Path],
    registry: ArchitectureRegistry,
) -> dict[str, list[str | Path]]:
    """Assign each source to a submodel of its architecture, or to both if it is a composite."""
    assigned: dict[str, list[str | Path]] = {submodel: [] for submodel in submodels}
    model_types = {
        submodel: read_json_object(home / submodel / CONFIG).get("model_type")
        for submodel in submodels
    }
    for reference in against:
        with open_files(reference, option="") as checkpoint:
            model = resolve_model(checkpoint, registry, label=display_name(reference))
        if model.submodels:
            for references in assigned.values():
                references.append(reference)
            continue
        free = {s: model_types[s] for s in submodels if not assigned[s]}
        assigned[first_of_architecture(model, free)].append(reference)
    return assigned


def _join(joined: ValueReport | None, submodel: str, report: ValueReport) -> ValueReport:
    """Add the report of one submodel, its names prefixed, to that of the submodels before it."""
    title = submodel.capitalize()
    sections = [
        replace(
            section,
            title=title if section.title == MODEL else f"{title}: {section.title.lower()}",
            layers=[
                replace(layer, names=[f"{submodel}.{name}" for name in layer.names])
                for layer in section.layers
            ],
        )
        for section in report.sections
    ]
    origins = dict.fromkeys([submodel], *report.origins.values())
    tensors = {f"{submodel}.{name}": summary for name, summary in report.tensors.items()}
    if joined is None:
        return ValueReport(report.model, report.parameters, origins, tensors, sections)
    return ValueReport(
        f"{joined.model} and {report.model}",
        joined.parameters + report.parameters,
        {**joined.origins, **origins},
        {**joined.tensors, **tensors},
        [*joined.sections, *sections],
    )


def _check_joint(
    home: Path,
    submodels: Sequence[str],
    against: Sequence[str | Path],
    registry: ArchitectureRegistry,
) -> Findings:
    """Compare the files and tensors outside the submodels with the manifest and the sources."""
    if not (home / MANIFEST).is_file():
        return Findings()
    try:
        manifest = read_json_object(home / MANIFEST)
    except ConverterError:
        return Findings()  # reported for each submodel
    files = _outside(manifest.get("files"), submodels, "/")
    title = f"{_JOINT}: files that the manifest lists"
    findings = check_manifest_files(home, {"files": files}, title)
    entries, path = _outside(manifest.get("tensors"), submodels, "."), home / JOINT_WEIGHTS
    if not entries or not path.is_file():
        return findings
    problems: list[Problem] = []
    hashes: dict[str, str] = {}
    dtypes: dict[str, str] = {}
    try:
        with open_file(path) as reader:
            for name, tensor in reader.tensors.items():
                axes = Axes(tuple(f"axis{number}" for number in range(len(tensor.spec.shape))))
                stored = SourceTensor("joint", tensor, Rearrangement(axes, axes))
                dtypes[name] = tensor.spec.dtype
                hashes[name] = tensor_sha256(stored, tensor.spec.dtype).hex()
    except ConverterError as error:
        problems += error.problems or [Problem(error.message)]
    stated = {name: e.get("sha256") if isinstance(e, dict) else None for name, e in entries.items()}
    hashed = manifest.get(NO_HASH) is not True
    for name in dict.fromkeys((*stated, *hashes)):
        if name not in stated:
            problems.append(Problem("not listed in the manifest", str(path), name))
        elif name not in hashes:
            problems.append(Problem("missing tensor", str(path), name))
        elif hashed and hashes[name] != stated[name]:
            what = "its values differ from those that were written"
            problems.append(Problem(what, str(path), name, found=f"SHA-256 {hashes[name]}"))
    matching = sum(hashes.get(name) == digest for name, digest in stated.items() if digest)
    title = f"{_JOINT}: tensors with the hash that the manifest states"
    checks = {title: f"{matching} of {len(stated)}"} if hashed else {}
    findings += Findings(problems, checks=checks)
    for reference in against:
        findings += _compare_joint(path, hashes, dtypes, reference, registry)
    return findings


def _compare_joint(
    path: Path,
    hashes: Mapping[str, str],
    dtypes: Mapping[str, str],
    reference: str | Path,
    registry: ArchitectureRegistry,
) -> Findings:
    """Compare the tensors outside the submodels with a source, if it is a combined model."""
    with open_files(reference, option="") as checkpoint:
        model = resolve_model(checkpoint, registry, label=display_name(reference))
        if not model.submodels:
            return Findings()
        sources = {
            param.canonical.name: stored
            for param in model.spec.params
            if (stored := model.key_match.matched.get(param.name))
        }
        problems = [
            Problem(f"differs from {display_name(reference)}", str(path), name)
            for name, digest in hashes.items()
            if name in sources and tensor_sha256(sources[name], dtypes[name]).hex() != digest
        ]
    shared = len(hashes.keys() & sources.keys())
    title = f"{_JOINT}: tensors equal to their source"
    return Findings(problems, checks={title: f"{shared - len(problems)} of {shared}"})


def _outside(entries: Any, submodels: Sequence[str], separator: str) -> dict[str, Any]:
    """Return the entries whose names start with neither submodel."""
    prefixes = tuple(f"{submodel}{separator}" for submodel in submodels)
    items = entries.items() if isinstance(entries, dict) else ()
    return {name: entry for name, entry in items if not name.startswith(prefixes)}
