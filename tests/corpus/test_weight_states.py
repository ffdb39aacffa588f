"""Weights that are quantized, partitioned or have an adapter: named in one line, not converted."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import converter
from converter.errors import MatchError
from tests.factories import Made, make

Arrays = dict[str, np.ndarray]

LINEAR = re.compile(r".*\.(?:query|key|value|dense)\.weight")


def quantized(
    *added: str, weight: str | None = "weight", dtype: type = np.uint8
) -> Callable[[Arrays], Arrays]:
    """Return a function that packs each linear weight and adds tensors, as quantizers do."""

    def change(arrays: Arrays) -> Arrays:
        changed = dict(arrays)
        for name in filter(LINEAR.fullmatch, arrays):
            size, module = changed.pop(name).size, name.removesuffix("weight")
            if weight:
                changed[module + weight] = np.zeros((size // 2, 1), dtype)
            changed |= {module + suffix: np.ones(3, np.float32) for suffix in added}
        return changed

    return change


NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
INT8 = {"quant_method": "bitsandbytes", "load_in_8bit": True}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}

QUANTIZED: Mapping[str, tuple[Callable[[Arrays], Arrays], dict[str, Any], str, str]] = {
    "bitsandbytes, 4 bit": (
        quantized("weight.absmax", "weight.quant_map", "weight.quant_state.bitsandbytes__nf4"),
        {"quantization_config": NF4},
        r"\(bitsandbytes, 4 bit\)",
        "dequantize",
    ),
    "bitsandbytes, 8 bit": (
        lambda arrays: {
            **arrays,
            **{n: np.zeros(a.shape, np.int8) for n, a in arrays.items() if LINEAR.fullmatch(n)},
            **{n[:-6] + "SCB": a[:, 0] for n, a in arrays.items() if LINEAR.fullmatch(n)},
        },
        {"quantization_config": INT8},
        r"\(bitsandbytes, 8 bit\)",
        "dequantize",
    ),
    "GPTQ": (
        quantized("scales", "qzeros", "g_idx", weight="qweight", dtype=np.int32),
        {"quantization_config": GPTQ},
        r"\(gptq, 4 bit\)",
        "checkpoint that was quantized",
    ),
    "GPTQ without a configuration": (
        quantized("scales", "qzeros", "g_idx", weight="qweight", dtype=np.int32),
        {},
        r"\(gptq\)",
        "checkpoint that was quantized",
    ),
    "AWQ": (
        quantized("scales", "qzeros", weight="qweight", dtype=np.int32),
        {"quantization_config": {"quant_method": "awq", "bits": 4}, "_name_or_path": "org/base"},
        r"\(awq, 4 bit\)",
        r"quantized \(org/base\)",
    ),
    "MLX": (
        quantized("scales", "biases", dtype=np.uint32),
        {"quantization": {"group_size": 64, "bits": 4}},
        r"\(mlx, 4 bit\)",
        "mlx_lm convert",
    ),
    "fp8": (
        lambda arrays: {
            **arrays,
            **{n + "_scale_inv": a[:1] for n, a in arrays.items() if LINEAR.fullmatch(n)},
        },
        {"quantization_config": {"quant_method": "fp8"}},
        r"\(fp8\)",
        "checkpoint that was quantized",
    ),
    "a method of which only the configuration is known": (
        quantized(),
        {"quantization_config": {"quant_method": "new-method"}},
        r"\(new-method\)",
        "checkpoint that was quantized",
    ),
}
"""The names that the libraries add (``bitsandbytes/nn/modules.py``; ``gptqmodel/nn_modules``;
``awq/modules``; ``mlx/nn/layers/quantized.py``; ``transformers/integrations/finegrained_fp8.py``),
what the configuration states → what the error says, and its step."""


@pytest.fixture
def bert(tmp_path: Path) -> Made:
    return make(tmp_path / "bert", "bert", architectures=["BertModel"])


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    return make(tmp_path / "gpt2", "gpt2", "GPT2LMHeadModel").directory


def change(made: Made, edit: Callable[[Arrays], Arrays], **fields: Any) -> None:
    """Change the tensors and the configuration of a checkpoint."""
    save_file(edit(load_file(made.file)), made.file, metadata={"format": "pt"})
    (made.directory / "config.json").write_text(json.dumps({**made.config, **fields}))


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_weights_are_named_in_the_first_line(bert, gpt2, tmp_path, name):
    edit, fields, what, step = QUANTIZED[name]
    change(bert, edit, **fields)
    for run in (
        lambda: converter.convert(bert.directory, tmp_path / "out"),
        lambda: converter.compose(bert.directory, gpt2, tmp_path / "out"),
    ):
        with pytest.raises(MatchError) as caught:
            run()
        assert re.search(rf"weights are quantized {what}: dequantize", caught.value.message)
        assert re.search(step, caught.value.remedy or "")
        assert not caught.value.problems
        assert not (tmp_path / "out").exists()


def test_class_in_the_step_is_that_of_the_configuration(bert, tmp_path):
    edit, fields, *_ = QUANTIZED["bitsandbytes, 4 bit"]
    for stated, used in ((["BertModel"], "BertModel"), (["__import__('os')"], "AutoModel")):
        change(bert, edit, **fields, architectures=stated)
        with pytest.raises(MatchError) as caught:
            converter.convert(bert.directory, tmp_path / "out")
        (code,) = shlex.split(str(caught.value.remedy).partition("python -c ")[2])
        compile(code, "step", "exec")
        assert code.startswith(f"from transformers import {used} as M;")
        bert = make(tmp_path / "other", "bert")


@pytest.mark.parametrize("fields", [{"quantization_config": NF4}, {"quantization": {"bits": 4}}])
def test_quantization_of_complete_weights_is_removed_with_a_warning(bert, gpt2, tmp_path, fields):
    change(bert, lambda arrays: arrays, **fields)
    results = {
        "converted": converter.convert(bert.directory, tmp_path / "converted"),
        "composed": converter.compose(bert.directory, gpt2, tmp_path / "composed"),
        "split": converter.split(change_composed(tmp_path / "composed"), tmp_path / "split"),
    }
    for result in results.values():
        assert any("are not quantized: the field is removed" in w for w in result.warnings)
    for config in ("converted/config.json", "split/encoder/config.json"):
        assert "quantization" not in (tmp_path / config).read_text()


def change_composed(directory: Path) -> Path:
    """Add the quantization to the encoder's configuration, in which it must not be yet."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    assert "quantization" not in path.read_text()
    config["encoder"]["quantization_config"] = NF4
    path.write_text(json.dumps(config))
    return directory


