"""The names and shapes that transformers wrote: see ``names/README.md``."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = Path(__file__).parent / "names"


@dataclass(frozen=True)
class Measured:
    """One weight file that transformers wrote."""

    architecture: str
    what: str
    framework: str
    file_format: str
    config: dict[str, Any]
    tensors: dict[str, tuple[int, ...]]

    def __str__(self) -> str:
        return f"{self.architecture}-{self.what}-{self.file_format}"

    @property
    def is_combined(self) -> bool:
        return self.what.startswith("combined")


def measured() -> Iterator[Measured]:
    for path in sorted(NAMES.glob("*.json.gz")):
        for case in json.loads(gzip.decompress(path.read_bytes())):
            file_format = case.pop("container")
            tensors = {
                name.split("/", 1)[1] if file_format == "keras-hdf5" else name: tuple(shape)
                for name, shape in case.pop("tensors").items()
            }
            yield Measured(
                path.name.removesuffix(".json.gz"), tensors=tensors, file_format=file_format, **case
            )
