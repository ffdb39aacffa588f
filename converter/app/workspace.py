"""What the page does: plan, run, verify, pack and push, for several sessions in one process."""

from __future__ import annotations

import io
import re
import secrets
import shutil
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import converter
from converter.display import calls_from
from converter.errors import UsageError
from converter.execution.write_checkpoint import WriteResult
from converter.plan import SourceTensor
from converter.progress import Progress
from converter.report.html import page
from converter.report.terminal_text import size
from converter.storage.hub_upload import PushResult
from converter.storage.references import parse_repo_id
from converter.verification.result import Verification
from converter.verified_push import verify_for_push

MAX_RESULT_BYTES = 20 << 30
"""The largest result that a closed page writes."""
GRACE_SECONDS = 600.0
"""How long a result stays after its page is closed, so that a download can end."""
_SECONDS_TO_STOP = 5
_BLOCK_BYTES = 1 << 20
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class StoppedError(Exception):
    """The user stopped a run."""


@dataclass(frozen=True)
class SourceInput:
    """A checkpoint as it is chosen on the page: a reference, or uploaded files."""

    reference: str = ""
    files: Sequence[Path] = ()


@dataclass(frozen=True)
class Job:
    """What the page asks for."""

    command: Literal["compose", "convert"]
    sources: Mapping[str, SourceInput]
    """By the name of the command's argument."""
    options: Mapping[str, Any] = field(default_factory=dict)
    output: str = ""
    """The folder to write; a temporary one if empty."""


@dataclass(frozen=True)
class Finished:
    """A result, and its verification."""

    result: WriteResult
    verification: Verification
    report: str
    """The page of the verification."""
    key: str
    """A part of the addresses of the result that cannot be guessed."""

    @property
    def directory(self) -> Path:
        """Where the checkpoint is."""
        return Path(str(self.result.output))


@dataclass
class _Session:
    directory: Path
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    finished: Finished | None = None
    closed_at: float | None = None


