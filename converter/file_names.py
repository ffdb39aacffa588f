"""Names of the files in a checkpoint directory."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from unicodedata import normalize

from converter.system import config_directory

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
MODEL_CARD = "README.md"
MANIFEST = "converter-manifest.json"

CHECKPOINT_MARKERS = (MANIFEST, CONFIG)
"""A directory with one of these is a checkpoint, which ``--overwrite`` may replace."""

SAFETENSORS_WEIGHTS = "model.safetensors"
PYTORCH_WEIGHTS = "pytorch_model.bin"
TENSORFLOW_WEIGHTS = "tf_model.h5"
FLAX_WEIGHTS = "flax_model.msgpack"

WEIGHT_FILES = (SAFETENSORS_WEIGHTS, PYTORCH_WEIGHTS, TENSORFLOW_WEIGHTS, FLAX_WEIGHTS)
"""The names that transformers gives unsharded weight files, in the order of preference."""

INDEX_SUFFIX = ".index.json"
"""Suffix of a shard index, after the name of the unsharded file."""

JOINT_WEIGHTS = "joint.safetensors"
"""Tensors that belong to neither submodel, such as ``enc_to_dec_proj``, written by ``split``."""

SUBMODEL_DIRECTORIES = ("encoder", "decoder")
"""The directories that ``split`` writes."""

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"

TF_INDEX_SUFFIX = ".index"
"""Suffix of the index file of a TensorFlow checkpoint."""

TF_CHECKPOINT_STATE = "checkpoint"
"""Text file that names the newest of the TensorFlow checkpoints in its directory."""

SAVED_MODEL = "saved_model.pb"
"""Graph of a TensorFlow SavedModel, which is next to the directory of its variables."""

SAVED_MODEL_PATH = re.compile(r"variables|\d+|saved_model")
"""Directories between a SavedModel's variables and the checkpoint that it is part of."""
_SAVED_MODEL_DIRECTORIES = ("", "saved_model/", "saved_model/1/")
"""Where a checkpoint may have a SavedModel: ``save_pretrained(saved_model=True)`` numbers them."""
SAVED_VARIABLES = "variables/variables"
"""Prefix of the TensorFlow checkpoint in a SavedModel."""

_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".hdf5", ".msgpack")
_TRAINING_FILE = re.compile(
    r"(?:optimizer|scheduler|scaler|sampler|rng_state|random_states|training_args|adapter_"
    r"|(?:bf16_)?zero_pp_rank_|mp_rank_).*|joint\.safetensors"
)
"""Files of a trainer, an adapter or `split` that have the suffix of weights."""
_INDEX = re.compile(r".+\.index(?:\.[A-Za-z0-9_-]+)?\.json")
"""A shard index; the one of a variant is ``model.safetensors.index.fp16.json``."""
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")
"""The name of a shard."""

_AUXILIARY = re.compile(
    r"(?:[a-z_]{1,40}_tokenizer/)?(?:additional_chat_templates/)?"
    r"[^/]+\.(?:json|txt|model|jinja|spm|codes|bpe|tokenizer)"
    r"|[0-9]{1,2}_[A-Za-z0-9_-]+/config\.json|README\.md"  # the former: of SentenceTransformers
    r"|LICENSE|NOTICE|(?:LICENSE|NOTICE|USE_POLICY)\.md"
)
_FORBIDDEN = frozenset('<>:"|?*')
_DEVICE = re.compile(r"con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³]", re.IGNORECASE)
_MAX_NAME_BYTES = 255
_TF_DATA_SUFFIX = re.compile(r"\.data-\d{5}-of-\d{5}$")
_TF_CHECKPOINT_FILE = re.compile(r"[^/]+\.(?:index|data-\d{5}-of-\d{5})")


def name_problem(name: str) -> str | None:
    """Return what keeps `name` from being a file's name on every system, ``None`` if nothing does.

    Source: Naming Files, Paths, and Namespaces (Microsoft, 2024).
    """
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        return "is not the name of a file"
    if not name.isprintable() or not _FORBIDDEN.isdisjoint(name):
        return "has characters that are not allowed in names of files"
    if len(name.encode()) > _MAX_NAME_BYTES:
        return f"is too long: it has more than {_MAX_NAME_BYTES} bytes"
    if name.endswith((".", " ")):
        return "ends with a dot or a space, which Windows drops"
    if _DEVICE.fullmatch(name.partition(".")[0].rstrip()):
        return "is the name of a device on Windows"
    return None


def name_key(name: str) -> str:
    """Return a key that is equal for names that Windows or macOS takes for the same."""
    return normalize("NFC", name).casefold()


