"""Comparison of what the frameworks generate, each called as the model card says."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tests.transformers.oracle import FRAMEWORKS, Loaded
from tests.transformers.tiny import MAIN_INPUTS, Tiny

LENGTH = 7


def generate_equally(
    card: str, warnings: Sequence[str], encoder: Tiny, results: Sequence[Loaded]
) -> None:
    """Assert that each framework generates what the first, PyTorch, does from padded inputs.

    In Flax a plain call generates something else if and only if a warning says what to pass.
    """
    written = {}
    for loaded in results:
        framework = FRAMEWORKS[loaded.kind]
        batch = encoder.batch(framework)
        batch.pop("position_ids", None)
        if "input_ids" in batch:
            batch["attention_mask"] = np.ones_like(batch["input_ids"])
            batch["attention_mask"][1:, -3:] = 0
        name = next(name for name in MAIN_INPUTS if name in batch)
        model = _Model(loaded.model, framework, name, batch.pop(name), batch)
        if any(text.startswith(f"{framework}: generate() fails") for text in warnings):
            with pytest.raises(ValueError, match="shapes"):
                model.generate(model.inputs)
            continue
        written[framework] = model.generate(model.inputs).tolist()
        if framework == "flax":
            is_right = written["flax"] == written["pytorch"]
            assert is_right != any(text.startswith("flax: generate()") for text in warnings)
            written["flax"] = model.generate_by_card(card).tolist()
    assert written == dict.fromkeys(written, written["pytorch"])
    assert all(len(ids) > LENGTH // 2 for ids in written["pytorch"])


@dataclass
class _Model:
    """A model that is called in the same way in all frameworks."""

    model: Any
    framework: str
    input_name: str
    inputs: np.ndarray
    more: dict[str, np.ndarray]
    """Further inputs of the encoder, such as the mask."""
    ids: np.ndarray | None = None
    """What the card's code generated."""

    def __call__(self, inputs: np.ndarray, **passed: Any) -> Any:
        return self.model(inputs, **self.more, **passed)

    def generate(self, inputs: np.ndarray, **passed: Any) -> Any:
        """Return ids of shape [batch, length], greedily generated, with the start token."""
        arguments = {
            **{name: self._tensor(value) for name, value in self.more.items()},
            **passed,
            "max_new_tokens": LENGTH,
            "do_sample": False,
            "logits_processor": [self._processor()],
        }
        if self.framework != "flax":
            given = {self.input_name: self._tensor(inputs)}
            return np.asarray(self.model.generate(**given, **arguments))
        # the loop is not compiled, which takes longer than running it
        self.ids = np.asarray(self.model.generate(inputs, **arguments, trace=False).sequences)
        return self.ids

    def _processor(self) -> Callable[..., Any]:
        """Return a processor of scores with which no token is generated twice.

        Tiny models repeat one token, whatever is wrong with them. Nor is the decoder's own padding
        generated, of which PyTorch's RoBERTa does not count the position.
        """
        padding = self.model.config.decoder.pad_token_id

        def process(ids: Any, scores: Any, length: Any) -> Any:
            allowed = np.asarray(scores).copy()
            np.put_along_axis(allowed, np.asarray(ids)[:, :length], -1e9, axis=1)
            allowed[:, [] if padding is None else padding] = -1e9
            return self._tensor(allowed)

        if self.framework == "pytorch":
            return lambda ids, scores: process(ids, scores, None)
        return lambda ids, scores, length: process(ids, scores, int(length))

    def _tensor(self, value: np.ndarray) -> Any:
        if self.framework == "pytorch":
            import torch

            return torch.from_numpy(value)
        if self.framework == "tensorflow":
            import tensorflow

            return tensorflow.constant(value)
        return value

    def generate_by_card(self, card: str) -> np.ndarray:
        """Return what the card's example for Flax generates from these inputs instead of its own.

        The mask is added to each of its calls.
        """
        [code] = re.findall(r"```python\n([^`]*model = Flax[^`]*)```", card)
        imports, _, calls = code.partition("model = Flax")
        calls = calls.partition("\n")[2]
        if "generate" in calls:
            reads_text = self.input_name == "input_ids"
            ids = self.inputs if reads_text else np.array([[0, 4, 2]] * len(self.inputs))
            own = "ids = np.array([[0, 4, 2]])"
            assert calls.count(own) == 1
            calls = calls.replace(own, "").replace(").sequences", ")")
            names = {"model": self, "ids": ids, "processor": lambda image: self.inputs, "image": 0}
            exec(compile(imports + calls, "README.md", "exec"), names)
        assert self.ids is not None
        return self.ids
