"""Links, special files, odd configurations and hostile recipes; see `tests.hostile.attacks`."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from converter.file_names import CONFIG, GENERATION_CONFIG, MANIFEST
from converter.planning.tokenizer_files import PROCESSOR_FILES, TOKENIZER_FILES
from tests.hostile.crafted_torch import Attacks, bytes_of, later

COPIED = (*TOKENIZER_FILES, *PROCESSOR_FILES, GENERATION_CONFIG)
RECIPE = "recipe.yaml"


def _checkpoint(at: Path) -> None:
    shutil.copytree(at.parent / "good", at, dirs_exist_ok=True)


def _replace(at: Path, name: str, make: Callable[[Path], object]) -> None:
    """Make a valid checkpoint in which something is in place of one file."""
    _checkpoint(at)
    path = at / name
    path.unlink(missing_ok=True)
    make(path)


def link_attacks() -> Attacks:
    """Yield valid checkpoints in which a file that is copied is a link to a file outside."""

    def chain(path: Path) -> None:
        (path.parent / "inside").symlink_to("/etc/passwd")
        path.symlink_to("inside")

    def folder(path: Path) -> None:
        (path.parent / "inside").symlink_to("/etc")
        path.symlink_to("inside/passwd")

    targets = ("/etc/passwd", "../good/config.json", "/proc/self/status", "/etc/../etc/hosts")
    makes: dict[str, Callable[[Path], object]] = {"a chain": chain, "a folder": folder}
    makes |= {target: later(Path.symlink_to, target) for target in targets}
    for name, (target, make) in itertools.product(COPIED, makes.items()):
        yield f"{name} to {target}", later(_replace, name, make)


def special_attacks() -> Attacks:
    """Yield valid checkpoints in which something that is not a regular file is in place of one."""

    def bind(path: Path) -> None:
        here = Path.cwd()
        os.chdir(path.parent)  # the path of a socket must be short
        try:
            with socket.socket(socket.AF_UNIX) as opened:
                opened.bind(path.name)
        finally:
            os.chdir(here)

    def sparse(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(1 << 40)

    targets = ("/dev/zero", "/dev/null", "/dev/tty", "/proc/self/mem", "missing", "/proc/self/fd/0")
    makes: dict[str, Callable[[Path], object]] = {
        "pipe": os.mkfifo,
        "directory": Path.mkdir,
        "socket": bind,
        "sparse": sparse,
        "circle": lambda path: path.symlink_to(path.name),
        **{target: later(Path.symlink_to, target) for target in targets},
    }
    names = (
        *(CONFIG, MANIFEST, "model.safetensors", "model.safetensors.index.json", "README.md"),
        *("vocab.txt", "tokenizer.json", "tokenizer_config.json", GENERATION_CONFIG),
    )
    for name, (kind, make) in itertools.product(names, makes.items()):
        yield f"{name} is {kind}", later(_replace, name, make)


STRINGS = (
    *("\0", "\ud800", "\x1b[31m\x1b]0;x\x07", "9" * 5000, "NaN", "x" * 5000, "a\nb", "\u202ecod"),
    *("", " ", "-", "--help", "~", "~root", "/", ".", "..", "/dev/null", "/proc/self/mem", "CON"),
    *("file:///etc", "http://u:secret@127.0.0.1:1/x", "s3://", "hf://", "a\\b", "$x", "${x", "$$"),
    *(
        "{}",
        "[]",
        "*",
        "%s",
        "{0}",
        "é" * 300,
        "\u2028",
        "1e999",
        "-1",
        "0",
        "true",
        "null",
        "@main",
    ),
)


def recipe_attacks() -> Attacks:
    """Yield recipes that grow, repeat, nest or hold odd values."""
    for depth, width, kind in itertools.product((3, 9, 40, 300), (2, 9), ("[{}]", "{{{}}}", "<<")):
        lines = ["x0: &x0 {a: 1}"]
        for level in range(1, depth):
            uses = [f"*x{level - 1}"] * width
            if kind == "<<":
                value = f"{{<<: [{', '.join(uses)}], b{level}: 1}}"
            elif kind.startswith("["):
                value = kind.format(", ".join(uses))
            else:
                value = kind.format(", ".join(f"k{n}: {use}" for n, use in enumerate(uses)))
            lines.append(f"x{level}: &x{level} {value}")
        for job in (f"- {{convert: *x{depth - 1}}}", f"- *x{depth - 1}", "- {name: a}"):
            text = "\n".join((*lines, "version: 1", "jobs:", job))
            yield f"{depth} aliases of {width}, {kind}, {job[:4]}", bytes_of(RECIPE, text.encode())
    for count, place in itertools.product((10, 3000, 60_000), ("", "jobs", "variables")):
        keys = {f"k{number}": number for number in range(count)}
        text = json.dumps(keys)[:-1] + f', "k{count - 1}": 0}}'
        if place:
            text = f'{{"version": 1, "{place}": {text}}}'
        yield f"{count} keys of {place or 'the recipe'}, JSON", bytes_of(RECIPE, text.encode())
    fields = (
        "name",
        "source",
        "output",
        "to",
        "dtype",
        "max_shard_size",
        "set",
        "variables",
        "push",
    )
    for field, value in itertools.product(fields, STRINGS):
        yield f"{field} {value[:12]!r}", later(_write_recipe, field, value)
    for field, value in itertools.product(fields, _VALUES):
        yield f"{field} {str(value)[:20]}", later(_write_recipe, field, value)
    for opening, depth in itertools.product(
        ("[", "{a: ", "- ", "? ", "!!x ", "&a ", "<<: "), (99, 9999)
    ):
        yield f"{opening!r} {depth} deep", bytes_of(RECIPE, (opening * depth).encode())


_VALUES: tuple[Any, ...] = (
    *(10**4000, -1, 0, 1e308, float("nan"), float("inf"), True, None, [], {}, [[]], [None], 2**63),
    *(["x"] * 5000, {"a": {"b": {}}}, {"": ""}, [10**400], {"x": 10**4000}, [{}] * 9),
)


def _write_recipe(at: Path, field: str, value: object) -> None:
    good = str(at.parent / "good")
    job: dict[str, Any] = {"source": good, "output": "no/such/../place\0"}
    recipe: dict[str, Any] = {"version": 1, "jobs": [{"name": "a", "convert": job}]}
    if field == "variables":
        recipe["variables"] = {"x": value} if isinstance(value, str) else value
    elif field in ("name", "push"):
        recipe["jobs"][0][field] = value
    else:
        job[field] = value
    (at / RECIPE).write_text(json.dumps(recipe))


def config_attacks() -> Attacks:
    """Yield configurations with an odd value in one field, next to valid weights."""
    fields = (
        *("model_type", "hidden_size", "num_hidden_layers", "vocab_size", "initializer_range"),
        *("architectures", "torch_dtype", "num_attention_heads", "quantization_config", "auto_map"),
    )
    values: tuple[Any, ...] = (*_VALUES, *STRINGS[:8], *STRINGS[-5:], 10**9, -5, 7, "../../x")
    for field, value in itertools.product(fields, values):
        yield f"{field} {str(value)[:20]!r}", later(_with_field, field, value)


def _with_field(at: Path, field: str, value: object) -> None:
    _checkpoint(at)
    config: Mapping[str, Any] = json.loads((at / CONFIG).read_text())
    (at / CONFIG).write_text(json.dumps({**config, field: value}))


def state_attacks() -> Attacks:
    """Yield ``checkpoint`` files of TensorFlow, next to two checkpoints, that name odd paths."""
    names = (
        *(
            "\\8",
            "\\9",
            "\\777",
            "\\0",
            "\\",
            "\\x41",
            ".",
            "..",
            "/",
            "./",
            "../x",
            "/etc/passwd",
            "",
        ),
        *(
            "x" * 5000,
            "\\303",
            "a\\nb",
            "\\033[31m",
            "m",
            "m.index",
            "m.data-00000-of-00001",
            "/dev/zero",
        ),
        *(
            "s3://x/m",
            "\ud800",
            "\u202e",
            "C:\\\\m",
            "m/",
            "~",
            "$HOME",
            "CON",
            "a b",
            "*",
            "checkpoint",
        ),
    )
    for name, form in itertools.product(names, ('{}: "{}"', '{}: "{}" x', '{0}: "m"\n{0}: "{1}"')):
        text = form.format("model_checkpoint_path", name)
        yield f"{name[:20]!r}, {form}", later(_with_state, text)


def _with_state(at: Path, text: str) -> None:
    for name in ("m", "n"):
        (at / f"{name}.index").write_bytes(b"x" * 60)
    (at / "checkpoint").write_bytes(text.encode(errors="surrogatepass"))
