"""`open_checkpoint`: a checkpoint as a mapping of canonical names to lazy tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import FRAMEWORKS
from converter.checkpoint.opening import open_files
from converter.display import Displayed
from converter.errors import CheckpointError, Problem, UnsupportedError
from converter.execution.in_memory import InMemoryOutput
from converter.formats.base import Array
from converter.frameworks.keras_weights import KerasWeights
from converter.frameworks.lazy_tensor import LazyTensor
from converter.models.model import Model
from converter.models.ties import resolve_as_used
from converter.optional_imports import import_optional
from converter.options import Dtype, Framework, OutputOptions
from converter.planning.conversion import plan_conversion
from converter.progress import ProgressCounter, ProgressOption, show_progress
from converter.python_calls import errors_in_words

if TYPE_CHECKING:
    import torch

_BITS = {1: "uint8", 2: "int16"}
"""Bytes of an element → the torch dtype by which dtypes unknown to torch.from_numpy are passed."""


_WIDE = frozenset({"float64", "int64", "uint64", "complex128"})
"""The dtypes that JAX has only in its 64-bit mode."""


def state_dict(arrays: InMemoryOutput, progress: ProgressOption) -> dict[str, torch.Tensor]:
    """Return the tensors as PyTorch's, without a copy; aliases are the same tensor."""
    torch = import_optional("torch", "torch", "to_torch()")
    tensors = {name: _tensor(torch, array) for name, array in _read(arrays, progress)}
    return tensors | {alias: tensors[name] for alias, name in arrays.aliases.items()}


def _tensor(torch: Any, array: Array) -> torch.Tensor:
    """Return a tensor of the same memory."""
    if array.dtype.isbuiltin == 1:
        tensor: torch.Tensor = torch.from_numpy(array)
        return tensor
    bits = torch.from_numpy(array.view(_BITS[array.itemsize]))
    if not hasattr(torch, array.dtype.name):
        raise UnsupportedError(f"PyTorch has no {array.dtype.name}")
    return bits.view(getattr(torch, array.dtype.name))


def params(arrays: InMemoryOutput, progress: ProgressOption) -> dict[str, Any]:
    """Return the tensors as nested dictionaries of JAX arrays."""
    jax = import_optional("jax", "flax", "to_flax()")
    wide = {arrays.spec(name).dtype for name in arrays} & _WIDE
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
        branch[leaf] = jax.numpy.array(array)  # a copy, since CPU arrays may be shared
    return tree


def _read(arrays: InMemoryOutput, progress: ProgressOption) -> Iterator[tuple[str, Array]]:
    """Yield one tensor after another, and report the progress."""
    nbytes = {name: arrays.spec(name).nbytes for name in arrays}
    with show_progress(progress, "loading") as shown:
        count = ProgressCounter(shown).start_step(nbytes)
        for name in arrays:
            yield name, arrays[name]
            count(name)


