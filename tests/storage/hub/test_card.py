"""Model cards: base models, licenses, initialized weights, and whose card is kept."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import converter
from converter.errors import UsageError
from converter.storage.hub_card import is_generated, stated_fields, stated_license
from tests import factories
from tests.storage.hub.conftest import HubSession


def front(text: str) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load(text.split("---\n")[1])
    return found


@pytest.fixture
def submodels(tmp_path: Path) -> tuple[Path, Path]:
    bert = factories.make(tmp_path / "bert", "bert", intermediate_size=41).directory
    return bert, factories.make(tmp_path / "gpt2", "gpt2", "GPT2LMHeadModel").directory


@pytest.mark.usefixtures("bert", "gpt2")
@pytest.mark.slow
def test_sources_from_the_hub_are_the_lineage(session: HubSession) -> None:
    session.converter("compose", "acme/bert", "acme/gpt2", "both", "--seed", "3", "-q")
    text = (session.home / "both" / "README.md").read_text()
    assert front(text) == {
        "base_model": ["acme/bert", "acme/gpt2"],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "license": "other",
        "license_name": "apache-2.0-and-mit",
        "tags": ["encoder-decoder", "gpt2", "bert"],
    }
    commits = [session.hub.repos[name].refs["main"] for name in ("acme/bert", "acme/gpt2")]
    command = f"converter compose acme/bert@{commits[0]} acme/gpt2@{commits[1]} OUTPUT"
    assert command in text and "--seed 3" in text
    assert "pipeline_tag" not in text
    assert str(session.home) not in text
    # What the card says is what makes the very same files again.
    again = next(line for line in text.splitlines() if line.startswith("converter compose"))
    session.converter(*again.replace("OUTPUT", "again").split()[1:], "-q")
    one, two = (
        json.loads((session.home / n / "converter-manifest.json").read_text())
        for n in ("both", "again")
    )
    assert one == two
    session.converter("push", "both", "me/both")
    assert b'EncoderDecoderModel.from_pretrained("me/both")' in session.hub.read(
        "me/both", "README.md"
    )


def test_local_sources_are_no_lineage(submodels: tuple[Path, Path], tmp_path: Path) -> None:
    result = converter.compose(*submodels, tmp_path / "both")
    text = (tmp_path / "both" / "README.md").read_text()
    assert front(text) == {
        "library_name": "transformers",
        "tags": ["encoder-decoder", "gpt2", "bert"],
    }
    assert (
        'TFEncoderDecoderModel.from_pretrained("path/to/this-model", use_safetensors=False)' in text
    )
    assert 'FlaxEncoderDecoderModel.from_pretrained("path/to/this-model")' in text
    initialized = len(result.to_dict()["initialized"])
    assert f"{initialized} of {len(result.plan.tensors)} tensors" in text
    assert "`decoder.h.{0,1}.crossattention.c_attn.weight`" in text
    assert is_generated((tmp_path / "both" / "README.md").read_bytes())


def test_the_license_of_results(submodels: tuple[Path, Path], tmp_path: Path) -> None:
    bert, gpt2 = submodels
    (bert / "README.md").write_text("---\nlicense: mit\n---\n")
    converter.compose(bert, gpt2, tmp_path / "one")
    assert "license" not in front((tmp_path / "one" / "README.md").read_text())
    (gpt2 / "README.md").write_text("---\ntags: [x]\nlicense:\n- MIT\n---\n")
    converter.compose(bert, gpt2, tmp_path / "both")
    assert front((tmp_path / "both" / "README.md").read_text())["license"] == "mit"
    converter.convert(bert, tmp_path / "converted")
    assert front((tmp_path / "converted" / "README.md").read_text())["license"] == "mit"


CARD = """---
language: ["no", en]
license: other
license_name: "own terms"
license_link: https://example.org/terms
base_model:
- org/base
datasets: [org/data]
pipeline_tag: fill-mask
extra: |
  text
