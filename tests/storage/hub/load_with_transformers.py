"""Load a model from the Hub as its card says, and compare it with the same model on disk.

Arguments: the repository, the local directory, how many of the card's examples to run, and
directories of models whose positions do not begin with 0. Prints for each example what the model
answers to the same input, as JSON.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import hf_hub_download

from tests.transformers.rounding import assert_close

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


def examples(card: str | Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", Path(card).read_text("utf-8"), re.DOTALL)


def check_positions(directory: str) -> None:
    """Return the positions that the example for Flax gives, without which outputs would differ."""
    found = {}
    for example in examples(Path(directory) / "README.md"):
        ran: dict[str, Any] = {}
        exec(example.replace("path/to/this-model", directory), ran)
        found[type(ran["model"]).__name__[:4]] = ran
    import torch

    flax = found["Flax"]
    ids = torch.tensor(flax["ids"])
    model = found["Enco"]["model"].eval()

    def run() -> np.ndarray:
        with torch.no_grad():
            return np.asarray(model(ids, decoder_input_ids=ids).logits)

    assert_close(np.asarray(flax["outputs"].logits), model, run)
    untold = flax["model"](flax["ids"], decoder_input_ids=flax["ids"]).logits
    assert np.abs(np.asarray(untold) - run()).max() > 1e-4


def main(repo_id: str, directory: str, count: str, *others: str) -> None:
    for other in others:
        check_positions(other)
    outputs = []
    for example in examples(hf_hub_download(repo_id, "README.md"))[: int(count)]:
        assert f'from_pretrained("{repo_id}"' in example
        from_hub: dict[str, Any] = {}
        from_disk: dict[str, Any] = {}
        exec(example, from_hub)
        exec(example.replace(repo_id, directory), from_disk)
        here, there = values(from_disk["model"]), values(from_hub["model"])
        assert here.keys() == there.keys() and len(here) > 100
        assert all(here[name].tobytes() == there[name].tobytes() for name in here)
        answer = logits(from_hub["model"])
        outputs.append({"model": type(from_hub["model"]).__name__, "logits": answer.tolist()})
    print(json.dumps(outputs))


if __name__ == "__main__":
    main(*sys.argv[1:])
