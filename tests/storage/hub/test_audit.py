"""Repositories that others made, looked at where they lie."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

from tests.storage.hub.conftest import Desk, contents
from tests.verification.damage import FILES, alter, negated


def test_a_repository_is_audited(desk: Desk, bert: dict[str, bytes]) -> None:
    """Its frameworks disagree, and its safetensors does not say that it is PyTorch's."""
    desk.converter("convert", "bert", "sound", "--pytorch-format", "both", "-q")
    other = desk.home / "other"
    shutil.copytree(desk.home / "sound", other)
    (other / "converter-manifest.json").unlink()
    desk.hub.publish("acme/other", contents(other))
    fine = json.loads(desk.converter("verify", "acme/other", "--json").stdout)
    assert fine["verified"]
    assert sorted(fine["formats"]) == sorted(FILES)
    assert any("another tool" in note for note in fine["notes"])

    key = key_in(other / "flax_model.msgpack", "encoder/layer/0/attention/self/query/kernel")
    alter(other / "flax_model.msgpack", [key], negated)
    unsign(other / "model.safetensors")
    desk.hub.publish("acme/other", contents(other))
    page = desk.home / "page.html"
    done = desk.converter("verify", "acme/other", "--html", page, code=1)
    assert "acme/other: NOT verified, 2 problems" in done.stdout
    assert f"{key}: has the opposite sign" in done.stdout
    assert "metadata: format: transformers 4 refuses it" in done.stdout
    assert "<h1>acme/other</h1>" in page.read_text("utf-8")
    found = json.loads(
        desk.converter("verify", "acme/other", "--against", "acme/bert", "--json", code=1).stdout
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
