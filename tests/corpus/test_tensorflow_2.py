"""Files of TensorFlow 2 training code: object-based checkpoints, SavedModels, Keras models.

TensorFlow and Keras write every file, and the values are those of the model in memory.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import converter
from converter.errors import CheckpointError, MatchError
from tests.corpus.test_tensorflow import GPT2, SIZES, same_weights, shaken, weights_of

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("tf_keras")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.peer

TINY = Path(__file__).parents[1] / "transformers/tiny"


@pytest.fixture(scope="module")
def bert() -> Any:
    """Return a model that training has changed, for all tests."""
    return shaken(transformers.TFBertModel(transformers.BertConfig(**SIZES)))


def with_config(directory: Path) -> Path:
    transformers.BertConfig(**SIZES).save_pretrained(directory)
    return directory


def converted(source: Path, out: Path, model: Any, **options: Any) -> dict[str, Any]:
    """Convert, and compare every value with the model's; return the ignored names by reason."""
    result = converter.convert(source, out, to=["tensorflow"], **options)
    same_weights(out / "tf_model.h5", weights_of(model))
    ignored: dict[str, Any] = result.to_dict()["ignored"]["source"]
    return ignored


def stepped(optimizer: Any, variables: list[Any]) -> Any:
    """Apply one step of no size, which creates the variables of the optimizer."""
    optimizer.learning_rate = 0.0
    optimizer.apply_gradients([(tf.ones_like(each), each) for each in variables])
    return optimizer


def test_weights_without_a_suffix(bert: Any, tmp_path: Path) -> None:
    bert.save_weights(str(with_config(tmp_path / "in") / "bert_ckpt"))
    assert converted(tmp_path / "in", tmp_path / "out", bert) == {}
    for number, name in enumerate(("bert_ckpt", "bert_ckpt.index", "checkpoint")):
        assert converted(tmp_path / "in" / name, tmp_path / f"{number}", bert) == {}


@pytest.mark.parametrize("make", ["Adam", "AdamW", "SGD", "legacy.Adam", "legacy.SGD"])
@pytest.mark.parametrize("name", ["optimizer", "opt"])
def test_checkpoints_with_an_optimizer(make: str, name: str, bert: Any, tmp_path: Path) -> None:
    kind = keras.optimizers
    for part in make.split("."):
        kind = getattr(kind, part)
    momentum = {"momentum": 0.9} if "SGD" in make else {}
    optimizer = stepped(kind(**momentum), bert.trainable_variables)
    checkpoint = tf.train.Checkpoint(model=bert, **{name: optimizer})
    checkpoint.save(str(with_config(tmp_path / "in") / "ck"))
    ignored = converted(tmp_path / "in", tmp_path / "out", bert)
    slots = {f"*/.OPTIMIZER_SLOT/{name}/*"} if "legacy" in make else set()
    assert ignored.keys() == {f"{name}/*", "save_counter", *slots}


def test_the_checkpoint_that_a_file_names(bert: Any, tmp_path: Path) -> None:
    """A manager keeps several, of which an earlier one may be the best."""
    directory = with_config(tmp_path / "in")
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(net=bert), str(directory), 5)
    before = [each.numpy() for each in bert.weights]
    manager.save()
    for weight in bert.weights:
        weight.assign_add(tf.ones_like(weight))
    manager.save()
    converted(directory, tmp_path / "newest", bert)
    converted(directory / "checkpoint", tmp_path / "named", bert)
    for weight, value in zip(bert.weights, before, strict=True):
        weight.assign(value)
    converted(directory / "ckpt-1", tmp_path / "first", bert)
    state = directory / "checkpoint"
    state.write_text('model_checkpoint_path: "/gone/C:\\\\runs\\\\\\143kpt-1"\n')
    converted(directory, tmp_path / "moved", bert)
    state.write_text('model_checkpoint_path: "../in/other"\n')
    with pytest.raises(CheckpointError, match=r"holds 2 .*checkpoints[\s\S]*ckpt-1, ckpt-2"):
        converter.convert(directory, tmp_path / "none")


@contextmanager
def outer(name: str) -> Iterator[type]:
    """Yield the class of a Keras model around the attribute ``bert``, with a head."""

    class Outer(keras.Model):  # type: ignore[name-defined]
        def __init__(self, bert: Any) -> None:
            super().__init__(name=name)
            self.bert = bert
            self.head = keras.layers.Dense(3, name="head")

        def call(self, inputs: Any) -> Any:
            return self.head(self.bert(inputs).pooler_output)

    yield Outer


