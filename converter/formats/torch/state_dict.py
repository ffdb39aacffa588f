"""The state dict in a torch file's object, and the names of its tensors.

A file may hold the state dict itself, or a training checkpoint with the state dict under a
well-known key, next to optimizer states and other objects. The object is a graph with shared and
cyclic references, so every walk visits an object once or is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from converter.formats.file_handle import MAX_TENSORS, format_error, sanitize
from converter.formats.torch.numpy_arrays import NumpyArray, parse_array
from converter.formats.torch.storages import DEVICE_TENSORS, REBUILD_FROM_TYPE, Storage, Tensor
from converter.formats.torch.unpickler import Global, Opaque, Pairs

WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "params")
"""Keys under which training checkpoints keep the state dict, the most specific first."""
_MAX_DEPTH = 64
MAX_NAME_CHARACTERS = 32 << 20
"""Characters of all names together, which shared objects could multiply."""
_MAX_SHOWN = 20
_WALKED = (Pairs, list, tuple, Opaque, Tensor, Storage, NumpyArray)
"""Types of objects that may hold a tensor."""


@dataclass(frozen=True, slots=True)
class NamedTensors:
    """The tensors of a torch file by dotted path."""

    tensors: dict[str, Tensor | NumpyArray]
    wrapper: str | None
    """The top-level key of the state dict."""
    ignored: tuple[str, ...]
    """Other top-level keys that hold tensors."""
    mappings: frozenset[str]
    """Paths of the mappings below the state dict that hold tensors, such as ``weights.``."""


def name_tensors(path: Path, root: object) -> NamedTensors:
    """Find the state dict in a torch file's object, and name its tensors.

    Raise FormatError if the file holds no mapping, or a tensor has no plain name or is inside an
    object of an unknown class.
    """
    if not isinstance(root, Pairs):
        kind = root.kind if isinstance(root, Opaque) else type(root).__name__.lower()
        raise format_error(
            path,
            "holds no mapping of names to tensors",
            expected="a state dict, or a training checkpoint with one",
            found=kind,
            remedy="load it where it was made and save model.state_dict()",
        )
    carrying = _holders_of_tensors(root)
    wrapper, inner = _find_wrapper(root, carrying)
    ignored: tuple[str, ...] = ()
    if inner is not root:
        others = [key for key, value in root.items if id(value) in carrying and value is not inner]
        ignored = tuple(_readable(key) for key in others[:_MAX_SHOWN])
        if len(others) > _MAX_SHOWN:
            ignored += (f"{len(others) - _MAX_SHOWN} more",)
    tensors, mappings = _flatten(path, inner, carrying)
    return NamedTensors(tensors, wrapper, ignored, frozenset(mappings))


def _find_wrapper(root: Pairs, carrying: set[int]) -> tuple[str | None, Pairs]:
    """Return the well-known key of a mapping with tensors, and the mapping, or else the root."""
    for wrapper in WRAPPERS:
        for key, value in root.items:
            if key == wrapper and isinstance(value, Pairs) and id(value) in carrying:
                return wrapper, value
    return None, root


def _children(value: object) -> Sequence[object]:
    """Return the objects that an object holds."""
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, Pairs):
        return [part for pair in value.items for part in pair]
    return value.parts if isinstance(value, Opaque) else ()


def _holders_of_tensors(root: object) -> set[int]:
    """Return the ids of all objects from which a tensor can be reached, visiting each once.

    Arrays of numpy are tensors if nothing but mappings holds them: not in the state of other
    objects, such as random generators.
    """
    first = {id(root): id(root)}
    """Object → an object that holds it, which is all that most have."""
    others: dict[int, list[int]] = {}
    tensors: list[int] = []
    arrays: list[int] = []
    mappings: set[int] = set()
    pending = [root]
    while pending:
        value = pending.pop()
        holder = id(value)
        if isinstance(value, Pairs):
            mappings.add(holder)
        elif isinstance(value, Tensor | Storage) or _rebuilds(value):
            tensors.append(holder)
        elif parse_array(value):
            arrays.append(holder)
        for child in _children(value):
            if isinstance(child, _WALKED):
                if id(child) in first:
                    others.setdefault(id(child), []).append(holder)
                else:
                    first[id(child)] = holder
                    pending.append(child)
    carrying = {*tensors, *arrays}
    for reached, only in ((tensors, None), (arrays, mappings)):
        while reached:
            item = reached.pop()
            for holder in (first[item], *others.get(item, ())):
                if holder not in carrying and (only is None or holder in only):
                    carrying.add(holder)
                    reached.append(holder)
    return carrying


def _rebuilds(value: object) -> bool:
    """Return whether `value` is a tensor, or of an unsupported kind."""
    if isinstance(value, NumpyArray):
        return True
    return isinstance(value, Opaque) and value.kind.startswith(
        ("torch._utils._rebuild", REBUILD_FROM_TYPE)
    )


def _flatten(
    path: Path, root: Pairs, carrying: set[int]
) -> tuple[dict[str, Tensor | NumpyArray], dict[str, None]]:
    """Return all tensors below `root` by dotted path, in stored order, and the paths between."""
    tensors: dict[str, Tensor | NumpyArray] = {}
    mappings: dict[str, None] = {}
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
                raise format_error(path, "the names are too long", name)
            tensor = value if isinstance(value, Tensor | NumpyArray) else parse_array(value)
            if tensor:
                if name in tensors:
                    raise format_error(path, "duplicate name", name)
                tensors[name] = tensor
                if len(tensors) > MAX_TENSORS:
                    raise format_error(path, "too many tensors", expected=f"at most {MAX_TENSORS}")
                continue
            if len(levels) == _MAX_DEPTH:
                raise format_error(path, "nested too deeply", name)
            mappings[f"{name}."] = None
            levels.append((f"{name}.", _items(path, name, value)))
            break
        else:
            levels.pop()
    return tensors, mappings


def _items(path: Path, name: str, value: object) -> Iterator[tuple[object, object]]:
    """Return the named children of a mapping or a sequence that holds tensors."""
    if isinstance(value, Pairs):
        return iter(value.items)
    if isinstance(value, list | tuple):
        return iter(enumerate(value))
    what = value.kind if isinstance(value, Opaque) else "a storage without a tensor"
    if unsupported := _unsupported(value):
        raise format_error(path, unsupported[0], name, remedy=unsupported[1])
    raise format_error(
        path,
        "tensors inside an object of an unknown class, which is not rebuilt",
        name,
        "a dictionary of plain tensors",
        what,
        remedy="load it where it was made and save model.state_dict()",
    )


_UNSUPPORTED = {
    "torch._utils._rebuild_qtensor": (
        "a quantized tensor",
        "save the model that was quantized, or tensor.dequantize()",
    ),
    "torch._utils._rebuild_sparse_tensor": ("a sparse tensor", "save tensor.to_dense()"),
    "torch._utils._rebuild_nested_tensor": ("a nested tensor", "save its parts: tensor.unbind()"),
    "torch._utils._rebuild_meta_tensor_no_storage": (
        "a tensor of the meta device, which has no values",
        "load the weights before the model is saved",
    ),
    **dict.fromkeys(
        DEVICE_TENSORS,
        ("a tensor that is cast when it is loaded to its device", "save tensor.cpu()"),
    ),
}
"""Function that rebuilds a tensor → what it is, and what makes it a plain one."""


def _unsupported(value: object) -> tuple[str, str] | None:
    """Return what a tensor is that is not rebuilt, and the step; ``None`` for other objects."""
    if not isinstance(value, Opaque):
        return None
    if value.kind != REBUILD_FROM_TYPE:
        return _UNSUPPORTED.get(value.kind)
    names = [part.name for part in value.parts if isinstance(part, Global)]
    kind = next((name for name in names if not name.startswith("torch._utils.")), "unknown")
    if kind.rpartition(".")[2] == "DTensor":
        return (
            "a part of a DTensor",
            "save tensor.full_tensor(), or get_model_state_dict(model, options="
            "StateDictOptions(full_state_dict=True)) of torch.distributed.checkpoint.state_dict",
        )
    return (
        f"a tensor of the class {sanitize(kind)}, whose values are not known without it",
        "save plain tensors: tensor.dequantize() of a quantized class, tensor.as_subclass("
        "torch.Tensor) of others",
    )


def _key(path: Path, prefix: str, key: object) -> str:
    """Return a dictionary's key as part of a name."""
    if type(key) is int:
        return str(key)
    if not isinstance(key, str) or any("\ud800" <= letter <= "\udfff" for letter in key):
        raise format_error(path, "a tensor's name is not a string", prefix, found=_readable(key))
    return key


def _readable(key: object) -> str:
    """Return a key for messages."""
    return sanitize(str(key)) if isinstance(key, str | int | float) else type(key).__name__
