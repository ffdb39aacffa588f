"""Proof by the frameworks themselves, and what transformers breaks without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter
from converter.errors import UnsupportedError
from converter.proof import native
from converter.proof.verification import Verification
from tests.environments import TRANSFORMERS_5, interpreter
from tests.proof.damage import alter, copy_of, key_of, not_a_number, rewrite

from .files import read_msgpack
from .models import EQUAL, LARGE, SMALL, combined_pytorch, configuration
from .workshop import Workshop

pytestmark = pytest.mark.peer


def said(found: Verification) -> dict[str, str]:
    """Tensor → what is wrong with it."""
    return {str(problem.tensor): problem.what for problem in found.problems}


@pytest.fixture(scope="module")
def both(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A composition with a file of every kind."""
    out = tmp_path_factory.mktemp("verify") / "both"
    encoder, decoder = workshop.source("bert", size="large"), workshop.source("gpt2", "causal")
    converter.compose(encoder, decoder, out, pytorch_format="both")
    return out


def test_the_libraries_read_what_we_read(both: Path) -> None:
    found = converter.verify(both, native=True)
    assert found.verified, found.problems
    assert sum("own library" in check for check in found.checks) == 4


def test_sharded_files_too(workshop: Workshop, tmp_path: Path) -> None:
    converter.convert(
        workshop.source("bert"), tmp_path / "it", pytorch_format="both", max_shard_size=30_000
    )
    found = converter.verify(tmp_path / "it", native=True)
    assert found.verified, found.problems
    assert sum("own library" in check for check in found.checks) == 4