def subclassed(compiled: bool = False) -> Any:
    with outer("mine") as kind:
        model = kind(transformers.TFBertModel(transformers.BertConfig(**SIZES)))
    model(tf.constant([[5, 6, 7]]))
    return trained(model, compiled)


def functional(compiled: bool = False) -> Any:
    ids = keras.Input((4,), dtype="int32", name="input_ids")
    layer = transformers.TFBertModel(transformers.BertConfig(**SIZES))
    outputs = keras.layers.Dense(3, name="classifier_out")(layer(ids).pooler_output)
    return trained(keras.Model(ids, outputs), compiled)


def trained(model: Any, compiled: bool) -> Any:
    stream = np.random.default_rng(2)
    for weight in model.weights:
        weight.assign_add(stream.standard_normal(weight.shape).astype(np.float32) * 0.1)
    if compiled:
        model.compile(keras.optimizers.Adam(), "mse", metrics=["mae"])
        stepped(model.optimizer, model.trainable_variables)
    return model


def encoder_of(model: Any) -> dict[str, np.ndarray]:
    """Return the values of the encoder in a Keras model, by transformers' own names."""
    names = [weight.name for weight in model.weights]
    values = {
        name[name.find("bert/", name.find("bert_model")) :]: weight.numpy()
        for name, weight in zip(names, model.weights, strict=True)
        if "/bert/" in name
    }
    assert 0 < len(values) == len(names) - 2
    return values  # fmt: skip


FORMS = ("checkpoint", "h5", "model")


@pytest.mark.parametrize("compiled", [False, True], ids=["", "compiled"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", [functional, subclassed])
def test_models_around_a_layer(make: Any, form: str, compiled: bool, tmp_path: Path) -> None:
    """``compose`` ignores their head, and ``convert`` names it."""
    if form == "model" and make is subclassed:
        pytest.skip("Keras 2 does not save subclassed models as HDF5")
    model = make(compiled)
    source = with_config(tmp_path / "in") / {"checkpoint": "ck"}.get(form, "weights.h5")
    (model.save if form == "model" else model.save_weights)(str(source))
    expected = encoder_of(model)
    with pytest.raises(MatchError) as caught:
        converter.convert(source, tmp_path / "out")
    assert len(caught.value.problems) == 2
    (patterns,) = re.findall(r"ignore=(\[.*?\])", caught.value.remedy or "")
    ignore = json.loads(patterns)
    converter.convert(source, tmp_path / "out", to=["tensorflow"], ignore=ignore)
    same_weights(tmp_path / "out/tf_model.h5", expected)
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2)).save_pretrained(tmp_path / "gpt2")
    tokens: dict[str, Any] = {"decoder_start_token": 1, "eos_token": 2, "pad_token": 3}
    result = converter.compose(source, tmp_path / "gpt2", tmp_path / "pair", **tokens)
    ignored = {name for name in result.to_dict()["ignored"]["encoder"] if "*" not in name}
    kept = {"optimizer_weights"} if compiled and form == "model" else set()
    assert len(ignored) == 2 + len(kept) and kept < ignored


def test_what_transformers_saves_of_a_layer(tmp_path: Path) -> None:
    """Its names keep those of the models around it, and transformers itself reads none of them."""
    model = subclassed()
    model.bert.save_pretrained(tmp_path / "in", safe_serialization=False)
    converter.convert(tmp_path / "in", tmp_path / "out", to=["tensorflow"])
    same_weights(tmp_path / "out/tf_model.h5", encoder_of(model))


