"""The meaning of the names in a torch pickle: storages, and tensors as views of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from converter.formats.file_handle import MAX_RANK
from converter.formats.torch.numpy_arrays import NumpyArray, parse_array
from converter.formats.torch.unpickler import MAX_OPERATIONS, Global, Opaque, Pairs
from converter.tensors import NAMES

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
"""torch's storage classes → the dtype whose elements their sizes count."""
_STORAGE_MODULES = ("torch", "torch.cuda", "torch.storage")
STORAGE_OF = {dtype: f"torch\n{name}" for name, dtype in _STORAGES.items() if name[0] != "U"}
"""dtype → module and class of the storage that all versions of torch write for it."""
_DTYPE_NAMES = {f"torch.{name}": name for name in NAMES}


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """A run of elements in the file, as the pickle describes it.

    `start` and `numel`, in elements of `dtype`, may be a view of a larger storage, which versions
    of torch before 0.4 wrote.
    """

    key: str
    dtype: str
    numel: int
    start: int = 0
    total: int = 0
    """Elements of the complete storage."""


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A view of a storage; `offset` and `strides` count elements of `dtype`."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    metadata: frozenset[str] = frozenset()
    """``neg`` and ``conj``: what remains to be done to the stored values."""


class TorchUnpicklerHooks:
    """The hooks for the names that torch writes; all others become `Opaque`.

    All pickles of a file share one budget, derived from their `nbytes`, for what they build: torch
    needs about 80 units for a tensor, which takes at least 40 bytes.
    """

    def __init__(self, nbytes: int) -> None:
        self._budget = min(4 * nbytes, 3 * MAX_OPERATIONS) + _FREE_UNITS
        self.storages: dict[str, Storage] = {}
        """Key → storage, as first mentioned."""
        self.names: set[str] = set()
        """Every name that the pickle would import."""

    @property
    def unusual_imports(self) -> list[str]:
        """The imports that no state dict of tensors needs."""
        return sorted(self.names - _USUAL - {f"torch.{name}" for name in NAMES})

    def charge(self, count: int) -> None:
        """Count units of about 8 bytes; raise ValueError beyond the budget of the file."""
        self._budget -= count
        if self._budget < 0:
            raise ValueError("more or larger objects than a file of this size holds")

    def call(self, function: Global, arguments: tuple[object, ...]) -> object:
        """Return a tensor, a dictionary, a shape, or an `Opaque`."""
        depth, subclass = 0, False
        while function.name == REBUILD_FROM_TYPE and len(arguments) == 4:
            inner, kind, values, state = arguments
            if not (isinstance(kind, Global) and isinstance(inner, Global)):
                break
            if not isinstance(values, tuple):
                break
            if inner.name == _WRAPPER_SUBCLASS and (local := _complete_local(kind, values, state)):
                return local
            if kind.name not in _TENSOR_CLASSES:
                subclass = True
                if inner.name not in _VIEWS or not self._is_plain(state):
                    break
            function, arguments = inner, values
            depth += 1
            if depth > _MAX_DEPTH:
                raise ValueError("a tensor within too many calls")
        name = function.name
        first = arguments[0] if arguments else None
        if name in _VIEWS:
            view = _view(name, arguments)
            self.charge(2 * len(view.shape))
            return (
                Opaque(REBUILD_FROM_TYPE, kind, view)
                if subclass and view.dtype not in _PLAIN
                else view
            )
        if name in _WRAPPERS and isinstance(first, Tensor | NumpyArray):
            return first
        if name in DEVICE_TENSORS and (copied := _device_tensor(arguments)):
            return copied
        if name == "collections.OrderedDict":
            return self._ordered(first)
        if name == "torch.Size" and len(arguments) == 1 and isinstance(first, tuple | list):
            self.charge(len(first))
            return tuple(first)
        self.charge(len(arguments))
        return Opaque(name, *arguments)

    def _is_plain(self, state: object) -> bool:
        """Return whether the state of a tensor's subclass is small and holds no tensor."""
        pending = [state]
        for _ in range(_MAX_STATE):
            if not pending:
                return True
            self.charge(1)
            match pending.pop():
                case Pairs(items=items) if len(items) <= _MAX_STATE:
                    pending += [part for pair in items for part in pair]
                case tuple() | list() as items if len(items) <= _MAX_STATE:
                    pending += items
                case Global() | str() | int() | float() | bytes() | None:
                    pass
                case _:
                    return False
        return False

    def _ordered(self, items: object) -> Pairs:
        """Return ``OrderedDict()``, or ``OrderedDict([[key, value], …])`` of Python 2."""
        pairs = Pairs()
        if isinstance(items, list | tuple):
            self.charge(_PAIR * len(items))
            for item in items:
                if not isinstance(item, list | tuple) or len(item) != 2:
                    raise ValueError("an OrderedDict of items that are not pairs")
                pairs.items.append((item[0], item[1]))
        return pairs

    def persistent(self, identity: object) -> object:
        """Return a storage, or the name of a module's class."""
        if not isinstance(identity, tuple) or not identity:
            raise ValueError("a persistent id that is not a tuple")
        match identity:
            case ("module", Global() as kind, *_):
                return kind
            case ("storage", Global() as kind, *_) if kind.name in _QUANTIZED:
                return Opaque(kind.name)
            case ("storage", kind, str() | int() as key, _, int(numel)):
                storage = _storage(kind, key, numel, None)
            case ("storage", kind, str() | int() as key, _, int(numel), view):
                storage = _storage(kind, key, numel, view)
            case _:
                raise ValueError(f"a persistent id of {len(identity)} parts that is not a storage")
        first = self.storages.setdefault(storage.key, storage)
        if (first.dtype, first.total) != (storage.dtype, storage.total):
            raise ValueError(f"storage {storage.key} with two dtypes or sizes")
        return storage


