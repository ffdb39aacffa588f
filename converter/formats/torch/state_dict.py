"""From the object in a torch file to its tensors by name.

A file may hold the state dict itself, or a training checkpoint with the state dict under a
well-known key, beside optimiser states and whatever else. The object is a graph that may share
and even contain itself, so every walk visits an object once or is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from converter.formats.files import MAX_TENSORS, format_error, sanitize
from converter.formats.torch.pickle import Opaque, Pairs
from converter.formats.torch.storages import Storage, Tensor

WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "params")
"""Keys under which training checkpoints keep the state dict, the most telling first."""
_MAX_DEPTH = 64
MAX_NAME_CHARACTERS = 32 << 20
"""Characters of all names together: sharing multiplies what the file itself holds."""
_MAX_SHOWN = 20
_WALKED = (Pairs, list, tuple, Opaque, Tensor, Storage)
"""Types of objects that may lead to a tensor."""


@dataclass(frozen=True, slots=True)
class NamedTensors:
    """The tensors of a torch file by their dotted path."""

    tensors: dict[str, Tensor]
    wrapper: str | None
    """The top-level key under which they were found."""
    ignored: tuple[str, ...]
    """Other top-level keys that hold tensors."""


def name_tensors(path: Path, root: object) -> NamedTensors:
    """Find the state dict in what a torch file holds, and name its tensors.

    Raises:
        FormatError: if the file holds no mapping, or if a tensor has no plain name or would be
            rebuilt by an unknown class.

    """
    if not isinstance(root, Pairs):
        what = root.kind if isinstance(root, Opaque) else type(root).__name__.lower()
        raise format_error(
            path,
            "holds no mapping of names to tensors",
            expected="a state dict, or a training checkpoint with one",
            found=what,
            remedy="load it where it was made and save model.state_dict()",
        )
    carrying = _carriers(root)
    wrapper, inner = _find_wrapper(root, carrying)
    ignored: tuple[str, ...] = ()
    if inner is not root:
        others = [key for key, value in root.items if id(value) in carrying and value is not inner]
        ignored = tuple(_readable(key) for key in others[:_MAX_SHOWN])
        if len(others) > _MAX_SHOWN:
            ignored += (f"{len(others) - _MAX_SHOWN} more",)
    return NamedTensors(_flatten(path, inner, carrying), wrapper, ignored)


def _find_wrapper(root: Pairs, carrying: set[int]) -> tuple[str | None, Pairs]:
    """The well-known key that holds a mapping with tensors, or else the root itself."""
    for wrapper in WRAPPERS:
        for key, value in root.items:
            if key == wrapper and isinstance(value, Pairs) and id(value) in carrying:
                return wrapper, value
    return None, root


def _children(value: object) -> Sequence[object]:
    """What an object holds."""
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, Pairs):
        return [part for pair in value.items for part in pair]
    return value.parts if isinstance(value, Opaque) else ()


def _carriers(root: object) -> set[int]:
    """The ids of all objects from which a tensor can be reached; each is visited once."""
    holders: list[int] = []
    held: list[int] = []
    found: list[int] = []
    seen = {id(root)}
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor | Storage) or _rebuilds(value):
            found.append(id(value))
        for child in _children(value):
            if isinstance(child, _WALKED):
                holders.append(id(value))
                held.append(id(child))
                if id(child) not in seen:
                    seen.add(id(child))
                    waiting.append(child)
    carrying = set(found)
    if not found:
        return carrying
    above: dict[int, list[int]] = {}
    for holder, child_id in zip(holders, held, strict=True):
        above.setdefault(child_id, []).append(holder)
    while found:
        for holder in above.pop(found.pop(), ()):
            if holder not in carrying:
                carrying.add(holder)
                found.append(holder)
    return carrying


def _rebuilds(value: object) -> bool:
    """Whether `value` stands for a tensor of a kind that is not understood."""
    return isinstance(value, Opaque) and value.kind.startswith("torch._utils._rebuild")


def _flatten(path: Path, root: Pairs, carrying: set[int]) -> dict[str, Tensor]:
    """All tensors below `root` by their path, joined by dots, in stored order."""
    tensors: dict[str, Tensor] = {}
    characters = 0
    levels: list[tuple[str, Iterator[tuple[object, object]]]] = [("", iter(root.items))]
    while levels:
        prefix, items = levels[-1]
        for key, value in items:
            if id(value) not in carrying:
                continue
            name = prefix + _key(path, prefix, key)
            characters += len(name)
            if characters > MAX_NAME_CHARACTERS:
                raise format_error(path, "the names are too long", tensor=name)
            if isinstance(value, Tensor):
                if name in tensors:
                    raise format_error(path, "a name stands twice", tensor=name)
                tensors[name] = value
                if len(tensors) > MAX_TENSORS:
                    raise format_error(path, "too many tensors", expected=f"at most {MAX_TENSORS}")
                continue
            if len(levels) == _MAX_DEPTH:
                raise format_error(path, "nested too deeply", tensor=name)
            levels.append((f"{name}.", _items(path, name, value)))
            break
        else:
            levels.pop()
    return tensors


def _items(path: Path, name: str, value: object) -> Iterator[tuple[object, object]]:
    """The named children of a mapping or a sequence that holds tensors."""
    if isinstance(value, Pairs):
        return iter(value.items)
    if isinstance(value, list | tuple):
        return iter(enumerate(value))
    what = value.kind if isinstance(value, Opaque) else "a storage without a tensor"
    raise format_error(
        path,
        "tensors inside an object of an unknown kind, which is not rebuilt",
        tensor=name,
        expected="a dictionary of plain tensors",
        found=what,
        remedy="load it where it was made and save model.state_dict()",
    )


def _key(path: Path, prefix: str, key: object) -> str:
    """A dictionary's key as part of a name."""
    if type(key) is int:
        return str(key)
    if not isinstance(key, str) or any("\ud800" <= letter <= "\udfff" for letter in key):
        raise format_error(path, "a tensor's name is no text", tensor=prefix, found=_readable(key))
    return key


def _readable(key: object) -> str:
    """A key as messages show it."""
    return sanitize(str(key)) if isinstance(key, str | int | float) else type(key).__name__
