"""Google's and OpenAI's own releases: names and layouts against transformers' own converters."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter import compose, convert, inspect
from converter.errors import CheckpointError
from tests.transformers import original_releases as releases
from tests.transformers.original_releases import Array, Names

pytestmark = pytest.mark.peer
torch = pytest.importorskip("torch")
pytest.importorskip("tensorflow")
transformers = pytest.importorskip("transformers")

BERT = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
}
ALBERT = {
    **BERT,
    "num_hidden_layers": 4,
    "embedding_size": 20,
    "num_hidden_groups": 2,
    "inner_group_num": 2,
    "net_structure_type": 0,
}
ELECTRA = {**BERT, "embedding_size": 20}
GPT2 = {"n_vocab": 61, "n_ctx": 30, "n_embd": 28, "n_head": 4, "n_layer": 3}


@dataclass(frozen=True)
class Release:
    """A tiny model of a class, and the form of its release."""

    cls: str
    config_file: str
    config: dict[str, int]
    names: Names
    prefix: str
    loader: str
    """transformers' own converter."""

    def fields(self) -> dict[str, int]:
        renamed = {"n_vocab": "vocab_size", "n_ctx": "n_positions"}
        return {renamed.get(key, key): value for key, value in self.config.items()}

    def model(self) -> Any:
        cls = getattr(transformers, self.cls)
        model = cls(cls.config_class(**self.fields())).eval()
        with torch.no_grad():
            generator = torch.Generator().manual_seed(7)
            for parameter in model.parameters():
                parameter.normal_(0, 0.1, generator=generator)
        return model


RELEASES = {
    "bert": Release(
        "BertForPreTraining",
        "bert_config.json",
        BERT,
        releases.BERT,
        "bert_model.ckpt",
        "bert.modeling_bert.load_tf_weights_in_bert",
    ),
    "albert": Release(
        "AlbertForPreTraining",
        "albert_config.json",
        ALBERT,
        releases.ALBERT,
        "model.ckpt-best",
        "albert.modeling_albert.load_tf_weights_in_albert",
    ),
    "electra": Release(
        "ElectraForPreTraining",
        "electra_config.json",
        ELECTRA,
        releases.ELECTRA,
        "electra_small",
        "electra.modeling_electra.load_tf_weights_in_electra",
    ),
    "gpt2": Release(
        "GPT2LMHeadModel",
        "hparams.json",
        GPT2,
        releases.GPT2,
        "model.ckpt",
        "gpt2.modeling_gpt2.load_tf_weights_in_gpt2",
    ),
}


def generator() -> dict[str, Array]:
    """Return the generator that ELECTRA's releases contain, half as wide as the discriminator."""
    cls = transformers.ElectraForMaskedLM
    config = cls.config_class(**{**ELECTRA, "hidden_size": 12, "intermediate_size": 20})
    return releases.to_release(cls(config).state_dict(), releases.GENERATOR)


def loader(release: Release) -> Callable[..., Any]:
    module, _, name = release.loader.rpartition(".")
    return getattr(import_module(f"transformers.models.{module}"), name)


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a nested dictionary by path."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {k: v for key in tree for k, v in flat(tree[key], f"{prefix}/{key}").items()}


