"""Published weights by id: composed, pushed with a card, and loaded from there as the card says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import factories
from tests.environments import TRANSFORMERS_5, interpreter
from tests.storage.hub.conftest import ROOT, HubSession, contents
from tests.storage.hub.hub_server import serving
from tests.transformers.published_weights import checkpoint_directory

pytestmark = pytest.mark.peer


@pytest.fixture
def session(tmp_path: Path) -> Iterator[HubSession]:
    with serving(xet=True) as (hub, endpoint):
        for name, repo_id, license_id in (
            ("minilm", "org/minilm", "apache-2.0"),
            ("gpt2", "org/mgm", "mit"),
        ):
            card = f"---\nlicense: {license_id}\n---\n".encode()
            hub.publish(repo_id, {**contents(checkpoint_directory(name)), "README.md": card})
        yield HubSession(hub, endpoint, tmp_path)


def loaded(session: HubSession, python: Path, count: int, *others: str) -> list[dict[str, Any]]:
    """Return the outputs of the models, loaded as the card says."""
    quiet = {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3", "TF_USE_LEGACY_KERAS": "1"}
    quiet["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # most of the time goes to compiling
    done = subprocess.run(
        [
            str(python),
            "-m",
            "tests.storage.hub.load_with_transformers",
            "me/both",
            "local",
            str(count),
            *others,
        ],
        capture_output=True,
        text=True,
        cwd=session.home,
        env={**session.environment("hf_test", **quiet), "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outputs: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return outputs


def test_two_ids_become_a_repository_that_all_load(session: HubSession) -> None:
    sources = [checkpoint_directory("minilm"), checkpoint_directory("gpt2")]
    factories.make(session.home / "roberta", "roberta", "RobertaForCausalLM")
    made, local, _ = session.run_commands(
        ("compose", "org/minilm", "org/mgm", "made", "--push", "me/both", "--json"),
        ("compose", *sources, "local", "-q"),
        ("compose", "roberta", "roberta", "offset", "-q"),
        HF_HUB_DISABLE_XET="0",
    )
    assert local.code == 0, local.stderr
    assert made.report["pushed"]["created"] and session.hub.requests("POST /_cas/v1/xorbs")
    here = contents(session.home / "local")
    own = {"README.md", "converter-manifest.json"}
    for name in here.keys() - own:
        assert session.hub.read("me/both", name) == here[name], name
    card = session.hub.read("me/both", "README.md").decode()
    assert "- org/minilm\n- org/mgm\nbase_model_relation: merge\n" in card
    assert "license: other\nlicense_name: apache-2.0-and-mit\n" in card

    old = loaded(session, Path(sys.executable), 3, "offset")
    assert [each["model"] for each in old] == [
        "EncoderDecoderModel",
        "TFEncoderDecoderModel",
        "FlaxEncoderDecoderModel",
    ]
    (new,) = loaded(session, interpreter(TRANSFORMERS_5), 1)
    first, *others = (np.asarray(each["logits"]) for each in (*old, new))
    assert first.std() > 0.01
    for other in others:
        assert np.abs(first - other).max() < 2e-5 * max(1, np.abs(first).max())
