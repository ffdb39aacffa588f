"""`open_checkpoint` without any framework: the mapping, lazy reading, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import converter
from converter.errors import CheckpointError, FormatError, MatchError, UnsupportedError
from converter.formats.file_handle import FileHandle
from tests import factories

SOURCES = [
    ("pytorch", "safetensors", "float32"),
    ("pytorch", "torch", "float16"),
    ("pytorch", "safetensors", "bfloat16"),
    ("tensorflow", "keras-hdf5", "float32"),
    ("flax", "flax-msgpack", "bfloat16"),
]

INDICES: list[Any] = [
    0,
    -1,
    np.int64(2),
    slice(None),
    slice(1, 3),
    slice(None, None, 2),
    slice(None, None, -1),
    slice(5, 1, -3),
    slice(4, 4),
    slice(-3, None),
    (1, 2),
    (slice(1, 4), -1),
    (slice(None), slice(2, 5)),
    (..., 0),
    (None, 1),
    [0, 2, 1],
    np.s_[1:3, [0, 1]],
]


@pytest.mark.parametrize(("dialect", "file_format", "dtype"), SOURCES)
def test_every_file_gives_the_same_mapping(
    tmp_path: Path, dialect: str, file_format: str, dtype: str
) -> None:
    made = factories.make(
        tmp_path / "bert", "bert", "BertForPreTraining", dialect=dialect, file_format=file_format,
        dtype=dtype,
    )  # fmt: skip
    with converter.open_checkpoint(made.directory) as checkpoint:
        assert checkpoint.architecture == "bert"
        assert checkpoint.class_name == "BertForPreTraining"
        assert checkpoint.dialect == dialect
        assert checkpoint.files == (made.file,)
        assert not checkpoint.problems
        assert checkpoint.tied == {
            "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias",
        }
        assert list(checkpoint) == list(made.values)  # in the order of the model
        for name, tensor in checkpoint.items():
            expected = made.values[name]
            assert tensor.shape == expected.shape
            assert tensor.dtype == expected.dtype
            assert (tensor.ndim, tensor.size, tensor.nbytes) == (
                expected.ndim,
                expected.size,
                expected.nbytes,
            )
            assert np.array_equal(tensor.numpy(), expected)
            assert np.array_equal(np.asarray(tensor), expected)
            for index in INDICES:
                try:
                    wanted = expected[index]
                except IndexError:
                    with pytest.raises(IndexError):
                        tensor[index]
                    continue
                assert np.array_equal(tensor[index], wanted), (name, index)


def test_a_row_costs_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = factories.make(tmp_path / "bert", "bert", vocab_size=5000)
    read = 0
    fill = FileHandle.fill

    def counted(self: FileHandle, buffer: memoryview, *args: Any) -> None:
        nonlocal read
        read += len(buffer)
        fill(self, buffer, *args)

    with converter.open_checkpoint(made.directory) as checkpoint:
        tensor = checkpoint["embeddings.word_embeddings.weight"]
        monkeypatch.setattr(FileHandle, "fill", counted)
        assert len(checkpoint) > 30
        assert tensor.shape == (5000, 24)
        assert read == 0
        row = tensor[4321]
    assert read == row.nbytes == 24 * 4
    assert np.array_equal(row, made.values[tensor.name][4321])


def test_what_is_read_is_ones_own(tmp_path: Path) -> None:
    made = factories.make(tmp_path / "bert", "bert")
    with converter.open_checkpoint(made.directory) as checkpoint:
        tensor = checkpoint["pooler.dense.weight"]
        tensor.numpy()[:] = 7
        tensor[1:3][:] = 7
        np.asarray(tensor)[:] = 7
        assert np.array_equal(tensor.numpy(), made.values[tensor.name])
        with pytest.raises(ValueError, match="copy"):
            np.asarray(tensor, copy=False)


def test_a_name_that_there_is_not(tmp_path: Path) -> None:
    model = "GPT2LMHeadModel"
    made = factories.make(tmp_path / "gpt2", "gpt2", model, architectures=[model])
    with converter.open_checkpoint(made.directory) as checkpoint:
        assert "lm_head.weight" not in checkpoint
        with pytest.raises(KeyError, match=r"it shares the values of wte\.weight"):
            checkpoint["lm_head.weight"]
        with pytest.raises(KeyError, match=r"did you mean .*h\.0\.attn\.c_attn\.weight"):
            checkpoint["h.0.attn.c_atn.weight"]
        assert checkpoint.get("nothing of the kind") is None
        with pytest.raises(IndexError, match=r"wte\.weight: 61 is outside"):
            checkpoint["wte.weight"][61]


def test_a_closed_checkpoint_says_so(tmp_path: Path) -> None:
    made = factories.make(tmp_path / "bert", "bert")
    with converter.open_checkpoint(made.directory) as checkpoint:
        weights = checkpoint.to_tensorflow()
    for read in (
        checkpoint["pooler.dense.bias"].numpy,
        lambda: checkpoint["pooler.dense.bias"][0],
        lambda: weights["bert/pooler/dense/bias:0"],
        checkpoint.to_tensorflow,
        checkpoint.to_torch,
    ):
        with pytest.raises(CheckpointError, match="is closed"):
            read()
    checkpoint.close()


def test_what_does_not_fit_is_opened_but_not_loaded(tmp_path: Path) -> None:
    config = factories.tiny_config("bert")
    tensors = factories.stored(factories.model_spec(config))
    del tensors["encoder.layer.1.output.dense.bias"]
    tensors["adapter.weight"] = factories.noise("adapter", (3, 4))
    factories.write(tmp_path / "odd", config, tensors)
    with converter.open_checkpoint(tmp_path / "odd") as checkpoint:
        assert {problem.tensor for problem in checkpoint.problems} == {
            "encoder.layer.1.output.dense.bias",
            "adapter.weight",
        }
        assert checkpoint["pooler.dense.bias"].shape == (24,)
        for convert in (checkpoint.to_torch, checkpoint.to_tensorflow, checkpoint.to_flax):
            with pytest.raises(MatchError, match=r"adapter\.weight"):
                convert()


def test_copies_that_differ_are_refused(tmp_path: Path) -> None:
    config = factories.tiny_config("gpt2")
    tensors = factories.stored(factories.model_spec(config, "GPT2LMHeadModel"))
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"] + 1
    factories.write(tmp_path / "gpt2", config, tensors)
    with converter.open_checkpoint(tmp_path / "gpt2") as checkpoint:
        weights = checkpoint.to_tensorflow()
        assert weights["transformer/wpe/embeddings:0"].shape == (30, 28)
        with pytest.raises(MatchError, match=r"copies of one tensor differ"):
            weights["transformer/wte/embeddings:0"]


@pytest.mark.parametrize("block", [512, 16 << 20])
def test_loaded_tensors_are_those_that_convert_writes(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another reader: h5py. Small blocks put the tensors together from pieces."""
    monkeypatch.setattr("converter.execution.in_memory._BLOCK", block)
    monkeypatch.setattr("converter.frameworks.lazy_tensor._BLOCK", block)
    made = factories.make(tmp_path / "gpt2", "gpt2", dialect="flax")
    converter.convert(made.directory, tmp_path / "out", to=["tensorflow"])
    with converter.open_checkpoint(made.directory) as checkpoint:
        weights = dict(checkpoint.to_tensorflow())
        for name, tensor in checkpoint.items():
            assert np.array_equal(tensor.numpy(), made.values[name])
    with h5py.File(tmp_path / "out" / "tf_model.h5") as file:
        (layer,) = (str(name, "utf-8") for name in file.attrs["layer_names"])
        stored = {str(name, "utf-8") for name in file[layer].attrs["weight_names"]}
        assert {name.split("/", 1)[1] for name in stored} == weights.keys()
        for name in stored:
            assert np.array_equal(file[layer][name][()], weights[name.split("/", 1)[1]])


