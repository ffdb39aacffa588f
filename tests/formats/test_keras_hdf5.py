"""Keras HDF5 files: what Keras and h5py write is read, and attacks fail."""

from __future__ import annotations

import re
import resource
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from converter.errors import FormatError
from converter.formats.file_handle import LocalFile
from converter.formats.keras_hdf5 import FORMAT
from converter.formats.registry import open_file
from tests.formats.keras_files import keras_file, spec
from tests.formats.work import without_old_objects, work_at_most
from tests.formats.writing import same, values

SHAPES = {"embeddings/weight:0": (5, 4), "dense/kernel:0": (4, 6), "dense/bias:0": (6,)}


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return {name: values(spec(name, shape)) for name, shape in SHAPES.items()}


@pytest.fixture
def path(tmp_path: Path, arrays: dict[str, np.ndarray]) -> Path:
    bert = {f"tf_bert_model/bert/{name}": array for name, array in arrays.items()}
    return keras_file(tmp_path / "tf_model.h5", {"bert": bert})


def refused(path: Path, *words: str) -> None:
    """Assert that opening and reading `path` gives one clear error that holds `words`."""
    with pytest.raises(FormatError) as caught, FORMAT.open(LocalFile(path)) as reader:
        for tensor in reader.tensors.values():
            tensor.read()
    assert path.name in str(caught.value)
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_reads_what_keras_writes(tmp_path, arrays, libver):
    bert = {f"tf_bert_model/bert/{name}": array for name, array in arrays.items()}
    path = keras_file(tmp_path / "file", {"bert": bert}, libver=libver)
    with open_file(path) as reader:
        assert list(reader.tensors) == [f"bert/{name}" for name in arrays]
        assert reader.metadata == {"scope": "tf_bert_model", "layout": "layers"}
        for name, array in arrays.items():
            assert same(reader.tensors[f"bert/{name}"].read(), array)


def test_combined_files_keep_the_half_in_the_name(tmp_path, arrays):
    layers = {
        submodel: {f"tf_encoder_decoder_model/{submodel}/bert/{name}": array * (index + 1)}
        for index, submodel in enumerate(("encoder", "decoder"))
        for name, array in list(arrays.items())[:1]
    }
    with FORMAT.open(LocalFile(keras_file(tmp_path / "file", layers))) as reader:
        assert list(reader.tensors) == [
            "encoder/bert/embeddings/weight:0",
            "decoder/bert/embeddings/weight:0",
        ]
        first, second = (tensor.read() for tensor in reader.tensors.values())
        assert same(second, first * 2)


def test_reads_the_layers_of_a_complete_model(tmp_path, arrays):
    """``model.save("x.h5")`` has them in a group, next to what the optimizer keeps."""
    layers = {"input": {}, "bert": {f"lm/bert/{name}": array for name, array in arrays.items()}}
    keras_file(tmp_path / "weights", layers)
    with h5py.File(tmp_path / "weights") as weights, h5py.File(tmp_path / "model", "w") as file:
        file.attrs["model_config"] = "{}"
        group = file.create_group("model_weights")
        for name in weights:
            weights.copy(name, group)
        for name, value in weights.attrs.items():
            group.attrs[name] = value
        file.create_group("optimizer_weights").create_dataset("lm/bert/m:0", data=np.zeros(3))
    with FORMAT.open(LocalFile(tmp_path / "model")) as reader:
        assert reader.tensors.keys() == {f"bert/{name}" for name in arrays}
        assert all(same(reader.tensors[f"bert/{n}"].read(), arrays[n]) for n in arrays)
        assert reader.ignored == ("optimizer_weights",)


@pytest.mark.parametrize("group", ["a dataset", "no list"])
def test_refuses_a_complete_model_without_layers(tmp_path, group):
    with h5py.File(tmp_path / "model", "w") as file:
        if group == "a dataset":
            file["model_weights"] = np.zeros(3)
        else:
            file.create_group("model_weights")
    with pytest.raises(FormatError, match="model_weights"):
        FORMAT.open(LocalFile(tmp_path / "model"))


def test_further_copies_of_a_weight_are_duplicates(tmp_path, arrays):
    shared = {"lm/bert/embeddings/weight:0": arrays["embeddings/weight:0"]}
    head = {"lm/cls/bias:0": arrays["dense/bias:0"], **shared}
    with FORMAT.open(
        LocalFile(keras_file(tmp_path / "file", {"bert": shared, "cls": head}))
    ) as reader:
        assert list(reader.tensors) == ["bert/embeddings/weight:0", "cls/bias:0"]
        (copy,) = reader.duplicates["bert/embeddings/weight:0"]
        assert list(reader.duplicates) == ["bert/embeddings/weight:0"]
        assert same(copy.read(), arrays["embeddings/weight:0"])
        assert copy.location != reader.tensors["bert/embeddings/weight:0"].location


