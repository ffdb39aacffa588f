"""Files that torch wrote, in the shapes that training code leaves behind."""

from __future__ import annotations

import argparse
import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import converter
from converter.errors import FormatError, MatchError
from tests.corpus.conversion_checks import CONFIG, HEAD, converted, same_as_library
from tests.factories import make, model_spec, noise, stored

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peer

State = dict[str, Any]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    return path


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    actual = stored(model_spec(CONFIG, HEAD))
    actual["cls.predictions.decoder.weight"] = actual["bert.embeddings.word_embeddings.weight"]
    actual["cls.predictions.decoder.bias"] = actual["cls.predictions.bias"]
    return actual


@pytest.fixture
def state(arrays: dict[str, np.ndarray]) -> State:
    made = OrderedDict((name, torch.from_numpy(array)) for name, array in arrays.items())
    setattr(made, "_metadata", OrderedDict({"": {"version": 1}}))  # noqa: B010
    return made


def prefixed(*prefixes: str) -> Callable[[State], State]:
    prefix = "".join(prefixes)
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def optimizer_state(state: State) -> dict[str, Any]:
    moments = {
        n: {"step": torch.tensor(3.0), "exp_avg": t * 2} for n, t in enumerate(state.values())
    }
    return {"state": moments, "param_groups": [{"lr": 1e-3, "params": list(moments)}]}


def lightning(state: State) -> dict[str, Any]:
    return {
        "epoch": 3,
        "global_step": 1000,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": prefixed("model.")(state),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {"EarlyStopping": {"best_score": torch.tensor(0.5), "patience": 3}},
        "optimizer_states": [optimizer_state(state)],
        "lr_schedulers": [{"base_lrs": [1e-3], "last_epoch": 1}],
        "hyper_parameters": argparse.Namespace(lr=1e-3, path=Path("x")),
    }


SHAPES: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {
        "model": state,
        "optimizer": optimizer_state(state),
        "args": {"lr": 0.1},
    },
    "module": lambda state: {"module": state, "ds_config": {"zero": 2}, "lr_scheduler": None},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": torch.tensor(1.0)},
    "lightning": lightning,
    "parallel": prefixed("module."),
    "compiled": prefixed("_orig_mod."),
    "compiled parallel in a module": prefixed("model.", "module.", "_orig_mod."),
    "wrapped": prefixed("encoder."),
    "nested and wrapped": lambda state: {"model": prefixed("module.", "net.")(state)},
    "in two levels": lambda state: {"state_dict": {"model": dict(state)}},
    "checkpointed activations": lambda state: {
        name.replace(".layer.1.", ".layer.1._checkpoint_wrapped_module."): tensor
        for name, tensor in state.items()
    },
    "old buffers": lambda state: {**state, "bert.embeddings.position_ids": torch.arange(32)[None]},
    "old names of LayerNorm": lambda state: {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in state.items()
    },
    "parameters": lambda state: {n: torch.nn.Parameter(t) for n, t in state.items()},
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape(
    shape: str, legacy: bool, state: State, arrays: dict[str, Any], config: Path, tmp_path: Path
) -> None:
    path = tmp_path / {"lightning": "last.ckpt", "model": "best.pth"}.get(shape, "model.pt")
    torch.save(SHAPES[shape](state), path, _use_new_zipfile_serialization=not legacy)
    converted(path, config, arrays, tmp_path / "out")


def test_other_tensors_of_a_training_checkpoint_are_ignored_with_a_reason(
    state: State, arrays: dict[str, Any], config: Path, tmp_path: Path
) -> None:
    torch.save(lightning(state), tmp_path / "last.ckpt")
    result = converted(tmp_path / "last.ckpt", config, arrays, tmp_path / "out")
    dropped = result.to_dict()["ignored"]["source"]
    assert set(dropped) == {"callbacks", "optimizer_states"}
    assert all("training checkpoint" in reason for reason in dropped.values())


