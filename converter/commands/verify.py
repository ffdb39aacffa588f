"""The verification of a finished checkpoint, from the form of its files to their values."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path

from converter.architectures.registry import ArchitectureRegistry
from converter.checkpoint.opening import open_files
from converter.cleanup import thread_pool
from converter.errors import CheckpointError, ConverterError, Problem
from converter.file_names import CONFIG, WEIGHT_FILES, is_index
from converter.formats.file_handle import LocalFile
from converter.models.model import Model, resolve_model
from converter.models.ties import resolve_as_used
from converter.options import VerifyOptions
from converter.progress import ProgressCounter
from converter.python_calls import takes
from converter.storage.resolve import open_source
from converter.verification.loadability import check_configs, check_loadable
from converter.verification.manifest import check_tables, load_manifest
from converter.verification.result import Findings, Provenance, Verification
from converter.verification.source_comparison import compare_with_sources
from converter.verification.split_output import is_split, verify_split, weight_files
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
    registry = ArchitectureRegistry.for_user(options.mapping)
    counter = ProgressCounter(options.progress)

    def verify_one(home: Path, label: str, against: Sequence[str | Path]) -> Verification:
        return _verify(home, label, against, registry, options, counter)

    with open_source(options.directory, "all") as source:
        home, label = source.directory, source.reference
        if is_split(home):
            result = verify_split(home, label, options.against, registry, verify_one)
        elif not weight_files(home):
            raise CheckpointError(
                f"{label}: holds no weight file to verify",
                remedy="Expected one of " + ", ".join(WEIGHT_FILES) + " or its index.",
            )
        else:
            result = verify_one(home, label, options.against)
        problems = dict.fromkeys(source.rename(each) for each in result.problems)
        return replace(result, problems=list(problems))


def _verify(
    home: Path,
    label: str,
    against: Sequence[str | Path],
    registry: ArchitectureRegistry,
    options: VerifyOptions,
    counter: ProgressCounter,
) -> Verification:
    """Verify one checkpoint directory; its label is used in the report."""
    names = weight_files(home)
    with ExitStack() as stack:
        stack.enter_context(thread_pool(1)).submit(_read_ahead, home, names)
        manifest, manifest_findings = load_manifest(home)
        models, findings = _open_models(home, names, registry, stack, bool(against))
        _log.info("%s: comparing the values of %d file(s)", label, len(models))
        findings += manifest_findings
        findings += check_tables(manifest, registry, bool(findings.problems))
        if not models:
            return Verification(label, names, findings.checks, findings.problems, findings.notes)
        model = next(iter(models.values()))
        findings += check_values(models, manifest, options.jobs, counter)
        findings += check_configs(home, model) + check_loadable(home, models)
        origins: Mapping[str, Provenance] = {}
        report = None
        if against:
            origins, compared = compare_with_sources(
                model, against, registry, stack, options.jobs, counter, manifest
            )
            findings += compared
        if options.value_report:
            from converter.verification.value_report import build_value_report

            report = build_value_report(model, manifest, origins, options.jobs, counter)
        if options.native:
            from converter.verification.framework_readers import check_native

            findings += check_native(models)
        if options.run or options.python:
            from converter.verification.transformers_check import check_running

            findings += check_running(home, models, options.python)
    return Verification(
        label, names, findings.checks, findings.problems, findings.notes, origins, report
    )


_FIRST = 256 << 20
_STEP = 8 << 20
"""Bytes that are read while the headers are parsed, of all files and of one at once."""


def _read_ahead(home: Path, names: Sequence[str]) -> None:
    """Let the system read the start of each weight file while the headers are parsed."""
    with ExitStack() as stack, suppress(ConverterError):
        paths = [home / name for name in names if not is_index(name)]
        files = [stack.enter_context(closing(LocalFile(path))) for path in paths]
        for start in range(0, _FIRST // max(1, len(files)), _STEP):
            for file in files:
                file.read_ahead(start, _STEP)


def _open_models(
    home: Path,
    names: Sequence[str],
    registry: ArchitectureRegistry,
    stack: ExitStack,
    compared: bool,
) -> tuple[dict[str, Model], Findings]:
    """Open each weight file as a model; report those that cannot be opened.

    Of a file that is compared with nothing, ties are as the class that saved it has them.
    """
    resolve = resolve_model if compared or len(names) > 1 else resolve_as_used
    models: dict[str, Model] = {}
    problems: list[Problem] = []
    notes: list[str] = []
    well_formed = 0
    for name in names:
        try:
            checkpoint = stack.enter_context(open_files(home / name, home / CONFIG))
            well_formed += 1
            model = resolve(checkpoint, registry, label=name)
        except ConverterError as error:
            problems += error.problems or [Problem(error.message, remedy=error.remedy)]
            continue
        problems += model.key_match.problems(model.required)
        notes += [f"{name}: {note}" for note in model.notes]
        models[name] = model
    checks = {"files that are well-formed": f"{well_formed} of {len(names)}"}
    return models, Findings(problems, notes, checks)
