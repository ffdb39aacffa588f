"""What a file or directory is that is not a checkpoint which can be read, and the step that helps.

Each kind is one entry of a table: how it is recognized, what it is, and the command or line that
makes it readable. The readers of `converter.formats` come first; this is asked when none matches.
"""

from __future__ import annotations

import json
import re
import shlex
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from converter.file_names import (
    CONFIG,
    SAVED_VARIABLES,
    TF_INDEX_SUFFIX,
    is_weight_file,
    tf_checkpoint_prefix,
)

HEAD_BYTES = 1024
"""Bytes of a file that are looked at."""

_MAX_NAMES = 2_000
"""Names of a directory that are looked at."""
_MAX_DEPTH = 4
"""``models--org--name/snapshots/REVISION/encoder/model.safetensors``."""
_LISTED = 8
"""Names in a message."""
_MAX_TEXT = 200
"""Characters in a message of a text that a file states."""


@dataclass(frozen=True, slots=True)
class Recognition:
    """What a file or directory is, as a clause with a verb, and the step that makes it readable."""

    what: str
    step: str


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file. `step` may contain ``{path}`` and ``{directory}``, quoted; ``{python}``."""

    what: str
    step: str
    starts: tuple[bytes, ...] = ()
    """First bytes, from `offset`."""
    suffixes: tuple[str, ...] = ()
    """Names by which a directory's listing recognizes it."""
    offset: int = 0

    def recognition(self, path: Path | str, **parts: object) -> Recognition:
        """Return what the file at `path` is."""
        path = str(path)
        directory = path.rpartition("/")[0]
        quoted = {
            "path": shlex.quote(path),
            "directory": shlex.quote(directory or "."),
            "python": quote_python(path),
        }
        return Recognition(self.what.format(**parts), self.step.format(**quoted, **parts))