def auxiliary_files(names: Iterable[str]) -> list[str]:
    """Return configs, tokenizer files, processors, the model card and license files.

    Names that are not possible on every system are left out; no checkpoint needs one.
    """
    return [
        name
        for name in names
        if _AUXILIARY.fullmatch(name)
        and not is_index(name)
        and not name_problem(name.rpartition("/")[2])
    ]


def is_index(name: str) -> bool:
    """Return whether a file is a shard index by its name."""
    return _INDEX.fullmatch(name) is not None


def is_weight_file(name: str) -> bool:
    """Return whether a file may hold the weights of a model by its name, which is any."""
    name = name.rpartition("/")[2]
    return name.endswith(_WEIGHT_SUFFIXES) and not _TRAINING_FILE.fullmatch(name)


def other_weight_files(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the weight files in the top directory that have other names than transformers gives.

    Each entry is one checkpoint: the index of a variant, one file, or all shards of a set without
    an index, of which some may be missing.
    """
    names = sorted(name for name in names if "/" not in name)
    indexes = [name for name in names if is_index(name)]
    sharded = {Path(name[: name.index(INDEX_SUFFIX[:6])]).suffix for name in indexes}
    sets: dict[object, list[str]] = {}
    for name in filter(is_weight_file, names):
        shard = SHARD.fullmatch(name)
        if shard is None or shard["suffix"] not in sharded:
            key = name if shard is None else shard.group("stem", "count", "suffix")
            sets.setdefault(key, []).append(name)
    return [*((name,) for name in indexes), *(tuple(files) for files in sets.values())]


def weight_files(names: Collection[str], *, all_formats: bool = False) -> list[str]:
    """Return unsharded weight files and shard indexes, the preferred format first.

    Without any, return the files of the TensorFlow checkpoints in the top directory, and what names
    the newest of them; or else those of a SavedModel; or else the weight files of any other name,
    if they are one checkpoint.

    Args:
        names: the files of a directory.
        all_formats: include every format instead of the preferred one.

    """
    present = [
        name for file in WEIGHT_FILES for name in (file, file + INDEX_SUFFIX) if name in names
    ]
    if present:
        return present if all_formats else present[:1]
    checkpoints = sorted(name for name in names if _TF_CHECKPOINT_FILE.fullmatch(name))
    if checkpoints:
        return [*checkpoints, *{TF_CHECKPOINT_STATE}.intersection(names)]
    if index := saved_model_index(names.__contains__):
        prefix = tf_checkpoint_prefix(index)
        return sorted(name for name in names if tf_checkpoint_prefix(name) == prefix)
    others = other_weight_files(names)
    return list(others[0]) if len(others) == 1 else []


def saved_model_index(holds: Callable[[str], bool]) -> str | None:
    """Return the index of the variables of a SavedModel, ``None`` if not found.

    `holds` states whether a directory holds a file, by its relative path.
    """
    paths = [f"{d}{SAVED_VARIABLES}{TF_INDEX_SUFFIX}" for d in _SAVED_MODEL_DIRECTORIES]
    return next((path for path in paths if holds(path)), None)


def tf_checkpoint_prefix(name: str) -> str:
    """Return the checkpoint prefix of a TensorFlow index or data file, other names unchanged."""
    return _TF_DATA_SUFFIX.sub("", name.removesuffix(TF_INDEX_SUFFIX))


TABLES_VARIABLE = "CONVERTER_MAPPINGS"
"""The environment variable with files and directories of mapping tables of one's own."""


def user_tables_directory() -> Path | None:
    """Return the directory of a user's own mapping tables, which may not exist."""
    settings = config_directory()
    return settings / "converter" / "mappings" if settings else None


def user_tables() -> tuple[list[Path], list[Path]]:
    """Return a user's own mapping tables: those in the directory, and those of the variable.

    The first in the variable come last, as they take precedence.
    """
    directory = user_tables_directory()
    listed = [Path(path) for path in os.environ.get(TABLES_VARIABLE, "").split(os.pathsep) if path]
    stated = [table for path in listed for table in (tables_in(path) if path.is_dir() else [path])]
    return tables_in(directory) if directory else [], stated[::-1]


def tables_in(directory: Path) -> list[Path]:
    """Return the mapping tables in a directory; an empty file is none, a redirection leaves it."""

    def is_empty(path: Path) -> bool:
        try:
            return not path.stat().st_size
        except OSError:  # such as a link that leads nowhere, which reading it reports
            return False

    try:
        return sorted(path for path in directory.glob("*.toml") if not is_empty(path))
    except OSError:
        return []


def tables_directory() -> Path:
    """Return the directory of the bundled mapping tables.

    Wheels have it inside the package; in a checkout it is next to the package.
    """
    installed = Path(__file__).parent / "mappings"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "mappings"
