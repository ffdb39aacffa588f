"""The plan: a complete, pure description of an output, made without reading a tensor's bytes.

`converter.planning` makes it, `converter.execution` executes it, ``--dry-run`` prints it. It states
the origin of every target tensor, and the entries and layout of every output file.
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
    """Values from a source file."""

    source: str
    """``encoder``, ``decoder`` or ``source``."""
    tensor: StoredTensor
    rearrangement: Rearrangement
    """From the stored layout to the canonical (PyTorch) one."""


@dataclass(frozen=True, slots=True)
class ResizedTensor(SourceTensor):
    """Values from a source file, with rows removed or added at the end."""

    initializer: Initializer | None
    """Of added rows; ``None`` for the mean of the stored ones."""


@dataclass(frozen=True, slots=True)
class InitializedTensor:
    """Newly initialized values."""

    initializer: Initializer
    reason: str
    """Why no source has them, for users."""


Origin: TypeAlias = SourceTensor | InitializedTensor


@dataclass(frozen=True, slots=True)
class TargetTensor:
    """One tensor of the target model.

    Name and layout are canonical: PyTorch's axes in C order.
    """

    spec: TensorSpec
    """Canonical name, output dtype, shape in PyTorch's layout."""
    origin: Origin
    copies: tuple[SourceTensor, ...] = ()
    """Further copies in the sources, which execution compares with `origin`."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One tensor in one output file."""

    tensor: str
    """Canonical name of a `TargetTensor` of the same plan."""
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
    """Further names → entries whose bytes they share (tied heads in ``.bin``)."""
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in the file."""
        return sum(entry.spec.nbytes for entry in self.entries)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that will be written."""

    command: str
    tensors: Sequence[TargetTensor]
    files: Sequence[OutputFile]
    documents: Mapping[str, bytes] = field(default_factory=dict)
    """Content of small files such as config.json, by path relative to the output directory."""
    copied_files: Mapping[str, Path] = field(default_factory=dict)
    """Files copied unchanged (tokenizers): target path → source path."""
    warnings: Sequence[str] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in all output files."""
        return sum(file.nbytes for file in self.files)