def test_ignores_what_is_not_listed(path):
    with h5py.File(path, "r+") as file:
        file["bert/tf_bert_model/bert/extra"] = np.zeros(3, np.float32)
        file["optimizer"] = h5py.ExternalLink("/etc/passwd", "/")
    with FORMAT.open(LocalFile(path)) as reader:
        assert len(reader.tensors) == len(SHAPES)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "uint8", "complex64", "float32"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (2, 3)},
        {"chunks": (2, 3), "compression": "gzip", "shuffle": True},
        {"chunks": (4, 2), "compression": "lzf", "fletcher32": True},
    ],
)
def test_every_number_and_storage(path, dtype, order, options):
    array = values(spec("x", (7, 5), dtype))
    with h5py.File(path, "r+") as file:
        del file["bert/tf_bert_model/bert/dense/kernel:0"]
        file.create_dataset(
            "bert/tf_bert_model/bert/dense/kernel:0",
            data=array.astype(array.dtype.newbyteorder(order)),
            **options,
        )
    with FORMAT.open(LocalFile(path)) as reader:
        tensor = reader.tensors["bert/dense/kernel:0"]
        assert same(tensor.read(), array)
        assert same(tensor.read(0, 2, 7), array[2:7])
        assert same(tensor.read(1, 1, 4), np.ascontiguousarray(array[:, 1:4]))
        tensors = reader.tensors.values()
        assert len({tensor.location for tensor in tensors}) == len(tensors)


def test_compact_datasets_and_null_ones(path):
    array = values(spec("x", (3, 2)))
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    with h5py.File(path, "r+") as file:
        group = file["bert/tf_bert_model/bert/dense"]
        del group["bias:0"]
        space, kind = h5py.h5s.create_simple(array.shape), h5py.h5t.IEEE_F32LE
        h5py.h5d.create(group.id, b"bias:0", kind, space, plist).write(
            h5py.h5s.ALL, h5py.h5s.ALL, array
        )
    with FORMAT.open(LocalFile(path)) as reader:
        assert same(reader.tensors["bert/dense/bias:0"].read(0, 1, 3), array[1:])
    with h5py.File(path, "r+") as file:
        group = file["bert/tf_bert_model/bert/dense"]
        del group["bias:0"]
        group["bias:0"] = h5py.Empty("f4")
    refused(path, "null dataspace", "dense/bias:0")


# What is refused


def replace(path: Path, name: str, make: object) -> None:
    """Put something else where a listed dataset lies."""
    with h5py.File(path, "r+") as file:
        group = file["bert/tf_bert_model/bert"]
        del group[name]
        make(group, name)  # type: ignore[operator]


def test_links_are_not_followed(path, tmp_path):
    other = keras_file(tmp_path / "other.h5", {"b": {"x": np.ones((4, 6), np.float32)}})
    good = path.read_bytes()
    links = (h5py.ExternalLink(other.name, "/b/x"), h5py.SoftLink("/bert"), h5py.SoftLink("/no"))
    for link in links:
        for name in ("dense/kernel:0", "dense", "embeddings"):
            path.write_bytes(good)
            replace(path, name, lambda group, name, link=link: group.__setitem__(name, link))
            refused(path, "link")


def test_values_in_other_files_are_refused(path, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 96)
    replace(
        path,
        "dense/kernel:0",
        lambda group, name: group.create_dataset(
            name, (4, 6), "f4", external=[(str(secret), 0, 96)]
        ),
    )
    refused(path, "external storage", "dense/kernel:0")
    layout = h5py.VirtualLayout((4, 6), "f4")
    layout[:] = h5py.VirtualSource(str(secret), "x", (4, 6))
    replace(path, "dense/kernel:0", lambda group, name: group.create_virtual_dataset(name, layout))
    refused(path, "virtual", "dense/kernel:0")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 6), "V2"), "bfloat16"),
        (np.zeros((4, 6), "S3"), "text"),
        (np.zeros((4, 6), [("a", "f4"), ("b", "i4")]), "numeric"),
        (np.zeros((4, 6), h5py.ref_dtype), "references"),
        (np.zeros((4, 6), h5py.vlen_dtype(np.float32)), "numeric"),
        (np.zeros((4, 6), h5py.string_dtype()), "text"),
    ],
)
def test_other_things_than_numbers_are_refused(path, array, words):
    replace(path, "dense/kernel:0", lambda g, n: g.create_dataset(n, array.shape, array.dtype))
    refused(path, words, "dense/kernel:0")


