"""References that are URLs, tested with the in-memory file system of fsspec."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from click.testing import CliRunner, Result
from fsspec.implementations.memory import MemoryFile
from fsspec.spec import AbstractBufferedFile

import converter
from converter.cleanup import TemporaryDirectory
from converter.cli import commands
from converter.errors import CheckpointError, OutputError, UnsupportedError
from converter.recipes.parser import read_recipes
from converter.storage import url_download
from converter.storage.references import Url, local_path, location_key, parse_url
from converter.storage.url import list_url
from converter.storage.url_upload import commit_order
from tests import factories
from tests.models.test_legacy_detection import release
from tests.reading import manifest_of


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()
    assert not any((tmp_path / "tmp").iterdir()), "something was left behind"


def put(system: Any, directory: Path, below: str) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            system.pipe(f"/{below}/{path.relative_to(directory).as_posix()}", path.read_bytes())


def run(*args: object, code: int = 0) -> Result:
    result = CliRunner().invoke(commands, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("s3://bucket/some/name/", "s3://bucket/some/name"),
        ("S3://bucket/name", "s3://bucket/name"),
        ("ftp://me:secret@host/name", "ftp://host/name"),
        ("https://host/name?X-Amz-Signature=abc", "https://host/name"),
        ("s3://bucket/a name#1?", "s3://bucket/a name"),
        ("abfs://models@account.net/x", "abfs://models@account.net/x"),
        ("abfs://me:secret@account/x", "abfs://account/x"),
        ("s3://key:secret@bucket/name?versionId=1", "s3://bucket/name"),
        ("https://me:se@cret@host/name#part", "https://host/name"),
        ("https://me:sec/ret@host/name", "https://***"),
        ("https://me:se@c/ret@host/name", "https://***"),
        ("https://me:sec?ret@host/name", "https://***"),
        ("https://host:80/name@v1/x", "https://host:80/name@v1/x"),
        ("https://[::1]:80/name@v1", "https://[::1]:80/name@v1"),
        ("simplecache::https://me:secret@host/x?sig=1", "simplecache::https://host/x"),
        ("zip://in/side::s3://me:secret@bucket/x.zip?y", "zip://in/side::s3://bucket/x.zip"),
        ("hf://org/name/below", "hf://org/name/below"),
        ("memory://name", "memory://name"),
        ("hf://org/name@v1", None),
        ("file:///some/where", None),
        ("org/name", None),
        ("./s3:/bucket", None),
        ("C://name", None),
        ("name", None),
    ],
)
def test_what_is_a_url(text: str, redacted: str | None) -> None:
    found = parse_url(text)
    assert (found and found.redacted) == redacted


def test_parts_of_urls_and_paths(memory: Any, tmp_path: Path) -> None:
    assert Url("s3://bucket/some/name/").name == "name"
    assert (Url("s3://bucket/some/") / "x").text == "s3://bucket/some/x"
    assert local_path("file:///some/wh%20ere") == Path("/some/wh ere")
    assert location_key("made/x/../y") == str(tmp_path / "made" / "y")
    assert location_key("s3://b/x/") == location_key("s3://b/x")
    assert location_key("s3://b/x#1") != location_key("s3://b/x#2")
    assert location_key("https://me:secret@b/x?sig=1") == location_key("https://b/x?sig=2")
    assert location_key("hf://org/name/") == location_key("hf://org/name")


def test_the_manifest_and_the_config_are_committed_last() -> None:
    names = "converter-manifest.json config.json model.safetensors.index.json vocab.txt"
    names += (
        " decoder_tokenizer/vocab.json tf_model.h5 encoder/config.json model-1-of-2.safetensors"
    )
    order = commit_order(names.split())
    assert order[:2] == ["model-1-of-2.safetensors", "tf_model.h5"]
    assert order[-4:-1] == ["model.safetensors.index.json", "config.json", "encoder/config.json"]
    assert order[-1] == "converter-manifest.json"


def test_a_download_needs_disk_space(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put(memory, factories.make(Path("bert"), "bert").directory, "bert")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1000))
    with pytest.raises(CheckpointError, match=r"has 1,000 free\nFree disk space, or set TMPDIR"):
        converter.convert("memory://bert", "out")


def test_a_file_that_grows_during_the_download(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(memory, factories.make(Path("bert"), "bert").directory, "bert")
    listing = list_url

    def then_grown(*args: Any, **options: Any) -> Any:
        found = listing(*args, **options)
        memory.pipe("/bert/config.json", b"{}" + memory.cat("/bert/config.json"))
        return found

    monkeypatch.setattr(url_download, "list_url", then_grown)
    with pytest.raises(CheckpointError, match=r"memory://bert/config.json: had 3\d\d bytes when"):
        converter.convert("memory://bert", "out")


def test_names_outside_the_directory_are_refused(memory: Any, tmp_path: Path) -> None:
    put(memory, factories.make(Path("bert"), "bert").directory, "bert")
    found = list_url(Url("memory://bert"), CheckpointError)
    assert found is not None
    files = {"../evil.json": {"size": 2, "name": "/evil.json", "type": "file"}}
    listing = type(found)(found.url, found.filesystem, found.path, files)
    with TemporaryDirectory() as temporary:
        downloader = url_download._Downloader(listing, temporary, "none")
        with pytest.raises(CheckpointError, match="is not a file name in it"):
            downloader.fetch(list(files), tmp_path / "below")


@pytest.mark.parametrize("name", ["..", ".", "a" * 300, "a\\b", "a\0b"])
def test_urls_whose_last_part_is_not_a_directory_name(
    memory: Any, tmp_path: Path, name: str
) -> None:
    """Downloads stay below the temporary directory, whatever the name of the URL."""
    put(memory, factories.make(Path("bert"), "bert").directory, "bert")
    found = list_url(Url("memory://bert"), CheckpointError)
    assert found
    own = TemporaryDirectory()
    home = own.path
    before = set(home.parent.iterdir())
    named = dataclasses.replace(found, url=Url(f"memory://models/{name}"))
    staged = url_download._Downloader(named, own, "preferred").download("memory://models")
    assert staged.directory == home / "checkpoint"
    assert set(home.parent.iterdir()) == before
    assert (home / "checkpoint" / "model.safetensors").is_file()
    assert Url("memory://models/bert/").local_name == "bert"


def test_unrelated_files_are_not_downloaded(memory: Any) -> None:
    made = factories.make(Path("bert"), "bert").directory
    for name in ("optimizer.pt", "pytorch_model.bin", "logs/big.bin", "notes.pdf"):
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).write_bytes(b"x")
    (made / "vocab.txt").write_text("[PAD]")
    put(memory, made, "bert")
    origin = url_download.download_url(Url("memory://bert"), "preferred")
    names = [path.name for path in origin.directory.rglob("*")]
    assert sorted(names) == ["config.json", "model.safetensors", "vocab.txt"]
    origin.close()
    memory.rm("/bert/model.safetensors")
    memory.rm("/bert/pytorch_model.bin")
    assert "memory://bert: holds no weight file" in run("inspect", "memory://bert", code=1).stderr


def test_a_tensorflow_checkpoint_by_its_prefix(memory: Any) -> None:
    release(Path("google"), "bert", "bert_model.ckpt")
    put(memory, Path("google"), "google")
    here = json.loads(run("inspect", "google/bert_model.ckpt", "--json").stdout)
    for name in ("bert_model.ckpt", "bert_model.ckpt.index", ""):
        url = f"memory://google/{name}".rstrip("/")
        found = json.loads(run("inspect", url, "--json").stdout)
        assert found == {**here, "source": url}
    run("convert", "memory://google/bert_model.ckpt", "out", "--to", "pytorch", "-q")
    run("diff", "out", "google/bert_model.ckpt")


def test_a_saved_model(memory: Any) -> None:
    release(Path("saved/variables"), "bert", "variables")
    Path("saved/variables/bert_config.json").rename("saved/bert_config.json")
    Path("saved/saved_model.pb").write_bytes(b"\x08\x01\x12")
    put(memory, Path("saved"), "saved")
    local = json.loads(run("inspect", "saved", "--json").stdout)
    remote = json.loads(run("inspect", "memory://saved", "--json").stdout)
    assert remote["tensors"] == local["tensors"] > 0 and remote["parameters"] == local["parameters"]
    run("convert", "memory://saved", "out", "--to", "pytorch", "-q")
    run("diff", "out", "saved")


def test_a_randomly_initialized_submodel_needs_no_weights(memory: Any) -> None:
    bert = factories.make(Path("bert"), "bert").directory
    put(memory, bert, "bert")
    memory.rm("/bert/model.safetensors")
    factories.make(Path("gpt2"), "gpt2", "GPT2LMHeadModel")
    args = ("gpt2", "memory://out/both", "--random", "encoder", "-q")
    run("compose", "memory://bert", *args)
    manifest = json.loads(memory.cat("/out/both/converter-manifest.json"))
    assert manifest["sources"]["encoder"]["reference"] == "memory://bert"
    run("compose", "bert", *args[:1], "here", *args[2:])
    assert manifest["tensors"] == manifest_of(Path("here"))["tensors"]


def test_protocols_without_atomic_commits_are_refused(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    factories.make(Path("bert"), "bert")
    monkeypatch.setattr(MemoryFile, "commit", AbstractBufferedFile.commit)
    with pytest.raises(OutputError, match="its files would appear one by one") as caught:
        converter.convert("bert", "memory://out/bert")
    assert "Let OUTPUT be a local path" in str(caught.value)
    assert not memory.find("/out")


def test_a_file_url_is_a_path(memory: Any, tmp_path: Path) -> None:
    factories.make(Path("bert"), "bert")
    run("convert", f"file://{tmp_path}/bert", f"file://{tmp_path}/out", "-q")
    run("convert", "bert", "again", "-q")
    for path in Path("again").iterdir():
        assert (Path("out") / path.name).read_bytes() == path.read_bytes()
    assert run("verify", f"file://{tmp_path}/out").exit_code == 0


def test_unsupported_urls(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    factories.make(Path("bert"), "bert")
    message = run("convert", "bert", "memory://out", "--resume", code=2).stderr
    assert "resume: only a local output" in message
    message = run("convert", "bert", "memory://out", "--push", "org/name", code=2).stderr
    assert "--push sends a directory: OUTPUT must be a path, not a URL." in message
    message = run("inspect", "zzz://bert", code=1).stderr
    assert "zzz://bert: cannot be reached: unknown protocol" in message
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    message = run("inspect", "gs://models/bert", code=1).stderr
    assert "the library for gs:// is not installed" in message
    assert "pip install 'encdec-converter[gs]'" in message
    with pytest.raises(UnsupportedError):
        converter.convert("bert", "gs://models/bert")
    with pytest.raises(OutputError, match="data:// does not support this"):
        converter.convert("bert", "data://text")
    with pytest.raises(OutputError, match="Let OUTPUT be hf://org/name, a complete repository"):
        converter.convert("bert", "hf://org/name/below")
    memory.pipe("/dir/file", b"x")
    with pytest.raises(OutputError, match="memory://dir/file exists and is not a directory"):
        converter.convert("bert", "memory://dir/file")
    Path("r.yaml").write_text(
        "jobs: [{convert: {source: bert, output: 'memory://out'}},"
        " {name: below, convert: {source: 'memory://out', output: 'memory://out/below'}}]"
    )
    with pytest.raises(converter.UsageError, match="below: its output is inside that of out"):
        read_recipes([Path("r.yaml")])