def test_missing_weights_are_initialized_as_by_convert(tmp_path: Path) -> None:
    config = factories.tiny_config("bert")
    tensors = factories.stored(factories.model_spec(config))
    tensors = {name: value for name, value in tensors.items() if "pooler" not in name}
    factories.write(tmp_path / "bert", config, tensors)
    converter.convert(tmp_path / "bert", tmp_path / "out", to=["tensorflow"], seed=5)
    with (
        converter.open_checkpoint(tmp_path / "bert") as checkpoint,
        converter.open_checkpoint(tmp_path / "out") as written,
    ):
        assert "pooler.dense.weight" not in checkpoint
        assert any("pooler" in note for note in checkpoint.notes)
        ours, theirs = checkpoint.to_tensorflow(seed=5), written.to_tensorflow()
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
        name = "bert/pooler/dense/kernel:0"
        assert not np.array_equal(checkpoint.to_tensorflow(seed=6)[name], theirs[name])


def test_a_framework_without_a_class(tmp_path: Path) -> None:
    model = "ElectraForCausalLM"
    made = factories.make(tmp_path / "electra", "electra", model, architectures=[model])
    with converter.open_checkpoint(made.directory) as checkpoint:
        assert "tensorflow" not in checkpoint.classes
        with pytest.raises(UnsupportedError, match="there is no tensorflow class"):
            checkpoint.to_tensorflow()


