"""Execution only, of a hand-made plan of the same work that ``converter compose`` does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.checkpoints import Bert, _attention, _linear, _norm
from converter.formats.registry import open_file
from converter.initializers import Initializer
from converter.plan import (
    FileEntry,
    InitializedTensor,
    OutputFile,
    Plan,
    SourceTensor,
    TargetTensor,
)
from converter.tensors import Axes, Rearrangement, TensorSpec

VECTOR, MATRIX = Axes(("out",)), Axes(("out", "in"))
SAME = {1: Rearrangement(VECTOR, VECTOR), 2: Rearrangement(MATRIX, MATRIX)}
TRANSPOSED = Rearrangement(MATRIX, Axes(("in", "out")))

FILES = {
    "pytorch": ("model.safetensors", "safetensors"),
    "tensorflow": ("tf_model.h5", "keras-hdf5"),
    "flax": ("flax_model.msgpack", "flax-msgpack"),
}


def compose_plan(
    encoder: Path, decoder: Path, size: Bert, frameworks: Sequence[str] = tuple(FILES)
) -> Plan:
    """Plan one encoder-decoder of two BERTs, with new cross-attention, for all frameworks."""
    tensors: list[TargetTensor] = []
    for prefix, path in (("encoder.", encoder), ("decoder.bert.", decoder)):
        reader = open_file(path / "model.safetensors")
        for name, tensor in reader.tensors.items():
            if prefix.startswith("decoder") and name.startswith("pooler"):
                continue
            spec = TensorSpec(prefix + name, "float32", tensor.spec.shape)
            same = SAME[len(spec.shape)]
            tensors.append(TargetTensor(spec, SourceTensor(prefix, tensor, same)))
    for name, shape in _new_tensors(size):
        origin = InitializedTensor(Initializer("normal", 0.02, 0, name), "not in any source")
        tensors.append(TargetTensor(TensorSpec(name, "float32", shape), origin))
    files = [_file(framework, tensors) for framework in frameworks]
    return Plan("compose", tensors, files)


def _new_tensors(size: Bert) -> Iterator[tuple[str, tuple[int, ...]]]:
    for layer in range(size.layers):
        yield from _attention(f"decoder.bert.encoder.layer.{layer}.crossattention", size.hidden)
    yield from _linear("decoder.cls.predictions.transform.dense", size.hidden, size.hidden)
    yield from _norm("decoder.cls.predictions.transform.LayerNorm", size.hidden)
    yield "decoder.cls.predictions.bias", (size.vocabulary,)


def _file(framework: str, tensors: Sequence[TargetTensor]) -> OutputFile:
    path, file_format = FILES[framework]
    entries = []
    for tensor in tensors:
        spec = tensor.spec
        way = SAME[len(spec.shape)]
        if len(spec.shape) == 2 and "embeddings" not in spec.name and framework != "pytorch":
            way = TRANSPOSED
        name = spec.name
        if framework == "flax":
            name = name.replace(".", "/")
        elif framework == "tensorflow":
            side, rest = name.split(".", 1)
            name = f"{side}/tf_encoder_decoder_model/{side}/{rest.replace('.', '/')}:0"
        shape = way.shape(spec.shape)
        entries.append(FileEntry(spec.name, TensorSpec(name, spec.dtype, shape), way))
    metadata = {"format": "pt"} if framework == "pytorch" else {}
    return OutputFile(path, framework, file_format, entries, metadata=metadata)
