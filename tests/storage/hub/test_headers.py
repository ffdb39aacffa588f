"""`inspect` and ``--dry-run`` of a repository read headers, in at most four requests a file."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import h5py
import pytest
from safetensors.numpy import load_file

import converter
from converter.tensors import TensorSpec
from tests import factories
from tests.storage.hub.conftest import HubSession, contents

SHARE = 0.05
"""The most of a weight file that its headers may take."""
SCATTERED = ("keras", "msgpack")
"""Headers are between the values: up to 64 MB, the complete file takes fewer requests."""


def large(directory: Path) -> Path:
    """Write a BERT of 13 MB in every format."""
    sizes: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 512, "vocab_size": 20_000}
    made = factories.make(directory / "made", "bert", **sizes).directory
    (made / "vocab.txt").write_text("[PAD]\n")
    converter.convert(made, directory / "all", pytorch_format="both")
    converter.convert(made, directory / "shards", to=["pytorch"], max_shard_size="4MB")
    return directory / "all"


def as_keras_writes(source: Path, target: Path) -> None:
    """Rewrite the HDF5 file `source` as Keras does, with headers between the values."""
    with h5py.File(source) as old, h5py.File(target, "w") as new:
        for key, value in old.attrs.items():
            new.attrs[key] = value
        for layer in old:
            names = list(old[layer].attrs["weight_names"])
            group = new.create_group(layer)
            group.attrs["weight_names"] = names
            for name in names:
                group.create_dataset(name.decode(), data=old[layer][name.decode()][()])


def as_torch_writes(source: Path, target: Path, **how: bool) -> None:
    import torch

    state = {name: torch.from_numpy(value) for name, value in load_file(source).items()}
    torch.save(state, target, **how)


def as_google_writes(config: Path, directory: Path) -> None:
    from tests.formats import tensorflow_checkpoints

    expanded = factories.model_spec(json.loads(config.read_text()))
    named = [param for param in expanded.params if "google" in param.stored_as]
    kept = type(expanded)(tuple(named), expanded.ignore)
    arrays = {
        TensorSpec(name, "float32", array.shape): array
        for name, array in factories.stored(kept, "google").items()
    }
    tensorflow_checkpoints.write(directory / "bert_model.ckpt.index", arrays)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name → a directory with the model in one format."""
    home = tmp_path_factory.mktemp("large")
    all_of_them = large(home)
    found = {"shards": home / "shards"}
    names = {
        "safetensors": "model.safetensors",
        "bin": "pytorch_model.bin",
        "h5": "tf_model.h5",
        "msgpack": "flax_model.msgpack",
        "torch": "pytorch_model.bin",
        "legacy": "pytorch_model.bin",
        "keras": "tf_model.h5",
        "bundle": "bert_model.ckpt.index",
    }
    for name, file in names.items():
        found[name] = home / name
        found[name].mkdir()
        for small in ("config.json", "vocab.txt"):
            (found[name] / small).write_bytes((all_of_them / small).read_bytes())
        if name in ("safetensors", "bin", "h5", "msgpack"):
            (all_of_them / file).rename(found[name] / file)
    native = found["safetensors"] / "model.safetensors"
    as_torch_writes(native, found["torch"] / "pytorch_model.bin")
    zipped = {"_use_new_zipfile_serialization": False}
    as_torch_writes(native, found["legacy"] / "pytorch_model.bin", **zipped)
    as_keras_writes(found["h5"] / "tf_model.h5", found["keras"] / "tf_model.h5")
    as_google_writes(all_of_them / "config.json", found["bundle"])
    return found


SUFFIXES = (".safetensors", ".bin", ".h5", ".msgpack", ".data-00000-of-00001")


def weights(directory: Path) -> dict[str, int]:
    """Return the SHA-256 of each weight file → its bytes."""
    return {
        hashlib.sha256(data).hexdigest(): len(data)
        for name, data in contents(directory).items()
        if Path(name).suffix in SUFFIXES
    }


def served(session: HubSession, digest: str) -> int:
    return sum(nbytes for path, _, nbytes in session.hub.served if digest in path)


@pytest.mark.slow
def test_remote_headers_give_the_same_reports(
    session: HubSession, repositories: dict[str, Path]
) -> None:
    for name, directory in repositories.items():
        session.hub.publish(f"acme/{name}", contents(directory))
    asked: list[tuple[object, ...]] = []
    for references in ({name: f"acme/{name}" for name in repositories}, repositories):
        asked += [("inspect", references[name], "--json") for name in repositories]
        planned = ("planned", "--dry-run", "--json")
        asked.append(("compose", references["legacy"], references["keras"], *planned))
        asked.append(("convert", references["shards"], *planned))
        asked.append(("check-table", "--draft", references["safetensors"]))
    done = session.run_commands(*asked)
    middle = len(asked) // 2
    for command, remote, local in zip(asked, done[:middle], done[middle:], strict=False):
        assert remote.code == local.code == 0, (command, remote.stderr, local.stderr)
        named = [re.sub(r'"source": ".*/', '"source": "', each.stdout) for each in (remote, local)]
        assert len(named[0]) > 1000 and named[0] == named[1], command
    for name in repositories:
        commands = sum(f"acme/{name}" in command for command in asked)
        for digest, size in weights(repositories[name]).items():
            most = 1.01 * commands if name in SCATTERED else SHARE
            assert served(session, digest) < most * size, (name, served(session, digest), size)
            assert len(session.hub.requests(digest)) <= 3 * commands, name
        for file in {line.split()[1] for line in session.hub.requests(f"HEAD /acme/{name}/")}:
            weight = Path(file).suffix in SUFFIXES
            assert not weight or len(session.hub.requests(f"HEAD {file}")) <= commands, file
    # What is signed for a storage of another host is all that it needs.
    storage = [token for path, token, _ in session.hub.served if path.startswith("/_blob/")]
    assert storage and not any(storage)
