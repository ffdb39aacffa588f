"""The plan: a complete, pure description of what will be written, made from headers alone.

Commands make a `Plan`, `converter.execution` carries it out, and ``--dry-run`` prints it. A plan
has the origin of every target tensor, and the names, layouts and dtypes of every output file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from converter.architectures.schema import Architecture, Composite
from converter.display import Displayed
from converter.formats.base import StoredTensor
from converter.initializers import Initializer
from converter.tensors import Rearrangement, TensorSpec


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """A tensor in a source file."""

    source: str
    """Label of the source: ``encoder``, ``decoder``, ``source``."""
    tensor: StoredTensor
    rearrangement: Rearrangement
    """From the stored layout to the canonical (PyTorch) one."""


@dataclass(frozen=True, slots=True)
class ResizedTensor(SourceTensor):
    """A tensor in a source file that is truncated or extended along its first axis."""

    initializer: Initializer | None
    """How added rows are initialized; ``None`` for the mean of the stored rows."""


@dataclass(frozen=True, slots=True)
class InitializedTensor:
    """A newly initialized tensor."""

    initializer: Initializer
    reason: str
    """Why it is not taken from a source, as the user reads it."""


Origin: TypeAlias = SourceTensor | InitializedTensor


@dataclass(frozen=True, slots=True, repr=False)
class TargetTensor(Displayed):
    """One tensor of the target model, in canonical name and layout (PyTorch's axes in C order)."""

    spec: TensorSpec
    """Canonical name, the dtype to be written, the shape in PyTorch's layout."""
    origin: Origin
    duplicates: tuple[SourceTensor, ...] = ()
    """Further tensors of the sources whose equality is checked when the plan is executed."""

    @property
    def needs_training(self) -> bool:
        """Whether it is a newly initialized weight; indices and counters are computed."""
        is_weight = self.spec.dtype.startswith(("float", "bfloat"))
        return is_weight and isinstance(self.origin, InitializedTensor)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One tensor in one output file."""

    tensor: str
    """Canonical name of a `TargetTensor` of the same plan."""
    spec: TensorSpec
    """Name, dtype and shape in the file."""
    rearrangement: Rearrangement
    """From the canonical layout to the file's."""


@dataclass(frozen=True, slots=True, repr=False)
class OutputFile(Displayed):
    """One weight file of the output."""

    path: str
    """Relative to the output directory."""
    framework: str
    file_format: str
    entries: Sequence[FileEntry]
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Further names in the file for entries that share their bytes (tied heads in ``.bin``)."""
    repeated: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Layer of a Keras model → names of other layers' tensors that it lists as well."""
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in the file."""
        return sum(entry.spec.nbytes for entry in self.entries)


@dataclass(frozen=True, slots=True, repr=False)
class Plan(Displayed):
    """Everything that will be written, before any values are read."""

    command: str
    tensors: Sequence[TargetTensor]
    files: Sequence[OutputFile]
    documents: Mapping[str, bytes] = field(default_factory=dict)
    """Small files by path relative to the output directory, such as ``config.json``."""
    copied_files: Mapping[str, Path] = field(default_factory=dict)
    """Files copied unchanged (tokenizers): target path → source path."""
    warnings: Sequence[str] = ()
    ignored: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Source label → stored name of a tensor that is not used → the reason."""
    prefixes: Mapping[str, str] = field(default_factory=dict)
    """Source label → prefix of its names in front of the model's, if they have one."""
    classes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Directory in the output (``""`` for itself) → framework → class that loads its file."""
    tables: Sequence[Architecture | Composite] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The options that decide what is written, for the manifest."""

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in all output files."""
        return sum(file.nbytes for file in self.files)
