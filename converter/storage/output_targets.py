"""Where an output goes: a directory of this machine, a URL, or a repository of the Hub."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from converter.errors import OutputError, Problem, UsageError
from converter.file_names import CHECKPOINT_MARKERS
from converter.storage.atomic_directory import atomic_directory
from converter.storage.hub_client import HubRepo, parse_repo_id, translate_hub_errors
from converter.storage.hub_upload import push
from converter.storage.url import Url, UrlListing, listing, path_of, url_of
from converter.storage.url_upload import not_atomic_error, upload_directory

_MAX_BYTES = 64 << 20
"""Larger than any file that is not weights."""


class OutputTarget(Protocol):
    """Where an output goes, or lies already."""

    @property
    def display_name(self) -> Path | Url:
        """What to call it."""

    def files(self) -> Mapping[str, int]:
        """The name of each file that lies there → its bytes."""

    def read(self, name: str) -> bytes | None:
        """A small file; ``None`` if there is none that can be read."""

    def modified(self, name: str) -> float | None:
        """When a file was written, in seconds since 1970; ``None`` where nobody knows."""

    def open_for_writing(self, overwrite: bool, resume: str | None) -> AbstractContextManager[Path]:
        """A directory of this machine whose files lie there, whole, when the block ends well.

        Raises:
            OutputError: if something is there that may not be replaced, or it cannot be written.

        """

    def check_not_a_source(self, sources: Iterable[Path], urls: Iterable[Url]) -> None:
        """Refuse to replace what is being read, ``--overwrite`` or not.

        Writing into a source's directory, below or beside it, harms nothing.

        Raises:
            OutputError: if a source lies there or below.

        """


def output_target(output: str | Path) -> OutputTarget:
    """The place that a path or a URL means; ``org/name`` is a path, ``hf://org/name`` is not.

    Raises:
        OutputError: for a directory in a repository of the Hub.

    """
    if str(output).startswith("hf://") and (repository := parse_repo_id(output)):
        return HubRepository(repository)
    url = url_of(output)
    if url and url.protocol == "hf":
        raise not_atomic_error(url)
    return UrlDirectory(url) if url else LocalDirectory(path_of(output))


@dataclass(frozen=True)
class LocalDirectory:
    """A directory of this machine; see `OutputTarget`."""

    path: Path

    @property
    def display_name(self) -> Path:
        """The path."""
        return self.path

    def files(self) -> Mapping[str, int]:
        """The name of each file → its bytes."""
        return {
            path.relative_to(self.path).as_posix(): path.stat().st_size
            for path in self.path.rglob("*")
            if path.is_file()
        }

    def read(self, name: str) -> bytes | None:
        """A small file."""
        path = self.path / name
        try:
            return path.read_bytes() if path.stat().st_size <= _MAX_BYTES else None
        except OSError:
            return None

    def modified(self, name: str) -> float | None:
        """When a file was written."""
        try:
            return (self.path / name).stat().st_mtime
        except OSError:
            return None

    def open_for_writing(self, overwrite: bool, resume: str | None) -> AbstractContextManager[Path]:
        """A directory beside it that takes its name at the end."""
        return atomic_directory(self.path, overwrite, resume)

    def check_not_a_source(self, sources: Iterable[Path], urls: Iterable[Url]) -> None:
        """Refuse to replace what is being read."""
        home = Path(os.path.realpath(self.path))
        if not home.is_dir():
            return
        for source in sources:
            link = Path(os.path.realpath(source.parent)) / source.name
            if any(path.is_relative_to(home) for path in (link, Path(os.path.realpath(source)))):
                raise _not_apart(self.path, source)


@dataclass(frozen=True)
class UrlDirectory:
    """A directory at a URL; see `OutputTarget`."""

    url: Url

    @property
    def display_name(self) -> Url:
        """The URL."""
        return self.url

    @cached_property
    def _listed(self) -> UrlListing | None:
        return listing(self.url, OutputError)

    def files(self) -> Mapping[str, int]:
        """The name of each file → its bytes."""
        return (
            {name: self._listed.size(name) for name in self._listed.files} if self._listed else {}
        )

    def read(self, name: str) -> bytes | None:
        """A small file."""
        if self._listed is None or self.files().get(name, _MAX_BYTES + 1) > _MAX_BYTES:
            return None
        return self._listed.read(name)

    def modified(self, name: str) -> float | None:
        """When a file was written."""
        held = self._listed
        return held.modified(name) if held and name in held.files else None

    def open_for_writing(self, overwrite: bool, resume: str | None) -> AbstractContextManager[Path]:
        """A temporary directory that is uploaded at the end."""
        if resume:
            raise UsageError("resume: only an output on this machine can be gone on with")
        return upload_directory(self.url, overwrite)

    def check_not_a_source(self, sources: Iterable[Path], urls: Iterable[Url]) -> None:
        """Refuse to replace what is being read."""
        for source in urls:
            if f"{source.bare}/".startswith(f"{self.url.bare}/"):
                raise _not_apart(self.url, source)


@dataclass(frozen=True)
class HubRepository:
    """A repository of the Hub, which gets all files in one commit; see `OutputTarget`."""

    id: HubRepo

    @property
    def display_name(self) -> Url:
        """The URL."""
        return Url(f"hf://{self.id}")

    @cached_property
    def _held(self) -> Mapping[str, int]:
        from huggingface_hub import HfApi, errors

        what = f"{self.display_name}: cannot be looked at"
        with translate_hub_errors(OutputError, what, self.id.repo_id, writing=True):
            try:
                tree = HfApi().list_repo_tree(
                    self.id.repo_id, recursive=True, revision=self.id.revision
                )
                return {each.path: each.size for each in tree if hasattr(each, "size")}
            except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
                return {}

    def files(self) -> Mapping[str, int]:
        """The name of each file → its bytes."""
        return self._held

    def read(self, name: str) -> bytes | None:
        """A small file."""
        if self._held.get(name, _MAX_BYTES + 1) > _MAX_BYTES:
            return None
        from huggingface_hub import hf_hub_download

        with translate_hub_errors(
            OutputError, f"{self.display_name}/{name}: cannot be read", self.id.repo_id
        ):
            path = hf_hub_download(self.id.repo_id, name, revision=self.id.revision)
        return Path(path).read_bytes()

    def modified(self, name: str) -> float | None:
        """Nobody knows; but what has not changed is not sent again."""
        return None

    @contextmanager
    def open_for_writing(self, overwrite: bool, resume: str | None) -> Iterator[Path]:
        """A temporary directory that is pushed at the end."""
        if resume:
            raise UsageError("resume: only an output on this machine can be gone on with")
        if not overwrite and any(mark in self._held for mark in CHECKPOINT_MARKERS):
            raise OutputError(
                f"{self.display_name} holds a checkpoint",
                remedy="Add --overwrite to commit a new one, or choose another place.",
            )
        with tempfile.TemporaryDirectory(prefix="converter-", ignore_cleanup_errors=True) as home:
            directory = Path(home) / self.display_name.name.partition("@")[0]
            directory.mkdir()
            yield directory
            push(directory, self.id.repo_id, revision=self.id.revision)

    def check_not_a_source(self, sources: Iterable[Path], urls: Iterable[Url]) -> None:
        """A commit replaces nothing that is being read."""


def _not_apart(output: object, source: object) -> OutputError:
    return OutputError(
        f"{output} holds a source, which the output would replace",
        [Problem("is read from there", file=str(source))],
        remedy="Choose another place for the output.",
    )
