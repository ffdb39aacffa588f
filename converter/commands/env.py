"""`env`: what a report of a bug needs to say about the machine."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from converter._version import __version__
from converter.system import filesystem_type, memory_size, processors
from converter.text import is_secret_variable, redact

REQUIRED = (
    "click fsspec google-crc32c h5py huggingface_hub ml_dtypes msgpack msgspec numpy PyYAML rich "
    "safetensors tqdm"
).split()
"""Distributions that are installed with this package."""
OPTIONAL = (
    "torch tensorflow tensorflow-cpu tf-keras keras flax jax jaxlib tensorstore transformers "
    "tokenizers hf-xet s3fs gcsfs dask distributed gradio"
).split()
"""Distributions that some commands or extras use, and what reads the results."""
_VARIABLES = (
    "CONVERTER_ HF_ HUGGINGFACE_ TRANSFORMERS_ TF_ XLA_ JAX_ CUDA_VISIBLE AWS_ GOOGLE_ FSSPEC_ S3_ "
    "XDG_ LC_ LANG PYTHON OMP_NUM OPENBLAS_NUM HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY "
    "REQUESTS_CA SSL_CERT NO_COLOR TERM COLUMNS TMPDIR"
).split()
"""Beginnings of the names of environment variables that matter."""
_SIZES = ("memory", "disk_free")


@dataclass(frozen=True, repr=False)
class Environment:
    """The versions, the machine and the settings under which this process runs."""

    converter: str
    python: str
    system: str
    packages: Mapping[str, str | None]
    """Distribution → its version; ``None`` if it is not installed."""
    machine: Mapping[str, Any]
    """Processors, memory and the disk of the working directory, sizes in bytes."""
    variables: Mapping[str, str]
    """Environment variables that matter, without secrets; the home directory is ``~``."""

    def to_dict(self) -> dict[str, Any]:
        """Return the parts, for ``--json``."""
        return {
            "converter": self.converter,
            "python": self.python,
            "system": self.system,
            "packages": dict(self.packages),
            "machine": dict(self.machine),
            "variables": dict(self.variables),
        }

    def __repr__(self) -> str:
        """Return the parts as lines that an issue can quote."""
        machine = {
            key.replace("_", " "): f"{value / 1e9:.1f} GB" if key in _SIZES else value
            for key, value in self.machine.items()
            if value is not None
        }
        packages = [f"{name} {version}" for name, version in self.packages.items() if version]
        absent = [name for name, version in self.packages.items() if not version]
        return "\n".join(
            [
                f"converter: {self.converter}",
                f"Python: {self.python}",
                f"system: {self.system}",
                f"packages: {', '.join(packages)}",
                f"not installed: {', '.join(absent)}",
                *(f"{key}: {value}" for key, value in machine.items()),
                *(f"{key}={value}" for key, value in self.variables.items()),
            ]
        )


def env() -> Environment:
    """Describe the environment, for the report of a bug.

    Nothing is imported for that, and nothing is sent anywhere.

    Returns:
        Versions, machine and environment variables; secrets are replaced by ``***``.

    """
    here = Path.cwd()
    return Environment(
        converter=__version__,
        python=f"{platform.python_version()} ({platform.python_implementation()})",
        system=platform.platform(),
        packages={name: _version(name) for name in (*REQUIRED, *OPTIONAL)},
        machine={
            "processors": processors(),
            "memory": memory_size(),
            "file_system": filesystem_type(here),
            "disk_free": shutil.disk_usage(here).free,
            "encoding": sys.stdout.encoding if sys.stdout else None,
        },
        variables={
            name: "***" if is_secret_variable(name) else _shown(value)
            for name, value in sorted(os.environ.items())
            if name.upper().startswith(tuple(_VARIABLES))
        },
    )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _shown(value: str) -> str:
    home = str(Path("~").expanduser())
    return redact(value.replace(home, "~") if len(home) > 1 else value)
