"""What is composed loads in transformers 5 as well, and computes the same as in 4.57.

Runs where ``CONVERTER_TRANSFORMERS_5`` names an interpreter that has transformers 5 and torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import converter

from .tiny import FAMILIES, LIBRARY, tiny

FIFTH = os.environ.get("CONVERTER_TRANSFORMERS_5", "")
pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not FIFTH, reason="CONVERTER_TRANSFORMERS_5 names no interpreter"),
]

ROLES = [(name, role) for name in FAMILIES for role in LIBRARY.family(name).roles]
GONE = {"ernie_m", "mega", "nezha", "xlm-prophetnet"}
"""Families that transformers 5 has no more."""
UNTIED = {("bigbird_pegasus", "decoder")}
"""Where transformers 5 forgets to tie the head, which a file of its own lacks as well."""

LOAD = """
import json, sys
from pathlib import Path
import numpy as np, torch, transformers
transformers.logging.set_verbosity_error()
for home in map(Path, sys.argv[2:]):
    name = json.loads((home / "out/config.json").read_text())["architectures"][0]
    loader = getattr(transformers, name).from_pretrained
    model, info = loader(home / "out", output_loading_info=True)
    faults = {key: sorted(map(str, found)) for key, found in info.items() if found}
    batch = {key: torch.tensor(value) for key, value in np.load(home / "batch.npz").items()}
    try:
        with torch.no_grad():
            np.save(home / f"{sys.argv[1]}.npy", model.eval()(**batch).logits.float().numpy())
    except TypeError as error:  # a model that the composite cannot call in this version
        faults["cannot run"] = str(error)
    (home / f"{sys.argv[1]}.json").write_text(json.dumps(faults))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every family in every role with BERT, drawn anew, as both versions load it."""
    home = tmp_path_factory.mktemp("versions")
    for name, role in ROLES:
        place = home / f"{name}-{role}"
        halves = {"encoder": "bert", "decoder": "bert", role: name}
        for half, family in halves.items():
            (place / half).mkdir(parents=True)
            config = {**tiny(family).config, "model_type": family}
            (place / half / "config.json").write_text(json.dumps(config))
        converter.compose(
            place / "encoder",
            place / "decoder",
            place / "out",
            to=["pytorch"],
            random=["encoder", "decoder"],
            decoder_start_token=3,
            eos_token=2,
            pad_token=1,
        )
        encoder, decoder = tiny(halves["encoder"]), tiny(halves["decoder"])
        batch = encoder.batch("pytorch") | decoder.batch("pytorch", "decoder_", seed=1)
        np.savez(place / "batch.npz", **batch)
    for version, python in (("4", sys.executable), ("5", FIFTH)):
        known = [
            str(home / f"{name}-{role}")
            for name, role in ROLES
            if version == "4" or name not in GONE
        ]
        subprocess.run([python, "-c", LOAD, version, *known], check=True, capture_output=True)
    return home


@pytest.mark.parametrize(("name", "role"), ROLES)
def test_both_versions_load_and_compute_the_same(loaded: Path, name: str, role: str) -> None:
    if name in GONE:
        pytest.skip("transformers 5 has no such family")
    place = loaded / f"{name}-{role}"
    faults = json.loads((place / "5.json").read_text())
    if (name, role) in UNTIED:
        assert faults == {"missing_keys": ["decoder.lm_head.weight"]}
        return
    assert not faults
    if not tiny(name).can_run(role, ""):
        return
    four, five = np.load(place / "4.npy"), np.load(place / "5.npy")
    np.testing.assert_allclose(five, four, atol=1e-4 * float(np.abs(four).max()), rtol=0)