def test_unknown_tensor_next_to_complete_weights_is_not_taken_for_quantization(bert, tmp_path):
    change(bert, lambda arrays: {**arrays, "my_head.weight": np.ones(3)}, quantization_config=NF4)
    with pytest.raises(MatchError, match=r"my_head.weight: the mapping table does not know"):
        converter.convert(bert.directory, tmp_path / "out")


def lora(arrays: Arrays) -> Arrays:
    """Attach LoRA to the queries, as ``PeftModel`` names it (``peft/tuners/lora/layer.py``)."""
    changed = {}
    for name, array in arrays.items():
        module, _, parameter = name.rpartition(".")
        if module.endswith("query"):
            changed[f"base_model.model.{module}.base_layer.{parameter}"] = array
            changed[f"base_model.model.{module}.lora_A.default.weight"] = np.ones((2, 24))
            changed[f"base_model.model.{module}.lora_B.default.weight"] = np.ones((24, 2))
        else:
            changed[f"base_model.model.{name}"] = array
    return changed


def adapter_tensors(arrays: Arrays) -> Arrays:
    return {name: array for name, array in lora(arrays).items() if "lora_" in name}


def flat(arrays: Arrays) -> Arrays:
    values = np.concatenate([array.ravel() for array in arrays.values()])
    return {"_fsdp_wrapped_module._flat_param": values}


def emptied(arrays: Arrays) -> Arrays:
    """Return what ``save_pretrained`` writes of parameters that ZeRO-3 has partitioned."""
    return {name: np.zeros(0, np.float32) for name in arrays}


def computed(*parts: str) -> Callable[[Arrays], Arrays]:
    """Return a function that replaces a weight by the tensors that it is computed from."""

    def change(arrays: Arrays) -> Arrays:
        changed = dict(arrays)
        weight = changed.pop("encoder.layer.0.output.dense.weight")
        module = "encoder.layer.0.output.dense."
        return changed | {f"{module}{part}": weight for part in parts}

    return change


STATES = {
    "pruning": (computed("weight_orig", "weight_mask"), "pruning", "prune.remove"),
    "old spectral norm": (
        computed("weight_orig", "weight_u", "weight_v"),
        "spectral_norm",
        "remove_spectral_norm",
    ),
    "spectral norm": (
        computed(
            "parametrizations.weight.original",
            "parametrizations.weight.0._u",
            "parametrizations.weight.0._v",
        ),
        "torch.nn.utils.parametrize",
        "remove_parametrizations",
    ),
    "LoRA": (lora, "have an adapter", "merge_and_unload"),
    "an adapter alone": (adapter_tensors, "those of an adapter alone", "merge_and_unload"),
    "FSDP": (flat, "flat parameters of FSDP", "FULL_STATE_DICT"),
    "ZeRO-3": (emptied, "weights are empty", "zero_to_fp32"),
}


@pytest.mark.parametrize("name", STATES)
def test_state_of_the_weights_is_named(bert, tmp_path, name):
    edit, what, step = STATES[name]
    change(bert, edit)
    with pytest.raises(MatchError) as caught:
        converter.convert(bert.directory, tmp_path / "out")
    assert what in caught.value.message
    assert step in (caught.value.remedy or "")
    problems = converter.verify(bert.directory).problems
    assert [step in (each.remedy or "") for each in problems if what in each.what] == [True]
    assert not [each for each in problems if "mapping table" in each.what]


def test_adapter_next_to_complete_weights_is_a_warning_with_its_step(bert, gpt2, tmp_path):
    fields = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "task_type": None}
    (bert.directory / "adapter_config.json").write_text(json.dumps(fields))
    for result in (
        converter.convert(bert.directory, tmp_path / "converted"),
        converter.compose(bert.directory, gpt2, tmp_path / "composed"),
    ):
        (warning,) = [w for w in result.warnings if "PEFT adapter (LORA) of org/base" in w]
        assert "merge_and_unload" in warning
