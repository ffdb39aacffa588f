"""Tiny random models of nine architectures, built and saved by transformers.

Noise is added to every parameter, including biases and layer norms, and all sizes of a model differ
where the architecture allows it, so that a wrong tensor, a missing transposition or a missing bias
changes the output. transformers is imported on first use, never with this module.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

STEMS = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert",
    "roberta-prelayernorm": "RobertaPreLayerNorm",
    "gpt2": "GPT2",
    "distilbert": "DistilBert",
    "electra": "Electra",
    "albert": "Albert",
}
"""Model type → prefix of its class names in transformers."""

DECODERS = tuple(
    architecture for architecture in STEMS if architecture not in ("distilbert", "albert")
)
"""Model types with a causal head and cross-attention."""

SINGLES = tuple(
    (architecture, head)
    for architecture in STEMS
    for head in ("base", "mlm", "causal", "pretraining")
    if (head != "mlm" or architecture != "gpt2")
    and (head != "causal" or architecture in DECODERS)
    and (head != "pretraining" or architecture in ("bert", "electra", "albert"))
)
"""Model type and head of every stand-alone class in PyTorch."""

PREFIXES = {"pytorch": "", "tensorflow": "TF", "flax": "Flax"}
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "roberta-prelayernorm")
"""Model types that count positions from ``pad_token_id + 1``."""

NOISE = 0.1


@dataclass(frozen=True)
class Size:
    """The sizes of a tiny model, all different."""

    hidden: int
    heads: int
    intermediate: int
    layers: int
    vocab: int
    positions: int
    types: int
    embedding: int


LARGE = Size(48, 6, 76, 3, 149, 44, 3, 28)
SMALL = Size(32, 4, 56, 2, 131, 40, 2, 20)
EQUAL = Size(32, 2, 68, 3, 137, 42, 4, 24)
"""As wide as `SMALL`, and different in all other sizes."""
SIZES = {"large": LARGE, "small": SMALL, "equal": EQUAL}


def configuration(architecture: str, size: Size, **changes: Any) -> Any:
    """Return the transformers configuration of a tiny model; ``changes`` override the size."""
    import transformers

    fields: dict[str, Any] = {
        "vocab_size": size.vocab,
        "hidden_size": size.hidden,
        "num_attention_heads": size.heads,
        "num_hidden_layers": size.layers,
        "intermediate_size": size.intermediate,
        "max_position_embeddings": size.positions,
        "type_vocab_size": size.types,
    }
    if architecture == "gpt2":
        fields = {
            "vocab_size": size.vocab,
            "n_embd": size.hidden,
            "n_head": size.heads,
            "n_layer": size.layers,
            "n_inner": size.intermediate,
            "n_positions": size.positions,
            "bos_token_id": size.vocab - 2,
            "eos_token_id": size.vocab - 1,
        }
    elif architecture == "distilbert":
        fields = {
            "vocab_size": size.vocab,
            "dim": size.hidden,
            "n_heads": size.heads,
            "n_layers": size.layers,
            "hidden_dim": size.intermediate,
            "max_position_embeddings": size.positions,
        }
    elif architecture in ("electra", "albert"):
        fields["embedding_size"] = size.embedding
    if architecture == "albert":
        fields |= {"num_hidden_groups": 1, "inner_group_num": 1}
    return getattr(transformers, STEMS[architecture] + "Config")(**(fields | changes))


def class_name(framework: str, architecture: str, head: str) -> str | None:
    """Return the class for ``head`` (``base``, ``mlm``, ``causal``, ``pretraining``), if any."""
    import transformers

    stem = STEMS[architecture]
    suffix = {
        "base": "Model",
        "mlm": "ForMaskedLM",
        "causal": "ForCausalLM",
        "pretraining": "ForPreTraining",
    }[head]
    if head == "causal" and (
        architecture == "gpt2" or (architecture == "bert" and framework != "flax")
    ):
        suffix = "LMHeadModel"
    name = PREFIXES[framework] + stem + suffix
    return name if hasattr(transformers, name) else None


def has_class(framework: str, architecture: str, head: str) -> bool:
    """Return whether a framework has the class, without importing it."""
    if framework == "flax":
        return architecture != "camembert"
    return framework == "pytorch" or (architecture, head) not in (("electra", "causal"),)


def noise(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return normal noise that depends only on the parameter's name, shape and the seed."""
    stream = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return (stream.standard_normal(shape) * NOISE).astype(np.float32)


