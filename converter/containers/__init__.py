"""The file formats that checkpoints come in, one module each, reader beside writer."""

from __future__ import annotations

from converter.containers.base import Array, Container, OutputFile, Reader, Segment, StoredTensor
from converter.containers.registry import CONTAINERS, container_named, open_container, recognise

__all__ = [
    "CONTAINERS",
    "Array",
    "Container",
    "OutputFile",
    "Reader",
    "Segment",
    "StoredTensor",
    "container_named",
    "open_container",
    "recognise",
]
