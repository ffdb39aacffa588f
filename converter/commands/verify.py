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
from converter.option_declaration import takes
from converter.options import VerifyOptions
from converter.progress import ProgressCounter
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


@takes(VerifyOptions)
def verify(options: VerifyOptions) -> Verification:
    """Verify a finished checkpoint, without any framework unless asked for.

    Its files are well-formed and agree with their indexes; every tensor of the mapping table is
    there, no other is, and each has the shape that the configuration asks for; all files hold the
    same values bit for bit, tied tensors included; token ids are inside the vocabularies; the
    manifest is correct. Of the output of `split`, both submodels are verified.

    Raises:
        CheckpointError: if there is no checkpoint to verify.
        UnsupportedError: if a framework that is asked for is not installed.
        ConverterError: if a source cannot be opened or its architecture is not supported.

    """
    directory = options.directory
    registry = ArchitectureRegistry(Path(path) for path in options.mapping)
    meter = ProgressCounter(options.progress)
    origin = resolve_source(directory, weights="all")
    home = origin.directory if origin else path_of(directory)
    label = str(url_of(directory) or directory)

    def prove(home: Path, label: str, against: Sequence[str | Path]) -> Verification:
        found = Verification(label, weight_files(home))
        _prove(home, registry, found, against, options, meter)
        return found

    with ExitStack() as stack:
        if isinstance(origin, UrlDownload):
            stack.push(origin.close)
        if is_split(home):
            found = verify_halves(home, label, options.against, registry, prove)
        elif not weight_files(home):
            raise CheckpointError(
                f"{label}: holds no weight file to verify",
                remedy="Expected one of " + ", ".join(WEIGHT_FILES) + " or its index.",
            )
        else:
            found = prove(home, label, options.against)
        if isinstance(origin, UrlDownload):
            found.problems = [origin.named(problem) for problem in found.problems]
        return found


def _prove(
    home: Path,
    registry: ArchitectureRegistry,
    found: Verification,
    against: Sequence[str | Path],
    options: VerifyOptions,
    meter: ProgressCounter,
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
            check_values(models, manifest, found, options.jobs, meter)
            found.problems += check_documents(home, next(iter(models.values())))
            check_loadable(home, models, found)
            if against:
                first = next(iter(models.values()))
                found.origins = compare_with_sources(
                    first, against, registry, stack, found, options.jobs, meter, manifest
                )
        if options.value_report and models:
            from converter.verification.value_report import value_report

            first = next(iter(models.values()))
            found.portrait = value_report(first, manifest, found.origins, options.jobs, meter)
        if options.native and models:
            from converter.verification.framework_readers import check_native

            check_native(models, found)
        if (options.run or options.python) and models:
            from converter.verification.transformers_check import check_running

            check_running(home, models, options.python, found)
