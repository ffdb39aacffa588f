"""Loads a model from the Hub as its card says, and compares it with the same model on disk.

Arguments: the repository, the local directory, and how many of the card's examples to run. Prints
for each what the model answers to the same input, as JSON.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import hf_hub_download

BATCH = {"input_ids": [[101, 7592, 2088, 102]], "decoder_input_ids": [[5, 9, 2]]}


def values(model: Any) -> dict[str, np.ndarray]:
    """Every parameter by name."""
    if hasattr(model, "params"):
        from flax.traverse_util import flatten_dict

        return {name: np.asarray(v) for name, v in flatten_dict(model.params, sep="/").items()}
    if hasattr(model, "state_dict"):
        return {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    # The first part of a variable's name counts the models of the process.
    return {each.name.partition("/")[2]: each.numpy() for each in model.weights}


def logits(model: Any) -> np.ndarray:
    if hasattr(model, "state_dict"):
        import torch

        with torch.no_grad():
            answer = model.eval()(**{name: torch.tensor(ids) for name, ids in BATCH.items()})
        return answer.logits.numpy()
    return np.asarray(model(**{name: np.asarray(ids) for name, ids in BATCH.items()}).logits)


def main(repo_id: str, directory: str, count: str) -> None:
    card = Path(hf_hub_download(repo_id, "README.md")).read_text("utf-8")
    examples = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    told = []
    for example in examples[: int(count)]:
        assert f'from_pretrained("{repo_id}"' in example
        from_hub: dict[str, Any] = {}
        from_disk: dict[str, Any] = {}
        exec(example, from_hub)
        exec(example.replace(repo_id, directory), from_disk)
        here, there = values(from_disk["model"]), values(from_hub["model"])
        assert here.keys() == there.keys() and len(here) > 100
        assert all(here[name].tobytes() == there[name].tobytes() for name in here)
        answer = logits(from_hub["model"])
        told.append({"model": type(from_hub["model"]).__name__, "logits": answer.tolist()})
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
