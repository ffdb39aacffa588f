"""Hostile weight files in `converter inspect`: exit 1, one message, bounded time and memory."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import msgpack
import numpy as np
import pytest

from tests import factories
from tests.formats.work import check_work

pytestmark = pytest.mark.slow

MEMORY = 160 << 20
"""Bytes resident at most; an idle `converter inspect` takes a third."""
UNITS = 200
"""Of work (`tests.formats.work`), the start of the interpreter included."""

RUN = """
import json, resource, sys
from converter.cli import main
try:
    main()
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    # not ru_maxrss, which a child begins with at its parent's
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    peak = int(status["VmHWM"].split()[0]) * 1024
    print(json.dumps([peak, used.ru_utime + used.ru_stime]))
"""


def _archive(**records: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in records.items():
            archive.writestr(f"archive/{name}", content)
    return packed.getvalue()


def _zip_bomb(directory: Path) -> bytes:
    return _archive(**{"data.pkl": bytes(1 << 28)})


def _invalid_directory(directory: Path) -> bytes:
    data = bytearray(_archive(**{"data.pkl": b"\x80\x02}.", "data/0": b"1234"}))
    place = data.rindex(b"PK\x01\x02")
    struct.pack_into("<II", data, place + 20, 0xFFFFFFF0, 0xFFFFFFF0)
    return bytes(data)


def _pickle(directory: Path) -> bytes:
    call = f"cposix\nsystem\n(X{struct.pack('<I', 100).decode('latin-1')}".encode("latin-1")
    text = f"touch {directory / 'executed'}".encode().ljust(100)
    return _archive(**{"data.pkl": b"\x80\x02" + call + text + b"tR.", "version": b"3\n"})


def _raw_pickle(directory: Path) -> bytes:
    return f"cos\nsystem\n(S'touch {directory / 'executed'}'\ntR.".encode()


def _deep_msgpack(directory: Path) -> bytes:
    return b"\x81\xa1a" * 1_000_000 + b"\xc0"


def _wide_msgpack(directory: Path) -> bytes:
    return b"\xdf\xff\xff\xff\xff" + b"\xa1a\xc0" * 1_000_000


def _large_msgpack(directory: Path) -> bytes:
    inner = msgpack.packb(((1 << 40, 4), "float32", b""))
    return bytes(msgpack.packb({"a": msgpack.ExtType(1, inner)}))


def _hdf5(fill: Callable[[h5py.Group], object]) -> Callable[[Path], bytes]:
    def make(directory: Path) -> bytes:
        path = directory / "made.h5"
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = [b"bert"]
            group = file.create_group("bert")
            group.attrs["weight_names"] = [b"m/bert/a:0"]
            fill(group.create_group("m/bert"))
        data = path.read_bytes()
        path.unlink()
        return data

    return make


def _virtual(group: h5py.Group) -> None:
    layout = h5py.VirtualLayout((1 << 20, 1 << 10), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "a", (1 << 20, 1 << 10))
    group.create_virtual_dataset("a:0", layout)


def _external_storage(group: h5py.Group) -> None:
    group.create_dataset("a:0", (16,), "u1", external=[("/etc/passwd", 0, 16)])


def _external_link(group: h5py.Group) -> None:
    group["a:0"] = h5py.ExternalLink("/etc/passwd", "/a")


def _compression_bomb(group: h5py.Group) -> None:
    shape = (1 << 13, 1 << 13)
    group.create_dataset("a:0", data=np.zeros(shape, "u1"), chunks=(1 << 12,) * 2, compression=9)


def _circle(group: h5py.Group) -> None:
    group["a:0"] = h5py.SoftLink("/bert/m/bert/a:0")


def _chunked(group: h5py.Group) -> None:
    group.create_dataset("a:0", data=np.ones((500, 4), "f4"), chunks=(1, 4))


def _chunk_of_no_bytes(directory: Path) -> bytes:
    data = _hdf5(_chunked)(directory)
    record = struct.pack("<IIQQQ", 16, 0, 3, 0, 0)
    assert data.count(record) == 1
    return data.replace(record, bytes(4) + record[4:])


def _tree_in_a_circle(directory: Path) -> bytes:
    data = bytearray(_hdf5(_chunked)(directory))
    root = data.index(b"TREE\1\1")
    data[root + 56 : root + 64] = root.to_bytes(8, "little")
    return bytes(data)


def _safetensors(header: object, length: int | None = None, rest: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + rest


def _entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


_TWICE = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
_TWICE += b'"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}'

ATTACKS: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "zip bomb": ("pytorch_model.bin", _zip_bomb),
    "invalid zip directory": ("pytorch_model.bin", _invalid_directory),
    "pickle that calls": ("pytorch_model.bin", _pickle),
    "plain pickle that calls": ("pytorch_model.bin", _raw_pickle),
    "gzip": ("pytorch_model.bin", lambda _: gzip.compress(bytes(1 << 24))),
    "deep msgpack": ("flax_model.msgpack", _deep_msgpack),
    "wide msgpack": ("flax_model.msgpack", _wide_msgpack),
    "large msgpack": ("flax_model.msgpack", _large_msgpack),
    "HDF5 external link": ("tf_model.h5", _hdf5(_external_link)),
    "HDF5 external storage": ("tf_model.h5", _hdf5(_external_storage)),
    "HDF5 virtual dataset": ("tf_model.h5", _hdf5(_virtual)),
    "HDF5 compression bomb": ("tf_model.h5", _hdf5(_compression_bomb)),
    "HDF5 chunk of no bytes": ("tf_model.h5", _chunk_of_no_bytes),
    "HDF5 tree in a circle": ("tf_model.h5", _tree_in_a_circle),
    "HDF5 links in a circle": ("tf_model.h5", _hdf5(_circle)),
    "huge header": ("model.safetensors", lambda _: _safetensors({}, 1 << 62)),
    "deep header": ("model.safetensors", lambda _: _safetensors(b'{"a":' + b"[" * 2_000_000)),
    "overlapping": (
        "model.safetensors",
        lambda _: _safetensors(
            {"a": _entry("U8", [2], 0, 2), "b": _entry("U8", [2], 1, 3)}, rest=b"123"
        ),
    ),
    "out of range": (
        "model.safetensors",
        lambda _: _safetensors({"a": _entry("F32", [1 << 40], 0, 1 << 42)}),
    ),
    "a name twice": ("model.safetensors", lambda _: _safetensors(_TWICE, rest=b"12")),
    "index that leaves": (
        "model.safetensors.index.json",
        lambda _: json.dumps({"weight_map": {"a": "../../../../etc/passwd"}}).encode(),
    ),
    "index of no name": (
        "model.safetensors.index.json",
        lambda _: b'{"weight_map": {"a": "\\ud800"}}',
    ),
    "index of a long name": (
        "model.safetensors.index.json",
        lambda _: json.dumps({"weight_map": {"a": "x" * 5000}}).encode(),
    ),
    "index to a device": (
        "model.safetensors.index.json",
        lambda _: json.dumps({"weight_map": {"a": "/dev/zero"}}).encode(),
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_one_message_in_little_time_and_memory(attack: str, tmp_path: Path) -> None:
    name, make = ATTACKS[attack]
    place = tmp_path / "hostile"
    place.mkdir()
    (place / "config.json").write_text(json.dumps(factories.tiny_config("bert")))
    (place / name).write_bytes(make(tmp_path))
    _refused(place, name, tmp_path)


@pytest.mark.parametrize("attack", ["blosc", "a long name"])
def test_orbax(attack: str, special: Path, tmp_path: Path) -> None:
    tensorstore = pytest.importorskip("tensorstore")
    layout = {"dtype": "<f4", "shape": [4], "compressor": {"id": "blosc"}}
    place = {"driver": "file", "path": f"{special}/a/"}
    store = tensorstore.open({"driver": "zarr", "kvstore": place, "metadata": layout}, create=True)
    store.result().write(np.ones(4, np.float32)).result()
    key = {"key": "a" if attack == "blosc" else "a" * 5000, "key_type": 2}
    entry = {"key_metadata": [key], "value_metadata": {"value_type": "jax.Array"}}
    (special / "_METADATA").write_text(json.dumps({"tree_metadata": {"a": entry}}))
    _refused(special, "blosc" if attack == "blosc" else "too long", tmp_path)


@pytest.fixture
def special(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "hostile"
    place.mkdir()
    (place / "config.json").write_text(json.dumps(factories.tiny_config("bert")))
    yield place


def test_a_pipe_that_nobody_writes_to_is_not_waited_for(special: Path, tmp_path: Path) -> None:
    os.mkfifo(special / "model.safetensors")
    _refused(special, str(special), tmp_path)
    _refused(special / "model.safetensors", "model.safetensors", tmp_path)


def test_a_configuration_that_never_ends(special: Path, tmp_path: Path) -> None:
    factories.write(special, None, {})
    (special / "config.json").unlink()
    (special / "config.json").symlink_to("/dev/zero")
    _refused(special, "config.json", tmp_path)


def _refused(place: Path, name: str, directory: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", RUN, "inspect", str(place)],
        capture_output=True,
        text=True,
        timeout=600,  # a hang, whatever the machine
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert run.returncode == 1, run.stderr[-3000:]
    assert run.stderr.startswith("Error: ")
    assert run.stderr.count("Error: ") == 1
    assert name in run.stderr
    assert "Traceback" not in run.stderr
    assert "bug in converter" not in run.stderr, run.stderr
    assert len(run.stderr) < 4000
    memory, seconds = json.loads(run.stdout)
    assert memory < MEMORY, f"{memory:,}"
    check_work(seconds, UNITS)
    assert not (directory / "executed").exists()
