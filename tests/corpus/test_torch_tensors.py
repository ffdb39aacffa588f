"""torch files whose tensors are not plain ones: arrays, parts, copies from devices, subclasses."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import converter
from converter.errors import FormatError
from converter.formats.registry import open_file
from tests.corpus.conversion_checks import converted, same_as_library
from tests.factories import make, noise

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peer

Arrays = dict[str, np.ndarray]


@pytest.fixture
def bert(tmp_path: Path) -> tuple[Path, Arrays]:
    """Return a configuration, and tensors by PyTorch's names."""
    made = make(tmp_path / "bert", "bert")
    made.file.unlink()
    return made.directory / "config.json", made.values


def tensors(arrays: Arrays) -> dict[str, Any]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


@pytest.fixture
def without_crc32() -> Iterator[None]:
    torch.serialization.set_crc32_options(False)
    yield
    torch.serialization.set_crc32_options(True)


def test_files_without_crc32(
    bert: tuple[Path, Arrays], without_crc32: None, tmp_path: Path
) -> None:
    config, arrays = bert
    path = tmp_path / "pytorch_model.bin"
    torch.save(tensors(arrays), path)
    with zipfile.ZipFile(path) as archive:
        assert not any(record.CRC for record in archive.infolist())
    converted(path, config, arrays, tmp_path / "out")


