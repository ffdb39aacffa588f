"""Files that flax and orbax wrote, in the shapes that training code leaves behind."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter
from converter.errors import CheckpointError, FormatError, UnsupportedError
from converter.formats.registry import open_file
from tests.corpus.conversion_checks import CONFIG, HEAD, converted, same_as_library
from tests.factories import model_spec, noise, stored

serialization = pytest.importorskip("flax.serialization")
pytestmark = pytest.mark.peer

Tree = dict[str, Any]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_text(json.dumps(CONFIG))
    return path


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return stored(model_spec(CONFIG, HEAD))


@pytest.fixture(scope="module")
def params() -> Tree:
    return nested(stored(model_spec(CONFIG, HEAD), "flax"))


def nested(flat: Mapping[str, Any]) -> Tree:
    root: Tree = {}
    for name, value in flat.items():
        *path, leaf = name.split("/")
        node = root
        for key in path:
            node = node.setdefault(key, {})
        node[leaf] = value
    return root


def train_state(params: Tree) -> Tree:
    """Return a complete ``TrainState``, with the moments of Adam."""
    import jax
    import optax
    from flax.training.train_state import TrainState

    state = TrainState.create(apply_fn=None, params=params, tx=optax.adamw(1e-3))
    moved = jax.tree_util.tree_map(lambda leaf: np.asarray(leaf), state)
    return serialization.to_state_dict(moved)


SHAPES: dict[str, Callable[[Tree], Tree]] = {
    "plain": lambda params: params,
    "params": lambda params: {"params": params},
    "params in a state": lambda params: {"params": {"params": params}, "step": np.int32(7)},
    "train state": train_state,
    "statistics": lambda params: {
        "params": params,
        "batch_stats": {"bn": {"mean": np.zeros(3, np.float32)}},
        "step": 7,
    },
    "old optimizer": lambda params: {
        "target": params,
        "state": {"step": np.int32(1), "param_states": {"mu": np.ones(2)}},
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape(
    shape: str, params: Tree, arrays: dict[str, Any], config: Path, tmp_path: Path
) -> None:
    path = tmp_path / "state.msgpack"
    path.write_bytes(serialization.msgpack_serialize(SHAPES[shape](params)))
    result = converted(path, config, arrays, tmp_path / "out")
    dropped = result.to_dict()["ignored"]["source"]
    others = {name.partition("/")[0] for name in dropped}
    assert others <= {"opt_state", "step", "batch_stats", "state"}
    assert bool(dropped) == (shape not in ("plain", "params"))


def test_training_state_is_ignored_with_a_reason(
    params: Tree, arrays: dict[str, Any], config: Path, tmp_path: Path
) -> None:
    path = tmp_path / "state.msgpack"
    path.write_bytes(serialization.msgpack_serialize(train_state(params)))
    result = converted(path, config, arrays, tmp_path / "out")
    reasons = set(result.to_dict()["ignored"]["source"].values())
    assert reasons <= {"an optimizer's state", "counts the steps of training"}


def test_chunked_leaves(
    params: Tree,
    arrays: dict[str, Any],
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 700)
    path = tmp_path / "flax_model.msgpack"
    path.write_bytes(serialization.msgpack_serialize({"params": params}))
    assert b"__msgpack_chunked_array__" in path.read_bytes()
    converted(path, config, arrays, tmp_path / "out")


def test_every_dtype(tmp_path: Path) -> None:
    import ml_dtypes

    dtypes = [
        np.dtype(name) for name in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "?", "c8")
    ]
    dtypes += [np.dtype(ml_dtypes.bfloat16)]
    tree = {"a": {dtype.name: (noise("a", (3, 5)) * 50).astype(dtype) for dtype in dtypes}}
    tree["a"] |= {"scalar": np.array(2.5, np.float32), "empty": np.zeros((0, 3), np.float32)}
    path = tmp_path / "dtypes.msgpack"
    path.write_bytes(serialization.msgpack_serialize(tree))
    theirs = serialization.msgpack_restore(path.read_bytes())["a"]
    same_as_library(path, {f"a/{name}": np.asarray(array) for name, array in theirs.items()})


# --- Orbax -------------------------------------------------------------------------------------

FORMS: dict[str, Mapping[str, bool]] = {
    "one store": {},
    "directories": {"use_ocdbt": False},
    "third version of Zarr": {"use_zarr3": True},
}


def save_orbax(path: Path, tree: Tree, **form: bool) -> Path:
    orbax = pytest.importorskip("orbax.checkpoint")
    orbax.Checkpointer(orbax.PyTreeCheckpointHandler(**form)).save(path.resolve(), tree)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_orbax(
    form: str, params: Tree, arrays: dict[str, Any], config: Path, tmp_path: Path
) -> None:
    tree = {"params": params, "opt_state": [{"mu": np.ones(2)}, None], "step": np.int32(3)}
    path = save_orbax(tmp_path / "state", tree, **FORMS[form])
    result = converted(path, config, arrays, tmp_path / "out")
    assert set(result.to_dict()["ignored"]["source"]) == {"opt_state/0/mu", "step"}


def test_orbax_reads_what_orbax_reads(tmp_path: Path) -> None:
    orbax = pytest.importorskip("orbax.checkpoint")
    import ml_dtypes

    tree = {"a": {"x.y": noise("x", (70, 30)), "half": noise("h", (4,)).astype(ml_dtypes.bfloat16)}}
    tree["b"] = {"counts": np.arange(5)}
    path = save_orbax(tmp_path / "tree", tree)
    theirs = orbax.PyTreeCheckpointer().restore(path.resolve())
    flat = {f"{a}/{b}": np.asarray(v) for a, leaves in theirs.items() for b, v in leaves.items()}
    same_as_library(path / "_METADATA", flat)
    with open_file(path / "_METADATA") as reader:
        np.testing.assert_array_equal(
            reader.tensors["a/x.y"].read(1, 7, 20), tree["a"]["x.y"][:, 7:20]
        )


def test_one_of_several_steps_must_be_chosen(
    params: Tree, arrays: dict[str, Any], config: Path, tmp_path: Path
) -> None:
    for step in ("1", "2"):
        save_orbax(tmp_path / "run" / step / "default", {"params": params})
    with pytest.raises(CheckpointError, match=r"holds 2 Orbax checkpoints[\s\S]*2/default"):
        converter.open_checkpoint(tmp_path / "run", config=config)
    shutil.rmtree(tmp_path / "run/1")
    converted(tmp_path / "run", config, arrays, tmp_path / "out")


def test_the_last_of_steps_deep_below_is_named_and_asks_for_its_configuration(
    params: Tree, config: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(config, tmp_path / "in/config.json")
    for step in ("9", "10"):
        save_orbax(tmp_path / "in/run" / step / "default", {"params": params})
    with pytest.raises(CheckpointError, match="Orbax checkpoints in run/9/default/, run/10") as e:
        converter.convert(tmp_path / "in", tmp_path / "none")
    last = Path(str(e.value.remedy).rpartition("the last is ")[2])
    assert last == tmp_path / "in/run/10/default"
    with pytest.raises(CheckpointError, match=r"configuration not found"):
        converter.convert(last, tmp_path / "none")
    converter.convert(last, tmp_path / "out", to=["pytorch"], config=tmp_path / "in/config.json")


def test_without_tensorstore_the_extra_is_named(
    params: Tree, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_orbax(tmp_path / "state", {"params": params})
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    with pytest.raises(UnsupportedError, match=r"encdec-converter\[flax\]"):
        converter.open_checkpoint(path, config=config)


HOSTILE = {
    "keys that climb": lambda listing: _first(listing)["key_metadata"].__setitem__(
        0, {"key": "../../etc", "key_type": 2}
    ),
    "a key that is none": lambda listing: _first(listing).update(key_metadata=[{"key": None}]),
    "an array that is not there": lambda listing: _first(listing).update(
        key_metadata=[{"key": "nowhere"}]
    ),
    "no tree": lambda listing: listing.update(tree_metadata=[1]),
    "entries that are none": lambda listing: listing.update(tree_metadata={"a": 3}),
}


def _first(listing: Tree) -> Any:
    return next(iter(listing["tree_metadata"].values()))


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_false_listing_is_refused(attack: str, config: Path, tmp_path: Path) -> None:
    path = save_orbax(tmp_path / "state", {"params": {"a": noise("a", (3, 4))}})
    listing = json.loads((path / "_METADATA").read_text())
    HOSTILE[attack](listing)
    (path / "_METADATA").write_text(json.dumps(listing))
    with pytest.raises(FormatError):
        converter.open_checkpoint(path, config=config)


def test_an_array_larger_than_its_files_is_refused(config: Path, tmp_path: Path) -> None:
    path = save_orbax(tmp_path / "state", {"a": noise("a", (3, 4))}, use_ocdbt=False)
    zarray = path / "a/.zarray"
    complete_model_types = json.loads(zarray.read_text())
    complete_model_types["shape"] = [1 << 20, 1 << 16]
    zarray.write_text(json.dumps(complete_model_types))
    with pytest.raises(FormatError, match="larger than its files"):
        converter.open_checkpoint(path, config=config)


def test_a_link_outside_the_directory_is_refused(config: Path, tmp_path: Path) -> None:
    path = save_orbax(tmp_path / "state", {"a": noise("a", (3, 4))}, use_ocdbt=False)
    (path / "a").rename(tmp_path / "elsewhere")
    (path / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FormatError, match="link"):
        converter.open_checkpoint(path, config=config)
