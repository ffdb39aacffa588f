"""torch's files against torch itself: every form, dtype and view, and what it reads of ours."""

from __future__ import annotations

import argparse
import io
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from converter.errors import FormatError
from converter.formats.file_handle import LocalFile
from converter.formats.registry import detect_format
from converter.formats.torch import FORMAT
from converter.tensors import NAMES, TensorSpec
from tests.formats.mutations import examine
from tests.formats.work import without_old_objects
from tests.formats.writing import values, write

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peer
FORMS = ("zip", "legacy")


def example(name: str, *shape: int):
    """Return a torch tensor of dtype `name`."""
    array = values(TensorSpec(name, name, shape))
    flat = torch.frombuffer(bytearray(array.tobytes() or b"\0" * 8), dtype=torch.uint8)
    return flat[: array.nbytes].clone().view(getattr(torch, name)).reshape(shape)


def raw(tensor) -> bytes:
    """Return the C-order bytes of a torch tensor."""
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def save(state, path: Path, form: str) -> Path:
    torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    return path


def check(state, path: Path) -> None:
    """Assert that every tensor of `state` reads bit-equal, completely and in parts."""
    assert detect_format(path).name == "torch"
    with FORMAT.open(LocalFile(path)) as reader:
        assert reader.tensors.keys() == state.keys()
        for name, tensor in state.items():
            stored = reader.tensors[name]
            dtype = str(tensor.dtype).removeprefix("torch.")
            assert stored.spec == TensorSpec(name, dtype, tuple(tensor.shape))
            assert stored.read().tobytes() == raw(tensor), name
            for axis, length in enumerate(tensor.shape):
                part = tensor.narrow(axis, length // 3, length - length // 3)
                assert stored.read(axis, length // 3).tobytes() == raw(part), (name, axis)


@pytest.mark.parametrize("form", FORMS)
def test_every_dtype_and_shape(form: str, tmp_path: Path):
    state = OrderedDict((name, example(name, 2, 3)) for name in NAMES)
    state |= {"scalar": torch.tensor(7), "empty": torch.zeros(0, 4), "one": torch.ones(1)}
    state["parameter"] = torch.nn.Parameter(torch.randn(3, 3))
    check(state, save(state, tmp_path / "pytorch_model.bin", form))


@pytest.mark.parametrize("form", FORMS)
def test_views_and_shared_storages(form: str, tmp_path: Path):
    base = torch.randn(30, 40, 50)
    state = {
        "base": base,
        "transposed": base.transpose(0, 2),
        "rows": base[3:7],
        "column": base[:, 11, :],
        "steps": base[::7, 1::3, ::2],
        "inner": base[2, :, 5],
        "element": base[1, 2, 3],
        "permuted": base.permute(1, 2, 0)[4:9],
        "repeated": base[0, 0, :3].expand(4, 3),
        "windows": base.reshape(-1).unfold(0, 8, 3)[:20],
        "nothing": base[:, :0],
        "again": base,
    }
    path = save(state, tmp_path / "file", form)
    check(state, path)
    with FORMAT.open(LocalFile(path)) as reader:
        places = {name: tensor.location for name, tensor in reader.tensors.items()}
        assert places["base"] == places["again"]
        assert len(set(places.values())) == len(places) - 1


NEGATED = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8")
COMPLEX = ("complex64", "complex128")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wrapper", ["tensor", "parameter", "attribute"])
def test_negative_and_conjugate_views_as_torch_loads_them(form, wrapper: str, tmp_path: Path):
    state = {}
    for name in (*NEGATED, *COMPLEX):
        tensor = example(name, 4, 3, 2)
        state[f"{name}.neg"] = torch._neg_view(tensor)
        state[f"{name}.part"] = torch._neg_view(tensor).transpose(0, 2)[:, 1:]
        state[f"{name}.scalar"] = torch._neg_view(tensor)[1, 2, 1]
        state[f"{name}.empty"] = torch._neg_view(tensor)[:0]
        state[f"{name}.plain"] = tensor
    for name in COMPLEX:
        tensor = example(name, 4, 3)
        state[f"{name}.conj"] = tensor.conj()
        state[f"{name}.conj-part"] = tensor.conj().T[1:]
        state[f"{name}.both"] = torch._neg_view(tensor.conj())
        state[f"{name}.imag"] = example(name, 4, 3).conj().imag
    for tensor in state.values():
        if wrapper == "attribute":  # makes torch write _rebuild_from_type_v2
            tensor.note = "kept"
    if wrapper == "parameter":
        floats = (name for name, t in state.items() if t.is_floating_point() or t.is_complex())
        state |= {name: torch.nn.Parameter(state[name]) for name in floats}
    path = save(state, tmp_path / "file", form)
    loaded = torch.load(path, weights_only=wrapper != "attribute")
    assert any(tensor.is_neg() for tensor in loaded.values())
    check({name: t.detach().resolve_neg().resolve_conj() for name, t in loaded.items()}, path)
    with FORMAT.open(LocalFile(path)) as reader:
        for name in NEGATED:
            places = [reader.tensors[f"{name}.{kind}"].location for kind in ("neg", "plain")]
            assert places[0] != places[1] and places[0][:2] == places[1][:2]


def test_the_negative_of_other_dtypes_is_refused_as_torch_refuses_it(tmp_path: Path):
    for name in set(NAMES) - set(NEGATED) - set(COMPLEX):
        view = torch._neg_view(example(name, 3))
        with pytest.raises(RuntimeError, match="not implemented"):
            view.resolve_neg()
        path = save({"w": view}, tmp_path / name, "zip")
        with pytest.raises(FormatError, match=r"w: metadata .*not supported.*neg.*resolve_neg"):
            FORMAT.open(LocalFile(path))


def test_negative_views_in_big_endian_archives(tmp_path: Path):
    tensor = torch.randn(3, 4, dtype=torch.complex64)
    path = save({"w": torch._neg_view(tensor.conj())}, tmp_path / "little", "zip")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "big", "w") as new:
        for record in old.namelist():
            data = b"big" if record.endswith("/byteorder") else old.read(record)
            swapped = "/data/" in record
            new.writestr(
                record, np.frombuffer(data, "u4").byteswap().tobytes() if swapped else data
            )
    check({"w": -tensor.conj().resolve_conj()}, tmp_path / "big")


def test_large_views_are_gathered_in_pieces(tmp_path: Path):
    base = torch.randn(700, 4100)  # 11 MB, more than is read at once
    wide = torch.arange(3_000_000, dtype=torch.int32).reshape(30, 100_000)
    state = {"t": base.T, "some": base[::2, 5:4000], "last": wide[:, -1], "three": wide[:, :3]}
    check(state, save(state, tmp_path / "file", "zip"))


@pytest.mark.parametrize("name", NAMES)
def test_big_endian_archives(name: str, tmp_path: Path):
    tensor = example(name, 3, 4)
    save({"a": tensor, "t": tensor.T}, tmp_path / "little", "zip")
    width = tensor.element_size() // (2 if tensor.is_complex() else 1)
    with zipfile.ZipFile(tmp_path / "little") as old, zipfile.ZipFile(tmp_path / "big", "w") as new:
        for record in old.namelist():
            data = old.read(record)
            if record.endswith("/byteorder"):
                data = b"big"
            elif "/data/" in record:
                data = np.frombuffer(data, f"u{width}").byteswap().tobytes()
            new.writestr(record, data)
    check({"a": tensor, "t": tensor.T}, tmp_path / "big")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(form: str, protocol: int, tmp_path: Path):
    state = {f"layer.{n}.weight": torch.randn(2, n) for n in range(1, 300)}
    torch.save(
        state,
        tmp_path / "file",
        _use_new_zipfile_serialization=form == "zip",
        pickle_protocol=protocol,
    )
    check(state, tmp_path / "file")


def test_state_dict_of_a_module(tmp_path: Path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    state = module.state_dict()
    assert state._metadata
    check(state, save(state, tmp_path / "file", "zip"))


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module", "net"])
def test_training_checkpoints(key: str, tmp_path: Path):
    module = torch.nn.Linear(3, 4)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(3)).sum().backward()
    optimizer.step()
    checkpoint = {
        "epoch": 3,
        "args": argparse.Namespace(lr=1e-3, device=torch.device("cpu"), dtype=torch.float16),
        "history": [1.5, None, {"loss": (1, 2)}, {1, 2}, b"bytes", 2**100, np.float64(3)],
        "optimizer": optimizer.state_dict(),
        key: module.state_dict(),
        "rng": torch.get_rng_state(),
    }
    path = save(checkpoint, tmp_path / "file", "zip")
    check(module.state_dict(), path)
    with FORMAT.open(LocalFile(path)) as reader:
        assert reader.metadata == {"form": "zip"}
        assert reader.wrapper == key
        assert reader.ignored == ("optimizer", "rng")
        assert reader.imports == (
            "__builtin__.set",
            "_codecs.encode",
            "argparse.Namespace",
            "numpy._core.multiarray.scalar",
            "numpy.dtype",
        )


def test_nested_containers_become_dotted_names(tmp_path: Path):
    state = {"a": {"b": [torch.ones(1), torch.zeros(2)], 3: torch.ones(3)}, "note": "text"}
    path = save(state, tmp_path / "file", "zip")
    flat = {"a.b.0": torch.ones(1), "a.b.1": torch.zeros(2), "a.3": torch.ones(3)}
    check(flat, path)


def test_tensors_with_attributes(tmp_path: Path):
    tensor = torch.randn(2)
    tensor.note = "kept by torch"
    parameter = torch.nn.Parameter(torch.randn(3))
    parameter.note = 1
    state = {"tensor": tensor, "parameter": parameter}
    check(state, save(state, tmp_path / "file", "zip"))


REFUSED = {
    "module": (lambda: torch.nn.Linear(2, 2), "state_dict"),
    "tensor": (lambda: torch.ones(2), "mapping"),
    "inner module": (lambda: {"model": torch.nn.Linear(2, 2)}, "torch.nn.modules.linear.Linear"),
    "sparse": (lambda: {"a": torch.eye(3).to_sparse()}, r"a: a sparse tensor .*to_dense"),
    "meta": (lambda: {"a": torch.ones(3, device="meta")}, "a: a tensor of the meta device"),
    "nested": (
        lambda: {"a": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])},
        r"a: a nested tensor .*unbind",
    ),
    "quantized": (
        lambda: {"a": torch.quantize_per_tensor(torch.randn(2, 3), 0.1, 0, torch.qint8)},
        r"a: a quantized tensor .*dequantize",
    ),
    "quantized by channel": (
        lambda: {
            "b": torch.ones(2),
            "a": torch.quantize_per_channel(
                torch.randn(2, 3), torch.ones(2), torch.zeros(2), 0, torch.quint8
            ),
        },
        r"a: a quantized tensor .*dequantize",
    ),
    "storage": (lambda: {"a": torch.ones(3).untyped_storage()}, "storage without a tensor"),
    "key": (lambda: {(1, 2): torch.ones(3)}, "not a string"),
    "twice": (lambda: {"a.b": torch.ones(1), "a": {"b": torch.ones(1)}}, "duplicate"),
    "repeated": (lambda: {"a": torch.ones(1).expand(1 << 30)}, "repeated beyond"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_state_dict_is_refused(case: str, form: str, tmp_path: Path):
    make, message = REFUSED[case]
    path = save(make(), tmp_path / "file", form)
    with pytest.raises(FormatError, match=message):
        FORMAT.open(LocalFile(path))


def test_scripts_and_foreign_archives_are_refused(tmp_path: Path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "script"))
    with pytest.raises(FormatError, match="TorchScript"):
        FORMAT.open(LocalFile(tmp_path / "script"))
    np.savez(tmp_path / "arrays.npz", a=np.ones(3))
    assert not FORMAT.matches(LocalFile(tmp_path / "arrays.npz"), b"PK\x03\x04")
    with pytest.raises(FormatError, match=r"data\.pkl"):
        FORMAT.open(LocalFile(tmp_path / "arrays.npz"))


