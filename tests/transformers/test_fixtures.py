"""The bundled checkpoints have the expected values, and the README's command runs with them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import converter
from tests.transformers.oracle import check, compare, load

pytestmark = pytest.mark.peer

FIXTURES = Path(__file__).parents[2] / "fixtures"
EXPECTED = json.loads((FIXTURES / "expected.json").read_text())
KIND = {
    "bert-tiny": "safetensors",
    "bert-tiny-tf": "h5",
    "bert-tiny-flax": "msgpack",
    "gpt2-tiny": "bin",
    "bert-gpt2-tiny-tf": "h5",
}


@pytest.mark.parametrize("name", KIND)
def test_a_fixture_loads_and_converts_to_the_expected_values(tmp_path: Path, name: str) -> None:
    proof = check(FIXTURES / name, only=(KIND[name],))
    converter.convert(FIXTURES / name, tmp_path / "out", to=["pytorch"], pytorch_format="bin")
    [loaded] = check(tmp_path / "out", only=("bin",)).values()
    assert not compare(proof[KIND[name]], loaded)
    assert loaded.stored.keys() == EXPECTED[name].keys()
    for key, value in loaded.stored.items():
        expected = EXPECTED[name][key]
        assert list(value.shape) == expected["shape"], key
        assert hashlib.sha256(value.tobytes()).hexdigest() == expected["sha256"], key


def test_the_builder_builds_the_same_values(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(FIXTURES / "make.py"), str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "expected.json").read_text()) == EXPECTED
    for name, kind in KIND.items():
        assert not compare(load(FIXTURES / name, kind), load(tmp_path / name, kind))


def test_the_main_command(tmp_path: Path) -> None:
    """As the README has it: three frameworks, a tokenizer, and text that comes out."""
    import transformers

    out = tmp_path / "composed"
    done = subprocess.run(
        [sys.executable, "-m", "converter", "compose", "bert-tiny", "gpt2-tiny", str(out)],
        cwd=FIXTURES,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    proof = check(out, only=("safetensors", "h5", "msgpack"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    batch = tokenizer(["an encoder reads a sentence"], return_tensors="pt")
    assert tokenizer.unk_token_id not in batch["input_ids"][0].tolist()
    model = proof["safetensors"].model
    produced = model.generate(batch["input_ids"], max_new_tokens=6, min_new_tokens=3)
    assert produced.shape[0] == 1
    assert produced.shape[1] >= 4


def test_fixtures_are_small() -> None:
    files = [path for path in FIXTURES.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in files) < 1_000_000
