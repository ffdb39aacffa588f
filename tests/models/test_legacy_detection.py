"""Original releases, recognized without a framework: names come from the tables here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from safetensors.numpy import load_file

from converter import convert, inspect, verify
from converter.architectures.expressions import NamePattern
from converter.architectures.registry import ArchitectureRegistry
from converter.checkpoint.opening import open_files
from converter.errors import CheckpointError, FormatError, MatchError, TableError
from converter.formats.tensorflow_checkpoint.partitioned import slice_key
from converter.models.source_model import detect_model_type
from converter.tensors import TensorSpec
from tests import factories
from tests.factories import bundled_registry
from tests.formats import tensorflow_checkpoints

CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {"file": "bert_config.json", "model": "BertForPreTraining"},
    "albert": {
        "file": "albert_config.json",
        "model": "AlbertForPreTraining",
        "inner_group_num": 2,
        "num_hidden_groups": 2,
    },
    "electra": {"file": "config.json", "model": "ElectraForPreTraining"},
    "gpt2": {"file": "hparams.json", "model": "GPT2LMHeadModel", "n_inner": None},
}
HPARAMS = {"vocab_size": "n_vocab", "n_positions": "n_ctx"}


def release(directory: Path, architecture: str, name: str = "model.ckpt") -> dict[str, np.ndarray]:
    """Write a release of `architecture`; its values by canonical name."""
    own = dict(CONFIGS[architecture])
    file, model = own.pop("file"), own.pop("model")
    config = factories.tiny_config(architecture, **own)
    expanded = factories.model_spec(config, model)
    arrays = {
        TensorSpec(key, str(array.dtype), array.shape): array
        for key, array in google(expanded).items()
    }
    step = TensorSpec("global_step", "int64", ())
    directory.mkdir(parents=True, exist_ok=True)
    tensorflow_checkpoints.write(
        directory / f"{name}.index", {**arrays, step: np.asarray(7, np.int64)}
    )
    fields = bundled_registry().architecture(architecture).config.keys() & config.keys()
    renamed = HPARAMS if architecture == "gpt2" else {}
    plain = {renamed.get(key, key): config[key] for key in fields if config[key] is not None}
    (directory / file).write_text(json.dumps(plain))
    return {
        param.canonical.name: factories.noise(param.name, param.canonical.shape)
        for param in expanded.params
        if not param.tied_to
    }


def google(expanded: Any) -> dict[str, np.ndarray]:
    """Every tensor that has a name in the dialect, in its layout."""
    named = [param for param in expanded.params if "google" in param.stored_as]
    kept = type(expanded)(tuple(named), expanded.ignore)
    return factories.stored(kept, "google")


@pytest.mark.parametrize("architecture", CONFIGS)
def test_an_original_release_becomes_a_complete_checkpoint(architecture, tmp_path):
    values = release(tmp_path / "in", architecture)
    result = convert(tmp_path / "in", tmp_path / "out", to=["pytorch"])
    assert result.to_dict()["ignored"] == {
        "source": {"global_step": "counts the steps of training"}
    }
    read = load_file(tmp_path / "out" / "model.safetensors")
    assert read.keys() == values.keys()
    for name, array in values.items():
        assert np.array_equal(read[name], array), name
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == architecture
    assert config["architectures"] == [CONFIGS[architecture]["model"]]
    if architecture == "gpt2":
        assert (config["vocab_size"], config["n_positions"]) == (61, 30)
        assert not {"n_vocab", "n_ctx"} & config.keys()
    manifest = json.loads((tmp_path / "out" / "converter-manifest.json").read_text())
    files = manifest["sources"]["source"]["files"]
    assert set(files) == {"model.ckpt.index", "model.ckpt.data-00000-of-00001"}


def test_partitioned_variables_are_joined(tmp_path):
    """Each variable cut in two along its longest axis, the halves in different data files."""
    values = release(tmp_path / "in", "bert")
    entries, data = [(b"", tensorflow_checkpoints.number(1, 2))], [bytearray(), bytearray()]
    with open_files(tmp_path / "in") as checkpoint:
        arrays = {
            name: tensor.read() for name, tensor in checkpoint.tensors.items() if tensor.spec.shape
        }
    for name, array in arrays.items():
        axis = int(np.argmax(array.shape))
        complete, cut = array.shape[axis], array.shape[axis] // 3
        pieces = [[(0, -1)] * array.ndim for _ in range(2)]
        pieces[0][axis], pieces[1][axis] = (0, cut), (cut, complete - cut)
        listed = tensorflow_checkpoints.slices(pieces)
        entries.append((name.encode(), tensorflow_checkpoints.entry(1, array.shape, more=listed)))
        for shard, (part, piece) in enumerate(
            zip(np.split(array, [cut], axis), pieces, strict=True)
        ):
            place = (shard, len(data[shard]), part.nbytes)
            entries.append(
                (slice_key(name, piece), tensorflow_checkpoints.entry(1, part.shape, *place))
            )
            data[shard] += part.tobytes()
    tensorflow_checkpoints.write_parts(
        tmp_path / "in" / "model.ckpt.index", sorted(entries), [bytes(part) for part in data]
    )
    convert(tmp_path / "in", tmp_path / "out", to=["pytorch"])
    read = load_file(tmp_path / "out" / "model.safetensors")
    assert read.keys() == values.keys()
    for name, array in values.items():
        assert np.array_equal(read[name], array), name


@pytest.mark.parametrize(
    "reference", [".", "model.ckpt", "model.ckpt.index", "model.ckpt.data-00000-of-00001"]
)
def test_a_bundle_is_found_by_any_of_its_names(reference, tmp_path):
    release(tmp_path, "bert")
    with open_files(tmp_path / reference) as checkpoint:
        assert checkpoint.file_format == "tensorflow-checkpoint"
        assert checkpoint.config_path.name == "bert_config.json"
        assert [path.name for path in checkpoint.files] == [
            "model.ckpt.index",
            "model.ckpt.data-00000-of-00001",
        ]


def test_a_flipped_bit_is_reported_with_file_and_tensor(tmp_path):
    """By the checksum of the tensor, where its values are read; nothing is written."""
    values = release(tmp_path / "in", "bert")
    data = tmp_path / "in" / "model.ckpt.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    with open_files(tmp_path / "in") as checkpoint:
        name = next(name for name in checkpoint.tensors if name.endswith("word_embeddings"))
        content[cast(int, checkpoint.tensors[name].location[1]) + 5] ^= 1
    convert(tmp_path / "in", tmp_path / "good", to=["pytorch"])
    data.write_bytes(content)
    message = rf"(?s){data.name}.*{name}: the values do not have the checksum"
    with pytest.raises(FormatError, match=message):
        convert(tmp_path / "in", tmp_path / "out", to=["pytorch"])
    with pytest.raises(FormatError, match=message):
        verify(tmp_path / "good", against=[tmp_path / "in"])
    with pytest.raises(FormatError, match=message):
        inspect(tmp_path / "in", stats=True)
    assert values and sorted(path.name for path in tmp_path.iterdir()) == ["good", "in"]


def test_several_bundles_in_a_directory_are_named(tmp_path):
    release(tmp_path, "bert", "model.ckpt-10")
    release(tmp_path, "bert", "model.ckpt-20")
    with pytest.raises(CheckpointError, match=r"holds 2 .*\n.*model.ckpt-10, model.ckpt-20"):
        open_files(tmp_path)
    assert inspect(tmp_path / "model.ckpt-20").fits


def test_transformers_own_files_come_first(tmp_path):
    factories.make(tmp_path, "bert")
    (tmp_path / "bert.ckpt.index").write_bytes(b"of no interest")
    with open_files(tmp_path) as checkpoint:
        assert checkpoint.file_format == "safetensors"


def test_a_pytorch_file_with_an_old_configuration(tmp_path):
    """As pytorch-pretrained-bert had them in 2018."""
    made = factories.make(tmp_path, "bert", "BertForPreTraining", file_format="torch")
    config = {key: value for key, value in made.config.items() if key != "model_type"}
    (tmp_path / "config.json").unlink()
    (tmp_path / "bert_config.json").write_text(json.dumps(config))
    found = inspect(tmp_path)
    assert found.checkpoint.architecture == "bert" and found.fits


def test_a_stated_model_type_is_kept(tmp_path):
    release(tmp_path, "bert")
    config = json.loads((tmp_path / "bert_config.json").read_text())
    (tmp_path / "bert_config.json").write_text(json.dumps({**config, "model_type": "albert"}))
    with pytest.raises(MatchError):
        convert(tmp_path, tmp_path / "out", to=["pytorch"])


def test_a_configuration_that_fits_no_architecture(tmp_path):
    release(tmp_path, "bert")
    (tmp_path / "bert_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"states no model_type\n.*Add it"):
        inspect(tmp_path)
    (tmp_path / "bert_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"not found\n.*config=FILE.*hparams.json"):
        convert(tmp_path, tmp_path / "out")
    assert inspect(tmp_path).likely.model_types[""] == ("bert",)


def test_a_configuration_that_fits_several_architectures(tmp_path):
    release(tmp_path / "in", "bert")
    own = tmp_path / "twin.toml"
    text = (Path(__file__).parents[2] / "mappings" / "bert.toml").read_text()
    twin = re.sub(r'^(model_type\s*=) "bert"', r'\1 "twin"', text)
    assert twin != text
    own.write_text(twin)
    with open_files(tmp_path / "in") as checkpoint:
        with pytest.raises(CheckpointError, match="fits several architectures") as caught:
            detect_model_type(checkpoint, ArchitectureRegistry([own]))
        assert {problem.what.split(":")[0] for problem in caught.value.problems} == {
            "may be bert",
            "may be twin",
        }


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        (
            'rename_fields = { n_vocab = "vocab_size"',
            'rename_fields = { n_vocab = "words"',
            "not a field",
        ),
        ('model         = "GPT2LMHeadModel"', 'model = "GPT3"', "'GPT3' is not a model"),
        ('tensors       = ["model/h{layer}', 'tensors = ["model/h{layer', "braces do not pair"),
        (
            'tensors       = ["model/h{layer}/attn/c_attn/w"]',
            "tensors = []",
            "detection.tensors: is empty",
        ),
        (
            'fields        = ["n_vocab", ',
            'absent_fields = ["n_vocab", ',
            "detection.fields: is empty",
        ),
        ("[detection]", "[detection]\nsize = 3", "unknown key 'size'"),
        ('path.google = "h{layer}/ln_1"', 'not_in = ["keras"]', "is not a dialect"),
    ],
)  # fmt: skip
def test_mistakes_in_tables_are_named(old, new, finding, tmp_path):
    text = (Path(__file__).parents[2] / "mappings" / "gpt2.toml").read_text()
    assert text.count(old) == 1
    path = tmp_path / "gpt2.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(TableError, match=finding):
        ArchitectureRegistry([path]).architecture("gpt2")


def test_no_table_inherits_the_detection_of_another():
    registry = bundled_registry()
    assert {architecture.name for architecture in registry.with_detection()} >= set(CONFIGS)
    for name, parent in (("camembert", "roberta"), ("electra", "bert"), ("ernie", "bert")):
        own = registry.architecture(name).detection
        assert own is None or own != registry.architecture(parent).detection
    assert registry.architecture("camembert").detection is None
    assert registry.architecture("ernie").detection is None


def test_templates_that_are_open_in_front():
    param = NamePattern("*/adam_m")
    assert param.match("bert/pooler/dense/kernel/adam_m") == {}
    assert param.match("/adam_m") is None and param.match("a/adam_m/b") is None
    assert NamePattern("*/{n}/*").match("a/3/b") == {"n": 3}
