"""The index of a sharded checkpoint, checked against the shards."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from converter.errors import CheckpointError, FormatError, Problem
from converter.file_names import name_key, name_problem
from converter.formats.base import Reader
from converter.safe_json import read_json_object
from converter.storage.base import CheckpointDirectory
from converter.text import collapse_ranges, summarize_names


@dataclass(frozen=True)
class ShardIndex:
    """An index: which tensor is in which shard."""

    path: Path
    weight_map: Mapping[str, str]

    @classmethod
    def read(cls, path: Path, folder: CheckpointDirectory) -> ShardIndex:
        """Read the index at `path`; its shards must be in `folder` or below it, or links."""
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
                remedy="Shards are next to their index or below it: give names in it such as "
                "model-00001-of-00002.safetensors, and rename the files accordingly.",
            )
        problems = [
            Problem("the shard is missing", str(shard), remedy="download the complete checkpoint")
            for shard in index.shards
            if not folder.holds(folder.name(shard))
        ]
        if problems:
            raise CheckpointError(f"{path}: {len(problems)} shard(s) are missing", problems)
        return index

    @property
    def shards(self) -> tuple[Path, ...]:
        """The shard files, by name."""
        return tuple(self.path.parent / name for name in sorted(set(self.weight_map.values())))

    def select(self, readers: Sequence[Reader]) -> tuple[list[Reader], tuple[str, ...]]:
        """Return the readers without the copies that the index does not list, and notes on those.

        Tensors that the index lists and no shard holds are a note, too: tools remove tied tensors
        and buffers from shards alone, and what the model needs is missed by name later. Raise
        FormatError if a tensor is in another shard than in the index, or not in the index at all.

        The index of TensorFlow has the scope before each name, which its shards leave out.
        """
        stored = {self._shard_name(reader): reader.tensors for reader in readers}
        indexed: dict[str, set[str]] = {name: set() for name in stored}
        missing: list[str] = []
        for name, shard in self.weight_map.items():
            stored_name = name if name in stored[shard] else name.partition("/")[2]
            if stored_name in stored[shard]:
                indexed[shard].add(stored_name)
            else:
                missing.append(name)
        listed = set[str]().union(*indexed.values())
        moved = {
            shard: [name for name in sorted(tensors) if name not in listed]
            for shard, tensors in stored.items()
        }
        if any(moved.values()):
            raise FormatError(
                f"{self.path}: index and shards do not agree",
                [
                    Problem(f"is in {shard}, but not listed so in the index", str(self.path), name)
                    for shard, names in moved.items()
                    for name in collapse_ranges(names)
                ]
                + [
                    Problem("is not in the shard where the index lists it", str(self.path), name)
                    for name in collapse_ranges(missing)
                ],
                remedy="The index may be left from another version of the checkpoint.",
            )
        copies = {name for shard in stored for name in stored[shard] if name not in indexed[shard]}
        chosen = [
            replace(
                reader,
                tensors={n: each for n, each in reader.tensors.items() if n in indexed[shard]},
            )
            for shard, reader in zip(stored, readers, strict=True)
        ]
        return chosen, tuple(self._notes(missing, copies))

    def _notes(self, missing: Collection[str], copies: Collection[str]) -> Iterator[str]:
        if missing:
            yield f"{self.path.name} lists what no shard holds: {summarize_names(missing)}"
        if copies:
            names = summarize_names(sorted(copies))
            yield f"in several shards, read from that in {self.path.name}: {names}"

    def _shard_name(self, reader: Reader) -> str:
        return reader.path.relative_to(self.path.parent).as_posix()


def _name_problems(path: Path, names: Iterable[object]) -> Iterator[Problem]:
    """Yield a problem for each shard that is not a path below, different on every system."""
    keys: dict[str, str] = {}
    for name in names:
        parts = name.split("/") if isinstance(name, str) else ()
        what = next(filter(None, map(name_problem, parts)), None) if parts else "is not text"
        if what is None:
            other = keys.setdefault(name_key(str(name)), str(name))
            what = None if other == name else f"is {other} on systems that ignore case"
        if what:
            yield Problem(f"names a shard that {what}", str(path), found=repr(name)[:200])