_VIEWS = {
    "torch._utils._rebuild_tensor": 4,
    "torch._utils._rebuild_tensor_v2": 6,
    "torch._utils._rebuild_tensor_v3": 7,
}
"""Functions that return a tensor of a storage → the number of arguments, without metadata."""
REBUILD_FROM_TYPE = "torch._tensor._rebuild_from_type_v2"
_WRAPPER_SUBCLASS = "torch._utils._rebuild_wrapper_subclass"
DEVICE_TENSORS = frozenset(
    f"torch._utils._rebuild_{name}"
    for name in ("device_tensor_from_numpy", "device_tensor_from_cpu_tensor", "xla_tensor")
)
"""What makes a tensor of another device of an array or a tensor, and a dtype."""
_QUANTIZED = frozenset(
    f"{module}.{name}Storage"
    for module in _STORAGE_MODULES
    for name in ("QInt8", "QUInt8", "QInt32", "QUInt4x2", "QUInt2x4")
)
_PLAIN = frozenset({"float64", "float32", "float16", "bfloat16"})
"""dtypes whose values mean the same in every subclass of a tensor; smaller ones may be scaled."""
_MAX_STATE = 64
"""Objects in the state of a tensor's subclass."""
_MAX_DEPTH = 16
"""Calls of it within one another; torch writes one."""
_FREE_UNITS = 1 << 16
"""What the pickles of even the smallest file may build."""
_PAIR = 8
"""Items whose memory a tuple of two takes."""
_WRAPPERS = frozenset(
    {
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch.nn.parameter.Parameter",
    }
)
"""What makes a parameter of a tensor; values and shape are unchanged."""
_TENSOR_CLASSES = frozenset({"torch.Tensor", "torch.nn.parameter.Parameter"})

_USUAL = frozenset(
    {
        *_VIEWS,
        *_WRAPPERS,
        *_TENSOR_CLASSES,
        *(f"{module}.{name}" for module in _STORAGE_MODULES for name in _STORAGES),
        "collections.OrderedDict",
        "torch.Size",
        REBUILD_FROM_TYPE,
        "torch.device",
        "torch.serialization._get_layout",
    }
)
"""Imports that ``torch.load(weights_only=True)`` allows, too."""


def _complete_local(kind: Global, values: tuple[object, ...], state: object) -> Tensor | None:
    """Return the local tensor of a DTensor if it has all values; ``None`` if not.

    A process has all values if its part has the shape of the complete tensor, unless they remain to
    be added up (``Partial``).
    """
    members = state[-1] if isinstance(state, tuple) and state else state
    named = _members(members)
    local, spec = named.get("_local_tensor"), named.get("_spec")
    if kind.name.rpartition(".")[2] != "DTensor" or not isinstance(spec, Opaque):
        return None
    placements = _members(spec.parts[-1] if spec.parts else None).get("placements")
    if not isinstance(local, Tensor) or values[2:3] != (local.shape,):
        return None
    if not isinstance(placements, tuple) or not 0 < len(placements) <= MAX_RANK:
        return None
    known = [isinstance(each, Opaque) and each.kind in _PLACEMENTS for each in placements]
    return local if all(known) else None


