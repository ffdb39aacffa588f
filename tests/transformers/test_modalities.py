"""Image and audio encoders: what differs from text encoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter
from converter.errors import UnsupportedError
from tests.transformers import oracle
from tests.transformers import oracle_checks as judge
from tests.transformers.tiny import LIBRARY, add_noise, build, tiny

pytestmark = pytest.mark.peer

TOKENS: dict[str, Any] = {"decoder_start_token": 5, "eos_token": 6, "pad_token": 7}


def encoder(directory: Path, architecture: str, variant: str = "", **changes: Any) -> Any:
    """Save a tiny encoder in a directory."""
    spec = tiny(architecture)
    name = spec.table.models[spec.table.roles["encoder"].model].classes["pytorch"]
    model = build(spec, name, {**spec.fields(variant), **changes})
    model.save_pretrained(directory)
    return model


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny BERT decoder, 48 wide, with tokenizer files."""
    directory = tmp_path_factory.mktemp("decoder")
    spec = tiny("bert")
    build(spec, "BertLMHeadModel", {**spec.config, "is_decoder": True}).save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(f"word{number}" for number in range(149)))
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return directory


def stored(directory: Path) -> dict[str, np.ndarray]:
    """Return the tensors of the PyTorch file."""
    from safetensors.numpy import load_file

    return load_file(directory / "model.safetensors")


