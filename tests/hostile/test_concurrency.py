"""Several runs at once: in threads, in forked processes, and in processes with one output."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import pytest

import converter
from converter.errors import OutputError
from converter.formats.keras_hdf5 import objects
from tests import factories
from tests.hostile.reliability import digests

pytestmark = pytest.mark.slow

SOURCES = {
    "safetensors": ("safetensors", "pytorch"),
    "torch": ("torch", "pytorch"),
    "hdf5": ("keras-hdf5", "tensorflow"),
    "msgpack": ("flax-msgpack", "flax"),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("concurrency")
    for name, (file_format, dialect) in SOURCES.items():
        factories.make(directory / name, "bert", file_format=file_format, dialect=dialect)
    compress(directory / "hdf5" / "tf_model.h5")
    factories.make(directory / "gpt2", "gpt2", "GPT2LMHeadModel")
    return directory


def compress(path: Path) -> None:
    """Compress a file's datasets, so that the HDF5 library has to decode them."""
    with h5py.File(path, "r+") as file:
        datasets: dict[str, Any] = {}
        file.visititems(lambda name, item: datasets.update({name: item}))
        for name, item in datasets.items():
            if isinstance(item, h5py.Dataset) and item.shape:
                values = item[()]
                del file[name]
                file.create_dataset(name, data=values, compression="gzip", chunks=item.shape)


def test_threads_that_convert_at_once_give_equal_results(sources: Path, tmp_path: Path) -> None:
    expected = {}
    for name in SOURCES:
        converter.convert(sources / name, tmp_path / "alone" / name)
        expected[name] = digests(tmp_path / "alone" / name)

    def convert(number: int) -> None:
        name = list(SOURCES)[number % len(SOURCES)]
        output = tmp_path / "together" / f"{name}-{number}"
        converter.convert(sources / name, output, jobs=2)
        assert digests(output) == expected[name]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(convert, range(12)))
    assert len(list((tmp_path / "together").iterdir())) == 12


def test_threads_with_one_output_give_one_result(sources: Path, tmp_path: Path) -> None:
    expected = []
    for seed in (1, 2):
        converter.compose(
            sources / "torch", sources / "gpt2", tmp_path / str(seed), seed=seed, to=["flax"]
        )
        expected.append(digests(tmp_path / str(seed)))
    refused = []

    def compose(seed: int) -> None:
        try:
            converter.compose(
                sources / "torch",
                sources / "gpt2",
                tmp_path / "home" / "out",
                seed=seed,
                to=["flax"],
                overwrite=True,
            )
        except OutputError as error:
            assert "another run is writing it" in str(error)
            refused.append(seed)
        else:
            assert digests(tmp_path / "home" / "out") in [*expected, None]

    for _ in range(3):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(compose, (1, 2, 1, 2)))
        assert digests(tmp_path / "home" / "out") in expected
        assert [path.name for path in (tmp_path / "home").iterdir()] == ["out"]
    assert refused


def test_processes_that_replace_one_output(sources: Path, tmp_path: Path) -> None:
    output = tmp_path / "home" / "out"
    expected: dict[int, dict[str, str]] = {}
    for seed in (0, 1, 2):
        converter.compose(sources / "torch", sources / "gpt2", tmp_path / str(seed), seed=seed)
        expected[seed] = digests(tmp_path / str(seed)) or {}
    converter.compose(sources / "torch", sources / "gpt2", output, seed=0)
    command = [sys.executable, "-m", "converter", "compose", str(sources / "torch")]
    command += [str(sources / "gpt2"), str(output), "--overwrite", "--seed"]
    runs = [
        subprocess.Popen([*command, str(seed)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        for seed in (1, 2)
    ]
    seen = []
    while any(run.poll() is None for run in runs):
        with suppress(FileNotFoundError):
            seen.append(digests(output))
        time.sleep(0.01)
    errors = [run.communicate()[1].decode() for run in runs]
    winners = [seed for seed, run in zip((1, 2), runs, strict=True) if run.returncode == 0]
    assert digests(output) in [expected[seed] for seed in winners]
    losers = [error for run, error in zip(runs, errors, strict=True) if run.returncode]
    assert all("another run is writing it" in error for error in losers)
    # A listing may span a replacement, but every name has one complete content.
    complete = {(name, digest) for files in expected.values() for name, digest in files.items()}
    assert {pair for files in seen for pair in (files or {}).items()} <= complete
    assert [path.name for path in output.parent.iterdir()] == ["out"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX only")
def test_forked_processes(sources: Path, tmp_path: Path) -> None:
    """After the parent has used all libraries, and while a thread of it reads an HDF5 file."""
    converter.convert(sources / "hdf5", tmp_path / "alone", to=["pytorch"])
    expected = digests(tmp_path / "alone")
    children = []
    with objects._LOCK:  # as if another thread held it
        for number in range(4):
            child = os.fork()
            if not child:
                code = 1
                try:
                    signal.alarm(20)
                    converter.convert(sources / "hdf5", tmp_path / f"{number}", to=["pytorch"])
                    code = 0
                finally:
                    os._exit(code)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0] * 4
    converter.convert(sources / "hdf5", tmp_path / "after", to=["pytorch"])
    for name in ("after", *map(str, range(4))):
        assert digests(tmp_path / name) == expected


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o027, 0o002, 0])
def test_modes_follow_the_umask(sources: Path, tmp_path: Path, umask: int) -> None:
    (sources / "torch" / "vocab.txt").write_text("[PAD]\n")
    (sources / "torch" / "vocab.txt").chmod(0o700)
    before = os.umask(umask)
    try:
        converter.compose(sources / "torch", sources / "gpt2", tmp_path / "out")
        converter.compose(sources / "torch", sources / "gpt2", tmp_path / "out", overwrite=True)
        converter.split(tmp_path / "out", tmp_path / "parts")
    finally:
        os.umask(before)
    paths = [tmp_path / "out", tmp_path / "parts"]
    paths += [each for path in paths for each in path.rglob("*")]
    assert len(paths) > 10
    for path in paths:
        mode = (0o777 if path.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == mode, path