@pytest.mark.parametrize(
    ("method", "package", "extra"), [("to_torch", "torch", "torch"), ("to_flax", "jax", "flax")]
)
def test_a_framework_that_is_not_installed(
    tmp_path: Path, method: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = factories.make(tmp_path / "bert", "bert")
    monkeypatch.setitem(sys.modules, package, None)  # what importing finds then is nothing
    with (
        converter.open_checkpoint(made.directory) as checkpoint,
        pytest.raises(UnsupportedError, match=rf"pip install 'encdec-converter\[{extra}\]'"),
    ):
        getattr(checkpoint, method)()


def test_what_cannot_be_opened_is_closed_again(tmp_path: Path) -> None:
    made = factories.make(tmp_path / "bert", "bert")
    made.file.write_bytes(made.file.read_bytes()[:200])
    with pytest.raises(FormatError):
        converter.open_checkpoint(made.directory)
    (made.directory / "config.json").write_text('{"model_type": "mystery"}')
    with pytest.raises((FormatError, UnsupportedError)):
        converter.open_checkpoint(made.directory)


def test_many_threads_read_the_same_checkpoint(tmp_path: Path) -> None:
    made = factories.make(tmp_path / "bert", "bert", dialect="flax")
    with converter.open_checkpoint(made.directory) as checkpoint:
        weights = checkpoint.to_tensorflow()
        alone = {name: values.tobytes() for name, values in weights.items()}

        def read(number: int) -> None:
            for name in sorted(checkpoint, key=lambda name: hash((number, name))):
                assert np.array_equal(checkpoint[name].numpy(), made.values[name])
                assert np.array_equal(checkpoint[name][:2], made.values[name][:2])
            for name in sorted(weights, key=lambda name: hash((number, name))):
                assert weights[name].tobytes() == alone[name]

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(read, range(16)))


def test_opening_imports_no_framework(tmp_path: Path) -> None:
    made = factories.make(tmp_path / "bert", "bert")
    script = (
        "import sys, converter\n"
        "with converter.open_checkpoint(sys.argv[1]) as c:\n"
        "    c['pooler.dense.bias'].numpy(); c.to_tensorflow()['bert/pooler/dense/bias:0']\n"
        "assert not {'torch', 'tensorflow', 'jax', 'flax'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(made.directory)], check=True)