@pytest.fixture(params=list(RELEASES))
def architecture(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def release(architecture: str) -> Release:
    return RELEASES[architecture]


@pytest.fixture
def model(release: Release) -> Any:
    return release.model()


@pytest.fixture
def directory(architecture: str, release: Release, model: Any, tmp_path: Path) -> Path:
    directory = tmp_path / "release"
    directory.mkdir()
    values = releases.to_release(model.state_dict(), release.names)
    if architecture == "electra":
        values |= generator()
    if architecture != "gpt2":
        values = releases.with_optimizer_state(values)
    releases.save(directory / release.prefix, values)
    releases.write_json(directory / release.config_file, release.config)
    return directory


def source(directory: Path, release: Release) -> dict[str, Any]:
    """Return the release as arguments, with the configuration that ELECTRA's releases lack."""
    if release.cls.startswith("Electra"):
        return {"source": directory, "config": directory / release.config_file}
    return {"source": directory}


def test_the_converter_of_transformers_agrees(release, model, directory):
    """A check of the names in this test: transformers reads them and gets the original values."""
    cls = getattr(transformers, release.cls)
    empty = cls(cls.config_class(**release.fields()))
    prefix = directory / release.prefix
    if release.cls.startswith("GPT2"):
        loader(release)(empty.transformer, empty.config, str(prefix))
    else:
        loader(release)(empty, empty.config, str(prefix))
    expected = model.state_dict()
    for name, values in empty.state_dict().items():
        assert torch.equal(values, expected[name]), name


def test_converts_to_every_framework(release, model, directory, tmp_path):
    output = tmp_path / "out"
    result = convert(**source(directory, release), output=output, pytorch_format="both")
    assert result.frameworks == ("pytorch", "tensorflow", "flax")
    assert not result.to_dict()["initialized"]
    cls = getattr(transformers, release.cls)
    loaded, info = cls.from_pretrained(output, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    requested = model.state_dict()
    for name, values in loaded.state_dict().items():
        assert torch.equal(values, requested[name]), name
    saved = tmp_path / "saved"
    model.save_pretrained(saved, safe_serialization=False)
    cls = getattr(transformers, f"Flax{release.cls}")
    read, expected = (
        cls.from_pretrained(output).params,
        cls.from_pretrained(saved, from_pt=True).params,
    )
    assert flat(read).keys() == flat(expected).keys()
    for name, values in flat(expected).items():
        assert np.array_equal(flat(read)[name], values), name
    cls = getattr(transformers, f"TF{release.cls}")
    read = cls.from_pretrained(output, use_safetensors=False).weights
    expected = cls.from_pretrained(saved, from_pt=True).weights
    for one, other in zip(read, expected, strict=True):
        assert one.name.split("/")[1:] == other.name.split("/")[1:]
        assert np.array_equal(one.numpy(), other.numpy()), one.name


def test_writes_a_complete_configuration(architecture, release, directory, tmp_path):
    convert(**source(directory, release), output=tmp_path / "out", to=["pytorch"])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == architecture
    assert config["architectures"] == [release.cls]
    assert config.items() >= release.fields().items()


def test_reports_what_it_ignores(architecture, release, directory):
    report = inspect(**source(directory, release)).to_dict()
    assert (
        report["fits"]
        and report["format"] == "tensorflow-checkpoint"
        and report["dialect"] == "google"
    )
    assert not report["unmatched"] and not report["mismatched"]
    training = [name for name in report["ignored"] if name.endswith(("/adam_m", "/adam_v"))]
    if architecture != "gpt2":
        assert len(training) > 20 and "global_step" in report["ignored"]
    if architecture == "electra":
        assert "generator_predictions/output_bias" in report["ignored"]
    assert all(report["ignored"].values())


def test_a_release_composes(release, directory, tmp_path):
    """A released encoder with the GPT-2 release as decoder."""
    if release.cls.startswith("GPT2"):
        pytest.skip("is the decoder of all others")
    gpt2, other = RELEASES["gpt2"], tmp_path / "gpt2"
    other.mkdir()
    decoder = gpt2.model()
    releases.save(other / gpt2.prefix, releases.to_release(decoder.state_dict(), gpt2.names))
    releases.write_json(other / gpt2.config_file, gpt2.config)
    (other / "encoder.json").write_text(json.dumps({"<|endoftext|>": 5}))
    (other / "vocab.bpe").write_text("#version: 0.2\n")
    (directory / "vocab.txt").write_text("[PAD]\n")
    encoder: dict[str, Any] = {"encoder_config": source(directory, release).get("config")}
    output = tmp_path / "out"
    compose(
        directory,
        other,
        output,
        decoder_start_token="<|endoftext|>",
        eos_token=5,
        pad_token=5,
        to=["pytorch"],
        **encoder,
    )
    loaded, info = transformers.EncoderDecoderModel.from_pretrained(
        output, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert loaded.config.decoder_start_token_id == 5
    expected = decoder.state_dict()
    for name, values in loaded.decoder.state_dict().items():
        if "crossattention" not in name and "ln_cross_attn" not in name:
            assert torch.equal(values, expected[name]), name
    assert (output / "vocab.txt").is_file()
    assert (output / "decoder_tokenizer" / "vocab.json").is_file()
    assert (output / "decoder_tokenizer" / "merges.txt").is_file()


def test_several_data_files(directory, release, model, tmp_path):
    """As trained on several machines; and named as TensorFlow names a bundle."""
    values = releases.to_release(model.state_dict(), release.names)
    other = tmp_path / "sharded"
    other.mkdir()
    releases.save_sharded(other / "m.ckpt", values, 3)
    releases.write_json(other / "config.json", release.config)
    assert len(list(other.glob("*.data-*-of-00003"))) == 3
    for reference in (
        other / "m.ckpt",
        other / "m.ckpt.index",
        other / "m.ckpt.data-00001-of-00003",
    ):
        report = inspect(reference).to_dict()
        assert report["fits"] and len(report["files"]) == 4
    (other / "m.ckpt.data-00001-of-00003").unlink()
    with pytest.raises(CheckpointError, match="1 of 3 data file"):
        inspect(other)


def test_hub_modules_are_unwrapped(release, model, tmp_path):
    if release.cls.startswith("GPT2"):
        pytest.skip("was no TensorFlow Hub module")
    values = releases.to_release(model.state_dict(), release.names)
    values = {f"module/{name}": array for name, array in values.items()}
    releases.save(tmp_path / "variables", values)
    releases.write_json(tmp_path / "config.json", release.config)
    assert inspect(tmp_path).fits
