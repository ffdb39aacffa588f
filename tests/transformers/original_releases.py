"""Checkpoints as Google and OpenAI released them, written by TensorFlow from tiny models' values.

The names were copied by hand from the releases' listings, not from the mapping tables.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Names = list[tuple[str, str, bool]]
"""Pattern of a PyTorch name, the released name, and whether the values are transposed."""

_NORM = (("weight", "gamma", False), ("bias", "beta", False))
_DENSE = (("weight", "kernel", True), ("bias", "bias", False))
_BARE = (("weight", "output_weights", False), ("bias", "output_bias", False))


def _module(torch: str, google: str, leaves: tuple[tuple[str, str, bool], ...]) -> Names:
    return [(f"{torch}.{a}", f"{google}/{b}", swap) for a, b, swap in leaves]


def _embeddings(torch: str, google: str) -> Names:
    tables = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    rows = [(f"{torch}.embeddings.{t}.weight", f"{google}/embeddings/{t}", False) for t in tables]
    return rows + _module(f"{torch}.embeddings.LayerNorm", f"{google}/embeddings/LayerNorm", _NORM)


def _layers(torch: str, google: str) -> Names:
    torch, google = rf"{torch}.encoder.layer.(\d+)", rf"{google}/encoder/layer_\1"
    return [
        *_module(f"{torch}.attention.self.query", f"{google}/attention/self/query", _DENSE),
        *_module(f"{torch}.attention.self.key", f"{google}/attention/self/key", _DENSE),
        *_module(f"{torch}.attention.self.value", f"{google}/attention/self/value", _DENSE),
        *_module(f"{torch}.attention.output.dense", f"{google}/attention/output/dense", _DENSE),
        *_module(
            f"{torch}.attention.output.LayerNorm", f"{google}/attention/output/LayerNorm", _NORM
        ),
        *_module(f"{torch}.intermediate.dense", f"{google}/intermediate/dense", _DENSE),
        *_module(f"{torch}.output.dense", f"{google}/output/dense", _DENSE),
        *_module(f"{torch}.output.LayerNorm", f"{google}/output/LayerNorm", _NORM),
    ]


BERT: Names = [
    *_embeddings("bert", "bert"),
    *_layers("bert", "bert"),
    *_module("bert.pooler.dense", "bert/pooler/dense", _DENSE),
    *_module("cls.predictions.transform.dense", "cls/predictions/transform/dense", _DENSE),
    *_module("cls.predictions.transform.LayerNorm", "cls/predictions/transform/LayerNorm", _NORM),
    ("cls.predictions.bias", "cls/predictions/output_bias", False),
    *_module("cls.seq_relationship", "cls/seq_relationship", _BARE),
]

_GROUP = r"albert.encoder.albert_layer_groups.(\d+).albert_layers.(\d+)"
_INNER = r"bert/encoder/transformer/group_\1/inner_group_\2"

ALBERT: Names = [
    *_embeddings("albert", "bert"),
    *_module(
        "albert.encoder.embedding_hidden_mapping_in",
        "bert/encoder/embedding_hidden_mapping_in",
        _DENSE,
    ),
    *_module(f"{_GROUP}.attention.query", f"{_INNER}/attention_1/self/query", _DENSE),
    *_module(f"{_GROUP}.attention.key", f"{_INNER}/attention_1/self/key", _DENSE),
    *_module(f"{_GROUP}.attention.value", f"{_INNER}/attention_1/self/value", _DENSE),
    *_module(f"{_GROUP}.attention.dense", f"{_INNER}/attention_1/output/dense", _DENSE),
    *_module(f"{_GROUP}.attention.LayerNorm", f"{_INNER}/LayerNorm", _NORM),
    *_module(f"{_GROUP}.ffn", f"{_INNER}/ffn_1/intermediate/dense", _DENSE),
    *_module(f"{_GROUP}.ffn_output", f"{_INNER}/ffn_1/intermediate/output/dense", _DENSE),
    *_module(f"{_GROUP}.full_layer_layer_norm", f"{_INNER}/LayerNorm_1", _NORM),
    *_module("albert.pooler", "bert/pooler/dense", _DENSE),
    *_module("predictions.dense", "cls/predictions/transform/dense", _DENSE),
    *_module("predictions.LayerNorm", "cls/predictions/transform/LayerNorm", _NORM),
    ("predictions.bias", "cls/predictions/output_bias", False),
    *_module("sop_classifier.classifier", "cls/seq_relationship", _BARE),
]

ELECTRA: Names = [
    *_embeddings("electra", "electra"),
    *_module("electra.embeddings_project", "electra/embeddings_project", _DENSE),
    *_layers("electra", "electra"),
    *_module("discriminator_predictions.dense", "discriminator_predictions/dense", _DENSE),
    *_module(
        "discriminator_predictions.dense_prediction", "discriminator_predictions/dense_1", _DENSE
    ),
]

GENERATOR: Names = [
    *_module("electra.embeddings_project", "generator/embeddings_project", _DENSE),
    *_layers("electra", "generator"),
    *_module("generator_predictions.dense", "generator_predictions/dense", _DENSE),
    *_module("generator_predictions.LayerNorm", "generator_predictions/LayerNorm", _NORM),
    ("generator_lm_head.bias", "generator_predictions/output_bias", False),
]

_GAIN = (("weight", "g", False), ("bias", "b", False))
_CONV = (("weight", "w", False), ("bias", "b", False))
_BLOCK, _H = r"transformer.h.(\d+)", r"model/h\1"

GPT2: Names = [
    ("transformer.wte.weight", "model/wte", False),
    ("transformer.wpe.weight", "model/wpe", False),
    *_module(f"{_BLOCK}.ln_1", f"{_H}/ln_1", _GAIN),
    *_module(f"{_BLOCK}.attn.c_attn", f"{_H}/attn/c_attn", _CONV),
    *_module(f"{_BLOCK}.attn.c_proj", f"{_H}/attn/c_proj", _CONV),
    *_module(f"{_BLOCK}.ln_2", f"{_H}/ln_2", _GAIN),
    *_module(f"{_BLOCK}.mlp.c_fc", f"{_H}/mlp/c_fc", _CONV),
    *_module(f"{_BLOCK}.mlp.c_proj", f"{_H}/mlp/c_proj", _CONV),
    *_module("transformer.ln_f", "model/ln_f", _GAIN),
]


def to_release(state: Mapping[str, Any], names: Names) -> dict[str, Array]:
    """Return the values of a PyTorch model in the names and layouts of a release."""
    actual: dict[str, Array] = {}
    for torch_name, tensor in state.items():
        for pattern, google, swap in names:
            if match := re.fullmatch(pattern.replace(".", r"\."), torch_name):
                values = tensor.detach().numpy()
                values = values.T if swap else values
                google = match.expand(google)
                actual[google] = values[None] if google.endswith("/w") else values
    return actual


def with_optimizer_state(values: Mapping[str, Array]) -> dict[str, Array]:
    """Return the values and what Google's optimizer adds to them."""
    params = {
        f"{name}/{param}": np.full_like(array, 7)
        for name, array in values.items()
        for param in ("adam_m", "adam_v")
    }
    return {**values, **params, "global_step": np.asarray(1_000_000, np.int64)}


def save(prefix: Path, values: Mapping[str, Array], **options: Any) -> None:
    """Write the values as TensorFlow 1 code did, through a session and a saver."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        feeds = {}
        variables = []
        for name, array in values.items():
            holder = v1.placeholder(array.dtype, array.shape)
            variables.append(v1.get_variable(name, initializer=holder, use_resource=False))
            feeds[holder] = array
        session.run(v1.global_variables_initializer(), feeds)
        saver = v1.train.Saver(variables, **options)
        saver.save(session, str(prefix), write_meta_graph=False, write_state=False)


def save_sharded(prefix: Path, values: Mapping[str, Array], shards: int) -> None:
    """Write a bundle of several data files, as training on several machines does."""
    import tensorflow as tf

    names, parts = sorted(values), []
    for shard in range(shards):
        part = f"{prefix}_part{shard}"
        own = names[shard::shards]
        tf.raw_ops.SaveV2(
            prefix=part,
            tensor_names=own,
            shape_and_slices=[""] * len(own),
            tensors=[tf.constant(values[name]) for name in own],
        )
        parts.append(part)
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=parts, destination_prefix=str(prefix), delete_old_dirs=False
    )


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content))
