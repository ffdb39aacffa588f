"""Proving a finished checkpoint, from the files' form up to their values."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from converter.architectures.registry import ArchitectureRegistry
from converter.checkpoint.opening import open_files
from converter.errors import CheckpointError, ConverterError, Problem
from converter.file_names import CONFIG, WEIGHT_FILES
from converter.models.model import Model, resolve_model
from converter.progress import Progress, ProgressCounter
from converter.storage.sources import resolve_source
from converter.storage.url import path_of, url_of
from converter.storage.url_download import UrlDownload
from converter.verification.loadability import check_documents, check_loadable
from converter.verification.manifest_reading import load_manifest
from converter.verification.result import Verification
from converter.verification.source_comparison import compare_with_sources
from converter.verification.split_output import is_split, verify_halves, weight_files
from converter.verification.values import check_values

_log = logging.getLogger(__name__)


def verify(
    directory: str | Path,
    *,
    against: Sequence[str | Path] = (),
    native: bool = False,
    run: bool = False,
    python: str | Path | None = None,
    portrait: bool = False,
    mapping: Sequence[str | Path] = (),
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Prove that a checkpoint directory is what it should be, without any framework.

    Its files are well-formed and agree with their indexes; every tensor of the tables is there,
    none besides, each of the shape that the configuration asks for; all files hold the same values
    bit for bit, tied tensors included; token ids lie inside the vocabularies; the manifest holds.

    Args:
        directory: the finished checkpoint, or its id on the Hub; or what `split` made, whose
            halves are proven both.
        against: the checkpoints that it was made from; every tensor that came from one of them
            must equal it, and what is wrong is named.
        native: whether to read each file again with its framework's own library as well.
        run: whether to load and run it with transformers as well.
        python: the interpreter that does so, by default this one.
        portrait: whether to look at how the values are spread, as the page of HTML shows it.
        mapping: a user's own mapping tables.
        jobs: threads.
        progress: told how many bytes are read; those of `against` and `portrait` are added when it
            comes to them. What frameworks read themselves is not counted.

    Raises:
        CheckpointError: if there is no checkpoint to be verified.
        UnsupportedError: if a framework that is asked for is not installed.
        ConverterError: if a source cannot be opened or understood.

    """
    registry = ArchitectureRegistry(Path(path) for path in mapping)
    meter = ProgressCounter(progress)
    origin = resolve_source(directory, weights="all")
    home = origin.directory if origin else path_of(directory)
    label = str(url_of(directory) or directory)

    def prove(home: Path, label: str, against: Sequence[str | Path]) -> Verification:
        found = Verification(label, weight_files(home))
        _prove(
            home,
            registry,
            found,
            against,
            portrait,
            jobs,
            meter,
            native=native,
            run=run,
            python=python,
        )
        return found

    with ExitStack() as stack:
        if isinstance(origin, UrlDownload):
            stack.push(origin.close)
        if is_split(home):
            found = verify_halves(home, label, against, registry, prove)
        elif not weight_files(home):
            raise CheckpointError(
                f"{label}: holds no weight file to verify",
                remedy="Expected one of " + ", ".join(WEIGHT_FILES) + " or its index.",
            )
        else:
            found = prove(home, label, against)
        if isinstance(origin, UrlDownload):
            found.problems = [origin.named(problem) for problem in found.problems]
        return found


def _prove(
    home: Path,
    registry: ArchitectureRegistry,
    found: Verification,
    against: Sequence[str | Path],
    portrait: bool,
    jobs: int | None,
    meter: ProgressCounter,
    *,
    native: bool,
    run: bool,
    python: str | Path | None,
) -> None:
    """Prove one checkpoint directory; `found` names its weight files, and takes what is found."""
    with ExitStack() as stack:
        models: dict[str, Model] = {}
        for name in found.formats:
            try:
                checkpoint = stack.enter_context(open_files(home / name, home / CONFIG))
                model = resolve_model(checkpoint, registry, label=name)
            except ConverterError as error:
                found.problems += error.problems or [Problem(error.message)]
                continue
            found.problems += model.report.problems(model.required)
            found.notes += [f"{name}: {note}" for note in model.notes]
            models[name] = model
        found.checks["files that are well-formed"] = f"{len(models)} of {len(found.formats)}"
        _log.info("%s: comparing the values of %d file(s)", found.directory, len(models))
        manifest = load_manifest(home, found)
        if models:
            check_values(models, manifest, found, jobs, meter)
            found.problems += check_documents(home, next(iter(models.values())))
            check_loadable(home, models, found)
            if against:
                first = next(iter(models.values()))
                found.origins = compare_with_sources(
                    first, against, registry, stack, found, jobs, meter, manifest
                )
        if portrait and models:
            from converter.verification.value_report import value_report

            first = next(iter(models.values()))
            found.portrait = value_report(first, manifest, found.origins, jobs, meter)
        if native and models:
            from converter.verification.framework_readers import check_native

            check_native(models, found)
        if (run or python) and models:
            from converter.verification.transformers_check import check_running

            check_running(home, models, python, found)
