"""Start-up is fast, and commands import only what they need."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from converter.formats.registry import get_format
from converter.tensors import TensorSpec
from tests import factories

FRAMEWORKS = {"torch", "tensorflow", "keras", "tf_keras", "flax", "jax", "transformers"}
HEAVY = {"numpy", "rich", "h5py", "msgpack", "safetensors", "ml_dtypes", "huggingface_hub"}

_PROBE = """
import sys
sys.argv[0] = "converter"
from converter.cli import commands
try:
    commands.main(sys.argv[1:])
except SystemExit as leaving:
    assert not leaving.code, leaving.code
import json
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def modules(*args: object) -> set[str]:
    """Return the modules that a new interpreter imports to run one command."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, *map(str, args)], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


def imported(*args: object) -> set[str]:
    """Return the packages that a new interpreter imports to run one command."""
    return {name.partition(".")[0] for name in modules(*args)}


def test_importing_the_package_imports_next_to_nothing() -> None:
    script = "import sys, converter; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert not (FRAMEWORKS | HEAVY | {"click"}) & set(done.stdout.split())


@pytest.mark.parametrize(
    "args", [[], ["--help"], ["--version"], ["compose", "--help"], ["inspect", "--help"]]
)
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    assert not (FRAMEWORKS | HEAVY) & imported(*args)


def test_commands_import_no_framework(tmp_path: Path) -> None:
    factories.make(tmp_path / "bert", "bert")
    factories.make(tmp_path / "gpt2", "gpt2", "GPT2LMHeadModel", file_format="torch")
    for args in (
        ("compose", tmp_path / "bert", tmp_path / "gpt2", tmp_path / "both"),
        ("convert", tmp_path / "both" / "tf_model.h5", tmp_path / "again"),
        ("inspect", tmp_path / "both"),
        ("families",),
    ):
        assert not FRAMEWORKS & imported(*args)


REMOTE = {"hub_download", "hub_client", "hub_upload", "url", "url_download", "url_upload"}
UNUSED = {
    "--help": {"secrets", "tempfile", "random", "subprocess", "ssl", "email"},
    "inspect": {"secrets", "tempfile", "ml_dtypes", "h5py", "google_crc32c", "rich"},
    "compose": {"tempfile", "ml_dtypes", "h5py", "google_crc32c", "rich", "ssl"},
    "verify": {"secrets", "tempfile", "ml_dtypes", "google_crc32c", "rich", "ssl"},
}
"""Command → modules that it does not need for local files in float32, of PyTorch but for verify."""


@pytest.mark.slow
def test_commands_import_no_module_that_they_do_not_need(tmp_path: Path) -> None:
    """An interpreter takes a millisecond for each, and ten for `secrets` or `ml_dtypes`."""
    factories.make(tmp_path / "bert", "bert")
    both, new = tmp_path / "both", [tmp_path / "bert"] * 2
    lines: dict[str, list[object]] = {
        "--help": [],
        "inspect": [tmp_path / "bert"],
        "compose": [*new, tmp_path / "torch", "--to", "pytorch", "--init", "zero-output", "-q"],
        "verify": [both],
    }
    subprocess.run(
        [sys.executable, "-m", "converter", "compose", *map(str, [*new, both])], check=True
    )
    for command, args in lines.items():
        names = modules(command, *args)
        assert UNUSED[command] & names == set(), command
        remote = {name.removeprefix("converter.storage.") for name in names}
        assert REMOTE & remote == set(), command
        unpickler = "converter.formats.torch.unpickler"
        assert unpickler not in names, f"{command}: {unpickler}"


def test_inspect_imports_only_the_format_it_reads(tmp_path: Path) -> None:
    factories.make(tmp_path, "bert")
    assert not {"h5py", "huggingface_hub"} & imported("inspect", tmp_path)


def fastest(*args: object, runs: int = 3) -> float:
    """Return the CPU seconds of the fastest of some runs.

    On a machine with nothing else to do that is the time a user waits.
    """
    taken = []
    for _ in range(runs):
        before = os.times()
        subprocess.run(
            [sys.executable, "-m", "converter", *map(str, args)], capture_output=True, check=True
        )
        after = os.times()
        taken.append(
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )
    return min(taken)


def cost(*args: object) -> dict[str, int]:
    """Return the bytes that a command reads (`rchar`) and its memory in kB (`VmHWM`)."""
    code = (
        "import atexit, sys; from pathlib import Path; from converter.cli import main\n"
        "atexit.register(lambda: print(*(Path(f'/proc/self/{name}').read_text() for name in"
        " ('io', 'status')), file=sys.stderr)); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, check=True, text=True
    )
    return {name: int(value) for name, value in re.findall(r"(rchar|VmHWM):\s+(\d+)", done.stderr)}


def test_help_appears_fast() -> None:
    assert fastest("--help") < 0.25


def test_a_large_checkpoint_is_inspected_by_its_headers(tmp_path: Path) -> None:
    config = factories.tiny_config("bert", vocab_size=10_500_000)
    spec = factories.model_spec(config)
    specs = [TensorSpec(s.canonical.name, "float32", s.canonical.shape) for s in spec.params]
    (tmp_path / "config.json").write_text(json.dumps(config))
    file = tmp_path / "model.safetensors"
    get_format("safetensors").create(file, specs, metadata={"format": "pt"}).finalize({})
    assert file.stat().st_size > 1_000_000_000
    factories.make(tmp_path / "small", "bert")
    large, small = cost("inspect", tmp_path), cost("inspect", tmp_path / "small")
    assert large["rchar"] < small["rchar"] + 100_000
    assert large["VmHWM"] < small["VmHWM"] + 10_000


def test_a_checkout_finds_its_tables_without_being_installed(tmp_path: Path) -> None:
    """As when Python runs in a clone, whose package hides the installed one."""
    made = factories.make(tmp_path, "bert")
    script = """
import sys
sys.meta_path[:] = [each for each in sys.meta_path if "editable" not in repr(each).lower()]
import converter
print(converter.inspect(sys.argv[1]).fits)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, str(made.directory)],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("True\n", "")
