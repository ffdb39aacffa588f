"""Finding what a reference means: a weight file, the bundle of a name, and the configuration."""

from __future__ import annotations

import re
from pathlib import Path

from converter.errors import CheckpointError
from converter.file_names import CONFIG
from converter.formats.directory import CheckpointDirectory

_BUNDLE_INDEX = ".index"
_BUNDLE_DATA = re.compile(r"\.data-\d{5}-of-\d{5}$")

_ORBAX = ("_METADATA", "default/_METADATA", "*/_METADATA", "*/default/_METADATA")


def tf_checkpoint_index(path: Path) -> Path | None:
    """The index of the TensorFlow bundle that `path` names, if there is one.

    Args:
        path: one of its data files, or what all its files begin with: ``DIR/bert_model.ckpt``.

    """
    stem, is_data = _BUNDLE_DATA.subn("", path.name)
    index = path.parent / (stem + _BUNDLE_INDEX)
    return index if index.is_file() and (is_data or not path.is_file()) else None


def find_tf_checkpoint(folder: CheckpointDirectory) -> Path | None:
    """The index of the TensorFlow bundle in `folder`, ``None`` if it holds none.

    Raises:
        CheckpointError: if it holds several.

    """
    found = sorted(name for name in folder.names() if name.endswith(_BUNDLE_INDEX))
    if len(found) > 1:
        names = [name.removesuffix(_BUNDLE_INDEX) for name in found]
        raise CheckpointError(
            f"{folder.path}: holds {len(found)} TensorFlow checkpoints",
            remedy=f"Give one of them: {', '.join(names[:10])}.",
        )
    return folder.path / found[0] if found else None


def find_orbax(directory: Path) -> Path | None:
    """The listing of the Orbax checkpoint in `directory`, ``None`` if it holds none.

    A manager of checkpoints keeps each in a directory called by its step, and there, if it holds
    several items, each in one of its own, of which the state is called ``default``.

    Raises:
        CheckpointError: if it holds several.

    """
    for pattern in _ORBAX:
        found = sorted(path for path in directory.glob(pattern) if path.is_file())
        if len(found) > 1:
            names = [str(path.parent.relative_to(directory)) for path in found]
            raise CheckpointError(
                f"{directory}: holds {len(found)} Orbax checkpoints",
                remedy=f"Give one of its directories: {', '.join(names[:10])}; the configuration "
                "with --config FILE.",
            )
        if found:
            return found[0]
    return None


def find_config(directory: Path) -> Path:
    """The configuration in `directory`: ``config.json``, or what original releases call theirs.

    Raises:
        CheckpointError: if there is none.

    """
    if (directory / CONFIG).is_file():
        return directory / CONFIG
    from converter.architectures.registry import ArchitectureRegistry

    dialects = ArchitectureRegistry().conventions.dialects.values()
    names = [name for dialect in dialects for name in dialect.config_files]
    found = [directory / name for name in names if (directory / name).is_file()]
    if not found:
        raise CheckpointError(
            f"{directory / CONFIG}: there is no configuration",
            remedy=f"Give one with --config FILE (looked for {', '.join([CONFIG, *names])}).",
        )
    return found[0]
