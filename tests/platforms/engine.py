"""Every command that writes or reads checkpoints, once, in an empty directory.

Its files are the same on every system. Intended changes of weight files are recorded by
``python -m tests.platforms.engine``.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

import converter
from converter.cli import commands
from converter.execution.tensor_copy import TensorCopier
from converter.storage.atomic_directory import atomic_directory
from tests.hostile.reliability import digests

FIXTURES = Path(__file__).parents[2] / "fixtures"
RECORDED = Path(__file__).with_name("weights.json")
"""The SHA-256 of each weight file that was written on Linux."""


def weights(home: Path) -> dict[str, str]:
    """Return the SHA-256 of each weight file below `home`, by its path with slashes."""
    return {
        Path(name).as_posix(): digest
        for name, digest in (digests(home) or {}).items()
        if Path(name).suffix in (".bin", ".h5", ".msgpack", ".safetensors")
    }


def run(home: Path) -> None:
    """Compose, convert, split, verify, compare, resume, overwrite and lock below `home`."""
    sources = FIXTURES / "bert-tiny", FIXTURES / "gpt2-tiny"
    every: dict[str, Any] = {"to": ["pytorch", "tensorflow", "flax"], "pytorch_format": "both"}
    converter.compose(*sources, home / "all", jobs=4, **every)
    converter.compose(*sources, home / "one-thread", jobs=1, **every)
    converter.convert(home / "all", home / "sharded", max_shard_size=30_000, **every)
    for name in ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"):
        source = home / "sharded" / f"{name}.index.json"
        converter.convert(source, home / f"from-{name}", to=["pytorch"], dtype="float16")
    converter.split(home / "all", home / "parts", to=["flax", "pytorch"])
    parts = home / "parts/encoder", home / "parts/decoder"
    converter.compose(*parts, home / "again", to=["pytorch"])
    replace_output(home, sources)
    resume(home, sources)
    exclude(home)
    reports: dict[str, Any] = {
        "inspect": converter.inspect(home / "all"),
        "verify": converter.verify(home / "all", against=sources),
        "verify parts": converter.verify(home / "parts"),
        "verify shards": converter.verify(home / "sharded"),
        "diff": converter.diff(home / "all", home / "from-tf_model.h5"),
    }
    for name, report in reports.items():
        text = json.dumps(report.to_dict(), indent=1)
        for path in (home, FIXTURES):
            text = text.replace(json.dumps(str(path))[1:-1], path.name)
        (home / f"{name}.json").write_text(text, "utf-8", newline="\n")
    run_recipe(home)


def replace_output(home: Path, sources: tuple[Path, Path]) -> None:
    """Replace an empty directory and a checkpoint; leave what killed runs leave to the next."""
    output = home / "replaced"
    output.mkdir()
    converter.compose(*sources, output, to=["pytorch"], seed=1)
    (output / "stale.txt").write_text("")
    (home / ".replaced.partial-1").mkdir()
    (home / ".replaced.partial-1" / "tf_model.h5").write_text("")
    (home / ".replaced.lock").write_text("")
    with pytest.raises(converter.OutputError, match="overwrite=True"):
        converter.compose(*sources, output, to=["pytorch"])
    converter.compose(*sources, output, to=["pytorch"], overwrite=True, sync=True)


def resume(home: Path, sources: tuple[Path, Path]) -> None:
    """Interrupt a run, go on, and compare with the run in one piece."""
    copy, copied = TensorCopier.copy, list[Any]()
    options: dict[str, Any] = {"to": ["pytorch", "tensorflow"], "resume": True, "jobs": 1}

    def counted(self: TensorCopier, tensor: Any) -> Any:
        if len(copied) == 9:
            raise KeyboardInterrupt
        copied.append(tensor)
        return copy(self, tensor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TensorCopier, "copy", counted)
        with pytest.raises(KeyboardInterrupt):
            converter.compose(*sources, home / "resumed", **options)
    assert len(list(home.glob(".resumed.partial-*"))) == 2
    converter.compose(*sources, home / "resumed", **options)


def exclude(home: Path) -> None:
    """Refuse a second run with the same output."""
    with atomic_directory(home / "locked") as partial:
        (partial / "config.json").write_text("{}")
        with (
            pytest.raises(converter.OutputError, match="another run"),
            atomic_directory(home / "locked"),
        ):
            raise AssertionError


def run_recipe(home: Path) -> None:
    """Run a recipe with Windows' line ends; the second job needs the first."""
    jobs = [
        {"convert": {"source": str(source), "output": str(home / output), "to": [framework]}}
        for source, output, framework in (
            (FIXTURES / "bert-tiny", "recipe/tf", "tensorflow"),
            (home / "recipe/tf", "recipe/flax", "flax"),
        )
    ]
    text = json.dumps({"version": 1, "jobs": jobs}, indent=1)
    recipe = home / "recipe.json"
    recipe.write_text(text, "utf-8", newline="\r\n")
    with pytest.raises(SystemExit) as ended:
        commands.main(["run", str(recipe), "--summary", str(home / "summary.json")])
    assert ended.value.code == 0
    recipe.unlink()  # both name `home`
    (home / "summary.json").unlink()


if __name__ == "__main__":
    with TemporaryDirectory() as directory:
        run(Path(directory))
        text = json.dumps(weights(Path(directory)), indent=1, sort_keys=True)
    RECORDED.write_text(text + "\n", "utf-8", newline="\n")
