"""Small files of a checkpoint: regular ones only, and copied only from inside the checkpoint."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from converter import compose, convert, split
from converter.cli import commands
from converter.errors import CheckpointError, OutputError, TableError, UsageError
from converter.file_names import GENERATION_CONFIG
from converter.options import PushOptions
from converter.planning.tokenizer_files import PROCESSOR_FILES, TOKENIZER_FILES
from converter.safe_json import file_to_copy, read_json_object, read_small_file
from converter.storage.hub_upload import upload
from tests import factories

COPIED = (*TOKENIZER_FILES, *PROCESSOR_FILES, GENERATION_CONFIG, "decoder_tokenizer/vocab.txt")
SECRET = "a secret\n"


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    directory = factories.make(tmp_path / "bert", "bert").directory
    (directory / "decoder_tokenizer").mkdir()
    return directory


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    return factories.make(tmp_path / "gpt2", "gpt2", "GPT2LMHeadModel").directory


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.mkdir()


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


SPECIAL = {
    "fifo": _fifo,
    "directory": _directory,
    "endless device": _link("/dev/zero"),
    "null device": _link("/dev/null"),
    "process": _link("/proc/self/environ"),
    "circle": lambda path: path.symlink_to(path),
    "missing": _link("not-there"),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "it.json"
    SPECIAL[kind](path)
    for read in (read_small_file, read_json_object):
        with pytest.raises(CheckpointError, match=r"it\.json: cannot be read: "):
            read(path)
    with pytest.raises(TableError, match=r"it\.json: cannot be read"):
        read_small_file(path, error=TableError)


def test_no_more_than_the_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.write_bytes(b"12345678")
    assert read_small_file(path, 8) == b"12345678"
    with pytest.raises(CheckpointError, match="larger than 7 bytes"):
        read_small_file(path, 7)
    os.truncate(path, 1 << 40)  # a hole
    with pytest.raises(CheckpointError, match="larger than 1000000 bytes"):
        read_small_file(path, 1_000_000)
    with pytest.raises(CheckpointError, match="null"):
        read_small_file("a\0b")


@pytest.mark.parametrize("name", COPIED)
def test_no_link_out_of_the_checkpoint_is_copied(bert: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (bert / name).symlink_to(tmp_path / "secret")
    output = tmp_path / "output"
    with pytest.raises(CheckpointError) as caught:
        convert(bert, output, to=["flax"])
    message = str(caught.value)
    for part in (str(bert / name), str(tmp_path / "secret"), "cp -rL"):
        assert part in message
    assert not output.exists()


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer_config.json", GENERATION_CONFIG])
def test_compose_and_split_copy_none_either(
    bert: Path, gpt2: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "secret").write_text('{"num_beams": 3}')
    compose(bert, gpt2, tmp_path / "both", to=["pytorch"])
    (tmp_path / "both" / name).unlink(missing_ok=True)
    for directory in (tmp_path / "both", gpt2):
        (directory / name).symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="is a link to"):
        compose(bert, gpt2, tmp_path / "out")
    with pytest.raises(CheckpointError, match="is a link to"):
        split(tmp_path / "both", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_directory_that_is_a_link_is_outside_too(bert: Path, tmp_path: Path) -> None:
    (bert / "decoder_tokenizer").rmdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/vocab.txt").write_text(SECRET)
    (bert / "decoder_tokenizer").symlink_to(tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"decoder_tokenizer/vocab\.txt: is a link to"):
        convert(bert, tmp_path / "output", to=["flax"])


@pytest.mark.parametrize("name", ["vocab.txt", "preprocessor_config.json", "README.md"])
@pytest.mark.parametrize("kind", ["fifo", "endless device"])
def test_a_special_file_is_refused_by_commands(
    bert: Path, tmp_path: Path, name: str, kind: str
) -> None:
    SPECIAL[kind](bert / name)
    call = ["convert", str(bert), str(tmp_path / "output"), "--to", "flax"]
    result = CliRunner().invoke(commands, call)
    assert result.exit_code == 1, result.output
    assert result.output.count("Error: ") == 1
    assert name in result.output
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("kind", ["fifo", "endless device", "process", "directory"])
def test_a_card_must_be_a_regular_file(bert: Path, tmp_path: Path, kind: str) -> None:
    SPECIAL[kind](tmp_path / "card.md")
    with pytest.raises(UsageError, match=r"card\.md: cannot be read: .*not a regular file"):
        convert(bert, tmp_path / "output", to=["flax"], card=tmp_path / "card.md")


def test_the_card_in_an_output_is_kept_only_if_it_is_there(bert: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    convert(bert, output, to=["flax"])
    (tmp_path / "secret").write_text(SECRET)
    (output / "README.md").unlink()
    (output / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(OutputError, match=r"README\.md: is a link to .*secret"):
        convert(bert, output, to=["flax"], overwrite=True)
    (output / "README.md").unlink()
    (output / "README.md").write_text("Mine.\n")
    convert(bert, output, to=["flax"], overwrite=True)
    assert (output / "README.md").read_text() == "Mine.\n"


def test_a_push_sends_no_file_from_outside(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (bert / "notes.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(OutputError, match=r"notes\.txt: is a link to .*secret"):
        upload(PushOptions(bert, "me/model"))


def test_links_inside_the_checkpoint_and_of_the_hub_cache_work(bert: Path, tmp_path: Path) -> None:
    (bert / "words").write_text("[PAD]\n[UNK]\n")
    (bert / "vocab.txt").symlink_to("words")
    (bert / "decoder_tokenizer/vocab.txt").symlink_to("../words")
    convert(bert, tmp_path / "plain", to=["flax"])

    cache = tmp_path / "models--me--bert"
    (cache / "blobs").mkdir(parents=True)
    snapshot = cache / "snapshots/abc"
    for number, path in enumerate(sorted(each for each in bert.rglob("*") if each.is_file())):
        shutil.copy(path, cache / f"blobs/{number}")
        link = snapshot / path.relative_to(bert)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(cache / f"blobs/{number}", link.parent))
    convert(snapshot, tmp_path / "cached", to=["flax"])

    for name in ("vocab.txt", "decoder_tokenizer/vocab.txt", "flax_model.msgpack"):
        expected = (tmp_path / "plain" / name).read_bytes()
        assert (tmp_path / "cached" / name).read_bytes() == expected, name
        assert not (tmp_path / "cached" / name).is_symlink()
    assert file_to_copy(snapshot / "decoder_tokenizer", "vocab.txt")


def test_blobs_that_are_a_link_are_outside(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/secret").write_text(SECRET)
    snapshot = tmp_path / "cache/snapshots/abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "cache/blobs").symlink_to(tmp_path / "etc")
    (snapshot / "vocab.txt").symlink_to("../../blobs/secret")
    with pytest.raises(CheckpointError, match="is a link to"):
        file_to_copy(snapshot, "vocab.txt")


def test_weight_files_may_be_links_to_anywhere(bert: Path, tmp_path: Path) -> None:
    convert(bert, tmp_path / "plain", to=["pytorch"], max_shard_size="20kB")
    linked = tmp_path / "linked"
    shutil.copytree(tmp_path / "plain", linked)
    (tmp_path / "store").mkdir()
    for number, path in enumerate(sorted(linked.glob("*.safetensors*"))):
        path.rename(tmp_path / f"store/{number}")
        path.symlink_to(tmp_path / f"store/{number}")
    assert number > 0
    for name in ("plain", "linked"):
        convert(tmp_path / name, tmp_path / f"{name}-flax", to=["flax"])
    expected = (tmp_path / "plain-flax/flax_model.msgpack").read_bytes()
    assert (tmp_path / "linked-flax/flax_model.msgpack").read_bytes() == expected
    manifest = json.loads((tmp_path / "linked-flax/converter-manifest.json").read_text())
    assert str(tmp_path) not in json.dumps(manifest)