def _members(state: object) -> dict[str, object]:
    """Return the attributes in the state of an object; none if there are too many."""
    if not isinstance(state, Pairs) or len(state.items) > _MAX_STATE:
        return {}
    return {key: value for key, value in state.items if isinstance(key, str)}


_PLACEMENTS = frozenset(
    f"torch.distributed.{package}.placement_types.{name}"
    for package in ("tensor", "_tensor")
    for name in ("Replicate", "Shard")
)


def _device_tensor(arguments: tuple[object, ...]) -> Tensor | NumpyArray | None:
    """Return the tensor or array that was copied from a device; ``None`` if it is cast."""
    if len(arguments) < 2 or not isinstance(arguments[1], Global):
        return None
    data, dtype = arguments[0], _DTYPE_NAMES.get(arguments[1].name)
    if isinstance(data, Tensor):
        return data if data.dtype == dtype else None
    array = parse_array(data)
    if (
        array and dtype == "bfloat16" and array.dtype == "float32"
    ):  # numpy has none: no value changes
        return replace(array, dtype=dtype)
    return array if array and array.dtype == dtype else None


def _view(name: str, arguments: tuple[object, ...]) -> Tensor:
    """Return the tensor that ``torch._utils._rebuild_tensor*`` makes."""
    if len(arguments) < _VIEWS[name]:
        raise ValueError(f"{name} with {len(arguments)} arguments")
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    dtype = storage.dtype
    if name.endswith("_v3"):
        given = arguments[6]
        if not isinstance(given, Global):
            raise ValueError("a tensor whose dtype is not a dtype")
        if given.name not in _DTYPE_NAMES:
            raise ValueError(f"a tensor of unknown dtype {given.name}")
        dtype = _DTYPE_NAMES[given.name]
    if type(offset) is not int or offset < 0:
        raise ValueError("a tensor whose offset is not a position")
    metadata = _metadata(arguments[_VIEWS[name] :])
    return Tensor(storage, dtype, offset, _lengths(shape), _lengths(strides), metadata)


def _metadata(arguments: tuple[object, ...]) -> frozenset[str]:
    """Return the keys of an optional dictionary of metadata, all of whose values are true."""
    if not arguments or arguments == (None,):
        return frozenset()
    if len(arguments) > 1 or not isinstance(arguments[0], Pairs) or len(arguments[0].items) > 8:
        raise ValueError("a tensor whose metadata are not a small dictionary")
    items = arguments[0].items
    keys = frozenset(key for key, value in items if isinstance(key, str) and value is True)
    if len(keys) != len(items):
        raise ValueError("a tensor whose metadata are not all true")
    return keys


def _lengths(value: object) -> tuple[int, ...]:
    """Return `value` as non-negative integers."""
    if not isinstance(value, tuple | list):
        raise ValueError("a tensor whose shape or strides are not a tuple")
    if len(value) > MAX_RANK:
        raise ValueError(f"a tensor of more than {MAX_RANK} axes")
    lengths = tuple(n for n in value if type(n) is int and n >= 0)
    if len(lengths) != len(value):
        raise ValueError("a tensor whose shape or strides are not lengths")
    return lengths


def _storage(kind: object, key: str | int, numel: int, view: object) -> Storage:
    """Return the storage of a persistent id; a view is ``(key, first element, elements)``."""
    if not isinstance(kind, Global):
        raise ValueError("a storage without a class")
    module, _, name = kind.name.rpartition(".")
    if module not in _STORAGE_MODULES or name not in _STORAGES:
        raise ValueError(f"a storage of unknown class {kind.name}")
    if isinstance(key, int) and not 0 <= key < 1 << 64:
        raise ValueError("a storage whose key is not 64 bits")
    if numel < 0:
        raise ValueError(f"a storage of {numel} elements")
    start, length = 0, numel
    if view is not None:
        match view:
            case (_, int(start), int(length)) if 0 <= start <= start + length <= numel:
                pass
            case _:
                raise ValueError("a view that is not within its storage")
    return Storage(str(key), _STORAGES[name], length, start, numel)
