"""A family is added exactly as ``docs/adding-an-architecture.md`` says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from converter import UnsupportedError, compose, convert, inspect
from converter.architectures.lint import lint
from converter.architectures.registry import ArchitectureRegistry
from converter.cli import commands
from converter.commands.draft_table import draft
from tests.factories import make, noise

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/adding-an-architecture.md").read_text()
CONFIG = {
    "model_type": "pebble",
    "architectures": ["PebbleModel"],
    "vocab_size": 41,
    "width": 12,
    "max_places": 17,
    "num_stones": 3,
    "num_heads": 4,
}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    found = re.search(r"<!-- pebble\.toml -->\n```toml\n(.*?)```", PAGE, re.DOTALL)
    assert found
    path = tmp_path / "pebble.toml"
    path.write_text(found[1])
    return path


@pytest.fixture
def pebble(tmp_path: Path) -> Path:
    shapes: dict[str, tuple[int, ...]] = {
        "embed.words.weight": (41, 12),
        "embed.places.weight": (17, 12),
    }
    for layer in range(3):
        shapes |= {
            f"stones.{layer}.mix.weight": (12, 12),
            f"stones.{layer}.mix.bias": (12,),
            f"stones.{layer}.norm.weight": (12,),
            f"stones.{layer}.norm.bias": (12,),
        }
    tensors = {f"pebble.{name}": noise(name, shape) for name, shape in shapes.items()}
    tensors["pebble.embed.place_ids"] = np.arange(17)
    (tmp_path / "pebble").mkdir()
    (tmp_path / "pebble/config.json").write_text(json.dumps(CONFIG))
    save_file(tensors, tmp_path / "pebble/model.safetensors")
    return tmp_path / "pebble"


def test_the_page_s_table_is_good(table: Path) -> None:
    assert lint(table) == []


def test_the_new_family_composes(table: Path, pebble: Path, tmp_path: Path) -> None:
    result = compose(
        pebble, ROOT / "fixtures/gpt2-tiny", tmp_path / "out", mapping=[table], max_shard_size=None
    )
    assert result.frameworks == ("pytorch", "flax")
    assert result.to_dict()["ignored"]["encoder"] == {
        "pebble.embed.place_ids": "a buffer: 0, 1, 2 and so on"
    }
    written = load_file(tmp_path / "out/model.safetensors")
    source = load_file(pebble / "model.safetensors")
    for name, value in source.items():
        if name != "pebble.embed.place_ids":
            assert np.array_equal(written[f"encoder.{name.removeprefix('pebble.')}"], value), name


def test_the_new_family_converts_there_and_back(table: Path, pebble: Path, tmp_path: Path) -> None:
    convert(pebble, tmp_path / "flax", to=["flax"], mapping=[table])
    convert(tmp_path / "flax", tmp_path / "back", to=["pytorch"], mapping=[table])
    back = load_file(tmp_path / "back/model.safetensors")
    source = load_file(pebble / "model.safetensors")
    del source["pebble.embed.place_ids"]
    assert {f"pebble.{name}" for name in back} == set(source)
    assert all(np.array_equal(back[name.removeprefix("pebble.")], source[name]) for name in source)


def test_without_the_table_the_family_is_unknown(pebble: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"pebble.*\n.*mapping=\[FILE\]"):
        inspect(pebble)


def test_the_draft_is_a_table_that_names_what_is_to_be_decided(
    pebble: Path, tmp_path: Path
) -> None:
    result = CliRunner().invoke(commands, ["check-table", "--draft", str(pebble)])
    assert result.exit_code == 0, result.output
    path = tmp_path / "draft.toml"
    path.write_text(result.stdout)
    assert lint(path) == []
    for decision in ("defaults", "classes", "encoder, decoder or both", "why is it no weight"):
        assert re.search(f"decide:.*{decision}", result.stdout), decision
    registry = ArchitectureRegistry([path])
    rows = {str(row.path): row.layer_type.name for row in registry.architecture("pebble").modules}
    assert rows == {
        "embed.words": "embedding",
        "embed.places": "embedding",
        "stones.{layer}.mix": "linear",
        "stones.{layer}.norm": "layer_norm",
    }
    assert inspect(pebble, mapping=[path]).fits


def test_ambiguous_sizes_are_marked(tmp_path: Path) -> None:
    made = make(tmp_path / "bert", "bert", vocab_size=40, intermediate_size=40)
    text = draft(made.directory)
    line = next(line for line in text.splitlines() if "intermediate.dense" in line)
    assert 'linear = "hidden_size -> intermediate_size"' in line
    assert "decide: intermediate_size or vocab_size is 40" in line


def test_what_shapes_cannot_tell_is_marked(tmp_path: Path) -> None:
    """A table without a bias may be an embedding; lengths may be several times a field."""
    made = make(tmp_path / "gpt2", "gpt2")
    row = next(line for line in draft(made.directory).splitlines() if "attn.c_attn" in line)
    assert 'conv1d = "n_embd -> 3 * n_embd"' in row and "decide: no field is 84" in row
    config = {"model_type": "wren", "vocab_size": 41, "width": 12, "depth": 1}
    (tmp_path / "wren").mkdir()
    (tmp_path / "wren/config.json").write_text(json.dumps(config))
    shapes: dict[str, tuple[int, ...]] = {"wren.tok.weight": (41, 12)}
    shapes |= {f"wren.blocks.0.{name}.weight": (12, 12) for name in ("up", "down", "side")}
    shapes |= {"lm_head.weight": (41, 12), "wren.last.weight": (12,)}
    save_file(
        {name: noise(name, shape) for name, shape in shapes.items()},
        tmp_path / "wren/model.safetensors",
    )
    rows = {
        line.split(" = ")[0].strip(): line
        for line in draft(tmp_path / "wren").splitlines()
        if line.startswith('"')
    }
    assert 'embedding = "vocab_size -> width"' in rows['"tok"']
    assert "decide: an embedding, or linear without a bias?" in rows['"tok"']
    assert 'linear = "width -> width"' in rows['"blocks.{layer}.up"']
    assert 'linear = "width -> vocab_size"' in rows['"lm_head"']


def test_only_pytorch_is_drafted_from(tmp_path: Path) -> None:
    made = make(tmp_path / "bert", "bert", dialect="flax")
    with pytest.raises(UnsupportedError, match="PyTorch's names"):
        draft(made.directory)