@pytest.mark.parametrize("mmap", [True, False])
def test_torch_reads_what_is_written(mmap: bool, tmp_path: Path):
    specs = [TensorSpec(f"a.{name}", name, (2, 3)) for name in NAMES]
    shapes = ((), (0, 4), (1, 70_000), (2,) * 9)
    specs += [TensorSpec(f"ü.{shape}", "bfloat16", shape) for shape in shapes]
    arrays = {spec: values(spec) for spec in specs}
    path = tmp_path / "pytorch_model.bin"
    write(FORMAT, path, arrays, aliases={"tied": "a.float32"})
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    state = torch.load(path, weights_only=True, mmap=mmap)
    assert isinstance(state, OrderedDict)
    assert list(state) == [*(spec.name for spec in specs), "tied"]
    assert state["tied"].data_ptr() == state["a.float32"].data_ptr()
    for spec, array in arrays.items():
        tensor = state[spec.name]
        assert tensor.dtype == getattr(torch, spec.dtype) and tuple(tensor.shape) == spec.shape
        assert raw(tensor) == array.tobytes()
        assert tensor.is_contiguous() and not tensor.requires_grad


def test_storages_are_aligned(tmp_path: Path):
    specs = [TensorSpec(f"{n}", "uint8", (n,)) for n in range(1, 130)]
    output = FORMAT.create(tmp_path / "file", specs)
    assert {output.segments[spec.name][0].file_offset % 64 for spec in specs} == {0}


