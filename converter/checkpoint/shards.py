"""The index of a sharded checkpoint, checked against the shards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from converter.errors import CheckpointError, FormatError, Problem
from converter.formats.base import Reader
from converter.formats.directory import CheckpointDirectory
from converter.name_ranges import collapse_ranges
from converter.safe_json import read_json_object

_MAX_NAME = 255
"""Bytes of the longest file name."""


def _is_name(name: object) -> bool:
    """Whether a value is the plain name of a file, which every system can hold."""
    if not isinstance(name, str) or not name.isprintable() or len(name.encode()) > _MAX_NAME:
        return False
    return name not in ("", ".", "..") and Path(name).name == name


def _stays(shard: Path) -> bool:
    """Whether a file, its links followed, lies in its directory or its Hub cache.

    The Hub's cache keeps ``snapshots/REVISION/NAME`` as links to ``blobs/`` beside ``snapshots``.
    """
    home = shard.parent.resolve()
    return shard.resolve().parent in (home, home.parent.parent / "blobs")


@dataclass(frozen=True)
class ShardIndex:
    """An index: which tensor lies in which shard."""

    path: Path
    weight_map: Mapping[str, str]

    @classmethod
    def read(cls, path: Path, folder: CheckpointDirectory) -> ShardIndex:
        """Read the index at `path`, whose shards lie in `folder`.

        Raises:
            CheckpointError: if it cannot be read, or a shard that it names is missing.
            FormatError: if it holds no map of names to files in its own directory.
            ConfigError: if it is no JSON object.

        """
        weight_map = read_json_object(path).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise FormatError(f"{path}: an index must hold a non-empty 'weight_map'")
        problems = [
            Problem(
                "names a file that is not in its own directory", str(path), found=repr(name)[:200]
            )
            for name in {str(value): value for value in weight_map.values()}.values()
            if not _is_name(name)
        ]
        if problems:
            raise FormatError(f"{path}: the index is not to be trusted", problems)
        index = cls(path, weight_map)
        problems = [
            Problem("is a link that leaves the directory", str(shard), found=str(shard.resolve()))
            for shard in index.shards
            if not _stays(shard)
        ]
        if problems:
            raise FormatError(f"{path}: the index is not to be trusted", problems)
        problems = [
            Problem("the shard is missing", str(shard), remedy="fetch the whole checkpoint")
            for shard in index.shards
            if not folder.holds(shard.name)
        ]
        if problems:
            raise CheckpointError(f"{path}: {len(problems)} shard(s) are missing", problems)
        return index

    @property
    def shards(self) -> tuple[Path, ...]:
        """The shard files, by name."""
        return tuple(self.path.parent / name for name in sorted(set(self.weight_map.values())))

    def check(self, readers: Iterable[Reader]) -> None:
        """Make sure that index and shards name the same tensors in the same places.

        TensorFlow's index keeps the scope before each name, which its shards leave out.

        Raises:
            FormatError: with every tensor that is elsewhere, missing or not in the index.

        """
        stored = {reader.path.name: set(reader.tensors) for reader in readers}
        indexed: dict[str, set[str]] = {name: set() for name in stored}
        absent: dict[str, list[str]] = {}
        for name, shard in self.weight_map.items():
            held = name if name in stored[shard] else name.partition("/")[2]
            if held in stored[shard]:
                indexed[shard].add(held)
            else:
                absent.setdefault(shard, []).append(name)
        problems = [
            Problem(f"the index says it lies in {shard}, which does not hold it", str(self.path), n)
            for shard, names in absent.items()
            for n in collapse_ranges(names)
        ]
        problems += [
            Problem(f"lies in {shard}, of which the index knows nothing", str(self.path), name)
            for shard in stored
            for name in collapse_ranges(sorted(stored[shard] - indexed[shard]))
        ]
        if problems:
            raise FormatError(
                f"{self.path}: index and shards do not agree",
                problems,
                remedy="The index may be left from another version of the checkpoint.",
            )
