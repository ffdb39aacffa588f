"""Inspecting and comparing repositories of other users on the Hub."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

from tests.storage.hub.conftest import HubSession, contents
from tests.verification.damage import FILES, alter, negated


@pytest.mark.slow
def test_a_repository_is_audited(session: HubSession, bert: dict[str, bytes]) -> None:
    """Its frameworks disagree, and its safetensors does not say that it is PyTorch's."""
    session.converter("convert", "bert", "sound", "--pytorch-format", "both", "-q")
    other = session.home / "other"
    shutil.copytree(session.home / "sound", other)
    (other / "converter-manifest.json").unlink()
    session.hub.publish("acme/other", contents(other))
    fine = json.loads(session.converter("verify", "acme/other", "--json").stdout)
    assert fine["verified"]
    assert sorted(fine["files"]) == sorted(FILES)
    assert any("another tool" in note for note in fine["notes"])

    key = key_in(other / "flax_model.msgpack", "encoder/layer/0/attention/self/query/kernel")
    alter(other / "flax_model.msgpack", [key], negated)
    unsign(other / "model.safetensors")
    session.hub.publish("acme/other", contents(other))
    page = session.home / "page.html"
    done = session.converter("verify", "acme/other", "--html", page, code=1)
    assert "acme/other: NOT verified, 2 problems" in done.stdout
    assert f"{key}: has the opposite sign" in done.stdout
    assert "metadata: format: transformers 4 refuses it" in done.stdout
    assert "<h1>acme/other</h1>" in page.read_text("utf-8")
    found = json.loads(
        session.converter("verify", "acme/other", "--against", "acme/bert", "--json", code=1).stdout
    )
    assert {problem["tensor"] for problem in found["problems"]} == {key, "metadata: format"}
    assert {origin["source"] for origin in found["origins"].values()} == {"acme/bert"}


def key_in(file: Path, name: str) -> str:
    from converter.formats.registry import open_file

    with open_file(file) as reader:
        assert name in reader.tensors
    return name


def unsign(file: Path) -> None:
    """Take the metadata out of a safetensors file."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    del header["__metadata__"]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