def test_a_reader_of_ours_that_errs_is_found(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from converter.containers.contiguous import ContiguousTensor

    honest = ContiguousTensor.read_into

    def lying(self: Any, out: Any, axis: int = 0, start: int = 0) -> None:
        honest(self, out, axis, start)
        if "query" in self.spec.name and out.ndim == 2:
            out[...] = out.T.copy()

    monkeypatch.setattr(ContiguousTensor, "read_into", lying)
    found = converter.verify(both, native=True)
    wrong = {p.tensor for p in found.problems if p.what == "its own library reads other values"}
    assert {name for name in wrong if name and "query" in name} == wrong
    assert len(wrong) >= 4


def test_a_missing_extra_is_named(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError) as caught:
        converter.verify(both, native=True)
    for extra in ("torch", "tensorflow", "flax"):
        assert f"pip install 'encdec-converter[{extra}]'" in str(caught.value)


def test_transformers_runs_it(both: Path, tmp_path: Path) -> None:
    found = converter.verify(both, run=True)
    assert found.verified, found.problems
    assert sum("loads whole and runs" in text for text in found.checks.values()) == 4
    assert sum(text.startswith("agree to") for text in found.checks.values()) == 3


def test_transformers_finds_damage(both: Path, tmp_path: Path) -> None:
    broken = copy_of(both, tmp_path / "it")
    file = broken / "model.safetensors"
    module = "encoder.layer.0.attention.self.query"
    rewrite(file, lambda tensors: tensors.pop(key_of(file, module)) is None)
    file = broken / "flax_model.msgpack"
    alter(file, [key_of(file, module)], not_a_number)
    found = converter.verify(broken, run=True)
    told = [(p.what, p.tensor or "") for p in found.problems if "manifest" not in p.what]
    missing = [t for w, t in told if w == "transformers finds it missing and draws it anew"]
    assert missing == [f"encoder.{module}.weight"]
    assert any("outputs differ" in what or "an output is" in what for what, _ in told)


def test_an_interpreter_without_transformers(both: Path, tmp_path: Path) -> None:
    empty = tmp_path / "python"
    empty.write_text("#!/bin/sh\necho 'No module named transformers' >&2\nexit 1\n")
    empty.chmod(0o755)
    for python, text in ((empty, "No module named transformers"), (tmp_path / "no", "cannot be")):
        with pytest.raises(UnsupportedError, match=text):
            converter.verify(both, run=True, python=python)


def test_transformers_5_runs_it(both: Path) -> None:
    found = converter.verify(both, python=interpreter(TRANSFORMERS_5))
    assert found.verified, found.problems
    assert sum("transformers 5" in check for check in found.checks) == 2


def peer_tensorflow(source: Path, out: Path) -> None:
    """What transformers makes of a PyTorch checkpoint in TensorFlow."""
    import transformers

    model = transformers.TFEncoderDecoderModel.from_pretrained(source, from_pt=True)
    model.save_pretrained(out)


@pytest.mark.parametrize("family", ["xlm-roberta", "gpt2"])
def test_the_encoder_that_transformers_drops_is_named(tmp_path: Path, family: str) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    combined_pytorch(configuration(family, SMALL), configuration("bert", EQUAL)).save_pretrained(
        source, safe_serialization=False
    )
    peer_tensorflow(source, out)
    found = converter.verify(out, against=[source])
    wrong = {name for name, o in found.origins.items() if o.verdict not in ("equal", "fresh")}
    encoder = {name for name in found.origins if name.startswith("encoder.")}
    assert encoder
    assert {name for name in wrong if name.endswith("weight")} >= {
        name
        for name in encoder
        if name.endswith(("query.weight", "c_attn.weight", "word_embeddings.weight"))
    }
    assert all(name.startswith("encoder.") for name in wrong)
    assert any("nothing to do with it" in text for text in said(found).values())


def test_the_head_that_transformers_drops_is_named(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    decoder = configuration("bert", EQUAL, tie_word_embeddings=False)
    combined_pytorch(configuration("bert", SMALL), decoder).save_pretrained(
        source, safe_serialization=False
    )
    peer_tensorflow(source, out)
    found = converter.verify(out, against=[source])
    assert not found.verified
    assert any("cls" in name and "decoder" in name for name in said(found))


def test_shared_halves_that_transformers_loses_are_named(tmp_path: Path) -> None:
    import transformers

    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        configuration("bert", SMALL), configuration("bert", SMALL), tie_encoder_decoder=True
    )
    transformers.EncoderDecoderModel(config).save_pretrained(tmp_path / "source")
    model = transformers.FlaxEncoderDecoderModel.from_pretrained(tmp_path / "source", from_pt=True)
    model.save_pretrained(tmp_path / "out")
    found = converter.verify(tmp_path / "out", against=[tmp_path / "source"])
    wrong = {name for name, o in found.origins.items() if o.verdict not in ("equal", "fresh")}
    assert any("query.weight" in name for name in wrong)
    assert {name.partition(".")[0] for name in wrong} == {"encoder"}


def test_weights_drawn_anew_from_a_wrapped_tree_are_named(
    workshop: Workshop, tmp_path: Path
) -> None:
    import transformers
    from flax.serialization import msgpack_serialize
    from flax.traverse_util import unflatten_dict

    source = workshop.source("bert", container="msgpack")
    wrapped = tmp_path / "wrapped"
    wrapped.mkdir()
    (wrapped / "config.json").write_bytes((source / "config.json").read_bytes())
    tree = unflatten_dict(read_msgpack(source / "flax_model.msgpack"), sep="/")
    (wrapped / "flax_model.msgpack").write_bytes(msgpack_serialize({"params": tree}))
    transformers.FlaxBertModel.from_pretrained(wrapped).save_pretrained(tmp_path / "out")
    found = converter.verify(tmp_path / "out", against=[source])
    assert len(found.origins) > 30
    assert not any(o.verdict == "equal" for o in found.origins.values())
    assert converter.verify(source, against=[wrapped]).verified


def test_a_projection_that_transformers_invents_is_named(tmp_path: Path) -> None:
    import transformers
    from safetensors.numpy import load_file, save_file

    whole, holed = tmp_path / "whole", tmp_path / "holed"
    model = combined_pytorch(configuration("bert", LARGE), configuration("gpt2", SMALL))
    model.save_pretrained(whole)
    model.save_pretrained(holed)
    tensors = load_file(holed / "model.safetensors")
    del tensors["enc_to_dec_proj.weight"]
    save_file(tensors, holed / "model.safetensors", metadata={"format": "pt"})
    transformers.EncoderDecoderModel.from_pretrained(holed).save_pretrained(tmp_path / "out")
    found = converter.verify(tmp_path / "out", against=[whole])
    assert set(said(found)) == {"enc_to_dec_proj.weight"}


def test_a_hand_written_script_that_forgets_to_transpose_is_named(
    workshop: Workshop, tmp_path: Path
) -> None:
    source = workshop.source("bert")
    converter.convert(source, tmp_path / "out", to=["flax"])
    file = tmp_path / "out" / "flax_model.msgpack"

    def forget(tensors: dict[str, np.ndarray]) -> None:
        for name, array in tensors.items():
            if "/attention/" in name and name.endswith("kernel"):
                tensors[name] = np.ascontiguousarray(array.T)

    rewrite(file, forget)
    found = converter.verify(tmp_path / "out", against=[source])
    wrong = {n: o.verdict for n, o in found.origins.items() if o.verdict != "equal"}
    assert set(wrong.values()) == {"is transposed"}
    assert len(wrong) == 8
