"""Sources named by their id on the Hub."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import converter
from converter.file_names import auxiliary_files, weight_files
from converter.storage.references import HubRepo, parse_repo_id
from tests import factories
from tests.storage.hub.conftest import HubSession, contents

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
def test_repository_ids(text: str, expected: HubRepo | None) -> None:
    assert parse_repo_id(text) == expected


def test_an_existing_path_takes_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def inspected(session: HubSession, *args: object, **env: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(session.converter("inspect", *args, "--json", **env).stdout)
    return found


@pytest.mark.slow
def test_only_needed_files_are_downloaded(session: HubSession) -> None:
    for _ in range(2):  # the second time from the cache
        session.converter("convert", "acme/bert", "out", "--overwrite", "-q", token=None)
        assert len(session.hub.requests("GET /_blob/")) == 1
    assert not session.hub.requests("pytorch_model.bin")
    found = inspected(session, "acme/bert", token=None)
    assert found["model_type"] == "bert" and found["fits"]
    assert list(found["files"]) == ["model.safetensors"]
    assert len(session.hub.requests("GET /_blob/")) == 1  # the cache is used for headers, too


@pytest.mark.slow
def test_composing_from_the_hub_equals_composing_from_disk(
    session: HubSession, bert: dict[str, bytes], gpt2: dict[str, bytes]
) -> None:
    session.converter("compose", "acme/bert", "acme/gpt2@main", "from-hub", "-q")
    local = session.home / "bert"
    for name, data in bert.items():
        (local / name).write_bytes(data)
    converter.compose(local, session.home / "gpt2", session.home / "from-disk")
    one, two = contents(session.home / "from-hub"), contents(session.home / "from-disk")
    own = {"README.md", "converter-manifest.json"}
    assert {k: v for k, v in one.items() if k not in own} == {
        k: v for k, v in two.items() if k not in own
    }
    sources = json.loads(one["converter-manifest.json"])["sources"]
    for submodel in ("bert", "gpt2"):
        source = sources["encoder" if submodel == "bert" else "decoder"]
        assert source["reference"] == f"acme/{submodel}"
        assert source["revision"] == session.hub.repos[f"acme/{submodel}"].refs["main"]
    against = ["--against", "acme/bert", "--against", "acme/gpt2"]
    session.converter("verify", "from-hub", *against)


def test_a_commit_keeps_its_content(session: HubSession, bert: dict[str, bytes]) -> None:
    old = session.hub.repos["acme/bert"].refs["main"]
    config = json.loads(bert["config.json"])
    config["vocab_size"] += 1
    session.hub.publish("acme/bert", {"config.json": json.dumps(config).encode()})
    assert inspected(session, f"acme/bert@{old}")["fits"]
    assert not inspected(session, "acme/bert", code=1)["fits"]


@pytest.mark.slow
def test_shards_are_downloaded_by_their_index(session: HubSession) -> None:
    session.converter("convert", "bert", "cut", "--to", "pytorch", "--max-shard-size", "20kB", "-q")
    files = contents(session.home / "cut")
    shards = [name for name in files if name.startswith("model-0")]
    assert len(shards) > 1
    session.hub.publish(
        "acme/cut", {**files, "model-00099-of-00099.safetensors": b"of an older one"}
    )
    assert sorted(inspected(session, "acme/cut")["files"]) == sorted(shards)
    assert not session.hub.requests("model-00099")
    del files[shards[1]]
    session.hub.publish("acme/torn", files)
    for command in (("inspect", "acme/torn"), ("convert", "acme/torn", "out")):
        report = session.converter(*command, code=1).stderr
        assert f"1 of {len(shards)} shard(s) are not in the repository" in report
        assert shards[1] in report and "acme/torn" in report


def test_weights_to_initialize_are_not_downloaded(session: HubSession) -> None:
    session.converter("compose", "acme/bert", "bert", "expanded", "--random", "encoder", "-q")
    assert not session.hub.requests("GET /_blob/")


@pytest.mark.slow
def test_offline_the_cache_is_used(session: HubSession) -> None:
    offline: dict[str, Any] = {"HF_HUB_OFFLINE": "1"}
    failed = session.converter("inspect", "acme/bert", code=1, **offline).stderr
    assert "not in the Hub cache, and HF_HUB_OFFLINE=1 is set" in failed
    inspected(session, "acme/bert")  # fetches no weights
    asked = len(session.hub.log)
    failed = session.converter("inspect", "acme/bert", code=1, **offline).stderr
    assert "its weights are not in the Hub cache" in failed and "hf download acme/bert" in failed
    assert len(session.hub.log) == asked
    session.converter("convert", "acme/bert", "out", "-q")
    asked = len(session.hub.log)
    assert inspected(session, "acme/bert", **offline)["fits"]
    session.converter("convert", "acme/bert", "again", "-q", **offline)
    assert len(session.hub.log) == asked


def test_a_hub_without_sizes_is_read_by_downloads(session: HubSession) -> None:
    session.hub.tells_sizes = False
    assert inspected(session, "acme/bert")["fits"]
    assert len(session.hub.requests("GET /_blob/")) == 1


@pytest.mark.slow
def test_errors_have_a_remedy(session: HubSession, bert: dict[str, bytes]) -> None:
    session.hub.publish("acme/secret", bert, private=True)
    session.hub.publish("acme/gated", bert, gated=True)
    session.hub.publish("acme/empty", {"config.json": b"{}"})
    for reference, token, expected in (
        ("acme/nothing", "hf_test", "repository not found"),
        ("acme/secret", None, "hf auth login"),
        ("acme/secret", "hf_ro", "private"),
        ("acme/gated", None, "Accept its license"),
        ("acme/bert@nowhere", None, "revision not found"),
        ("acme/bert", "hf_wrong", "does not recognize the token"),
        ("acme/empty", None, "holds no weight file"),
    ):
        done = session.converter("inspect", reference, "--json", code=1, token=token)
        error = json.loads(done.stdout)["error"]
        assert error["kind"] == "checkpoint"
        assert expected in json.dumps(error), (reference, error)
        assert reference in error["message"]
    inspected(session, "acme/secret")
    inspected(session, "acme/gated")


def test_repository_without_weights_is_named_with_a_step(
    session: HubSession, bert: dict[str, bytes]
) -> None:
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "org/base"}
    gguf, config = {"model.q4.gguf": b"GGUF"}, {"config.json": bert["config.json"]}
    session.hub.publish("acme/adapter", {"adapter_config.json": json.dumps(adapter).encode()})
    session.hub.publish("acme/gguf", {**gguf, **config})
    session.hub.publish("acme/runs", {f"checkpoint-{n}/model.safetensors": b"" for n in (5, 10)})
    for name, what, step in (
        ("adapter", "PEFT adapter (LORA) of org/base", '"acme/adapter").merge_and_unload()'),
        ("gguf", "holds model.q4.gguf, which is a GGUF file", "made from"),
        ("runs", "holds the checkpoints of a training run", "hf://acme/runs/checkpoint-10"),
    ):
        stderr = session.converter("inspect", f"acme/{name}", code=1).stderr
        assert what in stderr and step in stderr


def test_variant_is_read_if_there_is_no_other(session: HubSession, bert: dict[str, bytes]) -> None:
    files = {
        "config.json": bert["config.json"],
        "model.fp16.safetensors": bert["model.safetensors"],
    }
    session.hub.publish("acme/fp16", files)
    assert list(inspected(session, "acme/fp16")["files"]) == ["model.fp16.safetensors"]


@pytest.mark.slow
def test_an_unreachable_hub_is_reported(session: HubSession) -> None:
    done = session.converter("inspect", "acme/bert", code=1, HF_ENDPOINT="http://127.0.0.1:9")
    assert "no connection" in done.stderr and "HF_HUB_OFFLINE=1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_unsupported_pair_is_refused_before_downloading_weights(session: HubSession) -> None:
    made = factories.make(session.home / "distilbert", "distilbert").directory
    session.hub.publish("acme/distilbert", contents(made))
    for args in (
        ("acme/bert", "acme/distilbert"),
        ("acme/distilbert", "acme/bert", "--to", "flax"),
    ):
        failed = session.converter("compose", args[0], args[1], "out", *args[2:], code=1).stderr
        assert "cannot be" in failed
    assert not session.hub.requests("GET /_blob/")


@pytest.mark.slow
def test_a_directory_in_a_repository(session: HubSession, bert: dict[str, bytes]) -> None:
    session.hub.publish("acme/many", {f"models/bert/{name}": data for name, data in bert.items()})
    report = json.loads(session.converter("inspect", "hf://acme/many/models/bert", "--json").stdout)
    assert report["fits"]
    assert report["source"] == "hf://acme/many/models/bert"
    session.converter("convert", "hf://acme/many/models/bert", "out", "--to", "pytorch", "-q")
    session.converter("diff", "out", "bert")
    report = session.converter("inspect", "hf://acme/many/models/none", code=1).stderr
    assert "hf://acme/many/models/none: not found" in report


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_does_not_wait_for_a_download(
    session: HubSession, bert: dict[str, bytes], number: signal.Signals
) -> None:
    """The download would take longer than the test may."""
    stalled, done = threading.Event(), threading.Event()

    def trickle(handler: Any) -> None:
        stalled.set()
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        while not done.wait(0.2):
            handler.wfile.write(b"x")
            handler.wfile.flush()

    session.hub.odd["GET /_blob/"] = trickle
    with subprocess.Popen(
        [sys.executable, "-m", "converter", "convert", "acme/bert", "out"],
        cwd=session.home,
        env=session.environment("hf_test"),
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        try:
            assert stalled.wait(30)
            run.send_signal(number)
            errors = run.communicate(timeout=30)[1]
        finally:
            run.kill()
            done.set()
    assert run.returncode == 128 + number, errors
    assert errors.endswith("partial output was removed.\n")
    assert "Traceback" not in errors
    assert not (session.home / "out").exists()
