"""What `compose` and `convert` have in common: how the output is wanted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from converter.architectures.schema import FRAMEWORKS
from converter.errors import UsageError

if TYPE_CHECKING:
    from converter.progress import Progress

PYTORCH_FORMATS = ("safetensors", "bin", "both")
DTYPES = ("keep", "float32", "float16", "bfloat16")

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


class OutputOptionsDict(TypedDict, total=False):
    """The keyword arguments of `OutputOptions`, none of them required."""

    to: Sequence[str] | None
    pytorch_format: str
    dtype: str
    overwrite: bool
    dry_run: bool
    jobs: int | None
    max_shard_size: int | str | None
    memory: int | str
    checksums: bool
    resume: bool
    card: str | Path | None
    progress: Progress | None


@dataclass(frozen=True)
class OutputOptions:
    """How an output is wanted.

    Raises:
        UsageError: for a value that there is not.

    """

    to: Sequence[str] | None = None
    """Frameworks; every one that has a class for the model unless given."""
    pytorch_format: str = "safetensors"
    """``safetensors``, ``bin`` or ``both``."""
    dtype: str = "keep"
    """``keep``, or what floating-point tensors become: ``float32``, ``float16``, ``bfloat16``."""
    overwrite: bool = False
    """Whether to replace a checkpoint that lies at the output."""
    dry_run: bool = False
    """Whether to plan everything and write nothing."""
    jobs: int | None = None
    """Threads; as many as processors, at most 4, unless given."""
    max_shard_size: int | str | None = None
    """Bytes, or a size such as ``5GB``, from which on a format is written in shards."""
    memory: int | str = 512 << 20
    """Bytes, or a size such as ``512MB``, that the engine's buffers may take."""
    checksums: bool = False
    """Whether to put the SHA-256 of whole files in the manifest."""
    resume: bool = False
    """Whether to keep what an interrupted run has written, and to go on from what one has kept."""
    card: str | Path | None = None
    """A model card of the user's own, instead of the one that is made."""
    progress: Progress | None = None
    """Told at most ten times a second how many bytes are written; raising in it cancels."""

    def __post_init__(self) -> None:
        for framework in self.to or ():
            _one_of("to", framework, FRAMEWORKS)
        if self.to is not None and not self.to:
            raise UsageError("to: names no framework", remedy="One of: " + ", ".join(FRAMEWORKS))
        _one_of("pytorch_format", self.pytorch_format, PYTORCH_FORMATS)
        _one_of("dtype", self.dtype, DTYPES)
        if self.jobs is not None and self.jobs < 1:
            raise UsageError(f"jobs: must be at least 1, not {self.jobs}")
        parse_size(self.memory)
        if self.max_shard_size is not None:
            parse_size(self.max_shard_size)

    @property
    def memory_bytes(self) -> int:
        """The memory budget in bytes."""
        return parse_size(self.memory)

    @property
    def shard_bytes(self) -> int | None:
        """The largest shard in bytes."""
        return None if self.max_shard_size is None else parse_size(self.max_shard_size)


def _one_of(option: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UsageError(f"{option}: {value!r} is none of {', '.join(allowed)}")


def parse_size(text: int | str) -> int:
    """Bytes of a size such as ``512MB``, ``1.5GiB`` or ``1000``.

    Raises:
        UsageError: if it is no size, or none above zero.

    """
    if isinstance(text, int):
        size = text
    else:
        found = _SIZE.fullmatch(text.strip())
        if not found:
            raise UsageError(f"{text!r} is no size", remedy="Write it like 512MB or 2GiB.")
        power = "kmgt".find(found[2].lower()) + 1 if found[2] else 0
        unit = 1024**power if found[3] else _UNITS[found[2].lower()]
        size = int(float(found[1]) * unit)
    if size <= 0:
        raise UsageError(f"{text!r} is no size above zero")
    return size


def parse_settings(settings: Iterable[str], targets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``["encoder.dropout=0.1", "pad_token_id=0"]`` sorted by target.

    Args:
        settings: ``KEY=VALUE``, or ``TARGET.KEY=VALUE``; a value is JSON, or else text.
        targets: the names that may stand before a key.

    Returns:
        Target → field → value; the target of a bare key is ``""``.

    Raises:
        UsageError: for anything that is not of this form.

    """
    found: dict[str, dict[str, Any]] = {target: {} for target in ("", *targets)}
    for setting in settings:
        key, equals, text = setting.partition("=")
        target, dot, field = key.partition(".")
        if not dot:
            target, field = "", key
        if not equals or not field or target not in found:
            raise UsageError(
                f"set: {setting!r} is not KEY=VALUE",
                remedy="With a half: " + " or ".join(f"{name}.KEY=VALUE" for name in targets)
                if targets
                else None,
            )
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        found[target][field] = value
    return found


def apply_overrides(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with fields changed; a field set to null goes back to its default."""
    merged = {**raw, **changes}
    return {key: value for key, value in merged.items() if value is not None or key not in changes}
