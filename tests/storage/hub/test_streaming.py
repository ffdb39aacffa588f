"""Weights are written while they are downloaded; what is in the Hub's cache is complete."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import converter
from converter.errors import CheckpointError, MatchError
from converter.execution import write_checkpoint
from converter.storage import hub_client, hub_download, streaming
from tests import factories
from tests.storage.hub.conftest import contents
from tests.storage.hub.hub_server import Hub, asked

SIZES: dict[str, Any] = {"hidden_size": 64, "vocab_size": 3000, "intermediate_size": 128}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name → a local checkpoint; both are published as ``acme/NAME``."""
    home = tmp_path_factory.mktemp("models")
    sizes = {key: value for key, value in SIZES.items() if key == "vocab_size"}
    bert = factories.make(home / "bert", "bert", **SIZES)
    gpt2 = factories.make(home / "gpt2", "gpt2", "GPT2LMHeadModel", file_format="torch", **sizes)
    return {"bert": bert.directory, "gpt2": gpt2.directory}


@pytest.fixture
def hub(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Run a Hub with both models, whose weights count as large, and an empty cache."""
    from huggingface_hub import constants, file_download

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub_download, "MIN_STREAMED", 0)
    monkeypatch.setattr(hub_client, "RETRY_DELAYS", (0.0, 0.0))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with asked() as (hub, endpoint):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        for name, directory in models.items():
            hub.publish(f"acme/{name}", contents(directory))
        yield hub


def weights(directory: Path) -> dict[str, bytes]:
    own = ("README.md", "converter-manifest.json")
    return {name: data for name, data in contents(directory).items() if name not in own}


class Storage:
    """Answers requests for parts of files as a Hub does, and downloads in another way.

    Args:
        hub: whose files are sent.
        share: of a file that is sent at once.

    """

    def __init__(self, hub: Hub, share: float = 1) -> None:
        self.share, self.downloads = share, list[str]()
        self.stalled, self.rest = threading.Event(), threading.Event()
        self.came_too_late = False
        """Whether the rest of a file had to be sent unasked."""
        self.cut = 0
        """How many times the connection is still to be cut instead of sending the rest."""
        self.refused = ""
        """Part of the content of files that are not sent."""
        self.damaged = 0
        """How many files are still to be sent with another last byte."""
        hub.odd["GET /_blob/"] = self

    def __call__(self, handler: Any) -> None:
        digest = handler.path.rpartition("/")[2]
        data, span = handler.hub.blobs[digest], handler.headers.get("Range", "")
        if re.fullmatch(r"bytes=\d+-\d+", span):
            return handler.part(data, digest)
        self.downloads.append(digest)
        if self.refused and self.refused.encode() in data:
            return handler.answer({"error": "no"}, 403)
        if self.damaged:
            self.damaged -= 1
            data = data[:-1] + bytes([data[-1] ^ 1])
        begin = int(span.strip("bytes=-") or 0)
        handler.send_response(206 if begin else 200)
        if begin:
            handler.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data) - begin))
        handler.end_headers()
        middle = max(begin, int(self.share * len(data)))
        handler.wfile.write(data[begin:middle])
        handler.wfile.flush()
        if middle < len(data):
            self.stalled.set()
            self.came_too_late |= not self.rest.wait(20)
            if self.cut:
                self.cut -= 1
                return handler.hang_up()
        handler.wfile.write(data[middle:])
        return None


def test_output_equals_that_of_local_files(hub: Hub, models: dict[str, Path]) -> None:
    storage = Storage(hub)
    converter.compose("acme/bert", "acme/gpt2", "remote")
    converter.compose(models["bert"], models["gpt2"], "local")
    assert weights(Path("remote")) == weights(Path("local"))
    assert len(storage.downloads) == 2
    hub.log.clear()
    converter.compose("acme/bert", "acme/gpt2", "again")
    assert not hub.requests("GET /_blob/")
    assert not [*Path("cache").rglob("*.incomplete")]


def test_tensors_are_written_before_the_rest_has_arrived(hub: Hub) -> None:
    storage = Storage(hub, 0.7)

    def report(done: int, total: int, name: str) -> None:
        if storage.stalled.is_set() and done > 0.3 * total:
            storage.rest.set()

    converter.compose("acme/bert", "acme/gpt2", "out", progress=report)
    assert storage.rest.is_set() and not storage.came_too_late


def test_a_connection_that_is_cut_is_continued(hub: Hub, models: dict[str, Path]) -> None:
    storage = Storage(hub, 0.5)
    storage.cut = 1
    storage.rest.set()
    converter.convert("acme/bert", "remote", to=["flax"])
    converter.convert(models["bert"], "local", to=["flax"])
    assert weights(Path("remote")) == weights(Path("local"))
    assert len(storage.downloads) == 2


def test_a_failed_download_leaves_no_output(hub: Hub, models: dict[str, Path]) -> None:
    storage = Storage(hub)
    storage.refused = "encoder.layer.0"
    with pytest.raises(CheckpointError) as caught:
        converter.compose("acme/bert", "acme/gpt2", "out")
    assert "acme/bert: model.safetensors cannot be downloaded" in caught.value.message
    assert {path.name for path in Path().iterdir()} == {"cache"}
    blobs = {
        path.resolve() for path in Path("cache").rglob("blobs/*") if path.stat().st_size > 9000
    }
    assert {path.read_bytes() for path in blobs} <= {*contents(models["gpt2"]).values()}


@pytest.mark.parametrize("streamed", [True, False])
def test_a_damaged_download_is_neither_used_nor_kept(
    hub: Hub, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    monkeypatch.setattr(hub_download, "MIN_STREAMED", 0 if streamed else 1 << 40)
    storage = Storage(hub)
    storage.damaged = 1
    with pytest.raises(CheckpointError) as caught:
        converter.convert("acme/bert", "out", to=["flax"])
    assert "acme/bert: model.safetensors arrived damaged: its SHA-256 is" in caught.value.message
    assert "Run the command again" in str(caught.value.remedy)
    assert {path.name for path in Path().iterdir()} == {"cache"}
    assert not [*Path("cache").rglob("model.safetensors")]
    converter.convert("acme/bert", "out", to=["flax"])
    converter.convert(models["bert"], "local", to=["flax"])
    assert weights(Path("out")) == weights(Path("local"))
    hub.log.clear()
    converter.convert("acme/bert", "again", to=["flax"])
    assert not hub.requests("GET /_blob/")


@pytest.mark.parametrize("damage", [b"", b"!"])
@pytest.mark.parametrize("is_in_cache", [True, False])
def test_a_blob_that_repositories_share_has_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_in_cache: bool, damage: bytes
) -> None:
    """Clients since 1.x keep what came by Xet in one place, by the hash that Xet has for it."""
    from huggingface_hub import constants

    cache = tmp_path if is_in_cache else tmp_path / "other"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    shared, blob = (
        tmp_path / "shared" / ("5" * 64),
        tmp_path / "blobs" / sha256(b"data").hexdigest(),
    )
    link = tmp_path / "snapshots" / "commit" / "model.bin"
    for path in (shared, blob, link):
        path.parent.mkdir(parents=True)
    shared.write_bytes(b"data" + damage)
    blob.symlink_to(shared)
    link.symlink_to(Path("..", "..", "blobs", blob.name))
    if not damage:
        hub_client._check_content(link, "acme/bert: model.bin", None)
        assert link.read_bytes() == b"data"
        return
    with pytest.raises(CheckpointError, match="arrived damaged"):
        hub_client._check_content(link, "acme/bert: model.bin", None)
    assert not any(path.is_symlink() or path.exists() for path in (blob, link))
    assert shared.exists() != is_in_cache, "files of the user are not removed"


def test_an_interrupt_does_not_wait_for_a_hash(tmp_path: Path) -> None:
    blob, link = tmp_path / ("5" * 64), tmp_path / "model.bin"
    blob.write_bytes(b"data")
    link.symlink_to(blob.name)
    stop = threading.Event()
    stop.set()
    with pytest.raises(InterruptedError):
        hub_client._check_content(link, "acme/bert: model.bin", stop)
    assert blob.exists() and link.is_symlink()


def test_an_interrupt_does_not_wait_for_bytes(hub: Hub) -> None:
    storage = Storage(hub, 0.5)

    def report(done: int, total: int, name: str) -> None:
        if storage.stalled.is_set():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        converter.convert("acme/bert", "out", to=["flax"], progress=report)
    assert not storage.rest.is_set() and not storage.came_too_late
    assert {path.name for path in Path().iterdir()} == {"cache"}
    storage.rest.set()
    converter.convert("acme/bert", "out", to=["flax"])  # what has arrived is in the cache


def test_weights_that_do_not_fit_are_not_downloaded(hub: Hub, models: dict[str, Path]) -> None:
    files = contents(models["bert"])
    files["config.json"] = files["config.json"].replace(
        b'"vocab_size": 3000', b'"vocab_size": 3001'
    )
    hub.publish("acme/other", files)
    storage = Storage(hub)
    with pytest.raises(MatchError):
        converter.compose("acme/other", "acme/gpt2", "out")
    assert not storage.downloads


def test_space_for_the_cache_is_checked(
    hub: Hub, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    required: list[int] = []
    monkeypatch.setattr(
        write_checkpoint, "require_space", lambda directory, nbytes: required.append(nbytes)
    )
    sources = ("acme/bert", "acme/bert", str(models["bert"]))  # the second time from the cache
    for number, bert in enumerate(sources):
        converter.compose(bert, bert, f"out{number}", to=["pytorch"])
    once = (models["bert"] / "model.safetensors").stat().st_size
    assert once <= required[0] - required[1] < once + 1000
    assert abs(required[1] - required[2]) < 1000


def test_a_repository_that_is_both_is_downloaded_once(hub: Hub, models: dict[str, Path]) -> None:
    storage = Storage(hub)
    converter.compose("acme/bert", "acme/bert", "remote", to=["pytorch"])
    converter.compose(models["bert"], models["bert"], "local", to=["pytorch"])
    assert weights(Path("remote")) == weights(Path("local"))
    assert len(storage.downloads) == 1


def test_without_a_list_of_open_files_the_end_is_waited_for(
    hub: Hub, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "open_files", lambda directory: [])
    converter.convert("acme/gpt2", "remote", to=["pytorch"])
    converter.convert(models["gpt2"], "local", to=["pytorch"])
    assert weights(Path("remote")) == weights(Path("local"))


def test_shards_are_streamed(hub: Hub, models: dict[str, Path]) -> None:
    converter.convert(models["bert"], "shards", to=["pytorch"], max_shard_size="200kB")
    hub.publish("acme/shards", contents(Path("shards")))
    storage = Storage(hub, 0.4)
    storage.rest.set()
    converter.convert("acme/shards", "remote", to=["pytorch"])
    converter.convert("shards", "local", to=["pytorch"])
    assert weights(Path("remote")) == weights(Path("local"))
    assert len(storage.downloads) == len([*Path("shards").glob("*.safetensors")]) > 2
