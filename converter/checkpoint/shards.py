"""The index of a sharded checkpoint, checked against the shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from converter.errors import CheckpointError, FormatError, Problem
from converter.file_names import name_key, name_problem
from converter.formats.base import Reader
from converter.formats.directory import CheckpointDirectory
from converter.name_ranges import collapse_ranges
from converter.safe_json import read_json_object


@dataclass(frozen=True)
class ShardIndex:
    """An index: which tensor is in which shard."""

    path: Path
    weight_map: Mapping[str, str]

    @classmethod
    def read(cls, path: Path, folder: CheckpointDirectory) -> ShardIndex:
        """Read the index at `path`; its shards must be in its own directory, `folder`, or links."""
        weight_map = read_json_object(path).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise FormatError(f"{path}: an index must hold a non-empty 'weight_map'")
        names = {str(value): value for value in weight_map.values()}.values()
        problems = list(_name_problems(path, names))
        index = cls(path, weight_map)
        if problems:
            raise FormatError(
                f"{path}: unsafe index",
                problems,
                remedy="Shards are next to their index: give names without directories in it, such "
                "as model-00001-of-00002.safetensors, and rename the files accordingly.",
            )
        problems = [
            Problem("the shard is missing", str(shard), remedy="download the complete checkpoint")
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
        """Make sure that index and shards agree on which tensor is in which shard.

        The index of TensorFlow has the scope before each name, which its shards leave out.
        """
        stored = {reader.path.name: set(reader.tensors) for reader in readers}
        indexed: dict[str, set[str]] = {name: set() for name in stored}
        missing: dict[str, list[str]] = {}
        for name, shard in self.weight_map.items():
            stored_name = name if name in stored[shard] else name.partition("/")[2]
            if stored_name in stored[shard]:
                indexed[shard].add(stored_name)
            else:
                missing.setdefault(shard, []).append(name)
        problems = [
            Problem(f"is not in {shard}, where the index lists it", str(self.path), name)
            for shard, names in missing.items()
            for name in collapse_ranges(names)
        ]
        problems += [
            Problem(f"is in {shard}, but not in the index", str(self.path), name)
            for shard in stored
            for name in collapse_ranges(sorted(stored[shard] - indexed[shard]))
        ]
        if problems:
            raise FormatError(
                f"{self.path}: index and shards do not agree",
                problems,
                remedy="The index may be left from another version of the checkpoint.",
            )


def _name_problems(path: Path, names: Iterable[object]) -> Iterator[Problem]:
    """Yield a problem for each shard that is not a plain file name, different on every system."""
    keys: dict[str, str] = {}
    for name in names:
        what = name_problem(name) if isinstance(name, str) else "is not text"
        if what is None:
            other = keys.setdefault(name_key(str(name)), str(name))
            what = None if other == name else f"is {other} on systems that ignore case"
        if what:
            yield Problem(f"names a shard that {what}", str(path), found=repr(name)[:200])
