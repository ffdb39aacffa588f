"""Byte ranges of files on the Hub, with failing servers and connections."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from converter.errors import CheckpointError
from converter.formats.range_reader import BLOCK, RangedFile
from converter.storage import hub_client
from converter.storage.hub_client import HubRangeSource
from tests.storage.hub.hub_server import Hub, asked

DATA = np.random.default_rng(7).bytes(20 << 20)
"""More than is kept at once."""


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Hub, str]]:
    with asked() as (hub, endpoint):
        hub.publish("acme/data", {"file.bin": DATA, "small": DATA[:1000]})
        yield hub, endpoint


@pytest.fixture
def hub(server: tuple[Hub, str], monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr(hub_client, "RETRY_DELAYS", (0.0, 0.0))
    server[0].log.clear()
    server[0].served.clear()
    return server[0]


@pytest.fixture
def file(hub: Hub, server: tuple[Hub, str]) -> RangedFile:
    url = f"{server[1]}/acme/data/resolve/main/file.bin"
    return RangedFile(Path("file"), HubRangeSource("acme/data", "file.bin", url, len(DATA)))


@pytest.mark.parametrize(
    ("kind", "part", "times"),
    [
        ("failing", "HEAD /acme/data", 1),
        ("failing", "GET /_blob/", 2),
        ("dropping", "GET /_blob/", 2),
    ],
)
def test_failed_requests_are_repeated(
    hub: Hub, file: RangedFile, kind: str, part: str, times: int
) -> None:
    getattr(hub, kind)[part] = times
    assert file.read(5_000_000, 70_000) == DATA[5_000_000:5_070_000]
    assert getattr(hub, kind)[part] == 0


@pytest.mark.parametrize("kind", ["failing", "dropping"])
def test_a_request_that_always_fails_is_reported(hub: Hub, file: RangedFile, kind: str) -> None:
    getattr(hub, kind)["GET /_blob/"] = 99
    with pytest.raises(CheckpointError) as caught:
        file.read(5_000_000, 70_000)
    getattr(hub, kind).clear()
    message = str(caught.value)
    assert "acme/data: file.bin" in message and caught.value.remedy
    assert ("status 503" if kind == "failing" else "no connection") in message
    assert len(hub.requests("GET /_blob/")) == 3


def test_an_expired_address_is_resolved_again(hub: Hub, file: RangedFile) -> None:
    file.read(0, 8)
    hub.expired = 1
    assert file.read(9_000_000, 8) == DATA[9_000_000:9_000_008]
    assert len(hub.requests("HEAD ")) == 2
    hub.expired = 99
    with pytest.raises(CheckpointError, match="may not read"):
        file.read(1_000_000, 8)
    hub.expired = 0


def test_a_server_without_range_requests_is_refused(hub: Hub, file: RangedFile) -> None:
    hub.knows_ranges = False
    with pytest.raises(CheckpointError, match="does not support range requests") as caught:
        file.read(1_000_000, 8)
    hub.knows_ranges = True
    assert "hf download acme/data file.bin" in str(caught.value.remedy)


def test_a_file_of_another_size_is_refused(hub: Hub, server: tuple[Hub, str]) -> None:
    url = f"{server[1]}/acme/data/resolve/main/file.bin"
    longer = RangedFile(Path("file"), HubRangeSource("acme/data", "file.bin", url, len(DATA) + 1))
    with pytest.raises(CheckpointError, match="where the Hub lists"):
        longer.read(0, 8)


def test_adjacent_ranges_are_merged_and_cached(hub: Hub, file: RangedFile) -> None:
    for offset in range(0, 200_000, 100):
        assert file.read(offset, 100) == DATA[offset : offset + 100]
    assert len(hub.requests("GET ")) < 6
    assert file.bytes_fetched <= 2 * 200_000 + (64 << 10)
    before = file.bytes_fetched
    file.read(100, 199_000)
    assert file.bytes_fetched == before
    file.read(10_000_000, 20)
    assert file.bytes_fetched == before + BLOCK


def test_prefetched_ranges_are_requested_together(hub: Hub, file: RangedFile) -> None:
    ranges = [(offset, 40) for offset in range(1_000_000, 9_000_000, 100_000)]
    file.prefetch([*ranges, (-5, 10), (len(DATA), 1), (0, 0)])
    assert len(hub.requests("GET ")) == len(ranges)
    for offset, nbytes in ranges:
        assert file.read(offset, nbytes) == DATA[offset : offset + nbytes]
    assert len(hub.requests("GET ")) == len(ranges)


def test_memory_is_bounded(hub: Hub, file: RangedFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.formats.range_reader._CACHE", 1 << 20)
    for offset in range(0, len(DATA) - 100_000, 500_000):
        assert file.read(offset, 100_000) == DATA[offset : offset + 100_000]
        assert len(file._blocks) * BLOCK <= 1 << 20
    assert file.read(3, len(DATA) - 3) == DATA[3:]  # values, which are not kept
    assert len(file._blocks) * BLOCK <= 1 << 20


def test_a_library_reads_it_as_a_file(hub: Hub, file: RangedFile) -> None:
    stream = file.as_file_argument()
    assert stream.seek(-10, 2) == len(DATA) - 10
    assert stream.read() == DATA[-10:]
    stream.seek(1_000_000)
    assert stream.read(33) == DATA[1_000_000:1_000_033] and stream.tell() == 1_000_033
    file.close()
    stream.seek(0)
    with pytest.raises(ValueError, match="closed"):
        stream.read(1)
