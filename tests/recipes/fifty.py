"""Fifty recipes with three faults, for every executor."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from tests import factories

FAULTS = {
    "j06": "no such file",
    "j23": "the file ends early",
    "j42": "do not fit the configuration",
}
"""Job → a part of its error."""

BIG = "j27"
"""A job that takes long enough to be killed in the middle."""


def write(size: int = 100) -> list[str]:
    """Write sources and recipes into the working directory, and return the recipes.

    Args:
        size: tokens that `BIG` knows.

    """
    factories.make(Path("bert"), "bert", intermediate_size=41)
    factories.make(Path("gpt2"), "gpt2", "GPT2LMHeadModel", file_format="torch")
    factories.make(Path("big"), "bert", vocab_size=size, hidden_size=192)
    shutil.copytree("bert", "short")
    os.truncate("short/model.safetensors", 20_000)
    factories.make(Path("wrong"), "bert", intermediate_size=41, hidden_size=48)
    shutil.copy("bert/model.safetensors", "wrong/model.safetensors")
    Path("recipes").mkdir()
    return [_recipe(number) for number in range(50)]


def repair() -> None:
    """Remove the faults."""
    Path("missing").symlink_to("bert")
    shutil.copy("bert/model.safetensors", "short/model.safetensors")
    shutil.copy("bert/config.json", "wrong/config.json")


def _recipe(number: int) -> str:
    name = f"j{number:02}"
    sources = {"j06": "missing/", "j23": "short", "j42": "wrong", BIG: "big"}
    made: dict[str, Any] = {"output": f"made/{name}", "to": "pytorch"}
    if name == BIG:
        del made["to"]
    if name not in FAULTS and number % 3 == 1:
        made |= {"encoder": "bert", "decoder": "gpt2", "seed": number, "to": ["pytorch", "flax"]}
        job = {"name": name, "compose": made}
    elif name not in FAULTS and number % 3 == 2:  # needs what the one before it makes
        command = "split" if number % 2 else "convert"
        made |= {"source": f"made/j{number - 1:02}", "dtype": "float16"}
        job = {"name": name, command: made}
    else:
        job = {"name": name, "convert": {"source": sources.get(name, "bert"), **made}}
    path = f"recipes/{name}.yaml"
    Path(path).write_text(yaml.safe_dump({"version": 1, "jobs": [job]}))
    return path