class Workspace:
    """The sessions of one server.

    Args:
        root: a temporary directory for uploads and results.
        closed: if true, sources are Hub ids and uploads only, results are temporary and of limited
            size, and nothing is done with the access rights of the server's own account.

    """

    def __init__(self, root: Path, closed: bool) -> None:
        self.root, self.closed = root, closed
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()

    def plan(self, session_id: str, job: Job) -> WriteResult:
        """Return what a job would write."""
        with self._working(session_id) as session:
            return self._call(session, job, self._references(session, job), dry_run=True)

    def run(self, session_id: str, job: Job, progress: Progress | None = None) -> Finished:
        """Carry out a job and verify the result, which replaces the session's previous one.

        `progress` gets the step with the name of the tensor. Raise `StoppedError` if the session
        asks for it, and the errors of the command.
        """
        with self._working(session_id) as session:

            def report(done: int, total: int, name: str) -> None:
                if session.stop.is_set():
                    raise StoppedError
                if progress is not None:
                    progress(done, total, name)

            references = self._references(session, job)
            if self.closed:
                _check_size(self._call(session, job, references, dry_run=True))
            session.finished = None
            results = session.directory / "results"
            shutil.rmtree(results, ignore_errors=True)
            try:
                session.finished = self._run(session, job, references, report)
            finally:
                if session.finished is None:
                    shutil.rmtree(results, ignore_errors=True)
            return session.finished

    def _run(
        self, session: _Session, job: Job, references: Mapping[str, str], progress: Progress
    ) -> Finished:
        """Carry out a job and verify the result against its sources, unless values were cast."""

        def step(name: str) -> Progress:
            return lambda done, total, tensor: progress(done, total, f"{name} {tensor}")

        result = self._call(session, job, references, progress=step("Writing"))
        cast = any(
            isinstance(tensor.origin, SourceTensor)
            and tensor.origin.tensor.spec.dtype != tensor.spec.dtype
            for tensor in result.plan.tensors
        )
        verification = converter.verify(
            str(result.output),
            against=() if cast else [*references.values()],
            value_report=True,
            progress=step("Verifying"),
        )
        name = self.without_paths(verification.directory)
        report = self.without_paths(page(replace(verification, directory=name)))
        return Finished(result, verification, report, secrets.token_urlsafe(24))

    def push(self, session_id: str, repo_id: str, token: str, **options: Any) -> PushResult:
        """Push the session's result; `options` are those of `converter.push`.

        The token is used for this call alone. Raise `UsageError` if there is no result, or no
        token on a closed page; otherwise the errors of `converter.push`.
        """
        if self.closed and not token:
            raise UsageError(
                "a Hub access token is needed to push",
                remedy="Create one with write access at https://huggingface.co/settings/tokens.",
            )
        with self._working(session_id) as session:
            if session.finished is None:
                raise UsageError("there is no result to push", remedy="Run a job first.")
            verified = verify_for_push(session.finished.result, repo_id, **options)
            return converter.push(
                verified.output, repo_id, **{**verified.options, "token": token or None}
            )

    def stop(self, session_id: str) -> None:
        """Ask the running job of a session to stop."""
        if session := self._sessions.get(session_id):
            session.stop.set()

    def close(self, session_id: str) -> None:
        """Stop a session whose page is closed; its files are removed some time later."""
        self.stop(session_id)
        if session := self._sessions.get(session_id):
            session.closed_at = time.monotonic()

    def end(self) -> None:
        """Stop all sessions, and wait some seconds until nothing writes any more."""
        sessions = [*self._sessions.values()]
        for session in sessions:
            session.stop.set()
        for session in sessions:
            if session.lock.acquire(timeout=_SECONDS_TO_STOP):
                session.lock.release()

    def find(self, key: str) -> Finished | None:
        """Return the result with this key."""
        results = [session.finished for session in [*self._sessions.values()]]
        return next((each for each in results if each and each.key == key), None)

    def without_paths(self, text: str) -> str:
        """Return a text with the names of uploads and results in place of their paths."""
        root = re.escape(str(self.root))
        return re.sub(rf"{root}/session-\w+/(?:uploads|results)/", "", text)

    @contextmanager
    def _working(self, session_id: str) -> Iterator[_Session]:
        """Yield the session, used by nobody else, and remove those that ended long ago."""
        now = time.monotonic()
        with self._lock:
            for name, each in [*self._sessions.items()]:
                ended = each.closed_at is not None and now - each.closed_at >= GRACE_SECONDS
                if ended and not each.lock.locked():
                    del self._sessions[name]
                    shutil.rmtree(each.directory, ignore_errors=True)
            if session_id not in self._sessions:
                directory = self.root / f"session-{secrets.token_hex(8)}"
                directory.mkdir()
                self._sessions[session_id] = _Session(directory)
            session = self._sessions[session_id]
        # Messages name the options by flags, which the page replaces by the labels of its fields.
        with session.lock, calls_from("command line"):
            session.stop.clear()
            session.closed_at = None
            yield session

    def _call(
        self, session: _Session, job: Job, references: Mapping[str, Any], **more: Any
    ) -> WriteResult:
        """Call the command of a job."""
        options = {**job.options, **more}
        if self.closed or not job.output:
            name = "-".join(_name(reference) for reference in references.values())
            output = session.directory / "results" / name
        else:
            output = Path(job.output)
        command = converter.compose if job.command == "compose" else converter.convert
        return command(**references, output=output, **options)

    def _references(self, session: _Session, job: Job) -> dict[str, str]:
        return {
            name: self._reference(session.directory / "uploads" / name, name, source)
            for name, source in job.sources.items()
        }

    def _reference(self, uploads: Path, label: str, source: SourceInput) -> str:
        """Return the reference to a source: its uploaded files, collected in one directory."""
        if source.files:
            shutil.rmtree(uploads, ignore_errors=True)
            uploads.mkdir(parents=True)
            for file in source.files:
                try:
                    (uploads / file.name).hardlink_to(file)
                except OSError:
                    shutil.copyfile(file, uploads / file.name)
            return str(uploads)
        text = source.reference.strip()
        if not text:
            raise UsageError(f"{label}: no checkpoint is chosen")
        if not self.closed:
            return text
        if "://" in text.removeprefix("hf://") or not parse_repo_id(
            f"hf://{text.removeprefix('hf://')}"
        ):
            raise UsageError(
                f"{label}: {text!r} is not the id of a Hub repository",
                remedy="Write it as org/name or org/name@revision, or upload the files. "
                "This page opens no paths and no other addresses.",
            )
        return f"hf://{text.removeprefix('hf://')}"


def _name(reference: str) -> str:
    """Return what a reference contributes to the name of the result."""
    name = reference.removeprefix("hf://").partition("@")[0].rstrip("/").rpartition("/")[2]
    return _UNSAFE.sub("-", name).strip(".-")[:60] or "checkpoint"


def _check_size(result: WriteResult) -> None:
    """Raise `UsageError` if a planned result is too large."""
    if result.plan.nbytes > MAX_RESULT_BYTES:
        raise UsageError(
            f"the result would have {size(result.plan.nbytes)}, and this page writes at most "
            f"{size(MAX_RESULT_BYTES)}",
            remedy="Install converter on your own machine for models of that size.",
        )


class _Buffer(io.RawIOBase):
    """Collects what is written, until it is taken."""

    def __init__(self) -> None:
        self._data = bytearray()

    def writable(self) -> bool:
        """Return true."""
        return True

    def write(self, data: Any) -> int:
        """Add bytes."""
        self._data += data
        return len(data)

    def take(self) -> bytes:
        """Return all bytes since the last call."""
        data = bytes(self._data)
        self._data.clear()
        return data


def zip_blocks(directory: Path) -> Iterator[bytes]:
    """Yield a ZIP archive of a checkpoint, uncompressed, without writing it to the disk."""
    buffer = _Buffer()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(path for path in directory.rglob("*") if path.is_file()):
            name = f"{directory.name}/{path.relative_to(directory).as_posix()}"
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o644 << 16
            with (
                path.open("rb") as source,
                archive.open(info, mode="w", force_zip64=True) as target,
            ):
                while block := source.read(_BLOCK_BYTES):
                    target.write(block)
                    yield buffer.take()
    yield buffer.take()