---
"""


def test_a_copy_states_what_the_card_of_its_source_does(
    submodels: tuple[Path, Path], tmp_path: Path
) -> None:
    bert, gpt2 = submodels
    (bert / "README.md").write_text(CARD)
    (gpt2 / "README.md").write_text("---\nlicense: mit\nbase_model: org/other\nlanguage: en\n---\n")
    for name in ("LICENSE", "NOTICE.txt"):
        (bert / name).write_text(name)
    converter.convert(bert, tmp_path / "copy")
    assert front((tmp_path / "copy" / "README.md").read_text()) == {
        "base_model": ["org/base"],
        "language": ["no", "en"],
        "datasets": "org/data",
        "pipeline_tag": "fill-mask",
        "library_name": "transformers",
        "license": "other",
        "license_name": "own terms",
        "license_link": "https://example.org/terms",
        "tags": ["bert"],
    }
    assert (tmp_path / "copy/LICENSE").read_text() == "LICENSE"
    assert (tmp_path / "copy/NOTICE.txt").read_text() == "NOTICE.txt"
    converter.compose(bert, gpt2, tmp_path / "both")
    composed = front((tmp_path / "both" / "README.md").read_text())
    assert composed["base_model"] == ["org/base", "org/other"]
    assert composed["license_name"] == "other-and-mit"
    assert "language" not in composed
    (tmp_path / "both/LICENSE.md").write_text("terms")
    converter.split(tmp_path / "both", tmp_path / "parts")
    for name, tag in (("encoder", "bert"), ("decoder", "gpt2")):
        card = (tmp_path / "parts" / name / "README.md").read_text()
        assert front(card)["base_model"] == ["org/base", "org/other"]
        assert front(card)["license_name"] == "other-and-mit"
        assert front(card)["tags"] == [tag]
        assert f"# {name} of both" in card
        assert "Model.from_pretrained" in card
        assert (tmp_path / "parts" / name / "LICENSE.md").read_text() == "terms"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("language: en", ("en",)),
        ("language:\n  - en\n  - 'no'\nlicense: mit", ("en", "no")),
        ('language: [en, "de"]', ("en", "de")),
        ("language: &anchor en", None),
        ("language: [en, [de]]", None),
        ("language: |\n  en", None),
        ("language: en\nlanguage: de", ("en",)),
        ("language: 'en", None),
        ("language:", None),
    ],
)
def test_only_plain_fields_of_a_card_are_repeated(
    tmp_path: Path, lines: str, expected: tuple[str, ...] | None
) -> None:
    (tmp_path / "README.md").write_text(f"---\n{lines}\n---\n")
    assert stated_fields(tmp_path).get("language") == expected


def test_the_parts_of_a_composed_model_state_their_own_repositories(
    submodels: tuple[Path, Path], tmp_path: Path
) -> None:
    converter.compose(*submodels, tmp_path / "both", to=["pytorch"])
    manifest = tmp_path / "both/converter-manifest.json"
    made = json.loads(manifest.read_text())
    for name, entry in made["sources"].items():
        entry |= {"reference": f"org/{name}", "revision": "a" * 40}
    manifest.write_text(json.dumps(made))
    converter.split(tmp_path / "both", tmp_path / "parts", to=["pytorch"])
    for name in ("encoder", "decoder"):
        card = (tmp_path / "parts" / name / "README.md").read_text()
        assert front(card)["base_model"] == [f"org/{name}"]
    converter.convert(tmp_path / "parts/encoder", tmp_path / "again", to=["pytorch"])
    written = json.loads((tmp_path / "again/converter-manifest.json").read_text())
    split_off = written["sources"]["source"]["made_by"]
    assert split_off["command"] == "split"
    composed = split_off["sources"]["source"]["made_by"]
    assert composed["command"] == "compose"
    assert composed["sources"]["decoder"] == {"reference": "org/decoder", "revision": "a" * 40}
    assert front((tmp_path / "again/README.md").read_text())["base_model"] == ["org/encoder"]


@pytest.mark.slow
def test_a_hostile_manifest_adds_little_to_another(
    submodels: tuple[Path, Path], tmp_path: Path
) -> None:
    deep: dict[str, Any] = {"reference": "x" * 10**5, "revision": 7}
    for _ in range(30):
        deep = {"reference": ["a"], "made_by": {"sources": {"l" * 10**4: deep, "other": 3}}}
    many = {str(number): deep for number in range(1000)}
    contents: tuple[Any, ...] = (
        {"sources": many},
        {"sources": []},
        {"sources": {"a": {"made_by": 5}}},
        [],
    )
    for content in contents:
        (submodels[0] / "converter-manifest.json").write_text(json.dumps(content))
        converter.convert(submodels[0], tmp_path / "out", to=["pytorch"], overwrite=True)
        assert (tmp_path / "out/converter-manifest.json").stat().st_size < 10**6


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: apache-2.0\n---\n", "apache-2.0"),
        ("---\r\nlicense: 'mit'\r\n---\r\n", "mit"),
        ("---\nlicense: [bsd-3-clause]\n---", "bsd-3-clause"),
        ("---\nlicense:\n  - mit\n---\n", "mit"),
        ("---\nlicense_name: mit\n---\n", None),
        ("license: mit\n", None),
        ("---\ntags: []\n---\nlicense: mit\n", None),
        ("---\nlicense: a b\n---\n", None),
    ],
)
def test_the_license_that_a_card_states(tmp_path: Path, card: str, expected: str | None) -> None:
    (tmp_path / "README.md").write_bytes(card.encode())
    assert stated_license(tmp_path) == expected


def test_a_card_of_the_user_stays(submodels: tuple[Path, Path], tmp_path: Path) -> None:
    bert, _ = submodels
    card = tmp_path / "out" / "README.md"
    converter.convert(bert, tmp_path / "out", to=["pytorch"])
    first = card.read_bytes()
    converter.convert(bert, tmp_path / "out", to=["flax"], overwrite=True)
    assert is_generated(card.read_bytes()) and card.read_bytes() != first
    card.write_text(card.read_text() + "\nAnd it is mine.\n")
    mine = card.read_bytes()
    converter.convert(bert, tmp_path / "out", overwrite=True)
    assert card.read_bytes() == mine
    own = tmp_path / "own.md"
    own.write_text("# Own\n")
    converter.convert(bert, tmp_path / "out", overwrite=True, card=own)
    assert card.read_text() == "# Own\n"
    with pytest.raises(UsageError, match="card"):
        converter.convert(bert, tmp_path / "out", overwrite=True, card=tmp_path / "none.md")


def test_initialized_weights_have_no_base_model(
    submodels: tuple[Path, Path], tmp_path: Path
) -> None:
    bert, gpt2 = submodels
    (gpt2 / "README.md").write_text("---\nlicense: mit\n---\n")
    converter.compose(bert, gpt2, tmp_path / "both", random=["encoder"])
    text = (tmp_path / "both" / "README.md").read_text()
    assert front(text)["license"] == "mit"
    assert "its configuration; the weights are newly initialized" in text


@pytest.mark.slow
def test_the_flax_example_passes_what_its_class_needs(tmp_path: Path) -> None:
    """The calls themselves run in `tests/transformers/test_pairs.py`."""
    roberta = factories.make(tmp_path / "roberta", "roberta", pad_token_id=3).directory
    writer = factories.make(
        tmp_path / "writer", "roberta", "RobertaForCausalLM", pad_token_id=3
    ).directory
    bert, vit = (factories.make(tmp_path / name, name).directory for name in ("bert", "vit"))
    gpt2 = factories.make(tmp_path / "gpt2", "gpt2", "GPT2LMHeadModel").directory
    encoded = "encoder_outputs=FlaxBaseModelOutput(outputs.encoder_last_hidden_state)"
    types = "position_ids=np.zeros_like(ids)"
    for sources, expected, words in (
        ((roberta, gpt2), ["position_ids=positions + 4", encoded], [" from 4, "]),
        ((bert, gpt2), [types], ["gives NaN: pass it position_ids=np.zeros_like(input_ids)"]),
        (
            (bert, writer),
            ["decoder_position_ids=positions + 4", types, "decoder_attention_mask=np.array([[5]])"],
            ["gives NaN", "not 4: pass it decoder_attention_mask=np.array([[5]])"],
        ),
        ((vit, writer), ["decoder_position_ids=positions + 4"], ["generate() fails"]),
        ((gpt2, gpt2), [], []),
        ((gpt2,), [], []),
        ((roberta,), [], []),
    ):
        made = tmp_path / "-".join(["made", *(source.name for source in sources)])
        command: Any = converter.compose if len(sources) > 1 else converter.convert
        result = command(*sources, made)
        again = converter.convert(made, tmp_path / f"again-{made.name}")
        card = (made / "README.md").read_text()
        lines = [line.strip(" ,") for line in card.splitlines()]
        starts = ("position_ids=", "decoder_position", "encoder_outputs=", "decoder_attention")
        assert [line for line in lines if line.startswith(starts)] == expected
        for warned in (result.warnings, again.warnings):
            own = [text for text in warned if text.startswith("flax: generate()")]
            assert len(own) == len(words)
            assert all(word in text for word, text in zip(words, own, strict=True))
        assert not any(
            "generate()" in text
            for text in command(*sources, tmp_path / "no", to=["pytorch"], dry_run=True).warnings
            if text.startswith("flax")
        )


def test_the_title_of_a_card(submodels: tuple[Path, Path], tmp_path: Path) -> None:
    bert, gpt2 = submodels
    made = converter.compose(bert, gpt2, tmp_path / "both", title="News in short\n<b>[x](y)</b>")
    text = (tmp_path / "both" / "README.md").read_text()
    assert re.findall("^# (.*)", text, re.MULTILINE) == [r"News in short\<b\>\[x\](y)\</b\>"]
    assert is_generated(text.encode()) and "--title 'News in short" in text
    converter.convert(bert, tmp_path / "one", title="Mine")
    assert "\n# Mine\n" in (tmp_path / "one" / "README.md").read_text()
    assert made.written
    for options in ({"title": " "}, {"title": "x", "card": tmp_path / "one" / "README.md"}):
        with pytest.raises(UsageError, match="title: "):
            converter.convert(bert, tmp_path / "no", **options)