@pytest.mark.parametrize(
    "options",
    [
        {"shape": (1 << 20, 1 << 20)},
        {"shape": (1 << 20, 1 << 20), "chunks": (1024, 1024), "compression": "gzip"},
        {"shape": (1 << 12, 1 << 12), "chunks": (1 << 12, 1 << 12), "fill": 0},
        {"shape": (1 << 12, 1 << 12), "chunks": (1 << 10, 1 << 10), "fill": 1},
        {"shape": (64, 64), "chunks": (8, 8), "compression": "gzip", "scaleoffset": 2},
    ],
)
def test_bombs_are_refused(path, options):
    fill = options.pop("fill", None)

    def make(group: h5py.Group, name: str) -> None:
        if fill is None:
            dataset = group.create_dataset(name, dtype="f4", **options)
            if dataset.size < 1 << 20:
                dataset[...] = 1
        else:
            group.create_dataset(
                name, dtype="f4", data=np.full(options["shape"], fill, "f4"), compression="gzip",
                chunks=options["chunks"],
            )  # fmt: skip

    replace(path, "dense/kernel:0", make)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, "dense/kernel:0")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 << 10


def test_missing_chunks_are_refused(path):
    def make(group: h5py.Group, name: str) -> None:
        group.create_dataset(name, (8, 8), "f4", chunks=(4, 4))[:4] = 1

    replace(path, "dense/kernel:0", make)
    refused(path, "chunks are missing")


@without_old_objects()
def test_a_damaged_heap_of_names_cannot_loop(path):
    """With this fault the HDF5 library itself never returns."""
    data = path.read_bytes()
    heap = data.index(b"GCOL")
    for place in range(heap, heap + 200):
        for byte in (0, 0xFF):
            path.write_bytes(data[:place] + bytes([byte]) + data[place + 1 :])
            with work_at_most(40):
                try:
                    FORMAT.open(LocalFile(path)).close()
                except FormatError as error:
                    assert path.name in str(error)


def test_one_long_text_cannot_become_many(path):
    """A megabyte in the heap, referred to by every name."""
    with h5py.File(path, "r+") as file:
        file["bert"].attrs["weight_names"] = ["x" * (1 << 20)] + ["y"] * 2000
    data = bytearray(path.read_bytes())
    heaps = [match.start() for match in re.finditer(b"GCOL", data)]
    lengths = ((1 << 20).to_bytes(4, "little") + heap.to_bytes(8, "little") for heap in heaps)
    (place,) = (data.index(length) for length in lengths if length in data)
    reference = bytes(data[place : place + 16])
    for index in range(1, 2000):
        data[place + 16 * index : place + 16 * (index + 1)] = reference
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, "weight_names")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 << 10


def test_lists_that_do_not_hold_are_refused(path):
    good = path.read_bytes()
    for change, words in (
        (lambda file: file.attrs.__delitem__("layer_names"), "layer_names"),
        (lambda file: file.attrs.__setitem__("layer_names", 3.5), "names"),
        (lambda file: file.attrs.__setitem__("layer_names", np.array([b"\xff"])), "damaged"),
        (lambda file: file.attrs.__setitem__("layer_names", [b"bert", b"bert"]), "twice"),
        (lambda file: file.attrs.__setitem__("layer_names", [b"roberta"]), "roberta"),
        (lambda file: file["bert"].attrs.__delitem__("weight_names"), "list its weights"),
        (lambda file: file["bert"].attrs.__setitem__("weight_names", [b"q/w"]), "not in the file"),
        (lambda file: file["bert"].attrs.__setitem__("weight_names", [b"tf_bert_model"]), "datas"),
        (lambda file: file["bert"].attrs.__setitem__("weight_names", [b"a/" * 3000]), "too long"),
    ):
        path.write_bytes(good)
        with h5py.File(path, "r+") as file:
            change(file)
        refused(path, words)


def test_parts_of_larger_files_are_refused(path, tmp_path):
    data = path.read_bytes()
    shutil.copy(path, tmp_path / "copy")
    with h5py.File(tmp_path / "block", "w", userblock_size=512) as file:
        file.attrs["layer_names"] = [b"a"]
    refused(tmp_path / "block", "not an HDF5 file")
    (tmp_path / "cut").write_bytes(data[: len(data) // 2])
    refused(tmp_path / "cut", "ends early", str(len(data)))
    with h5py.File(tmp_path / "family%d", "w", driver="family", memb_size=1 << 20) as file:
        file.attrs["layer_names"] = [b"a"]
    refused(tmp_path / "family0", "several files")