@pytest.fixture(scope="module")
def processes() -> Iterator[int]:
    """Make this process the first of two, of which the other does nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield 2
    torch.distributed.destroy_process_group()


def distributed(tensor: Any, size: int, placement: str) -> Any:
    from torch.distributed import tensor as package
    from torch.distributed.device_mesh import DeviceMesh

    mesh = DeviceMesh("cpu", list(range(size)))
    kind = getattr(package, placement)
    return package.DTensor.from_local(tensor, mesh, [kind(0) if placement == "Shard" else kind()])


@pytest.mark.parametrize(("size", "placement"), [(1, "Shard"), (1, "Replicate"), (2, "Replicate")])
@pytest.mark.parametrize("wrap", ["tensor", "parameter"])
def test_distributed_tensors_with_all_values(
    bert: tuple[Path, Arrays], processes: int, size: int, placement: str, wrap: str, tmp_path: Path
) -> None:
    config, arrays = bert
    state = {name: distributed(t, size, placement) for name, t in tensors(arrays).items()}
    if wrap == "parameter":
        state = {name: torch.nn.Parameter(tensor) for name, tensor in state.items()}
    path = tmp_path / "pytorch_model.bin"
    torch.save(state, path)
    converted(path, config, arrays, tmp_path / "out")


@pytest.mark.parametrize("placement", ["Shard", "Partial"])
def test_parts_of_distributed_tensors_are_named(
    processes: int, placement: str, tmp_path: Path
) -> None:
    state = {"plain": torch.ones(2), "w": distributed(torch.ones(4, 3), processes, placement)}
    torch.save(state, tmp_path / "file")
    with pytest.raises(FormatError, match=r"w: a part of a DTensor .*full_tensor\(\)"):
        open_file(tmp_path / "file")


class Calling:
    """What torch writes for a tensor of a device that this machine lacks."""

    def __init__(self, function: str, *arguments: object) -> None:
        self.call = getattr(torch._utils, function), arguments

    def __reduce__(self) -> Any:
        return self.call


def on_device(tensor: Any, function: str, dtype: Any = None) -> Calling:
    data = tensor if function.endswith("cpu_tensor") else tensor.numpy()
    return Calling(function, data, dtype or tensor.dtype, "cpu", False)


DEVICES = [
    "_rebuild_device_tensor_from_numpy",
    "_rebuild_device_tensor_from_cpu_tensor",
    "_rebuild_xla_tensor",
]


@pytest.mark.parametrize("function", DEVICES)
def test_tensors_of_devices(bert: tuple[Path, Arrays], function: str, tmp_path: Path) -> None:
    config, arrays = bert
    path = tmp_path / "pytorch_model.bin"
    torch.save({name: on_device(t, function) for name, t in tensors(arrays).items()}, path)
    theirs = torch.load(path, weights_only=False)
    same_as_library(path, {name: tensor.numpy() for name, tensor in theirs.items()})
    converted(path, config, arrays, tmp_path / "out")


def test_bfloat16_of_devices_as_torch_loads_it(tmp_path: Path) -> None:
    values = torch.from_numpy(noise("w", (5, 6))).to(torch.bfloat16)
    state = {"w": on_device(values.float(), DEVICES[0], torch.bfloat16)}
    torch.save(state, tmp_path / "file")
    theirs = torch.load(tmp_path / "file", weights_only=False)["w"]
    expected = theirs.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    same_as_library(tmp_path / "file", {"w": expected})


@pytest.mark.parametrize("function", DEVICES)
def test_casts_to_a_device_are_refused(function: str, tmp_path: Path) -> None:
    torch.save({"w": on_device(torch.ones(3), function, torch.float16)}, tmp_path / "file")
    with pytest.raises(FormatError, match=r"w: a tensor that is cast.*\.cpu\(\)"):
        open_file(tmp_path / "file")


SAVERS: dict[str, Callable[[Any, Path], None]] = {
    "zip": torch.save,
    "legacy": partial(torch.save, _use_new_zipfile_serialization=False),
    **{f"protocol {n}": partial(torch.save, pickle_protocol=n) for n in (3, 4, 5)},
}


@pytest.mark.parametrize("form", SAVERS)
def test_numpy_arrays_as_torch_loads_them(form: str, tmp_path: Path) -> None:
    base = noise("base", (6, 10)) * 50
    codes = "f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 b1 c8 c16".split()
    state: dict[str, Any] = {code: base.astype(code) for code in codes}
    state |= {
        "bfloat16": base.astype(ml_dtypes.bfloat16),
        "big": base.astype(">f4"),
        "fortran": np.asfortranarray(base),
        "transposed": base.T,
        "strided": base[1::2, ::3],
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 3)),
        "cube": np.asfortranarray(noise("cube", (2, 3, 4))),
        "again": base,
        "tensor": torch.from_numpy(base),
    }
    path = tmp_path / "file"
    SAVERS[form](state, path)
    theirs = torch.load(path, weights_only=False)
    expected = {
        name: array.numpy() if name == "tensor" else array.astype(array.dtype.newbyteorder("="))
        for name, array in theirs.items()
    }
    same_as_library(path, expected)
    with open_file(path) as reader:
        for name, tensor in reader.tensors.items():
            for axis, length in enumerate(tensor.spec.shape):
                part = np.take(expected[name], range(length // 3, length), axis)
                assert tensor.read(axis, length // 3).tobytes() == part.tobytes(), (name, axis)


@pytest.mark.parametrize("wrapper", [None, "model", "params"])
def test_checkpoints_of_numpy_arrays(
    bert: tuple[Path, Arrays], wrapper: str | None, tmp_path: Path
) -> None:
    config, arrays = bert
    state: Any = {wrapper: arrays, "epoch": 3} if wrapper else dict(arrays)
    # Neither the states of random generators nor objects are tensors.
    state["random"] = {"numpy": np.random.RandomState(0).get_state(), "python": random.getstate()}
    state["object"] = np.random.default_rng(0)
    state["names"] = np.array(["a", "b"])
    state["objects"] = np.array([{"a": 1}], object)
    path = tmp_path / "pytorch_model.bin"
    torch.save(state, path)
    converted(path, config, arrays, tmp_path / "out")


def test_arrays_that_take_too_much_of_a_pickle_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converter.formats.torch.reader.MAX_BYTES", 1000)
    torch.save({"w": noise("w", (20, 20))}, tmp_path / "file")
    with pytest.raises(FormatError, match=r"numpy arrays .*torch\.from_numpy"):
        open_file(tmp_path / "file")


def test_damaged_array_is_refused(tmp_path: Path) -> None:
    torch.save({"w": np.zeros((3, 4), np.float32)}, tmp_path / "file")
    with zipfile.ZipFile(tmp_path / "file") as old, zipfile.ZipFile(tmp_path / "cut", "w") as new:
        for record in old.namelist():
            data = old.read(record)
            if record.endswith("data.pkl"):
                data = data.replace(b"K\x03K\x04\x86", b"K\x03K\x05\x86")
            new.writestr(record, data)
    with pytest.raises(FormatError, match=r"w: an array of another length; .* 60 .* 48"):
        open_file(tmp_path / "cut")


Named = type("Named", (torch.Tensor,), {"__module__": __name__})
NamedParameter = type("NamedParameter", (torch.nn.Parameter,), {"__module__": __name__})


@pytest.mark.parametrize("kind", [Named, NamedParameter])
@pytest.mark.parametrize("note", [None, {"axis": 1, "names": ["a", 0.5]}])
def test_subclasses_with_plain_values(
    bert: tuple[Path, Arrays], kind: type, note: object, tmp_path: Path
) -> None:
    config, arrays = bert
    state = {name: tensor.as_subclass(kind) for name, tensor in tensors(arrays).items()}
    for tensor in state.values():
        tensor.note = note
    path = tmp_path / "pytorch_model.bin"
    torch.save(state, path)
    converted(path, config, arrays, tmp_path / "out")


def scaled() -> Any:
    tensor = torch.ones(3, 4).as_subclass(Named)
    tensor.scale = torch.ones(1)
    return tensor


@pytest.mark.parametrize(
    "build",
    [scaled, lambda: torch.ones(3, dtype=torch.int8).as_subclass(Named)],
    ids=["tensor in its state", "integers"],
)
def test_subclasses_whose_values_depend_on_the_class_are_refused(
    build: Callable[[], Any], tmp_path: Path
) -> None:
    torch.save({"w": build()}, tmp_path / "file")
    with pytest.raises(FormatError, match=r"w: a tensor of the class .*\.Named.*dequantize"):
        converter.inspect(tmp_path / "file")
