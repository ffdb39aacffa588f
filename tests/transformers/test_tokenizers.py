"""AutoTokenizer loads from a composition what its sources have, in transformers 4 and 5."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import converter
from tests.environments import TRANSFORMERS_5, interpreter
from tests.transformers.tiny import LIBRARY, MODEL_TYPES, tiny

pytestmark = pytest.mark.peer

ROOT = Path(__file__).parents[2]
TEXT = "A checkpoint holds the numbers of 3 models, unaffable."

LOAD = """
import json, sys
from transformers import AutoTokenizer
found = {}
for place in sys.argv[2:]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(place)
        ids = tokenizer(sys.argv[1])["input_ids"]
        name = type(tokenizer).__name__.removesuffix("Fast")
        found[place] = [name, ids, tokenizer.decode(ids), tokenizer.eos_token, tokenizer.pad_token]
    except Exception as error:
        found[place] = f"{type(error).__name__}: {error}"[:300]
json.dump(found, sys.stdout)
"""

LAYOUTS: Mapping[str, tuple[str, str, str, Mapping[str, str]]] = {
    "two": ("bert", "gpt2", "both", {"": "bert", "decoder_tokenizer": "gpt2"}),
    "one": ("bert", "bert", "both", {"": "bert"}),
    "old": ("bert-old", "gpt2-old", "both", {"": "bert-old", "decoder_tokenizer": "gpt2-old"}),
    "older": (
        "bert-slow",
        "gpt2-slow",
        "both",
        {"": "bert-slow", "decoder_tokenizer": "gpt2-slow"},
    ),
    "decoder's": ("bert-old", "gpt2-old", "decoder", {"": "gpt2-old"}),
    "encoder's": ("gpt2-old", "bert-old", "encoder", {"": "gpt2-old"}),
    "image": ("vit", "gpt2-old", "both", {"": "gpt2-old"}),
    "pieces": ("xlm-roberta", "mbart", "both", {"": "xlm-roberta", "decoder_tokenizer": "mbart"}),
    "more pieces": (
        "camembert",
        "plbart",
        "both",
        {"": "camembert", "decoder_tokenizer": "plbart"},
    ),
    "foreign": ("gpt2-as-bert", "bert", "both", {"": "gpt2-as-bert", "decoder_tokenizer": "bert"}),
    "foreign decoder": (
        "gpt2",
        "gpt2-as-bert",
        "both",
        {"": "gpt2", "decoder_tokenizer": "gpt2-as-bert"},
    ),
}
"""Name → encoder, decoder, ``--tokenizer``, and which tokenizer must be in which directory."""


def _source(home: Path, architecture: str, **fields: Any) -> Path:
    home.mkdir()
    config = {**tiny(architecture).config, "model_type": architecture, **fields}
    (home / "config.json").write_text(json.dumps(config))
    return home


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make tokenizers as they are published.

    Complete, without their class, slow files only, SentencePiece, and with another architecture's
    class in the model's configuration.
    """
    import sentencepiece

    home = tmp_path_factory.mktemp("sources")
    for architecture in ("bert", "gpt2"):
        for kind in ("", "-old", "-slow"):
            directory = _source(home / (architecture + kind), architecture)
            for path in (ROOT / "fixtures" / f"{architecture}-tiny").iterdir():
                slow = path.name in ("vocab.txt", "vocab.json", "merges.txt")
                token = path.name.startswith(("tokenizer", "special"))
                if slow or (token and kind != "-slow"):
                    shutil.copy(path, directory)
            if kind == "-old":  # as bert-base-uncased and gpt2 have it
                (directory / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    foreign = _source(home / "gpt2-as-bert", "gpt2", tokenizer_class="BertTokenizer")
    shutil.copy(ROOT / "fixtures/bert-tiny/vocab.txt", foreign)
    (home / "text").write_text((ROOT / "README.md").read_text())
    sentencepiece.SentencePieceTrainer.train(
        input=str(home / "text"),
        model_prefix=str(home / "pieces"),
        vocab_size=300,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    for architecture in ("xlm-roberta", "camembert", "mbart", "plbart"):
        directory = _source(home / architecture, architecture)
        shutil.copy(home / "pieces.model", directory / "sentencepiece.bpe.model")
    _source(home / "vit", "vit")
    return home


@pytest.fixture(scope="module")
def composed(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home, actual = tmp_path_factory.mktemp("composed"), {}
    for name, (encoder, decoder, tokenizer, _) in LAYOUTS.items():
        actual[name] = home / name.replace(" ", "-")
        converter.compose(
            *(sources / encoder, sources / decoder, actual[name]),
            to=["pytorch"],
            random=["encoder", "decoder"],
            tokenizer=tokenizer,  # type: ignore[arg-type]
            decoder_start_token=3,
            eos_token=2,
            pad_token=1,
        )
    return actual


@pytest.fixture(scope="module", params=["4", "5"])
def loaded(
    request: pytest.FixtureRequest, sources: Path, composed: dict[str, Path]
) -> dict[str, Any]:
    """Return what each version loads from every source and directory of a composition."""
    python = sys.executable if request.param == "4" else interpreter(TRANSFORMERS_5)
    names = sorted({name for layout in LAYOUTS.values() for name in layout[3].values()})
    directories = [str(sources / name) for name in names]
    for name, (*_, expected) in LAYOUTS.items():
        directories += [str(composed[name] / below) for below in expected]
    done = subprocess.run([python, "-c", LOAD, TEXT, *directories], check=True, capture_output=True)
    actual: dict[str, Any] = json.loads(done.stdout)
    return actual


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_directory_holds_the_tokenizer_of_its_source(
    loaded: dict[str, Any], sources: Path, composed: dict[str, Path], name: str
) -> None:
    expected = LAYOUTS[name][3]
    assert (composed[name] / "decoder_tokenizer").exists() == ("decoder_tokenizer" in expected)
    for below, source in expected.items():
        own = loaded[str(sources / source)]
        assert isinstance(own, list), own
        assert loaded[str(composed[name] / below)] == own
        assert len(own[1]) > 8


def test_what_training_saved_stays_through_conversion_and_splitting(
    composed: dict[str, Path], tmp_path: Path
) -> None:
    """Processor, tokenizer with a template of chats, and generation settings."""
    from transformers import (
        AutoImageProcessor,
        AutoProcessor,
        AutoTokenizer,
        GenerationConfig,
        TrOCRProcessor,
        VisionEncoderDecoderModel,
        ViTImageProcessor,
    )

    trained, out, parts = tmp_path / "trained", tmp_path / "out", tmp_path / "parts"
    model = VisionEncoderDecoderModel.from_pretrained(composed["image"])
    model.generation_config.num_beams = 3
    model.save_pretrained(trained)
    tokenizer = AutoTokenizer.from_pretrained(composed["image"])
    tokenizer.chat_template = {"default": "{{ messages }}", "tools": "{{ tools }}"}
    size = {"height": 30, "width": 20}
    TrOCRProcessor(ViTImageProcessor(size=size), tokenizer).save_pretrained(trained)
    own = AutoProcessor.from_pretrained(trained)
    assert own.image_processor.size == size
    assert isinstance(own.tokenizer.chat_template, dict)
    converter.convert(trained, out, to=["tensorflow"])
    converter.split(trained, parts, to=["pytorch"])
    both = AutoProcessor.from_pretrained(out)
    assert type(both) is type(own)
    images = both.image_processor, AutoImageProcessor.from_pretrained(parts / "encoder")
    for image_processor in images:
        assert image_processor.to_dict() == own.image_processor.to_dict()
    for copy in (both.tokenizer, AutoTokenizer.from_pretrained(parts / "decoder")):
        assert copy(TEXT)["input_ids"] == own.tokenizer(TEXT)["input_ids"]
        assert copy.chat_template == own.tokenizer.chat_template
    for place in (out, parts / "decoder"):
        settings = GenerationConfig.from_pretrained(place)
        assert settings.to_dict() == model.generation_config.to_dict()


def test_both_tokenizers_of_what_training_saved_are_converted_and_split(
    sources: Path, composed: dict[str, Path], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, EncoderDecoderModel

    EncoderDecoderModel.from_pretrained(composed["two"]).save_pretrained(tmp_path / "trained")
    for below in ("", "decoder_tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(composed["two"] / below)
        tokenizer.save_pretrained(tmp_path / "trained" / below)
    converter.convert(tmp_path / "trained", tmp_path / "out", to=["flax"])
    converter.split(tmp_path / "out", tmp_path / "parts", to=["pytorch"])
    for name, places in (
        ("bert", ("out", "parts/encoder")),
        ("gpt2", ("out/decoder_tokenizer", "parts/decoder")),
    ):
        own = AutoTokenizer.from_pretrained(sources / name)
        for place in places:
            copy = AutoTokenizer.from_pretrained(tmp_path / place)
            assert type(copy) is type(own)
            assert copy(TEXT)["input_ids"] == own(TEXT)["input_ids"]


def test_the_tables_name_the_class_that_transformers_takes() -> None:
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    stating = {name: LIBRARY.architecture(name).tokenizer for name in MODEL_TYPES}
    decoders = {name for name in MODEL_TYPES if "decoder" in LIBRARY.architecture(name).roles}
    assert {name for name, stated in stating.items() if stated} >= decoders - {"trocr"}
    for name, stated in stating.items():
        if stated:
            assert TOKENIZER_MAPPING_NAMES[name][0] == stated


def test_every_tokenizer_file_is_listed() -> None:
    from transformers.models.auto.tokenization_auto import (
        TOKENIZER_MAPPING_NAMES,
        tokenizer_class_from_name,
    )

    from converter.planning.tokenizer_files import TOKENIZER_FILES

    for name in set(MODEL_TYPES) & TOKENIZER_MAPPING_NAMES.keys():
        classes = TOKENIZER_MAPPING_NAMES[name]
        for stated in filter(None, [classes] if isinstance(classes, str) else classes):
            files = tokenizer_class_from_name(stated).vocab_files_names.values()
            assert set(files) <= set(TOKENIZER_FILES), (name, stated)
