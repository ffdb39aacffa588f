"""The list of model types that cannot be an encoder or decoder is what both transformers have."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.environments import TRANSFORMERS_5, interpreter
from tests.factories import bundled_registry

pytestmark = [pytest.mark.peer, pytest.mark.slow]


def test_the_list_is_complete() -> None:
    answers = []
    for python in (sys.executable, str(interpreter(TRANSFORMERS_5))):
        command = [python, "-m", "tests.transformers.model_types"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        answers.append(json.loads(done.stdout.splitlines()[-1]))
    measured = {kind: set().union(*(each[kind] for each in answers)) for kind in answers[0]}
    own = {"encoder-decoder", "speech-encoder-decoder", "vision-text-dual-encoder"}
    listed = bundled_registry().model_types
    complete, no_hidden_size = listed.encoder.values()
    no_cross_attention, no_decoder_alone = listed.decoder.values()
    assert complete == measured["complete"]
    assert no_hidden_size == measured["no hidden_size"] - measured["complete"] - own
    assert no_cross_attention == measured["no cross-attention"] - measured["decodes"]
    assert no_decoder_alone == (
        measured["no decoder alone"] - measured["decodes"] - measured["no cross-attention"] - own
    )
