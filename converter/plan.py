"""The complete, pure description of what will be written, made without reading a tensor's bytes.

Commands make a `Plan`; the engine executes it; ``--dry-run`` prints it. A plan says for every
target tensor where it comes from, and for every output file what lies in it, in which layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from converter.formats.base import StoredTensor
from converter.initializers import Initializer
from converter.tensors import Rearrangement, TensorSpec


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """Values that lie in a source file."""

    source: str
    """Which source, as the user knows it: ``encoder``, ``decoder``, ``source``."""
    tensor: StoredTensor
    rearrangement: Rearrangement
    """From the stored layout to the canonical (PyTorch) one."""


@dataclass(frozen=True, slots=True)
class ResizedTensor(SourceTensor):
    """Values that lie in a source file, with rows cut off at the end or put there."""

    initializer: Initializer | None
    """How further rows are drawn; ``None`` for the mean of those that there are."""


@dataclass(frozen=True, slots=True)
class InitializedTensor:
    """Values that are drawn anew."""

    initializer: Initializer
    reason: str
    """Why no source has them, as the user should read it."""


Origin: TypeAlias = SourceTensor | InitializedTensor


@dataclass(frozen=True, slots=True)
class TargetTensor:
    """One tensor of the target model, in canonical name and layout.

    Memory layout everywhere in the engine is the canonical one: PyTorch's axes in C order.
    """

    spec: TensorSpec
    """Canonical name, the dtype to be written, the shape in PyTorch's layout."""
    origin: Origin
    copies: tuple[SourceTensor, ...] = ()
    """Other places in the sources that claim to hold the same values; executing proves it."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One tensor in one output file."""

    tensor: str
    """Canonical name, a `TargetTensor` of the same plan."""
    spec: TensorSpec
    """Name, dtype and shape in the file."""
    rearrangement: Rearrangement
    """From the canonical layout to the file's."""


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One weight file of the output."""

    path: str
    """Relative to the output directory."""
    framework: str
    file_format: str
    entries: Sequence[FileEntry]
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Further names in the file for entries that share their bytes (tied heads in ``.bin``)."""
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in the file."""
        return sum(entry.spec.nbytes for entry in self.entries)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that will be written, before a byte is read."""

    command: str
    tensors: Sequence[TargetTensor]
    files: Sequence[OutputFile]
    documents: Mapping[str, bytes] = field(default_factory=dict)
    """Small files by path relative to the output directory: config.json and its like."""
    copied_files: Mapping[str, Path] = field(default_factory=dict)
    """Files copied unchanged (tokenizers): target path → source path."""
    warnings: Sequence[str] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in all output files."""
        return sum(file.nbytes for file in self.files)