_AGAIN = (
    "Download it again: hf download ORG/NAME (a link with /blob/ gives a web page, /resolve/ the "
    "file)."
)
_UNPACK = "Unpack it, and give the directory: tar -xf {path} -C {directory}"
_ORIGINAL = "Use the checkpoint that it was exported from, with its config.json."
_POINTERS = (
    Kind(
        "is a Git LFS pointer: the file itself{size} was not fetched",
        "Fetch it: git -C {directory} lfs pull",
        (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/"),
    ),
    Kind(
        "is a pointer of git-annex: the file itself{size} was not fetched",
        "Fetch it: cd {directory} && git annex get .",
        (b"/annex/objects/", b"../.git/annex/objects/"),
    ),
    Kind(
        "is text: the path that a symbolic link had, which was not restored",
        "Copy the file that it names here, or restore the links: git -C {directory} config "
        "core.symlinks true && git -C {directory} checkout -f HEAD",
        (b"../",),
    ),
    Kind(
        "is a pointer of DVC: the file itself{size} was not fetched",
        "Fetch it: dvc pull {path}",
        (b"outs:\n- md5:", b"outs:\n- hash:"),
    ),
    Kind(
        "is a web page, not the file itself",
        _AGAIN,
        (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<error"),
    ),
)
"""What is in place of a file of any purpose. Compared without case and leading white space."""

_KINDS = (
    Kind("is empty (0 bytes)", _AGAIN),
    Kind(
        "is a tar archive",
        _UNPACK,
        (b"ustar",),
        (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".nemo"),
        257,
    ),
    Kind(
        "is compressed with gzip",
        "Decompress it, and give the result: gunzip -k {path}",
        (b"\x1f\x8b",),
        (".gz",),
    ),
    Kind("is compressed with bzip2", "Decompress it: bunzip2 -k {path}", (b"BZh",), (".bz2",)),
    Kind("is compressed with xz", "Decompress it: unxz -k {path}", (b"\xfd7zXZ\0",), (".xz",)),
    Kind(
        "is compressed with zstd", "Decompress it: unzstd {path}", (b"\x28\xb5\x2f\xfd",), (".zst",)
    ),
    Kind("is a 7z archive", "Unpack it: 7z x {path}", (b"7z\xbc\xaf\x27\x1c",), (".7z",)),
    Kind("is a RAR archive", "Unpack it: unrar x {path}", (b"Rar!\x1a\x07",), (".rar",)),
    Kind(
        "is a GGUF file, whose weights are renamed and mostly quantized",
        "Use the repository that it was made from (general.source in its metadata), with its "
        "config.json.",
        (b"GGUF",),
        (".gguf",),
    ),
    Kind(
        "is a GGML file, whose weights are renamed and mostly quantized",
        "Use the repository that it was made from, with its config.json.",
        (b"ggml", b"lmgg", b"tjgg", b"fmgg", b"ggjt", b"ggmf"),
        (".ggml",),
    ),
    Kind(
        "is a numpy array without a name",
        "Save the arrays under their names, as safetensors.numpy.save_file does.",
        (b"\x93NUMPY",),
        (".npy",),
    ),
    Kind("is a TensorFlow Lite model", _ORIGINAL, (b"TFL3",), (".tflite",), 4),
    Kind(
        "is the program of a TensorFlow SavedModel, whose weights are in variables/",
        "Give the directory that it is in: {directory}",
        (b"\x08\x01\x12",),
    ),
    Kind("is a Parquet file", "Give a checkpoint.", (b"PAR1",)),
    Kind("starts with zeros: it was not written or downloaded completely", _AGAIN, (bytes(64),)),
)
"""What is in place of a weight file."""

_ONNX = Kind("is an ONNX model", _ORIGINAL, suffixes=(".onnx",))
_PLAIN_PICKLE = Kind(
    "is a pickle that torch.save did not write",
    "If you trust it, since loading a pickle runs its code: python -c {code}",
    suffixes=(".pkl", ".pickle", ".pdparams"),
)
_KERAS_3 = Kind(
    "is a Keras 3 model, which numbers the weights of each layer and names none",
    "Load it where its class is defined, keras.models.load_model({python}), and use "
    "save_pretrained() of the transformers model in it.",
    suffixes=(".keras",),
)
_NUMPY_ARCHIVE = Kind(
    "is an archive of numpy arrays",
    "Save its arrays as safetensors: python -c {code}",
    suffixes=(".npz",),
)
_ZIP = Kind(
    "is a zip archive that torch.save did not write",
    "Unpack it, and give the directory: unzip {path} -d {directory}",
    suffixes=(".zip",),
)
_TEXT = Kind("is text, not weights: {text}", _AGAIN)
_JSON = Kind("is a JSON file, not weights", "Give the directory that it is in: {directory}")
_OTHER_EXPORTS = Kind(
    "is a model for another runtime",
    _ORIGINAL,
    suffixes=(".mlmodel", ".mlpackage", ".ot", ".engine", ".plan", ".param", ".pb", ".mar"),
)
_GRAPH = Kind(
    "is the graph of a TensorFlow checkpoint, without its weights",
    "Give the checkpoint's index: {index}",
)
_DATA = Kind(
    "is a data file of a TensorFlow checkpoint, which needs its index",
    "Put the index next to it: {index}",
)
_BY_NAME = (*_KINDS, _ONNX, _PLAIN_PICKLE, _KERAS_3, _NUMPY_ARCHIVE, _ZIP, _OTHER_EXPORTS)
_TF_DATA = re.compile(r".*\.data-\d{5}-of-\d{5}")
_PICKLE_STARTS = (b"(dp", b"(lp", b"ccollections\n", b"cnumpy")
"""Pickles of protocol 0; later ones start with 0x80 and the protocol."""


def recognize_pointer(path: Path | str, head: bytes) -> Recognition | None:
    """Return what a file of any purpose is that starts with `head` and was never fetched."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:80].lower()
    for kind in _POINTERS:
        if start.startswith(kind.starts):
            size = re.search(rb"^\s*size:? (\d{1,18})$", head, re.MULTILINE)
            return kind.recognition(path, size=f" ({int(size[1]):,} bytes)" if size else "")
    return None


_LINK_STEPS = (
    ("annex/objects/", "Fetch it: cd {directory} && git annex get {name}"),
    (".dvc/", "Fetch it: dvc pull {path}"),
    ("blobs/", "It was removed from the Hub's cache: download it again with hf download."),
    ("", "Copy the checkpoint again from where it is complete, with cp -rL."),
)
"""Part of where a link leads → the step that brings the file back."""


def recognize_link(path: Path) -> Recognition | None:
    """Return what a link to a missing file is; ``None`` for anything else."""
    if not path.is_symlink() or path.exists():
        return None
    target = str(path.readlink())
    step = next(step for part, step in _LINK_STEPS if part in target)
    parts = {"path": path, "directory": path.parent, "name": path.name}
    quoted = {key: shlex.quote(str(part)) for key, part in parts.items()}
    return Recognition(f"is a link to {target}, which does not exist", step.format(**quoted))


def recognize_file(path: Path | str, head: bytes, size: int) -> Recognition | None:
    """Return what a file of `size` bytes is that starts with `head`, up to `HEAD_BYTES`.

    For a file that no reader of this package matches; ``None`` if it is not recognized either.
    """
    name = str(path).rpartition("/")[2]
    index = shlex.quote(str(path).removesuffix(".meta") + TF_INDEX_SUFFIX)
    if size == 0:
        return _KINDS[0].recognition(path)
    if pointer := recognize_pointer(path, head):
        return pointer
    if head.startswith(b"\x1f\x8b") and _is_tar(_inflate(head)):
        return _KINDS[1].recognition(path)
    if head.startswith(b"PK\x03\x04"):
        return _recognize_zip(path, head)
    if (head[:1] == b"\x80" and b"\2" <= head[1:2] <= b"\5") or head.startswith(_PICKLE_STARTS):
        return _PLAIN_PICKLE.recognition(path, code=_resave(_PLAIN_PICKLE, path))
    for kind in _KINDS:
        if kind.starts and head[kind.offset :].startswith(kind.starts):
            return kind.recognition(path)
    if name.endswith(".meta"):
        return _GRAPH.recognition(path, index=index)
    if _TF_DATA.fullmatch(name):
        index = shlex.quote(_sibling(path, tf_checkpoint_prefix(name) + TF_INDEX_SUFFIX))
        return _DATA.recognition(path, index=index)
    if _is_onnx(head) or name.endswith(_ONNX.suffixes):
        return _ONNX.recognition(path)
    return _recognize_text(path, head) or _recognize_name(path)


def _sibling(path: Path | str, name: str) -> str:
    """Return the path of the file called `name` next to `path`."""
    directory, slash, _ = str(path).rpartition("/")
    return f"{directory}{slash}{name}"


def quote_python(text: object) -> str:
    """Return a text as a Python literal in double quotes, since single ones quote the shell's."""
    return json.dumps(str(text))


def _is_tar(head: bytes) -> bool:
    return head[257:262] == b"ustar"


def _inflate(head: bytes) -> bytes:
    """Return the first bytes of what a gzip file holds."""
    try:
        return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(head, HEAD_BYTES)
    except zlib.error:
        return b""


def _is_onnx(head: bytes) -> bool:
    """Return whether a file starts with the fields of ONNX's ``ModelProto``.

    They are ``ir_version`` (3 and up), then usually the length and the name of the producer.
    """
    version, producer = head[1:2], head[2:3]
    return (
        head[:1] == b"\x08"
        and b"\3" <= version <= b"\x20"
        and producer in (b"\x12", b"\x3a", b"\x42")
    )


def _recognize_zip(path: Path | str, head: bytes) -> Recognition:
    """Return what a zip archive is by its first member."""
    member = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    if member.endswith(b".npy"):
        return _NUMPY_ARCHIVE.recognition(path, code=_resave(_NUMPY_ARCHIVE, path))
    if member in (b"metadata.json", b"model.weights.h5"):
        return _KERAS_3.recognition(path)
    return _ZIP.recognition(path)


def _recognize_text(path: Path | str, head: bytes) -> Recognition | None:
    """Return the recognition of a file that starts like text."""
    text = head.decode("utf-8-sig", "ignore")
    readable = sum(char.isprintable() or char.isspace() for char in text)
    if not text.strip() or readable != len(text) or len(text.encode()) < len(head) - 3:
        return None
    if str(path).endswith(".json"):
        return _JSON.recognition(path)
    line = " ".join(text.split())
    return _TEXT.recognition(path, text=repr(line if len(line) <= 60 else f"{line[:59]}…"))


def _recognize_name(path: Path | str) -> Recognition | None:
    """Return what a file is by its name alone."""
    for kind in _BY_NAME:
        if kind.suffixes and str(path).lower().endswith(kind.suffixes):
            return kind.recognition(path, code=_resave(kind, path))
    return None


def _resave(kind: Kind, path: Path | str) -> str:
    """Return Python code, quoted for the shell, that saves a pickle or a numpy archive again."""
    source = quote_python(path)
    if kind is _NUMPY_ARCHIVE:
        target = quote_python(_sibling(path, "model.safetensors"))
        code = "import numpy; from safetensors.numpy import save_file; "
        return shlex.quote(f"{code}save_file(dict(numpy.load({source})), {target})")
    target = quote_python(_sibling(path, "pytorch_model.bin"))
    code = f'import pickle, torch; torch.save(pickle.load(open({source}, "rb")), {target})'
    return shlex.quote(code)


def list_files(directory: Path) -> list[str]:
    """Return the relative paths of the files in a local directory, sorted, and those below it.

    Links to directories are not followed; a long or deep listing is cut off.
    """
    return sorted(islice(_walk(directory, "", _MAX_DEPTH), _MAX_NAMES))


def _walk(directory: Path, prefix: str, depth: int) -> Iterator[str]:
    try:
        listed = sorted(islice(directory.iterdir(), _MAX_NAMES))
    except OSError:  # not permitted, or removed
        return
    yield from (prefix + path.name for path in listed if not _is_directory(path))
    for path in listed if depth else ():
        if not path.is_symlink() and _is_directory(path):
            yield from _walk(path, f"{prefix}{path.name}/", depth - 1)


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # below a directory that may not be searched
        return False


@dataclass(frozen=True, slots=True)
class Folder:
    """A directory without a weight file that can be read, local or remote."""

    location: str
    """The path, ``hf://org/name`` or URL; that of a directory in it is this, ``/`` and a name."""
    names: Collection[str]
    """The relative paths of the files in it and below it."""
    read: Callable[[str], Any] = lambda name: None
    """Returns the content of a JSON file in it, ``None`` if it cannot be read."""

    def path(self, name: str = "") -> str:
        """Return the path of a file or directory in it, quoted for a shell."""
        return shlex.quote("/".join(part.rstrip("/") for part in (self.location, name) if part))

    def local(self, name: str = "") -> tuple[str, str]:
        """Return a command that downloads it, if it is remote, and the path of a part of it."""
        if "://" not in self.location:
            return "", self.path(name)
        copy = Folder(self.location.rpartition("/")[2].partition("@")[0], ())
        repository = self.location.removeprefix("hf://").partition("@")[0]
        is_hub = self.location.startswith("hf://")
        fetch = f"hf download {repository} --local-dir {copy.path()} && " if is_hub else ""
        return fetch, copy.path(name)

    def matches(self, pattern: str) -> list[re.Match[str]]:
        """Return the matches of the names that `pattern` matches completely."""
        results = (re.fullmatch(pattern, name) for name in self.names)
        return [match for match in results if match]


@dataclass(frozen=True, slots=True)
class Layout:
    """A layout of a directory: `pattern` matches a file in it, whose group is a directory.

    `what` may contain ``{names}`` of all those directories. `step` may contain ``{last}``, the path
    of the one with the highest number; and for commands, which need local files, ``{fetch}``, the
    command that downloads them, and ``{root}`` and ``{part}``, the paths of both directories.
    """

    pattern: str
    what: str
    step: str


_BELOW = r"((?:[^/]+/)*)"
_WEIGHTS_BELOW = r"[^/]*\.(?:safetensors|bin|pt|pth|ckpt|h5|msgpack|index)"
_LAYOUTS = (
    Layout(
        _BELOW + r"[^/]+\.distcp",
        "holds a checkpoint of torch.distributed (DCP, as FSDP saves it)",
        "Merge it: {fetch}python -m torch.distributed.checkpoint.format_utils dcp_to_torch {part} "
        "{root}/pytorch_model.bin",
    ),
    Layout(
        r"((?:[^/]+/)*?)(?:[^/]+/)?(?:(?:bf16_)?zero_pp_rank|mp_rank)_\d+_.*states\.pt",
        "holds a checkpoint of DeepSpeed (ZeRO)",
        "Merge it: {fetch}python -m deepspeed.utils.zero_to_fp32 {part} {root}/fp32",
    ),
    Layout(
        _BELOW + r"target\.[^/]+/\.zarray",
        "holds a T5X checkpoint",
        "Convert it with transformers: {fetch}python -m "
        "transformers.models.t5.convert_t5x_checkpoint_to_pytorch --t5x_checkpoint_path {part} "
        "--config_file CONFIG.json --pytorch_dump_path {root}/converted",
    ),
    Layout(
        r"((?:[^/]+/)*?)(?:iter_\d+/)?mp_rank_\d+[^/]*/model_optim_rng\.pt",
        "holds a checkpoint of Megatron-LM",
        "Convert it with the script of its architecture in Megatron-LM or transformers.",
    ),
    Layout(
        r"(snapshots/[^/]+/)" + _WEIGHTS_BELOW,
        "is a repository in the cache of the Hub, whose files are in {names}",
        "Give the snapshot of the revision to read: {last}",
    ),
    Layout(
        r"(checkpoint-\d+/)" + _WEIGHTS_BELOW,
        "holds the checkpoints of a training run: {names}",
        "Give one of them; the last is {last}",
    ),
    Layout(
        r"((?:[^/]+/)+)_METADATA",
        "holds no weight file itself, but Orbax checkpoints in {names}",
        "Give one of them, and its configuration with --config FILE; the last is {last}",
    ),
)
"""Layouts that one file shows, in order of precedence."""

_TASKS = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}
"""``task_type`` of PEFT → the class of the base model."""
_NOT_MERGED = re.compile("PROMPT|P_TUNING|PREFIX|ADAPTION|CPT|XLORA")
"""Methods of PEFT that add inputs, which cannot be merged into weights."""


def recognize_folder(folder: Folder) -> Recognition | None:
    """Return what a directory without a weight file is, ``None`` if it is not recognized."""
    if "adapter_config.json" in folder.names:
        return recognize_adapter(folder)
    for layout in _LAYOUTS:
        if matches := folder.matches(layout.pattern):
            return _recognition(folder, layout, {match[1] for match in matches})
    if "modules.json" in folder.names and (module := _transformer_module(folder)):
        return Recognition(
            f"is a SentenceTransformer, whose model is in {module} (modules.json)",
            f"Give that directory: {folder.path(module)}",
        )
    if {"encoder/config.json", "decoder/config.json"} <= {*folder.names}:
        return Recognition(
            "holds an encoder and a decoder as two checkpoints",
            f"Compose them: converter compose {folder.path('encoder')} {folder.path('decoder')} "
            "OUTPUT",
        )
    return _recognize_exports(folder) or _recognize_choice(folder)


def _recognition(folder: Folder, layout: Layout, parts: Iterable[str]) -> Recognition:
    """Return the recognition of `layout`, which the files in the directories `parts` show."""
    parts = sorted(parts, key=lambda part: [*map(int, re.findall(r"\d+", part)), 0, part][:1])
    fetch, part = folder.local(parts[-1])
    return Recognition(
        layout.what.format(names=_listing(parts)),
        layout.step.format(
            last=folder.path(parts[-1]), fetch=fetch, root=folder.local()[1], part=part
        ),
    )


def _transformer_module(folder: Folder) -> str | None:
    """Return the directory of the first module by ``modules.json``, unless it is the top one."""
    modules = folder.read("modules.json")
    for module in modules if isinstance(modules, list) else ():
        path = module.get("path") if isinstance(module, dict) else None
        if isinstance(path, str) and any(name.startswith(f"{path}/") for name in folder.names):
            return path
    return None


def recognize_adapter(folder: Folder) -> Recognition:
    """Return what the adapter of PEFT in `folder` is, and the line that merges it.

    Source of the fields: ``PeftConfig`` in ``peft/config.py``.
    """
    config = folder.read("adapter_config.json")
    config = config if isinstance(config, dict) else {}
    method, base, task = (
        str(config.get(key) or default)[:_MAX_TEXT]
        for key, default in (
            ("peft_type", "PEFT"),
            ("base_model_name_or_path", "BASE_MODEL"),
            ("task_type", ""),
        )
    )
    what = f"holds a PEFT adapter ({method}) of {base}, not a complete model"
    if _NOT_MERGED.search(method):
        return Recognition(what, "It adds inputs, and cannot be merged into weights.")
    automatic = config.get("auto_mapping")
    stated = automatic.get("base_model_class") if isinstance(automatic, dict) else None
    name = _TASKS.get(task, stated)
    name = name if isinstance(name, str) and name[:_MAX_TEXT].isidentifier() else "AutoModel"
    where = folder.location.removeprefix("hf://").partition("@")[0]
    return Recognition(what, f"Merge it first: {_merge_line(name, base, where)}")


def _merge_line(model: str, base: str, adapter: str) -> str:
    """Return the shell command that merges an adapter into its base model."""
    name = adapter.rstrip("/").rpartition("/")[2]
    code = (
        f"from transformers import {model}; from peft import PeftModel; "
        f"PeftModel.from_pretrained({model}.from_pretrained({quote_python(base)}), "
        f"{quote_python(adapter)}).merge_and_unload().save_pretrained({quote_python(f'{name}-merged')})"
    )
    return f"python -c {shlex.quote(code)}"


def _recognize_exports(folder: Folder) -> Recognition | None:
    """Return what the files are that hold weights for other programs, if there are no others."""
    top = [name for name in folder.names if "/" not in name]
    for name in () if any(map(is_weight_file, top)) else top:
        if recognition := _recognize_name(f"{folder.location}/{name}"):
            return Recognition(f"holds {name}, which {recognition.what}", recognition.step)
    return None


def _recognize_choice(folder: Folder) -> Recognition | None:
    """Return the weight files to choose from, in the directory or below it."""
    files = sorted(filter(is_weight_file, folder.names))
    if len(top := [name for name in files if "/" not in name]) > 1:
        return Recognition(
            f"holds several weight files: {_listing(top)}", f"Give one: {folder.path(top[0])}"
        )
    checkpoints = {tf_checkpoint_prefix(name) for name in folder.names if _TF_DATA.fullmatch(name)}
    files += sorted(p for p in checkpoints if p + TF_INDEX_SUFFIX in folder.names)
    parents = (n.removesuffix(SAVED_VARIABLES).rpartition("/")[0] + "/" for n in files)
    if directories := [name for name in dict.fromkeys(parents) if name != "/"]:
        step = f"Give a directory that does: {folder.path(directories[0])}"
        if CONFIG in folder.names and directories[0] + CONFIG not in folder.names:
            step += "" if "://" in folder.location else f" --config {folder.path(CONFIG)}"
        return Recognition(f"holds no weight file itself, but in {_listing(directories)}", step)
    return None


def _listing(names: Collection[str]) -> str:
    """Return names for a message, cut off after the first ones."""
    more = len(names) - _LISTED
    return ", ".join(islice(names, _LISTED)) + (f" and {more} more" if more > 0 else "")
