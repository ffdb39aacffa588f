"""Names with prefixes that modules and trainers add, and tensors that are not the model's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import converter
from converter.architectures.schema import Dialect
from converter.errors import MatchError
from converter.models.key_matching import MAX_PREFIX, detect_prefixes
from tests.corpus.conversion_checks import CONFIG, HEAD, converted
from tests.factories import bundled_registry, make, model_spec, stored

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peer

Arrays = Mapping[str, np.ndarray]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    return path


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return stored(model_spec(CONFIG, HEAD))


def module_of(arrays: Arrays, path: str) -> Any:
    """Return a PyTorch module with the parameters of `arrays` below the attributes in `path`."""
    root = torch.nn.Module()
    for name, array in arrays.items():
        *parents, leaf = (path + name).split(".")
        module = root
        for parent in parents:
            if parent not in dict(module.named_children()):
                module.add_module(parent, torch.nn.Module())
            module = module.get_submodule(parent)
        module.register_parameter(leaf, torch.nn.Parameter(torch.from_numpy(array)))
    return root


@pytest.mark.parametrize(
    "prefix",
    ["bert_model.", "bert2bert.", "0.auto_model.", "question_encoder.bert_model.", "a.b.c.d.e.f."],
)
@pytest.mark.parametrize("base", ["", "bert."])
def test_a_prefix_of_any_name(
    prefix: str, base: str, arrays: dict[str, np.ndarray], config: Path, tmp_path: Path
) -> None:
    body = {name: array for name, array in arrays.items() if name.startswith("bert.")}
    below = {base + name.removeprefix("bert."): array for name, array in body.items()}
    torch.save(module_of(below, prefix).state_dict(), tmp_path / "model.pt")
    expected = {name.removeprefix("bert."): array for name, array in body.items()}
    result = converter.convert(
        tmp_path / "model.pt", tmp_path / "out", config=config, to=["pytorch"]
    )
    actual = load_file(tmp_path / "out/model.safetensors")
    for name, array in expected.items():
        same = [key for key in actual if key.removeprefix("bert.") == name]
        assert len(same) == 1, name
        np.testing.assert_array_equal(actual[same[0]], array)
    assert result.to_dict()["prefixes"] == {"source": prefix}
    manifest = json.loads((tmp_path / "out/converter-manifest.json").read_text())
    assert manifest["sources"]["source"]["prefix"] == prefix


WRAPPED: dict[str, Callable[[Any], Any]] = {
    "another key": lambda state: {"weights": state, "epoch": 3},
    "two levels": lambda state: {"state": {"model": state, "step": 5}},
    "with a prefix": lambda state: {"my_state": {f"bert2bert.{n}": t for n, t in state.items()}},
    "below a known key": lambda state: {"model": {"net_state": state}},
}


@pytest.mark.parametrize("case", WRAPPED)
def test_a_state_dict_under_any_key(
    case: str, arrays: dict[str, np.ndarray], config: Path, tmp_path: Path
) -> None:
    state = module_of(arrays, "").state_dict()
    torch.save(WRAPPED[case](state), tmp_path / "last.ckpt")
    converted(tmp_path / "last.ckpt", config, arrays, tmp_path / "out")


def test_other_objects_of_a_training_checkpoint_are_ignored(
    arrays: dict[str, np.ndarray], config: Path, tmp_path: Path
) -> None:
    module = module_of(arrays, "")
    optimizer = torch.optim.AdamW(module.parameters())
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    expected = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    checkpoint = {
        "run": {"weights": module.state_dict(), "optimizer": optimizer.state_dict()},
        "metrics": {"loss": torch.tensor(0.5)},
    }
    torch.save(checkpoint, tmp_path / "last.ckpt")
    result = converted(tmp_path / "last.ckpt", config, expected, tmp_path / "out")
    ignored = result.to_dict()["ignored"]["source"]
    assert {name.partition(".")[0] for name in ignored} == {"run", "metrics"}
    assert set(ignored.values()) == {"not part of the model in a training checkpoint"}
    assert not any(name.startswith("run.weights.") for name in ignored)


@pytest.mark.parametrize("separator", [".", "/"])
def test_several_complete_models_are_an_error_that_names_them(
    separator: str, arrays: dict[str, np.ndarray], config: Path, tmp_path: Path
) -> None:
    """And each can be chosen by leaving out the others."""
    models = {"student": arrays, "teacher": {n: a + 1 for n, a in arrays.items()}}
    if separator == ".":
        state = {
            f"{prefix}.{name}": torch.from_numpy(array)
            for prefix, model in models.items()
            for name, array in model.items()
        }
        torch.save(state, tmp_path / "model.pt")
    else:
        dialect = stored(model_spec(CONFIG, HEAD), "flax")
        flat = {f"{p}/{n}": a + (p == "teacher") for p in models for n, a in dialect.items()}
        save_file(flat, tmp_path / "model.pt")
    with pytest.raises(MatchError) as caught:
        converter.convert(tmp_path / "model.pt", tmp_path / "out", config=config)
    names = {problem.tensor for problem in caught.value.problems}
    assert names == {f"student{separator}*", f"teacher{separator}*"}
    assert f'ignore=["teacher{separator}*"]' in str(caught.value)
    for kept, left in (("student", "teacher"), ("teacher", "student")):
        result = converted(
            tmp_path / "model.pt",
            config,
            models[kept],
            tmp_path / kept,
            ignore=[f"{left}{separator}*"],
        )
        assert len(result.to_dict()["ignored"]["source"]) == len(arrays)


FOREIGN: dict[str, tuple[str, dict[str, tuple[int, ...]], list[str]]] = {
    "next to a prefix": (
        "bert_model.",
        {"classifier.weight": (3, 24), "loss.margin": (), "temperature": ()},
        ["classifier.*", "loss.*", "temperature"],
    ),
    "a foreign head": ("", {"cls.species.weight": (3, 24)}, ["cls.species.*"]),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_is_outside_the_model_is_named_by_convert_and_can_be_ignored(
    case: str, arrays: dict[str, np.ndarray], config: Path, tmp_path: Path
) -> None:
    prefix, tensors, patterns = FOREIGN[case]
    state = {prefix + name: torch.from_numpy(array) for name, array in arrays.items()}
    state |= {name: torch.ones(shape) for name, shape in tensors.items()}
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(MatchError) as caught:
        converter.convert(tmp_path / "model.pt", tmp_path / "out", config=config)
    assert {problem.tensor for problem in caught.value.problems} >= tensors.keys() - {
        "classifier.weight"
    }
    (listed,) = re.findall(r"ignore=(\[.*?\])", str(caught.value))
    assert {*patterns} <= {*json.loads(listed)}
    result = converted(tmp_path / "model.pt", config, arrays, tmp_path / "out", ignore=patterns)
    ignored = result.to_dict()["ignored"]["source"]
    assert ignored.keys() == tensors.keys()
    assert all(reason.startswith("by the option ignore: ") for reason in ignored.values())
    manifest = json.loads((tmp_path / "out/converter-manifest.json").read_text())
    assert manifest["ignore"] == patterns


@pytest.mark.parametrize("case", FOREIGN)
def test_what_is_outside_the_model_is_ignored_by_compose(
    case: str, arrays: dict[str, np.ndarray], config: Path, tmp_path: Path
) -> None:
    prefix, tensors, _ = FOREIGN[case]
    state = {prefix + name: torch.from_numpy(array) for name, array in arrays.items()}
    state |= {name: torch.ones(shape) for name, shape in tensors.items()}
    torch.save(state, tmp_path / "encoder.pt")
    decoder = make(tmp_path / "decoder", "bert", "BertLMHeadModel", seed=1)
    result = converter.compose(
        tmp_path / "encoder.pt", decoder.directory, tmp_path / "out", encoder_config=config
    )
    assert tensors.keys() <= result.to_dict()["ignored"]["encoder"].keys()
    assert not set(result.to_dict()["tensors"]) & tensors.keys()


def test_compose_ignores_tensors_of_one_of_its_sources(
    arrays: dict[str, np.ndarray], config: Path, tmp_path: Path
) -> None:
    """What it would not ignore by itself: a module in the base model, a second base model."""
    extra = {"bert.extra.weight": np.ones(3, np.float32)}
    extra |= {f"teacher.{name}": array for name, array in arrays.items()}
    torch.save(
        {name: torch.from_numpy(array) for name, array in {**arrays, **extra}.items()},
        tmp_path / "encoder.pt",
    )
    decoder = make(tmp_path / "decoder", "bert", "BertLMHeadModel", seed=1)
    sources = (tmp_path / "encoder.pt", decoder.directory)
    with pytest.raises(MatchError):
        converter.compose(*sources, tmp_path / "out", encoder_config=config)
    patterns = ["encoder=teacher.*", "bert.extra.*"]
    result = converter.compose(*sources, tmp_path / "out", encoder_config=config, ignore=patterns)
    assert extra.keys() <= result.to_dict()["ignored"]["encoder"].keys()
    manifest = json.loads((tmp_path / "out/converter-manifest.json").read_text())
    assert manifest["ignore"] == patterns


def test_a_required_tensor_that_is_ignored_is_missing(
    arrays: dict[str, np.ndarray], config: Path, tmp_path: Path
) -> None:
    torch.save({n: torch.from_numpy(a) for n, a in arrays.items()}, tmp_path / "model.pt")
    with pytest.raises(MatchError, match=r"embeddings\.LayerNorm\.weight: missing"):
        converter.convert(
            tmp_path / "model.pt", tmp_path / "out", config=config, ignore=["*LayerNorm.weight"]
        )


def test_wrong_shapes_below_a_prefix_are_named(
    arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**CONFIG, "intermediate_size": 7}))
    torch.save({f"m.{n}": torch.from_numpy(a) for n, a in arrays.items()}, tmp_path / "model.pt")
    with pytest.raises(MatchError) as caught:
        converter.convert(tmp_path / "model.pt", tmp_path / "out", config=config)
    assert {problem.what for problem in caught.value.problems} == {"wrong shape"}


def test_the_prefix_is_proven_by_shapes_too() -> None:
    """Names alone fit two prefixes; only one of them has the model's shapes."""
    spec = model_spec(CONFIG, HEAD)
    dialect = bundled_registry().conventions.dialects["pytorch"]
    shapes = {f"a.{name}": (*array.shape, 1) for name, array in stored(spec).items()}
    shapes |= {f"longer.{name}": array.shape for name, array in stored(spec).items()}
    normalizer, rivals = detect_prefixes(shapes, dialect, spec)
    assert (normalizer.prefix, rivals) == ("longer.", [])