def test_files_beyond_4_gib(tmp_path: Path):
    """The layout alone, with holes for data: sizes and offsets that need zip64."""
    specs = [
        TensorSpec("small", "float32", (3,)),
        TensorSpec("large", "float32", (5, 1 << 28)),
        TensorSpec("last", "int64", (4,)),
    ]
    path = tmp_path / "file"
    output = FORMAT.create(path, specs)
    last = np.arange(4)
    with path.open("r+b") as file:
        file.seek(output.segments["last"][0].file_offset)
        file.write(last.tobytes())
    output.finalize({"small": 0, "large": 1, "last": 2})
    try:
        with FORMAT.open(LocalFile(path)) as reader:
            assert [tensor.spec for tensor in reader.tensors.values()] == specs
            assert (reader.tensors["last"].read() == last).all()
            assert (reader.tensors["large"].read(1, (1 << 28) - 9) == np.zeros((5, 9))).all()
        state = torch.load(path, weights_only=True, mmap=True)
        assert state["large"].shape == (5, 1 << 28) and state["large"][4, -1] == 0
        assert state["last"].tolist() == [0, 1, 2, 3]
        with zipfile.ZipFile(path) as archive:
            assert archive.getinfo("archive/data/1").file_size == 5 << 30
    finally:
        path.unlink()


def test_many_tensors_need_a_zip64_directory(tmp_path: Path):
    specs = [TensorSpec(f"{n}", "uint8", (1,)) for n in range(66_000)]
    FORMAT.create(tmp_path / "file", specs)
    with FORMAT.open(LocalFile(tmp_path / "file")) as reader:
        assert len(reader.tensors) == 66_000
    with zipfile.ZipFile(tmp_path / "file") as archive:
        assert len(archive.namelist()) == 66_003


@without_old_objects()
def test_every_truncation_of_a_legacy_file(tmp_path: Path):
    base = torch.randn(4, 6)
    state = {"a": base, "b": base.T, "c": torch.ones(3, dtype=torch.bfloat16)}
    packed = io.BytesIO()
    torch.save(state, packed, _use_new_zipfile_serialization=False)
    data = packed.getvalue()
    for cut in range(0, len(data), 3):
        assert not examine(FORMAT, tmp_path / "bad", data[:cut]), cut
