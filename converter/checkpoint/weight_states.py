"""Weights that cannot be read as a model's parameters, and what such weights leave behind.

Weights that are quantized, partitioned by a training engine, or that an adapter is attached to,
have names and shapes of their own. The error about them is one line that says which, in place of a
list of unknown tensors.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.recognition import Folder, Recognition, quote_python, recognize_adapter
from converter.safe_json import json_reader
from converter.tensors import TensorSpec

_QUANTIZATION_FIELDS = ("quantization_config", "quantization", "compression_config")
"""The field of transformers, that of MLX, and the former one of compressed-tensors."""


@dataclass(frozen=True, slots=True)
class _Method:
    """A method of quantization, by the last parts of the names of the tensors that it adds."""

    name: str
    suffixes: tuple[str, ...] = ()
    step: str = "Use the checkpoint that was quantized{base}: its exact values are only there."


_METHODS = (
    _Method(
        "bitsandbytes",
        (".SCB", ".absmax", ".quant_map", ".bitsandbytes__nf4", ".bitsandbytes__fp4"),
        "Dequantize them with transformers: python -c {code}",
    ),
    _Method("gptq", (".g_idx",)),
    _Method("awq", (".qweight", ".qzeros")),
    _Method("compressed-tensors", (".weight_packed", ".weight_shape", ".weight_zero_point")),
    _Method("fp8", (".weight_scale", ".weight_scale_inv", ".input_scale")),
    _Method("hqq", (".W_q",)),
    _Method("aqlm", (".codebooks",)),
    _Method("quanto", (".weight._data", ".weight._scale")),
    _Method("eetq", (".weight_scales",)),
    _Method(
        "mlx",
        (".biases",),
        "Dequantize them: python -m mlx_lm convert --hf-path {directory} --mlx-path {output} "
        "--dequantize",
    ),
)
"""In order of precedence. Sources: ``transformers/quantizers``, ``mlx_lm/utils.py``."""

_ADAPTER = re.compile(
    r"(?:.*\.)?(?:base_layer|lora_\w+|ia3_l|hada_\w+|lokr_\w+|b?oft_\w+|vera_\w+|hra_u|ranknum|"
    r"fourierft_\w+|ln_tuning_layers|prompt_embeddings)(?:\..*)?"
)
"""Names that PEFT adds. Source: ``peft/tuners/*/layer.py``."""

_TRAINING_STATES = (
    (  # FSDP: the values of a module's parameters, one after the other
        re.compile(r"(?:.*\.)?_?flat_param(?:_\d+)?"),
        Recognition(
            "the weights are flat parameters of FSDP, without the names and shapes of the model",
            "Save again after FSDP.set_state_dict_type(model, StateDictType.FULL_STATE_DICT), "
            "or with fsdp_state_dict_type: FULL_STATE_DICT in Accelerate.",
        ),
    ),
    (  # prune.py, spectral_norm.py
        re.compile(r"(?:.*\.)?(?:weight|bias)_(?:orig|mask)"),
        Recognition(
            "weights are kept as what torch.nn.utils computes them from (pruning, spectral_norm)",
            "Compute them where the model was trained, and save again: for each such module, "
            'torch.nn.utils.prune.remove(module, "weight") or '
            "torch.nn.utils.remove_spectral_norm(module).",
        ),
    ),
    (  # parametrize.py; a weight norm's original0 and original1 are parameters of speech models
        re.compile(r"(?:.*\.)?parametrizations\.\w+\.original"),
        Recognition(
            "weights are kept as what torch.nn.utils.parametrize computes them from",
            "Compute them where the model was trained, and save again: for each such module, "
            'torch.nn.utils.parametrize.remove_parametrizations(module, "weight").',
        ),
    ),
)
"""Pattern of the names that PyTorch itself gives to weights in training → what they are."""


def without_quantization(config: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Return a configuration without its fields on quantization, and the first of those fields.

    The fields of nested configurations are removed as well.
    """
    stated: Mapping[str, Any] = {}
    kept: dict[str, Any] = {}
    for key, value in config.items():
        if key in _QUANTIZATION_FIELDS and isinstance(value, dict):
            stated = stated or value
        elif isinstance(value, dict) and "model_type" in value:
            kept[key], inner = without_quantization(value)
            stated = stated or inner
        else:
            kept[key] = value
    return kept, stated


def recognize_weights(
    unfit: Sequence[TensorSpec],
    total: int,
    config: Mapping[str, Any],
    quantization: Mapping[str, Any],
    directory: Path,
) -> Recognition | None:
    """Return the state of weights that cannot be read as parameters; ``None`` if they can.

    `unfit` are the tensors that are not those of the model, of `total` ones; `quantization` is what
    `without_quantization` returned, and `directory` that of the weights.
    """
    if any(spec.shape == (0,) and spec.name.endswith("weight") for spec in unfit):
        return Recognition(
            "the weights are empty: DeepSpeed (ZeRO-3) has them in a checkpoint of its own",
            "Merge that: python -m deepspeed.utils.zero_to_fp32 CHECKPOINT_DIRECTORY OUTPUT",
        )
    for pattern, state in _TRAINING_STATES:
        if any(pattern.fullmatch(spec.name) for spec in unfit):
            return state
    adapted = [spec for spec in unfit if _ADAPTER.fullmatch(spec.name)]
    if adapted and (directory / "adapter_config.json").is_file():
        return recognize_adapter(Folder(str(directory), (), json_reader(directory)))
    if adapted:
        alone = "are those of an adapter alone" if len(adapted) == total else "have an adapter"
        return Recognition(
            f"the weights {alone} (PEFT), which is not merged into them",
            'Merge it where it was trained: model.merge_and_unload().save_pretrained("merged")',
        )
    return _recognize_quantized(unfit, config, quantization, directory)


def is_packed(spec: TensorSpec) -> bool:
    """Return whether a weight holds integers, into which quantization packs its values."""
    return spec.name.endswith("weight") and re.fullmatch(r"u?int\d+", spec.dtype) is not None


def leftovers(quantization: Mapping[str, Any], directory: Path) -> Iterator[str]:
    """Yield what is next to weights that are complete, and is not in the output."""
    if quantization:
        yield (
            f"the configuration states a quantization ({_describe(quantization)}), and the weights "
            "are not quantized: the field is removed"
        )
    if (directory / "adapter_config.json").is_file():
        adapter = recognize_adapter(Folder(str(directory), (), json_reader(directory)))
        what = adapter.what.partition(",")[0]
        yield f"the directory also {what}, which is not merged into the weights. {adapter.step}"


def _recognize_quantized(
    unfit: Sequence[TensorSpec],
    config: Mapping[str, Any],
    quantization: Mapping[str, Any],
    directory: Path,
) -> Recognition | None:
    methods = [m for m in _METHODS if any(spec.name.endswith(m.suffixes) for spec in unfit)]
    stated = str(quantization.get("quant_method", ""))
    if not methods and not (quantization and any(map(is_packed, unfit))):
        return None
    named = [method for method in _METHODS if method.name == stated]
    method = (*named, *methods, _Method(stated))[0]
    base, classes = config.get("_name_or_path"), config.get("architectures")
    model = str(classes[0]) if isinstance(classes, list) and classes else "AutoModel"
    output = f"{directory}-dequantized"
    code = (
        f"from transformers import {model if model.isidentifier() else 'AutoModel'} as M; "
        f"M.from_pretrained({quote_python(directory)}).dequantize()"
        f".save_pretrained({quote_python(output)})"
    )
    return Recognition(
        f"the weights are quantized ({_describe({'quant_method': method.name, **quantization})}): "
        "dequantize them first",
        method.step.format(
            base=f" ({base[:200]})" if isinstance(base, str) and base else "",
            code=shlex.quote(code),
            directory=shlex.quote(str(directory)),
            output=shlex.quote(output),
        ),
    )


def _describe(quantization: Mapping[str, Any]) -> str:
    """Return method and bits of a quantization: ``gptq, 4 bit``."""
    method = str(quantization.get("quant_method") or "method not stated")
    loaded = [bits for bits in (4, 8) if quantization.get(f"load_in_{bits}bit") is True]
    bits = [
        quantization[key] for key in ("bits", "w_bit") if isinstance(quantization.get(key), int)
    ]
    return ", ".join([method[:40], *(f"{number} bit" for number in [*loaded, *bits][:1])])