def test_the_search_for_a_prefix_is_bounded() -> None:
    """By the number of components that a prefix may have, however long a name is."""

    class Counted(str):
        calls = 0

        def find(self, *arguments: Any) -> int:
            Counted.calls += 1
            return str.find(self, *arguments)

        def removesuffix(self, *arguments: Any) -> str:
            return self

        def __add__(self, other: str) -> str:
            return self

    spec = model_spec(CONFIG, HEAD)
    dialect: Dialect = bundled_registry().conventions.dialects["flax"]
    detect_prefixes({Counted("a/" * 100_000): (3,)}, dialect, spec)
    assert 0 < Counted.calls <= MAX_PREFIX + 1


def test_leaves_of_flax_nnx(arrays: dict[str, np.ndarray], config: Path, tmp_path: Path) -> None:
    nnx = pytest.importorskip("flax.nnx")
    orbax = pytest.importorskip("orbax.checkpoint")

    def state(tree: Mapping[str, Any]) -> Any:
        return {
            key: state(value) if isinstance(value, dict) else nnx.Param(value)
            for key, value in tree.items()
        }

    from tests.corpus.test_flax import nested

    directory = tmp_path / "run/state"
    tree = nnx.State(state(nested(stored(model_spec(CONFIG, HEAD), "flax"))))
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory.resolve(), tree)
    assert "value" in (directory / "_METADATA").read_text()
    (directory.parent / "config.json").write_text(config.read_text())
    converted(directory, config, arrays, tmp_path / "out")
    converter.convert(directory, tmp_path / "found", to=["pytorch"])  # the config.json above it