def pytorch_model(
    architecture: str, head: str = "base", size: Size = SMALL, seed: int = 0, **changes: Any
) -> Any:
    """Return a PyTorch model in eval mode with noise on every parameter.

    ``pooler=False`` in ``changes`` builds the base model without its pooler.
    """
    import torch
    import transformers

    pooler = changes.pop("pooler", True)
    if head == "causal":
        changes.setdefault("is_decoder", True)
    name = class_name("pytorch", architecture, head)
    assert name, f"PyTorch has no {head} class for {architecture}"
    torch.manual_seed(seed)
    options = {} if pooler else {"add_pooling_layer": False}
    model = getattr(transformers, name)(configuration(architecture, size, **changes), **options)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter += torch.from_numpy(noise(key, tuple(parameter.shape), seed))
    return model.eval()


def tensorflow_model(
    architecture: str, head: str = "base", size: Size = SMALL, seed: int = 0, **changes: Any
) -> Any:
    """Return a randomly initialized TensorFlow model, with noise on every weight."""
    import transformers

    if head == "causal":
        changes.setdefault("is_decoder", True)
    name = class_name("tensorflow", architecture, head)
    assert name, f"TensorFlow has no {head} class for {architecture}"
    model = getattr(transformers, name)(configuration(architecture, size, **changes))
    model.build_in_name_scope()
    add_tensorflow_noise(model, seed)
    return model


def add_tensorflow_noise(model: Any, seed: int) -> None:
    """Add noise to every weight of a built TensorFlow model."""
    for weight in model.weights:
        key = weight.name.split("/", 1)[1]
        weight.assign_add(noise(key, tuple(weight.shape), seed))


def flax_model(
    architecture: str, head: str = "base", size: Size = SMALL, seed: int = 0, **changes: Any
) -> Any:
    """Return a randomly initialized Flax model, with noise on every parameter."""
    import transformers

    if head == "causal":
        changes.setdefault("is_decoder", True)
    name = class_name("flax", architecture, head)
    assert name, f"Flax has no {head} class for {architecture}"
    model = getattr(transformers, name)(configuration(architecture, size, **changes), seed=seed)
    add_flax_noise(model, seed)
    return model


def add_flax_noise(model: Any, seed: int) -> None:
    """Add noise to every parameter of a Flax model."""
    from flax.traverse_util import flatten_dict, unflatten_dict

    flat = flatten_dict(model.params, sep="/")
    model.params = unflatten_dict(
        {key: np.asarray(value) + noise(key, value.shape, seed) for key, value in flat.items()},
        sep="/",
    )


def translated(directory: Path, framework: str, name: str) -> Any:
    """Convert a stand-alone PyTorch checkpoint to TensorFlow or Flax with transformers.

    Only for stand-alone models, which transformers converts correctly, unlike encoder-decoders.
    """
    import transformers

    return getattr(transformers, name).from_pretrained(directory, from_pt=True)


def weights(model: Any, framework: str) -> dict[str, np.ndarray]:
    """Return the weights of a TensorFlow or Flax model by path, without the instance name."""
    if framework == "tensorflow":
        return {weight.name.split("/", 1)[1]: weight.numpy() for weight in model.weights}
    from flax.traverse_util import flatten_dict

    return {
        key: np.asarray(value) for key, value in flatten_dict(dict(model.params), sep="/").items()
    }


def combined_pytorch(encoder: Any, decoder: Any, seed: int = 0) -> Any:
    """Compose two configurations in PyTorch with transformers, with noise on every parameter."""
    import torch
    import transformers

    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, decoder, decoder_start_token_id=5, pad_token_id=0
    )
    torch.manual_seed(seed)
    model = transformers.EncoderDecoderModel(config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter += torch.from_numpy(noise(key, tuple(parameter.shape), seed))
    return model.eval()


def combined_tensorflow(encoder: Any, decoder: Any, seed: int = 0) -> Any:
    """Compose two configurations in TensorFlow with transformers, with noise on every weight."""
    import transformers

    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, decoder, decoder_start_token_id=5, pad_token_id=0
    )
    model = transformers.TFEncoderDecoderModel(config)
    model.build_in_name_scope()
    add_tensorflow_noise(model, seed)
    return model


def combined_flax(encoder: Any, decoder: Any, seed: int = 0) -> Any:
    """Compose two configurations in Flax with transformers, with noise on every parameter."""
    import transformers

    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, decoder, decoder_start_token_id=5, pad_token_id=0
    )
    model = transformers.FlaxEncoderDecoderModel(config, seed=seed)
    add_flax_noise(model, seed)
    return model