DTYPES = {
    name: getattr(torch, name)
    for name in (
        *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8"),
        *("uint8", "bool", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2"),
        *("uint16", "uint32", "uint64"),
    )
}


def native(tensor: Any) -> np.ndarray:
    """Return what torch read as numpy arrays."""
    name = str(tensor.dtype).removeprefix("torch.")
    if name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        size = {1: torch.uint8, 2: torch.int16}[tensor.element_size()]
        return tensor.contiguous().view(size).numpy().view(getattr(ml_dtypes, name))
    return tensor.numpy()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_every_dtype_and_view(legacy: bool, tmp_path: Path) -> None:
    base = torch.from_numpy(noise("base", (6, 10)) * 50)
    state = {f"dtype.{name}": base.to(dtype) for name, dtype in DTYPES.items()}
    if legacy:
        for name in ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"):
            del state[f"dtype.{name}"]
    state |= {
        "transposed": base.T,
        "strided": base[1::2, ::3],
        "expanded": base[:1].expand(4, 10),
        "shared": base,
        "part": base[2:4],
        "diagonal": base.diagonal(),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "permuted": torch.from_numpy(noise("cube", (2, 3, 4))).permute(2, 0, 1),
    }
    path = tmp_path / "views.bin"
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    theirs = {name: native(tensor) for name, tensor in torch.load(path).items()}
    same_as_library(path, theirs)


def test_big_endian(tmp_path: Path) -> None:
    state = {"a": torch.from_numpy(noise("a", (3, 4))), "b": torch.arange(5)}
    torch.serialization.set_default_load_endianness(None)
    path = tmp_path / "big.bin"
    torch.save(state, path)
    import zipfile

    swapped = tmp_path / "swapped.bin"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(swapped, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith("byteorder"):
                data = b"big"
            elif "/data/" in info.filename:
                width = 4 if info.filename.endswith("/0") else 8
                data = np.frombuffer(data, f"u{width}").byteswap().tobytes()
            new.writestr(info.filename, data)
    same_as_library(swapped, {name: tensor.numpy() for name, tensor in torch.load(swapped).items()})


def test_tied_duplicates_that_differ_are_refused(
    state: State, config: Path, tmp_path: Path
) -> None:
    state["cls.predictions.decoder.weight"] = state["cls.predictions.decoder.weight"] + 1
    torch.save(state, tmp_path / "model.bin")
    with pytest.raises(MatchError) as caught:
        converter.convert(tmp_path / "model.bin", tmp_path / "out", config=config)
    assert "cls.predictions.decoder.weight" in str(caught.value)
    assert "bert.embeddings.word_embeddings.weight" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_pickled_model_is_refused_and_not_run(tmp_path: Path, config: Path) -> None:
    torch.save(torch.nn.Linear(3, 4), tmp_path / "model.pt")
    with pytest.raises(FormatError, match="state_dict"):
        converter.convert(tmp_path / "model.pt", tmp_path / "out", config=config)


HEADS: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "classifier": ("", {"classifier.weight": (3, 24), "classifier.bias": (3,)}),
    "question answering": ("", {"qa_outputs.weight": (2, 24), "qa_outputs.bias": (2,)}),
    "custom, wrapped": (
        "model.",
        {"head.0.weight": (7, 24), "loss.weight": (3,), "temperature": ()},
    ),
    "custom, parallel": ("module.", {"fc.dense.weight": (7, 24), "fc.out.weight": (3, 7)}),
}


@pytest.mark.parametrize("case", HEADS)
def test_unknown_heads_are_ignored_in_a_composition(
    case: str, arrays: dict[str, np.ndarray], config: Path, tmp_path: Path
) -> None:
    prefix, head = HEADS[case]
    body = {prefix + n: torch.from_numpy(a) for n, a in arrays.items() if n.startswith("bert.")}
    foreign = {
        (prefix + name if case == "custom, parallel" else name): torch.ones(shape)
        for name, shape in head.items()
    }
    torch.save({**body, **foreign}, tmp_path / "encoder.pt")
    decoder = make(tmp_path / "decoder", "bert", "BertLMHeadModel", seed=1)
    result = converter.compose(
        tmp_path / "encoder.pt", decoder.directory, tmp_path / "out", encoder_config=config
    )
    dropped = result.to_dict()["ignored"]["encoder"]
    assert dropped.keys() == foreign.keys()
    listed = case in ("classifier", "question answering")
    expected = "not part of BertModel" if listed else "a head of another task"
    assert all(expected in reason for reason in dropped.values())
    from safetensors.numpy import load_file

    actual = load_file(tmp_path / "out/model.safetensors")
    for name, array in arrays.items():
        if name.startswith("bert."):
            np.testing.assert_array_equal(actual["encoder." + name.removeprefix("bert.")], array)
    assert not any("classifier" in name or "head.0" in name for name in actual)


@pytest.mark.parametrize(
    "name",
    [
        "bert.encoder.layer.0.adapter.weight",  # inside the base model
        "bert.encoder.layer.7.output.dense.bias",
        "cls.predictions.extra.weight",  # in a head that the table knows
        "teacher.bert.encoder.layer.0.output.dense.weight",  # a second model
    ],
)
def test_other_unknown_tensors_stay_an_error(
    name: str, state: State, config: Path, tmp_path: Path
) -> None:
    torch.save({**state, name: torch.ones(3)}, tmp_path / "encoder.pt")
    decoder = make(tmp_path / "decoder", "bert", "BertLMHeadModel", seed=1)
    with pytest.raises(MatchError) as caught:
        converter.compose(
            tmp_path / "encoder.pt", decoder.directory, tmp_path / "out", encoder_config=config
        )
    assert name in str(caught.value)


def test_converting_a_model_with_an_unknown_head_stays_an_error(
    state: State, config: Path, tmp_path: Path
) -> None:
    torch.save({**state, "classifier.weight": torch.ones(3, 24)}, tmp_path / "model.pt")
    with pytest.raises(MatchError, match=r"classifier\.weight"):
        converter.convert(tmp_path / "model.pt", tmp_path / "out", config=config)


def test_a_head_without_a_base_prefix_stays_an_error(
    arrays: dict[str, np.ndarray], config: Path, tmp_path: Path
) -> None:
    unprefixed = {
        name.removeprefix("bert."): torch.from_numpy(array)
        for name, array in arrays.items()
        if name.startswith("bert.")
    }
    torch.save({**unprefixed, "fc.weight": torch.ones(3, 24)}, tmp_path / "encoder.pt")
    decoder = make(tmp_path / "decoder", "bert", "BertLMHeadModel", seed=1)
    with pytest.raises(MatchError, match=r"fc\.weight"):
        converter.compose(
            tmp_path / "encoder.pt", decoder.directory, tmp_path / "out", encoder_config=config
        )
