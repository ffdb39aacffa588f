"""What the installed transformers can do with its model types in an encoder-decoder model.

``python -m tests.transformers.model_types`` prints it as JSON, for the interpreter that runs it.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any


def measure() -> dict[str, list[str]]:
    """Return kind → model types, from the signatures of the auto classes' models."""
    import transformers
    from transformers.models.auto import modeling_auto as auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    def inputs(names: Mapping[str, Any], model_type: str) -> set[str]:
        name = names[model_type]
        try:
            model = getattr(transformers, name if isinstance(name, str) else name[0])
            return {*inspect.signature(model.forward).parameters}
        except (AttributeError, ImportError):
            return set()

    def has_hidden_size(model_type: str) -> bool:
        try:
            return hasattr(CONFIG_MAPPING[model_type](), "hidden_size")
        except Exception:
            return False

    causal, base = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, auto.MODEL_MAPPING_NAMES
    decodes = {name for name in causal if "encoder_hidden_states" in inputs(causal, name)}
    complete = {name for name in base if "decoder_input_ids" in inputs(base, name)}
    sequences = {
        *auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        *auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
        *complete,
    }
    kinds = {
        "decodes": decodes,
        "no cross-attention": {*causal} - decodes,
        "complete": complete,
        "no decoder alone": sequences - {*causal},
        "no hidden_size": {name for name in base if not has_hidden_size(name)} - complete,
    }
    return {kind: sorted(names) for kind, names in kinds.items()}


if __name__ == "__main__":
    print(json.dumps(measure()))
