"""``python -m benchmarks.t5gemma DIRECTORY``: a sharded T5Gemma of two Gemma 2, next to ``cp -r``.

Two checkpoints of gemma-2-2b's size (2.6 B parameters in bfloat16, 5.2 GB each) are made of seeded
bits. Needs 28 GB of disk; more than the page cache of most machines holds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.measure import HEADER, Task, forget, machine
from converter.formats.registry import get_format
from converter.tensors import TensorSpec

CONFIG = {
    "architectures": ["Gemma2ForCausalLM"],
    "model_type": "gemma2",
    "dtype": "bfloat16",
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
SHARD = 2 << 30


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m benchmarks.t5gemma", description=__doc__)
    options.add_argument("directory", type=Path)
    options.add_argument("--layers", type=int, default=CONFIG["num_hidden_layers"])
    options.add_argument("--repeat", type=int, default=3)
    options.add_argument("--cold", action="store_true", help="drop sources from the page cache")
    measure(options.parse_args())


def measure(options: argparse.Namespace) -> None:
    work = options.directory
    sources = [work / "first", work / "second"]
    for seed, directory in enumerate(sources):
        if not directory.exists():
            write(directory, options.layers, seed)
    reference, out = work / "reference", work / "out"
    compose = [sys.executable, "-m", "converter", "compose", *map(str, sources)]
    shards = ["--quiet", "--max-shard-size", "2GB", "--overwrite"]
    subprocess.run([*compose, str(reference), *shards], check=True)

    def clean() -> None:
        shutil.rmtree(out, ignore_errors=True)
        if options.cold:
            forget(*sources, reference)

    job = Task("`converter compose`", [*compose, str(out), *shards], clean)
    plain = Task("`converter compose --no-hash`", [*job.command, "--no-hash"], clean)
    copy = Task("`cp -r` of its output", ["cp", "-r", str(reference), str(out)], clean)
    description = machine(work)
    for turn in range(options.repeat):
        for task in (job, plain, copy) if turn % 2 else (copy, plain, job):
            task.run({**os.environ})
    clean()
    read, written = (
        sum(path.stat().st_size for place in places for path in place.iterdir())
        for places in (sources, [reference])
    )
    state = "cold" if options.cold else "as the last run left them"
    sizes = f"{read / 1e9:.2f} GB read, {written / 1e9:.2f} GB written"
    print(f"{sizes}, sources {state}; {description}\n")
    print(HEADER, job.row(), plain.row(), copy.row(), sep="\n")
    for task in (job, plain):
        print(f"\n{task.name} / cp -r: {task.median('wall') / copy.median('wall'):.2f}")


def write(directory: Path, layers: int, seed: int) -> None:
    """Write a Gemma 2 in shards of at most 2 GiB, with an index."""
    directory.mkdir(parents=True)
    config = {**CONFIG, "num_hidden_layers": layers}
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    shards: list[list[TensorSpec]] = [[]]
    for name, shape in shapes(layers):
        spec = TensorSpec(name, "bfloat16", shape)
        if sum(each.nbytes for each in shards[-1]) + spec.nbytes > SHARD and shards[-1]:
            shards.append([])
        shards[-1].append(spec)
    weights: dict[str, str] = {}
    generator = np.random.Generator(np.random.SFC64(seed))
    for number, specs in enumerate(shards, 1):
        path = directory / f"model-{number:05}-of-{len(shards):05}.safetensors"
        output = get_format("safetensors").create(path, specs, metadata={"format": "pt"})
        with path.open("r+b") as file:
            for spec in specs:
                (segment,) = output.segments[spec.name]
                file.seek(segment.file_offset)
                for size in chunks(spec.nbytes // 2):
                    bits = generator.integers(0, 1 << 16, size, np.uint16)
                    file.write((bits & 0x83FF | 0x3C00).tobytes())  # 0.0078 to 0.125 in size
        output.finalize({})
        weights |= {spec.name: path.name for spec in specs}
    index = {"metadata": {}, "weight_map": weights}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def shapes(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield names and shapes of a Gemma2ForCausalLM, whose output layer is tied."""
    width, inner, vocabulary = 2304, 9216, 256000
    queries, keys = 8 * 256, 4 * 256
    yield "model.embed_tokens.weight", (vocabulary, width)
    for layer in range(layers):
        at = f"model.layers.{layer}"
        yield f"{at}.self_attn.q_proj.weight", (queries, width)
        yield f"{at}.self_attn.k_proj.weight", (keys, width)
        yield f"{at}.self_attn.v_proj.weight", (keys, width)
        yield f"{at}.self_attn.o_proj.weight", (width, queries)
        yield f"{at}.mlp.gate_proj.weight", (inner, width)
        yield f"{at}.mlp.up_proj.weight", (inner, width)
        yield f"{at}.mlp.down_proj.weight", (width, inner)
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            yield f"{at}.{norm}_layernorm.weight", (width,)
    yield "model.norm.weight", (width,)


def chunks(count: int, most: int = 1 << 22) -> Iterator[int]:
    for start in range(0, count, most):
        yield min(most, count - start)


if __name__ == "__main__":
    main()
