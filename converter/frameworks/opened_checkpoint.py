"""`open_checkpoint`: a checkpoint as a mapping of canonical names to lazy tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from converter.errors import UnsupportedError
from converter.execution.in_memory import InMemoryOutput
from converter.formats.base import Array
from converter.optional_imports import import_optional
from converter.progress import Progress, ProgressCounter

if TYPE_CHECKING:
    import torch

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import FRAMEWORKS
from converter.checkpoint.opening import open_files as open_source
from converter.errors import CheckpointError, Problem
from converter.frameworks.keras_weights import KerasWeights
from converter.frameworks.lazy_tensor import LazyTensor
from converter.models.model import Model, resolve_model
from converter.options import Dtype, Framework, OutputOptions
from converter.planning.conversion import plan_conversion

if TYPE_CHECKING:
    import torch


_BITS = {1: "uint8", 2: "int16"}
"""Bytes of an element → the torch dtype through which numpy hands over what it does not know."""


def state_dict(arrays: InMemoryOutput, progress: Progress | None) -> dict[str, torch.Tensor]:
    """The tensors as PyTorch's, without another copy; aliases are the very same tensor.

    Raises:
        UnsupportedError: if torch is not installed.
        CheckpointError: if the files cannot be read.
        MatchError: if copies of a tensor differ.

    """
    torch = import_optional("torch", "torch", "to_torch()")
    found = {name: _tensor(torch, array) for name, array in _read(arrays, progress)}
    return found | {alias: found[name] for alias, name in arrays.aliases.items()}


def _tensor(torch: Any, array: Array) -> torch.Tensor:
    """The same memory as a tensor."""
    if array.dtype.isbuiltin == 1:
        whole: torch.Tensor = torch.from_numpy(array)
        return whole
    bits = torch.from_numpy(array.view(_BITS[array.itemsize]))
    return bits.view(getattr(torch, array.dtype.name))


def params(arrays: InMemoryOutput, progress: Progress | None) -> dict[str, Any]:
    """The tensors as nested dictionaries of JAX arrays.

    Raises:
        UnsupportedError: if JAX is not installed or holds a dtype only in its 64-bit mode.
        CheckpointError: if the files cannot be read.
        MatchError: if copies of a tensor differ.

    """
    jax = import_optional("jax", "flax", "to_flax()")
    wide = {arrays.spec(name).dtype for name in arrays} & {
        "float64",
        "int64",
        "uint64",
        "complex128",
    }
    if wide and not jax.config.jax_enable_x64:
        raise UnsupportedError(
            f"JAX cannot hold {', '.join(sorted(wide))} unless its 64-bit mode is on",
            remedy='Call jax.config.update("jax_enable_x64", True), or to_flax(dtype="float32").',
        )
    tree: dict[str, Any] = {}
    for name, array in _read(arrays, progress):
        *path, leaf = name.split("/")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[leaf] = jax.numpy.array(array)  # its own copy, where CPU arrays might be shared
    return tree


def _read(arrays: InMemoryOutput, progress: Progress | None) -> Iterator[tuple[str, Array]]:
    """Yield one tensor after another and report progress."""
    count = ProgressCounter(progress).start_step(
        {name: arrays.spec(name).nbytes for name in arrays}
    )
    for name in arrays:
        yield name, arrays[name]
        count(name)


class OpenedCheckpoint(Mapping[str, LazyTensor]):
    """A checkpoint of any framework and file format, by the canonical names of its tensors.

    Canonical names are PyTorch's, shapes and values in PyTorch's layout, in the order of the model
    whatever that of the files. Each parameter is there once; what is tied to another stands in
    `tied`. Only headers have been read. Several threads may use it at the same time.

    Close it, or use it as a context manager; its tensors cannot be read any more then.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._closed = False
        found = model.key_match.matched
        ordered = dict.fromkeys((*(param.name for param in model.spec.params), *found))
        self._tensors = {
            name: LazyTensor(name, found[name], self._require_open)
            for name in ordered
            if name in found
        }

    def __getitem__(self, name: str) -> LazyTensor:
        """The tensor of a canonical name.

        Raises:
            KeyError: if there is none; the message names similar ones.

        """
        try:
            return self._tensors[name]
        except KeyError:
            tied = self.tied.get(name)
            near = [tied] if tied else get_close_matches(str(name), self._tensors, 3)
            hint = f"; {'it shares the values of' if tied else 'did you mean'} {', '.join(near)}"
            raise KeyError(f"{name}{hint if near else ''}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"<OpenedCheckpoint {self.reference}: {self.class_name}, {len(self)} tensors>"

    @property
    def reference(self) -> str:
        """The checkpoint as it was named."""
        return self._model.checkpoint.reference

    @property
    def config(self) -> Mapping[str, Any]:
        """Its configuration, with the class among ``architectures``."""
        return self._model.raw

    @property
    def architecture(self) -> str:
        """The ``model_type``: a family, or a composite such as ``encoder-decoder``."""
        return self._model.checkpoint.architecture

    @property
    def class_name(self) -> str:
        """The PyTorch class of transformers that the checkpoint is of."""
        return self._model.name

    @property
    def classes(self) -> Mapping[str, str]:
        """Framework → the class of transformers that can load it."""
        obstacles = self._model.unsupported_reasons
        return {
            framework: self._model.classes[framework]
            for framework in FRAMEWORKS
            if framework not in obstacles
        }

    @property
    def submodels(self) -> tuple[str, ...]:
        """``("encoder", "decoder")`` of a combined model, else nothing."""
        return self._model.submodels

    @property
    def files(self) -> tuple[Path, ...]:
        """The weight files that are read."""
        return self._model.checkpoint.files

    @property
    def file_format(self) -> str:
        """The file format: ``safetensors``, ``torch``, ``keras-hdf5``, ``flax-msgpack`` …"""
        return self._model.checkpoint.file_format

    @property
    def dialect(self) -> str:
        """Whose names and layouts the files use: ``pytorch``, ``tensorflow`` …"""
        return self._model.key_match.dialect

    @property
    def tied(self) -> Mapping[str, str]:
        """Canonical names that share the values of another tensor → that tensor's name."""
        target = self._model.spec
        return {param.name: target.resolve(param).name for param in target.params if param.tied_to}

    @property
    def problems(self) -> Sequence[Problem]:
        """What does not fit: missing or unknown tensors and wrong shapes; empty if all is well."""
        return self._model.key_match.problems(self._model.required)

    @property
    def dropped(self) -> Mapping[str, str]:
        """Stored names that are left out on purpose → the reason."""
        return self._model.key_match.ignored

    @property
    def notes(self) -> Sequence[str]:
        """What is worth knowing: a pooler that the class has and the checkpoint lacks."""
        return self._model.notes

    def to_torch(
        self, *, dtype: Dtype = "keep", seed: int = 0, progress: Progress | None = None
    ) -> dict[str, torch.Tensor]:
        """The state dict that ``load_state_dict`` of the PyTorch class takes, on the CPU.

        Tied tensors are one and the same, as PyTorch has them. At no time is more held in memory
        than the state dict itself and 64 MB.

        Args:
            dtype: ``keep``, or what floating-point tensors are cast to.
            seed: of weights that the class has and the checkpoint lacks; they are those that
                `convert` would write.
            progress: told how far the work is; see `converter.Progress`.

        Raises:
            UnsupportedError: if torch is not installed.
            MatchError: if tensors are missing, unknown, of wrong shapes or contradict each other.
            CheckpointError: if the files cannot be read, or are closed.

        """
        return state_dict(self._arrays("pytorch", dtype, seed), progress)

    def to_tensorflow(self, *, dtype: Dtype = "keep", seed: int = 0) -> KerasWeights:
        """The weights of the TensorFlow class by their Keras names; ``assign_to(model)`` sets them.

        TensorFlow itself is not needed for them. Each is read when it is asked for.

        Args:
            dtype: ``keep``, or what floating-point tensors are cast to; bfloat16 becomes float32.
            seed: as in `to_torch`.

        Raises:
            UnsupportedError: if there is no TensorFlow class for the model.
            MatchError: as `to_torch`.

        """
        return KerasWeights(self._arrays("tensorflow", dtype, seed), self.classes["tensorflow"])

    def to_flax(
        self, *, dtype: Dtype = "keep", seed: int = 0, progress: Progress | None = None
    ) -> dict[str, Any]:
        """The nested ``params`` of the Flax class, of JAX arrays on the default device.

        Args:
            dtype: ``keep``, or what floating-point tensors are cast to.
            seed: as in `to_torch`.
            progress: told how far the work is; see `converter.Progress`.

        Raises:
            UnsupportedError: if JAX is not installed, cannot hold a dtype, or if there is no Flax
                class for the model.
            MatchError: as `to_torch`.
            CheckpointError: as `to_torch`.

        """
        return params(self._arrays("flax", dtype, seed), progress)

    def close(self) -> None:
        """Let go of the files; twice does no harm."""
        self._closed = True
        self._model.checkpoint.close()

    def __enter__(self) -> OpenedCheckpoint:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _require_open(self) -> None:
        if self._closed:
            raise CheckpointError(
                f"{self.reference}: is closed",
                remedy="Read its tensors before it is closed, inside the `with` block.",
            )

    def _arrays(self, framework: Framework, dtype: Dtype, seed: int) -> InMemoryOutput:
        """The tensors as a file of a framework would hold them, tied ones as aliases."""
        self._require_open()
        wanted = OutputOptions(to=[framework], pytorch_format="bin", dtype=dtype)
        plan = plan_conversion(self._model, wanted, seed)
        return InMemoryOutput(plan, plan.files[0], self._require_open)


def open_checkpoint(
    reference: str | Path,
    *,
    config: str | Path | None = None,
    mapping: Sequence[str | Path] = (),
) -> OpenedCheckpoint:
    """Open a checkpoint of any framework, reading headers only.

    Args:
        reference: a directory with ``config.json`` and weights, a weight file, an id of the Hub,
            ``org/name[@revision]``, or a URL such as ``s3://bucket/name``. A path that exists wins.
        config: the configuration, where none lies beside the weights.
        mapping: a user's own mapping tables.

    Raises:
        CheckpointError: if something is missing or cannot be read.
        FormatError: if a file is damaged, truncated, lying or hostile.
        ConfigError: if the configuration cannot be used.
        UnsupportedError: if there is no table for the model.

    """
    registry = ArchitectureRegistry(Path(path) for path in mapping)
    checkpoint = open_source(reference, config)
    try:
        return OpenedCheckpoint(resolve_model(checkpoint, registry))
    except BaseException:
        checkpoint.close()
        raise
