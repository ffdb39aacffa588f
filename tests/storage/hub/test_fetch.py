"""Sources named by their id on the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import converter
from converter.file_names import auxiliary_files, weight_files
from converter.storage.references import HubRepo, parse_repo_id
from tests import factories
from tests.storage.hub.conftest import Desk, contents

pytestmark = pytest.mark.usefixtures("bert")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/name", HubRepo("org/name")),
        ("org/name@v1.0", HubRepo("org/name", "v1.0")),
        ("org/name@refs/pr/3", HubRepo("org/name", "refs/pr/3")),
        ("or.g/na_me-2.v1", HubRepo("or.g/na_me-2.v1")),
        ("name", None),
        ("./org/name", None),
        ("/org/name", None),
        ("a/b/c", None),
        ("../name", None),
        ("org/model.safetensors", None),
        ("org/bert_model.ckpt", None),
        ("org/na me", None),
        ("org/a--b", None),
        ("org/name@", None),
    ],
)
def test_what_is_an_id(text: str, expected: HubRepo | None) -> None:
    assert parse_repo_id(text) == expected


def test_a_path_that_exists_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse_repo_id("org/name") is None
    assert parse_repo_id("org/name@main") == HubRepo("org/name", "main")


def test_one_format_is_chosen() -> None:
    names = ["tf_model.h5", "pytorch_model.bin", "model.safetensors.index.json", "rust_model.ot"]
    assert weight_files(names) == ["model.safetensors.index.json"]
    assert weight_files(names, all_formats=True) == [
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "tf_model.h5",
    ]
    bundle = ["bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001"]
    assert sorted(weight_files([*bundle, "bert_config.json"])) == sorted(bundle)
    kept = ["config.json", "README.md", "vocab.txt", "decoder_tokenizer/spiece.model"]
    others = ["onnx/config.json", "model.safetensors.index.json", ".gitattributes", "a.png"]
    assert auxiliary_files([*kept, *others]) == kept


def inspected(desk: Desk, *args: object, **env: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(desk.converter("inspect", *args, "--json", **env).stdout)
    return found


def test_only_what_is_needed_is_fetched(desk: Desk) -> None:
    for _ in range(2):  # the second time from the cache
        desk.converter("convert", "acme/bert", "out", "--overwrite", "-q", token=None)
        assert len(desk.hub.requests("GET /_blob/")) == 1
    assert not desk.hub.requests("pytorch_model.bin")
    found = inspected(desk, "acme/bert", token=None)
    assert found["model_type"] == "bert" and found["fits"]
    assert list(found["files"]) == ["model.safetensors"]
    assert len(desk.hub.requests("GET /_blob/")) == 1  # the cache is used for headers, too


def test_composing_from_the_hub_equals_composing_from_disk(
    desk: Desk, bert: dict[str, bytes], gpt2: dict[str, bytes]
) -> None:
    desk.converter("compose", "acme/bert", "acme/gpt2@main", "from-hub", "-q")
    local = desk.home / "bert"
    for name, data in bert.items():
        (local / name).write_bytes(data)
    converter.compose(local, desk.home / "gpt2", desk.home / "from-disk")
    one, two = contents(desk.home / "from-hub"), contents(desk.home / "from-disk")
    own = {"README.md", "converter-manifest.json"}
    assert {k: v for k, v in one.items() if k not in own} == {
        k: v for k, v in two.items() if k not in own
    }
    sources = json.loads(one["converter-manifest.json"])["sources"]
    for submodel in ("bert", "gpt2"):
        source = sources["encoder" if submodel == "bert" else "decoder"]
        assert source["reference"] == f"acme/{submodel}"
        assert source["revision"] == desk.hub.repos[f"acme/{submodel}"].refs["main"]
    against = ["--against", "acme/bert", "--against", "acme/gpt2"]
    desk.converter("verify", "from-hub", *against)


def test_a_revision_is_what_it_was(desk: Desk, bert: dict[str, bytes]) -> None:
    old = desk.hub.repos["acme/bert"].refs["main"]
    config = json.loads(bert["config.json"])
    config["vocab_size"] += 1
    desk.hub.publish("acme/bert", {"config.json": json.dumps(config).encode()})
    assert inspected(desk, f"acme/bert@{old}")["fits"]
    assert not inspected(desk, "acme/bert")["fits"]


def test_shards_are_fetched_by_their_index(desk: Desk) -> None:
    desk.converter("convert", "bert", "cut", "--to", "pytorch", "--max-shard-size", "20kB", "-q")
    files = contents(desk.home / "cut")
    shards = [name for name in files if name.startswith("model-0")]
    assert len(shards) > 1
    desk.hub.publish("acme/cut", {**files, "model-00099-of-00099.safetensors": b"of an older one"})
    assert sorted(inspected(desk, "acme/cut")["files"]) == sorted(shards)
    assert not desk.hub.requests("model-00099")
    del files[shards[1]]
    desk.hub.publish("acme/torn", files)
    for command in (("inspect", "acme/torn"), ("convert", "acme/torn", "out")):
        told = desk.converter(*command, code=1).stderr
        assert f"1 of {len(shards)} shard(s) are not in the repository" in told
        assert shards[1] in told and "acme/torn" in told


def test_weights_drawn_anew_are_not_fetched(desk: Desk) -> None:
    desk.converter("compose", "acme/bert", "bert", "drawn", "--random", "encoder", "-q")
    assert not desk.hub.requests("GET /_blob/")


def test_offline_the_cache_is_used(desk: Desk) -> None:
    offline: dict[str, Any] = {"HF_HUB_OFFLINE": "1"}
    failed = desk.converter("inspect", "acme/bert", code=1, **offline).stderr
    assert "not in the Hub cache, and HF_HUB_OFFLINE=1 is set" in failed
    inspected(desk, "acme/bert")  # fetches no weights
    asked = len(desk.hub.log)
    failed = desk.converter("inspect", "acme/bert", code=1, **offline).stderr
    assert "its weights are not in the Hub cache" in failed and "hf download acme/bert" in failed
    assert len(desk.hub.log) == asked
    desk.converter("convert", "acme/bert", "out", "-q")
    asked = len(desk.hub.log)
    assert inspected(desk, "acme/bert", **offline)["fits"]
    desk.converter("convert", "acme/bert", "again", "-q", **offline)
    assert len(desk.hub.log) == asked


def test_a_hub_that_tells_no_sizes_gives_whole_files(desk: Desk) -> None:
    desk.hub.tells_sizes = False
    assert inspected(desk, "acme/bert")["fits"]
    assert len(desk.hub.requests("GET /_blob/")) == 1


def test_what_cannot_be_had_is_told_with_a_remedy(desk: Desk, bert: dict[str, bytes]) -> None:
    desk.hub.publish("acme/secret", bert, private=True)
    desk.hub.publish("acme/gated", bert, gated=True)
    desk.hub.publish("acme/empty", {"config.json": b"{}"})
    for reference, token, expected in (
        ("acme/nothing", "hf_test", "repository not found"),
        ("acme/secret", None, "hf auth login"),
        ("acme/secret", "hf_ro", "private"),
        ("acme/gated", None, "Accept its license"),
        ("acme/bert@nowhere", None, "revision not found"),
        ("acme/bert", "hf_wrong", "does not recognize the token"),
        ("acme/empty", None, "holds no weight file"),
    ):
        done = desk.converter("inspect", reference, "--json", code=1, token=token)
        error = json.loads(done.stdout)["error"]
        assert error["kind"] == "checkpoint"
        assert expected in json.dumps(error), (reference, error)
        assert reference in error["message"]
    inspected(desk, "acme/secret")
    inspected(desk, "acme/gated")


def test_a_hub_that_does_not_answer_is_told(desk: Desk) -> None:
    done = desk.converter("inspect", "acme/bert", code=1, HF_ENDPOINT="http://127.0.0.1:9")
    assert "no connection" in done.stderr and "HF_HUB_OFFLINE=1" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_pair_that_cannot_be_is_refused_before_weights_are_fetched(desk: Desk) -> None:
    made = factories.make(desk.home / "distilbert", "distilbert").directory
    desk.hub.publish("acme/distilbert", contents(made))
    for args in (
        ("acme/bert", "acme/distilbert"),
        ("acme/distilbert", "acme/bert", "--to", "flax"),
    ):
        failed = desk.converter("compose", args[0], args[1], "out", *args[2:], code=1).stderr
        assert "cannot be" in failed
    assert not desk.hub.requests("GET /_blob/")


def test_a_directory_in_a_repository(desk: Desk, bert: dict[str, bytes]) -> None:
    desk.hub.publish("acme/many", {f"models/bert/{name}": data for name, data in bert.items()})
    told = json.loads(desk.converter("inspect", "hf://acme/many/models/bert", "--json").stdout)
    assert told["fits"]
    assert told["source"] == "hf://acme/many/models/bert"
    desk.converter("convert", "hf://acme/many/models/bert", "out", "--to", "pytorch", "-q")
    desk.converter("diff", "out", "bert")
    told = desk.converter("inspect", "hf://acme/many/models/none", code=1).stderr
    assert "hf://acme/many/models/none: not found" in told
