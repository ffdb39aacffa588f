"""Verification by the frameworks, and what transformers damages without a warning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter
from converter.errors import UnsupportedError
from converter.verification import framework_readers
from converter.verification.result import Verification
from tests.environments import TRANSFORMERS_5, interpreter
from tests.transformers.source_cache import SourceCache
from tests.verification.damage import alter, copy_of, key_of, not_a_number, rewrite

pytestmark = pytest.mark.peer


def verdicts(actual: Verification) -> dict[str, str]:
    """Return tensor → what is wrong with it."""
    return {str(problem.tensor): problem.what for problem in actual.problems}


@pytest.fixture(scope="module")
def both(source_cache: SourceCache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compose a checkpoint in every format."""
    out = tmp_path_factory.mktemp("verify") / "both"
    encoder, decoder = (
        source_cache.source("bert", size="large"),
        source_cache.source("gpt2", "causal"),
    )
    converter.compose(encoder, decoder, out, pytorch_format="both")
    return out


def test_the_libraries_read_what_we_read(both: Path) -> None:
    result = converter.verify(both, native=True)
    assert result.verified, result.problems
    assert sum("own library" in check for check in result.checks) == 4


def test_sharded_files_too(source_cache: SourceCache, tmp_path: Path) -> None:
    converter.convert(
        source_cache.source("bert"), tmp_path / "it", pytorch_format="both", max_shard_size=30_000
    )
    result = converter.verify(tmp_path / "it", native=True)
    assert result.verified, result.problems
    assert sum("own library" in check for check in result.checks) == 4


def test_a_faulty_reader_is_found(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from converter.formats.stored_tensors import ContiguousTensor

    honest = ContiguousTensor.read_into

    def lying(self: Any, out: Any, axis: int = 0, start: int = 0) -> None:
        honest(self, out, axis, start)
        if "query" in self.spec.name and out.ndim == 2:
            out[...] = out.T.copy()

    monkeypatch.setattr(ContiguousTensor, "read_into", lying)
    result = converter.verify(both, native=True)
    wrong = {p.tensor for p in result.problems if p.what == "its own library reads other values"}
    assert {name for name in wrong if name and "query" in name} == wrong
    assert len(wrong) >= 4


def test_a_missing_extra_is_named(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framework_readers, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError) as caught:
        converter.verify(both, native=True)
    for extra in ("torch", "tensorflow", "flax"):
        assert f"pip install 'encdec-converter[{extra}]'" in str(caught.value)


def test_transformers_runs_it(both: Path, tmp_path: Path) -> None:
    result = converter.verify(both, run=True)
    assert result.verified, result.problems
    assert sum("loads completely and runs" in text for text in result.checks.values()) == 4
    assert sum(text.startswith("agree to") for text in result.checks.values()) == 3


def test_transformers_finds_damage(both: Path, tmp_path: Path) -> None:
    broken = copy_of(both, tmp_path / "it")
    file = broken / "model.safetensors"
    module = "encoder.layer.0.attention.self.query"
    rewrite(file, lambda tensors: tensors.pop(key_of(file, module)))
    file = broken / "flax_model.msgpack"
    alter(file, [key_of(file, module)], not_a_number)
    result = converter.verify(broken, run=True)
    messages = [(p.what, p.tensor or "") for p in result.problems if "manifest" not in p.what]
    missing = [
        t for w, t in messages if w == "transformers reports it missing and newly initializes it"
    ]
    assert missing == [f"encoder.{module}.weight"]
    assert any("outputs differ" in what or "an output is" in what for what, _ in messages)


def test_an_interpreter_without_transformers(both: Path, tmp_path: Path) -> None:
    empty = tmp_path / "python"
    empty.write_text("#!/bin/sh\necho 'No module named transformers' >&2\nexit 1\n")
    empty.chmod(0o755)
    for python, text in ((empty, "No module named transformers"), (tmp_path / "no", "cannot be")):
        with pytest.raises(UnsupportedError, match=text):
            converter.verify(both, run=True, python=python)


def test_transformers_5_runs_it(both: Path) -> None:
    result = converter.verify(both, python=interpreter(TRANSFORMERS_5))
    assert result.verified, result.problems
    assert sum("transformers 5" in check for check in result.checks) == 2


def test_a_missing_transposition_is_named(source_cache: SourceCache, tmp_path: Path) -> None:
    source = source_cache.source("bert")
    converter.convert(source, tmp_path / "out", to=["flax"])
    file = tmp_path / "out" / "flax_model.msgpack"

    def forget(tensors: dict[str, np.ndarray]) -> None:
        for name, array in tensors.items():
            if "/attention/" in name and name.endswith("kernel"):
                tensors[name] = np.ascontiguousarray(array.T)

    rewrite(file, forget)
    result = converter.verify(tmp_path / "out", against=[source])
    wrong = {n: o.verdict for n, o in result.origins.items() if o.verdict != "equal"}
    assert set(wrong.values()) == {"is transposed"}
    assert len(wrong) == 8