def equal(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    """Assert that both have the same names and the same bits."""
    return first.keys() == second.keys() and all(
        np.array_equal(value, second[key]) for key, value in first.items()
    )


def test_processors_are_copied(tmp_path: Path, decoder: Path) -> None:
    """The encoder's processor and the decoder's tokenizer are copied, not the speech vocabulary."""
    encoder(tmp_path / "speech", "wav2vec2")
    (tmp_path / "speech" / "preprocessor_config.json").write_text('{"sampling_rate": 16000}')
    (tmp_path / "speech" / "vocab.json").write_text('{"A": 0}')
    (tmp_path / "speech" / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    converter.compose(tmp_path / "speech", decoder, tmp_path / "out", to=["pytorch"], **TOKENS)
    converter.convert(tmp_path / "out", tmp_path / "again", to=["pytorch"])
    for directory in (tmp_path / "out", tmp_path / "again"):
        assert json.loads((directory / "preprocessor_config.json").read_text()) == {
            "sampling_rate": 16000
        }
        assert (directory / "vocab.txt").read_text() == (decoder / "vocab.txt").read_text()
        assert not (directory / "vocab.json").exists()
        assert not (directory / "decoder_tokenizer").exists()
        assert "BertTokenizer" in (directory / "tokenizer_config.json").read_text()


def test_weight_norm_is_read_in_both_spellings(tmp_path: Path, decoder: Path) -> None:
    from safetensors.numpy import save_file

    encoder(tmp_path / "new", "wav2vec2")
    old = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for name, value in stored(tmp_path / "new").items()
    }
    assert sum(name.endswith(("weight_g", "weight_v")) for name in old) == 2
    (tmp_path / "old").mkdir()
    save_file(old, tmp_path / "old" / "model.safetensors", metadata={"format": "pt"})
    config = (tmp_path / "new" / "config.json").read_text()
    (tmp_path / "old" / "config.json").write_text(config)
    for name in ("new", "old"):
        converter.compose(tmp_path / name, decoder, tmp_path / f"{name}-out", **TOKENS)
    assert equal(stored(tmp_path / "new-out"), stored(tmp_path / "old-out"))
    loaded = judge.load(tmp_path / "old-out", "safetensors", "SpeechEncoderDecoderModel", None)
    assert not loaded.problems


def test_an_adapter_of_another_width_is_refused_where_a_class_cannot_join_it(
    tmp_path: Path, decoder: Path
) -> None:
    """PyTorch's projection expects ``hidden_size``, here 24; the adapter gives 32, BERT has 48."""
    encoder(tmp_path / "speech", "wav2vec2", "narrowing-adapter", hidden_size=24)
    with pytest.raises(UnsupportedError, match=r"(?s)adapter"):
        converter.compose(tmp_path / "speech", decoder, tmp_path / "out", to=["pytorch"], **TOKENS)
    assert not (tmp_path / "out").exists()


def test_tensorflow_has_no_class_for_speech(tmp_path: Path, decoder: Path) -> None:
    encoder(tmp_path / "speech", "hubert")
    with pytest.raises(UnsupportedError, match=r"(?s)no tensorflow class"):
        converter.compose(
            tmp_path / "speech", decoder, tmp_path / "out", to=["tensorflow"], **TOKENS
        )


def test_the_vision_model_of_clip_is_an_encoder(tmp_path: Path, decoder: Path) -> None:
    import torch
    import transformers

    side = tiny("clip_vision_model").config
    config = transformers.CLIPConfig(
        text_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        vision_config=dict(side),
        projection_dim=12,
    )
    torch.manual_seed(0)
    clip = transformers.CLIPModel(config)
    clip.save_pretrained(tmp_path / "whole")
    result = converter.compose(tmp_path / "whole", decoder, tmp_path / "out", **TOKENS)
    loaded = judge.load(tmp_path / "out", "safetensors", "VisionEncoderDecoderModel", None)
    assert not loaded.problems
    native = loaded.model.encoder.state_dict()
    for name, value in native.items():
        assert value.equal(clip.state_dict()[name]), name
    dropped = result.to_dict()["ignored"]["encoder"]
    assert any(name.startswith("text_model.") for name in dropped)


@pytest.mark.parametrize(
    ("larger", "own", "composite"),
    [
        ("gemma3", "gemma3_text", "EncoderDecoderModel"),
        ("parakeet_ctc", "parakeet_encoder", "SpeechEncoderDecoderModel"),
    ],
)
def test_the_encoder_in_a_larger_model_is_an_encoder(
    tmp_path: Path, decoder: Path, larger: str, own: str, composite: str
) -> None:
    import transformers

    side = dict(tiny(own).config)
    if larger == "gemma3":
        image = {**tiny("siglip_vision_model").config, "image_size": 24, "patch_size": 8}
        config = transformers.Gemma3Config(
            text_config=side, vision_config=image, mm_tokens_per_image=9, image_token_index=140
        )
        model = transformers.Gemma3ForConditionalGeneration(config)
        inner = model.language_model
    else:
        config = transformers.ParakeetCTCConfig(vocab_size=37, pad_token_id=36, encoder_config=side)
        model = transformers.ParakeetForCTC(config)
        inner = model.encoder
    model.save_pretrained(tmp_path / "larger")
    result = converter.compose(tmp_path / "larger", decoder, tmp_path / "out", **TOKENS)
    loaded = judge.load(tmp_path / "out", "safetensors", composite, None)
    assert not loaded.problems
    expected, native = inner.state_dict(), loaded.model.encoder.state_dict()
    assert expected.keys() == native.keys()
    assert all(value.equal(native[name]) for name, value in expected.items())
    assert result.to_dict()["ignored"]["encoder"]


def test_an_image_classifier_leaves_its_head_behind(tmp_path: Path, decoder: Path) -> None:
    spec = tiny("vit")
    model = build(spec, "ViTForImageClassification", spec.config)
    model.save_pretrained(tmp_path / "classifier")
    result = converter.compose(tmp_path / "classifier", decoder, tmp_path / "out", **TOKENS)
    assert set(result.frameworks) == {"pytorch", "tensorflow", "flax"}
    assert any("pooler" in text for text in result.warnings)
    tensors = stored(tmp_path / "out")
    for name, value in model.vit.state_dict().items():
        assert np.array_equal(tensors[f"encoder.{name}"], value.numpy()), name


NATIVE = [
    ("tensorflow", "vit", ""),
    ("tensorflow", "swin", ""),
    ("tensorflow", "wav2vec2", ""),
    ("flax", "beit", "relative"),
    ("flax", "wav2vec2", "stable"),
]


@pytest.mark.parametrize(("framework", "architecture", "variant"), NATIVE)
def test_files_of_other_frameworks_convert_back_to_pytorch(
    tmp_path: Path, framework: str, architecture: str, variant: str
) -> None:
    """A checkpoint that TensorFlow or Flax made and wrote by itself, read as PyTorch."""
    import transformers

    from tests.transformers.models import add_flax_noise, add_tensorflow_noise

    spec = tiny(architecture)
    classes = spec.table.models[spec.table.roles["encoder"].model].classes
    config = transformers.AutoConfig.for_model(architecture, **spec.fields(variant))
    model = getattr(transformers, classes[framework])(config)
    if framework == "tensorflow":
        model.build_in_name_scope()
        trainable = {id(weight) for weight in model.trainable_weights}
        constants = [weight for weight in model.weights if id(weight) not in trainable]
        before = [weight.numpy() for weight in constants]
        add_tensorflow_noise(model, 0)
        for weight, value in zip(constants, before, strict=True):  # integer tables
            weight.assign(value)
    else:
        add_flax_noise(model, 0)
    model.save_pretrained(tmp_path / "native")
    kind = {"tensorflow": "h5", "flax": "msgpack"}[framework]
    first = judge.load(tmp_path / "native", kind, classes[framework], spec.batch(framework))
    converter.convert(tmp_path / "native", tmp_path / "out", to=["pytorch"])
    second = judge.load(tmp_path / "out", "safetensors", classes["pytorch"], spec.batch("pytorch"))
    assert not [*first.problems, *second.problems, *oracle.compare(second, first)]


PAIRS = [
    ("vit", "no-bias", "trocr", ""),
    ("donut-swin", "", "mbart", ""),
    ("vit", "", "gpt2", ""),
    ("swinv2", "", "bart", ""),
    ("wav2vec2", "narrowing-adapter", "mbart", ""),
    ("hubert", "", "gpt2", ""),
    ("wav2vec2-conformer", "", "roberta", ""),
]


@pytest.mark.parametrize(("architecture", "variant", "other", "other_variant"), PAIRS)
def test_published_encoder_decoder_models(
    tmp_path: Path, architecture: str, variant: str, other: str, other_variant: str
) -> None:
    """An encoder-decoder of transformers, converted to every framework: complete, same outputs."""
    import transformers

    composite = tiny(architecture).table.roles["encoder"].composite
    fields = tiny(architecture).fields(variant)
    decoder_fields = tiny(other).fields(other_variant)
    if "output_hidden_size" in fields:  # PyTorch's class can only compose it unchanged
        decoder_fields["d_model"] = fields["output_hidden_size"]
        decoder_fields["decoder_attention_heads"] = 4
        decoder_fields["encoder_attention_heads"] = 4
    table = LIBRARY.composite(composite)
    submodels = (
        transformers.AutoConfig.for_model(architecture, **fields),
        transformers.AutoConfig.for_model(other, **decoder_fields),
    )
    name = table.classes["pytorch"]
    config_class = getattr(transformers, name.removesuffix("Model") + "Config")
    config = config_class.from_encoder_decoder_configs(
        *submodels, decoder_start_token_id=5, pad_token_id=7
    )
    model = getattr(transformers, name)(config).eval()
    add_noise(model, 2)
    model.save_pretrained(tmp_path / "source")
    converter.convert(tmp_path / "source", tmp_path / "out", pytorch_format="both")
    results = []
    for framework, kind in (("pytorch", "safetensors"), ("tensorflow", "h5"), ("flax", "msgpack")):
        if not (tmp_path / "out" / oracle.FILES[kind]).exists():
            continue
        batch = {
            **tiny(architecture).batch(framework),
            **tiny(other).batch(framework, "decoder_", seed=1),
        }
        results.append(judge.load(tmp_path / "out", kind, table.classes[framework], batch))
    problems = [text for result in results for text in result.problems]
    for result in results[1:]:
        problems += oracle.compare(results[0], result)
    assert not problems
    assert len(results) == (3 if (architecture, other) == ("vit", "gpt2") else 1), results
    first = stored(tmp_path / "source")
    assert equal(first, stored(tmp_path / "out"))
    (tmp_path / "out" / "model.safetensors").unlink()
    complete = getattr(transformers, name).from_pretrained(tmp_path / "out", use_safetensors=False)
    assert all(
        complete.state_dict()[key].numpy().tobytes() == first[key].tobytes() for key in first
    )


@pytest.mark.parametrize(
    ("architecture", "variant"), [("swin", ""), ("wav2vec2-conformer", "rotary"), ("vit", "")]
)
def test_a_random_encoder_has_computed_tables(
    tmp_path: Path, decoder: Path, architecture: str, variant: str
) -> None:
    """The buffers of transformers are the same in a randomly initialized model."""
    model = encoder(tmp_path / "own", architecture, variant)
    composite = LIBRARY.composite(tiny(architecture).table.roles["encoder"].composite)
    converter.compose(tmp_path / "own", decoder, tmp_path / "out", random=["encoder"], **TOKENS)
    loaded = judge.load(tmp_path / "out", "safetensors", composite.classes["pytorch"], None)
    assert not loaded.problems
    buffers = dict(model.named_buffers())
    for name, value in loaded.model.encoder.state_dict().items():
        if ".running_" in name:
            continue
        if name in buffers:
            assert value.dtype == buffers[name].dtype, name
            assert np.allclose(value.numpy(), buffers[name].numpy(), rtol=1e-6, atol=0), name
        else:
            assert not value.equal(model.state_dict()[name]), name
