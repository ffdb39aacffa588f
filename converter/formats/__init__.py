"""Checkpoint file formats: one module or package for each, reader next to writer."""

from __future__ import annotations

from converter.formats.base import (
    Array,
    FileFormat,
    PreallocatedFile,
    Reader,
    Segment,
    StoredTensor,
)
from converter.formats.registry import FORMATS, detect_format, get_format, open_file

__all__ = [
    "FORMATS",
    "Array",
    "FileFormat",
    "PreallocatedFile",
    "Reader",
    "Segment",
    "StoredTensor",
    "detect_format",
    "get_format",
    "open_file",
]
