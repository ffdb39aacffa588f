"""The configurations of the literature, and the options below them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

from converter import UsageError, compose
from converter.architectures.loader import load_presets
from converter.cli import commands
from tests.factories import make
from tests.reading import FILES, config_of, manifest_of, values


def run(*args: object, code: int = 0) -> str:
    result = CliRunner().invoke(commands, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result.output


def _sources(home: Path, name: str) -> tuple[Path, Path]:
    """Write the checkpoints of a preset; a shared model is one checkpoint with its head."""
    recipe = load_presets()[name]
    heads = {"bert": "BertForMaskedLM", "roberta": "RobertaForMaskedLM", "gpt2": "GPT2LMHeadModel"}
    decoder = make(home / "decoder", recipe.decoder, heads[recipe.decoder], seed=1).directory
    if recipe.share:
        return decoder, decoder
    return make(home / "encoder", recipe.encoder).directory, decoder


@pytest.mark.parametrize("name", sorted(load_presets()))
def test_a_preset_initializes_and_shares_what_the_paper_does(name: str, tmp_path: Path) -> None:
    recipe = load_presets()[name]
    encoder, decoder = _sources(tmp_path, name)
    out = tmp_path / "out"
    run("compose", "--preset", name, encoder, decoder, out)
    config = config_of(out)
    tensors = values(out / "model.safetensors")
    initialized = {
        tensor
        for tensor, entry in manifest_of(out)["tensors"].items()
        if entry["origin"] == "initialized"
    }
    for submodel in ("encoder", "decoder"):
        own = {tensor for tensor in tensors if tensor.startswith(f"{submodel}.")}
        if submodel in recipe.random:
            assert own <= initialized
        elif submodel == "encoder":
            pooler = {f"encoder.pooler.dense.{leaf}" for leaf in ("weight", "bias")}
            assert own & initialized <= (pooler if recipe.share else set())
        else:
            assert all("cross" in tensor for tensor in own & initialized)
    assert bool(config.get("tie_encoder_decoder")) == recipe.share
    if recipe.set:
        assert config["decoder"]["num_hidden_layers"] == 6
        assert config["decoder"]["intermediate_size"] == 2048


def test_shared_submodels_are_equal_in_every_file(tmp_path: Path) -> None:
    source = make(tmp_path / "bert", "bert", "BertForMaskedLM").directory
    run("compose", "--preset", "bertshare", source, source, tmp_path / "out")
    compose(source, source, tmp_path / "same", share=True, init="normal")
    for name in FILES:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "same" / name).read_bytes()
        tensors = values(tmp_path / "out" / name)
        shared = 0
        for tensor, value in tensors.items():
            submodel, _, rest = tensor.partition(".")
            twin = tensors.get(f"decoder.{rest}")
            if submodel == "encoder" and twin is not None:
                shared += 1
                assert np.array_equal(value, twin), tensor
        assert shared == 5 + 16 * 3


def test_random_both_means_encoder_and_decoder(tmp_path: Path) -> None:
    encoder = make(tmp_path / "bert", "bert").directory
    decoder = make(tmp_path / "gpt2", "gpt2", "GPT2LMHeadModel").directory
    run("compose", encoder, decoder, tmp_path / "both", "--random", "both", "--to", "pytorch")
    run(
        *("compose", encoder, decoder, tmp_path / "each", "--to", "pytorch"),
        *("--random", "encoder", "--random", "decoder"),
    )
    both, each = (load_file(tmp_path / name / FILES[0]) for name in ("both", "each"))
    assert all(np.array_equal(both[name], each[name]) for name in both)


def test_another_architecture_than_the_papers_gives_a_warning(tmp_path: Path) -> None:
    source = make(tmp_path / "roberta", "roberta", "RobertaForMaskedLM").directory
    text = run("compose", "--preset", "bert2bert", source, source, tmp_path / "out", "--quiet")
    assert "bert2bert of Rothe et al. 2020 has bert as encoder; this is roberta" in text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--preset", "bert2llama"], "'bert2llama' is not a preset"),
        (["--share"], "only if they are the same checkpoint"),
        (["--preset", "rnd2rnd", "--share"], "newly initialized weights cannot be shared"),
    ],
)
def test_what_cannot_be_followed_is_refused(tmp_path: Path, args: list[str], message: str) -> None:
    encoder = make(tmp_path / "bert", "bert").directory
    decoder = make(tmp_path / "gpt2", "gpt2", "GPT2LMHeadModel").directory
    assert message in run("compose", encoder, decoder, tmp_path / "out", *args, code=2)
    assert not (tmp_path / "out").exists()


def test_an_unknown_preset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a preset"):
        compose(tmp_path, tmp_path, tmp_path / "out", preset="seq2seq")


def test_the_list_of_architectures_ends_with_the_presets() -> None:
    presets = next(line for line in run("families").splitlines() if line.startswith("Presets: "))
    assert presets == "Presets: " + ", ".join(load_presets())
    text = run("families", "--long")
    assert all(f"  {name} " in text for name in load_presets())