@pytest.fixture(scope="module")
def saved_model(bert: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write what ``save_pretrained(saved_model=True)`` writes, and remove the HDF5 file."""
    directory = tmp_path_factory.mktemp("saved") / "bert"
    bert.save_pretrained(directory, saved_model=True, safe_serialization=False)
    (directory / "tf_model.h5").unlink()
    return directory


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "saved_model/1",
        "saved_model/1/saved_model.pb",
        "saved_model/1/variables",
        "saved_model/1/variables/variables",
    ],
)
def test_saved_models(saved_model: Path, reference: str, bert: Any, tmp_path: Path) -> None:
    assert converted(saved_model / reference, tmp_path / "out", bert) == {}


def test_a_saved_model_without_a_configuration(
    saved_model: Path, tmp_path: Path, bert: Any
) -> None:
    shutil.copytree(saved_model / "saved_model/1", tmp_path / "a/b/hub")
    with pytest.raises(CheckpointError, match=r"configuration not found[\s\S]*config=FILE"):
        converter.convert(tmp_path / "a/b/hub", tmp_path / "out")
    config = saved_model / "config.json"
    assert converted(tmp_path / "a/b/hub", tmp_path / "out", bert, config=config) == {}


@pytest.mark.parametrize("given", ["export", "runs/1"])
def test_checkpoints_below_the_directory_are_read_after_the_step(
    given: str, saved_model: Path, tmp_path: Path, bert: Any
) -> None:
    """The configuration is in the directory that is given, which the step names."""
    directory = with_config(tmp_path / "in")
    if given == "export":
        shutil.copytree(saved_model / "saved_model/1", directory / given)
    else:
        tf.train.Checkpoint(model=bert).write(str(directory / given / "weights"))
    with pytest.raises(CheckpointError, match=f"no weight file itself, but in {given}/") as caught:
        converter.convert(directory, tmp_path / "none")
    step = str(caught.value.remedy).rpartition("does: ")[2]
    source, config = shlex.split(step.replace("config=", "", 1))
    converted(Path(source), tmp_path / "out", bert, config=config)


def test_a_module_as_tensorflow_hub_has_them(bert: Any, tmp_path: Path) -> None:
    """The model is an attribute; the directory has the configuration."""
    module = tf.Module()
    module.encoder = bert
    tf.saved_model.save(module, str(tmp_path / "in"))
    with_config(tmp_path / "in")
    assert converted(tmp_path / "in", tmp_path / "out", bert) == {}


def test_a_pair_as_an_object_based_checkpoint(tmp_path: Path) -> None:
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.BertConfig(**SIZES),
        transformers.GPT2Config(**GPT2, is_decoder=True, add_cross_attention=True),
    )
    model = transformers.TFEncoderDecoderModel(config)
    ids = tf.constant([[5, 6, 7]])
    model(input_ids=ids, decoder_input_ids=ids)
    config.save_pretrained(tmp_path / "in")
    model.save_weights(str(tmp_path / "in/ck"))
    converter.convert(tmp_path / "in", tmp_path / "out", to=["tensorflow"])
    from converter.formats.registry import open_file

    expected = {weight.name.partition("/")[2]: weight.numpy() for weight in model.weights}
    with open_file(tmp_path / "out/tf_model.h5") as reader:
        assert reader.tensors.keys() == expected.keys()
        for name, tensor in reader.tensors.items():
            np.testing.assert_array_equal(tensor.read(), expected[name], err_msg=name)


def test_inspect_names_what_training_keeps(bert: Any, tmp_path: Path) -> None:
    directory = with_config(tmp_path / "in")
    optimizer = stepped(keras.optimizers.legacy.Adam(), bert.trainable_variables)
    tf.train.Checkpoint(model=bert, optimizer=optimizer).save(str(directory / "ck"))
    ignored = converter.inspect(directory).to_dict()["ignored"]
    assert ignored.keys() == {"*/.OPTIMIZER_SLOT/optimizer/*", "optimizer/*", "save_counter"}


@pytest.mark.parametrize("architecture", ["bart", "esm", "t5"])
def test_variables_that_are_outside_the_model_or_twice(architecture: str, tmp_path: Path) -> None:
    """Shared embeddings have a scope of their own; ESM's output layer repeats the embeddings."""
    sizes = json.loads((TINY / f"{architecture}.json").read_text())["config"]
    config = transformers.AutoConfig.for_model(architecture, **sizes)
    kind = {
        "bart": "TFBartForConditionalGeneration",
        "esm": "TFEsmForMaskedLM",
        "t5": "TFT5ForConditionalGeneration",
    }[architecture]
    model = getattr(transformers, kind)(config)
    model(model.dummy_inputs)
    model.save_pretrained(tmp_path / "h5", safe_serialization=False)
    shutil.copytree(tmp_path / "h5", tmp_path / "in", ignore=shutil.ignore_patterns("*.h5"))
    model.save_weights(str(tmp_path / "in/ck"))
    for source in ("h5", "in"):
        converter.convert(tmp_path / source, tmp_path / f"{source} out", to=["pytorch"])
    read, expected = (load_file(tmp_path / f"{s} out/model.safetensors") for s in ("in", "h5"))
    assert read.keys() == expected.keys()
    for name, array in read.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