class OpenedCheckpoint(Displayed, Mapping[str, LazyTensor]):
    """A checkpoint of any framework and file format, by the canonical names of its tensors.

    Canonical names are PyTorch's, shapes and values in PyTorch's layout, in the order of the model.
    Each parameter is listed once; `tied` has the names that share another's values. Only headers
    are read. Several threads may use it.

    Close it, or use it as a context manager; its tensors cannot be read after that.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._closed = False
        matched = model.key_match.matched
        ordered = dict.fromkeys((*(param.name for param in model.spec.params), *matched))
        self._tensors = {
            name: LazyTensor(name, matched[name], self._require_open)
            for name in ordered
            if name in matched
        }

    def __getitem__(self, name: str) -> LazyTensor:
        """Return the tensor of a canonical name.

        Raises:
            KeyError: if it does not exist; the message names similar ones.

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
        """The ``model_type``: an architecture, or a composite such as ``encoder-decoder``."""
        return self._model.checkpoint.architecture

    @property
    def class_name(self) -> str:
        """The PyTorch class of transformers that the checkpoint is of."""
        return self._model.name

    @property
    def classes(self) -> Mapping[str, str]:
        """Framework → the class of transformers that can load it."""
        return {
            framework: self._model.classes[framework]
            for framework in FRAMEWORKS
            if framework not in self._model.unsupported_reasons
        }

    @property
    def submodels(self) -> tuple[str, ...]:
        """``("encoder", "decoder")`` for a combined model, or else empty."""
        return self._model.submodels

    @property
    def files(self) -> tuple[Path, ...]:
        """The weight files that are read."""
        return self._model.checkpoint.files

    @property
    def file_format(self) -> str:
        """The file format, such as ``safetensors`` or ``keras-hdf5``."""
        return self._model.checkpoint.file_format

    @property
    def dialect(self) -> str:
        """The dialect of names and layouts, such as ``pytorch``."""
        return self._model.key_match.dialect

    @property
    def tied(self) -> Mapping[str, str]:
        """Canonical names that share the values of another tensor → that tensor's name."""
        target = self._model.spec
        return {param.name: target.resolve(param).name for param in target.params if param.tied_to}

    @property
    def problems(self) -> Sequence[Problem]:
        """Missing or unknown tensors and wrong shapes; empty if all tensors fit."""
        return self._model.key_match.problems(self._model.required)

    @property
    def ignored(self) -> Mapping[str, str]:
        """Stored names that are not used → the reason."""
        return self._model.key_match.ignored

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know, such as a pooler that the checkpoint lacks."""
        return self._model.notes

    @errors_in_words()
    def to_torch(
        self, *, dtype: Dtype = "keep", seed: int = 0, progress: ProgressOption = None
    ) -> dict[str, torch.Tensor]:
        """Return the state dict that ``load_state_dict`` of the PyTorch class takes, on the CPU.

        Tied names share one tensor, as in PyTorch. Peak memory is that of the state dict and 64 MB.

        Args:
            dtype: ``keep``, or what floating-point tensors are cast to.
            seed: seed of weights that the class has and the checkpoint lacks; they equal those that
                `convert` would write.
            progress: called with the progress; see `converter.Progress`.

        Raises:
            UnsupportedError: if torch is not installed.
            MatchError: if tensors are missing, unknown, of wrong shapes, or duplicates differ.
            CheckpointError: if the files cannot be read, or are closed.

        """
        return state_dict(self._arrays("pytorch", dtype, seed), progress)

    @errors_in_words()
    def to_tensorflow(self, *, dtype: Dtype = "keep", seed: int = 0) -> KerasWeights:
        """Return the weights of the TensorFlow class by their Keras names.

        ``assign_to(model)`` sets them. TensorFlow is not needed. Each is read on access.

        Args:
            dtype: ``keep``, or what floating-point tensors are cast to; bfloat16 becomes float32.
            seed: as in `to_torch`.

        Raises:
            UnsupportedError: if there is no TensorFlow class for the model.
            MatchError: as `to_torch`.

        """
        return KerasWeights(self._arrays("tensorflow", dtype, seed), self.classes["tensorflow"])

    @errors_in_words()
    def to_flax(
        self, *, dtype: Dtype = "keep", seed: int = 0, progress: ProgressOption = None
    ) -> dict[str, Any]:
        """Return the nested ``params`` of the Flax class, of JAX arrays on the default device.

        Args:
            dtype: ``keep``, or what floating-point tensors are cast to.
            seed: as in `to_torch`.
            progress: called with the progress; see `converter.Progress`.

        Raises:
            UnsupportedError: if JAX is not installed, cannot hold a dtype, or if there is no Flax
                class for the model.
            MatchError: as `to_torch`.
            CheckpointError: as `to_torch`.

        """
        return params(self._arrays("flax", dtype, seed), progress)

    def close(self) -> None:
        """Close the files; closing twice is allowed."""
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
                remedy="Read its tensors inside the `with` block, before it is closed.",
            )

    def _arrays(self, framework: Framework, dtype: Dtype, seed: int) -> InMemoryOutput:
        """Return the tensors as in a file of a framework, tied ones as aliases."""
        self._require_open()
        options = OutputOptions(to=[framework], pytorch_format="bin", dtype=dtype)
        plan = plan_conversion(self._model, options, seed)
        return InMemoryOutput(plan, plan.files[0], self._require_open)


@errors_in_words()
def open_checkpoint(
    reference: str | Path, *, config: str | Path | None = None, mapping: Sequence[str | Path] = ()
) -> OpenedCheckpoint:
    """Open a checkpoint of any framework, reading headers only.

    Args:
        reference: a directory with ``config.json`` and weights, a weight file, a Hub id
            ``org/name[@revision]``, or a URL such as ``s3://bucket/name``. An existing path takes
            precedence over a Hub id.
        config: the configuration, if it is not in the same directory.
        mapping: mapping tables of your own.

    Raises:
        CheckpointError: if something is missing or cannot be read.
        FormatError: if a file is damaged, truncated, inconsistent or hostile.
        ConfigError: if the configuration is unusable.
        UnsupportedError: if no mapping table describes the model.

    """
    registry = ArchitectureRegistry.for_user(mapping)
    checkpoint = open_files(reference, config)
    try:
        return OpenedCheckpoint(resolve_as_used(checkpoint, registry))
    except BaseException:
        checkpoint.close()
        raise
