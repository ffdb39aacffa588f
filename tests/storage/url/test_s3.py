"""Reading from S3 and writing to S3, completely or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import requests
import s3fs
import yaml
from click.testing import CliRunner, Result

from converter.cli import commands
from tests import factories
from tests.reading import values
from tests.storage.url.conftest import S3

pytestmark = pytest.mark.slow


def run(*args: object, code: int = 0) -> Result:
    result = CliRunner().invoke(commands, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result


def local(directory: str) -> dict[str, bytes]:
    home = Path(directory)
    files = (path for path in home.rglob("*") if path.is_file())
    return {path.relative_to(home).as_posix(): path.read_bytes() for path in files}


def test_compose_from_s3_to_s3(s3: S3, bert: Path, gpt2: Path) -> None:
    args = ("--seed", 3, "--checksums", "--json")
    message = run(
        "compose", "s3://models/bert", "s3://models/gpt2/", "s3://models/made/both", *args
    )
    assert json.loads(message.stdout)["output"] == "s3://models/made/both"
    run("compose", bert, gpt2, "both", *args)
    there, here = s3.contents("made/both"), local("both")
    for reference in (b"bert", b"gpt2"):
        name = "converter-manifest.json"
        here[name] = here[name].replace(
            b'"reference": "%b"' % reference, b'"reference": "s3://models/%b"' % reference
        )
    card = there.pop("README.md").decode()
    assert "converter compose s3://models/bert s3://models/gpt2 OUTPUT" in card
    assert len(here.pop("README.md")) != len(card)
    manifests = [json.loads(each.pop("converter-manifest.json")) for each in (there, here)]
    for manifest in manifests:
        del manifest["files"]["README.md"]
    assert manifests[0] == manifests[1]
    assert there == here
    assert "tmp" not in json.dumps(manifests[0])
    assert not s3.pending()
    found = run("verify", "s3://models/made/both", "--against", bert, "--against", gpt2)
    assert found.stdout.startswith("s3://models/made/both: verified")
    assert "both and s3://models/made/both: equal" in run("diff", "both", told_url(message)).stdout


def told_url(result: Result) -> str:
    return str(json.loads(result.stdout)["output"])


def test_convert_split_and_compose_again(s3: S3, bert: Path, gpt2: Path) -> None:
    run("compose", bert, gpt2, "s3://models/both", "-q")
    run("convert", "s3://models/both/tf_model.h5", "flax", "--to", "flax", "-q")
    run("diff", "flax", "s3://models/both")
    run("split", "s3://models/both", "s3://models/submodels", "-q")
    assert "joint.safetensors" in s3.contents("submodels")
    assert run("verify", "s3://models/submodels").stdout.startswith(
        "s3://models/submodels: verified"
    )
    submodels = ("s3://models/submodels/encoder", "s3://models/submodels/decoder")
    message = run("compose", *submodels, "again", "-q").stderr
    assert "joint.safetensors: taken from next to the two submodels" in message
    run("diff", "again", "s3://models/both")


def test_shards(s3: S3, bert: Path) -> None:
    args = ("--to", "pytorch,tensorflow", "--max-shard-size", "20kB", "-q")
    run("convert", bert, "s3://models/shards", *args)
    names = s3.contents("shards").keys()
    assert sum(name.endswith(".safetensors") for name in names) > 2
    run("convert", "s3://models/shards", "whole", "--to", "pytorch", "-q")
    assert values(Path("whole")).keys() == values(bert).keys()
    for name, array in values(bert).items():
        np.testing.assert_array_equal(values(Path("whole"))[name], array)
    index = "s3://models/shards/tf_model.h5.index.json"
    run("diff", index, "bert")


def test_inspect_and_dry_run_read_headers_only(s3: S3, bert: Path, gpt2: Path) -> None:
    here = json.loads(run("inspect", bert, "--json").stdout)
    s3.asked.clear()
    there = json.loads(run("inspect", "s3://models/bert", "--json").stdout)
    assert there == {**here, "source": "s3://models/bert"}
    run("compose", "s3://models/bert", "s3://models/gpt2", "s3://models/both", "--dry-run")
    whole = [at for method, at in s3.asked if method == "GET" and "?" not in at]
    assert not whole
    run("inspect", "s3://models/gpt2/pytorch_model.bin", "--stats")


def test_an_existing_output_is_replaced_only_with_overwrite(s3: S3, bert: Path, gpt2: Path) -> None:
    run("convert", bert, "s3://models/out", "-q")
    before = s3.contents("out")
    for again in ([], ["--dry-run"]):
        code = 0 if again else 1
        message = run("convert", gpt2, "s3://models/out", "-q", *again, code=code)
    s3.client().put_object(Bucket="models", Key="out/notes.pdf", Body=b"mine")
    message = run("convert", gpt2, "s3://models/out", "-q", code=1)
    assert "s3://models/out exists\nAdd --overwrite" in message.stderr
    assert s3.contents("out") == {**before, "notes.pdf": b"mine"}
    run("convert", gpt2, "s3://models/out", "-q", "--overwrite", "--to", "flax")
    run("convert", gpt2, "here", "-q", "--to", "flax")
    after = s3.contents("out")
    assert after.pop("notes.pdf") == b"mine"
    assert after == local("here")
    s3.client().put_object(Bucket="models", Key="thesis/text.txt", Body=b"years")
    message = run("convert", gpt2, "s3://models/thesis", "--overwrite", code=1)
    assert "is not a checkpoint" in message.stderr
    message = run("convert", "s3://models/bert", "s3://models/bert", "--overwrite", code=1)
    assert "s3://models/bert contains a source" in message.stderr
    assert s3.contents("bert") == local("bert")


def test_readers_never_see_an_incomplete_checkpoint(
    s3: S3, bert: Path, gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("compose", bert, gpt2, "here", "-q")
    seen: list[set[str]] = []
    commit = s3fs.S3File.commit

    def watched(self: Any) -> None:
        seen.append(set(s3.contents("out")))
        commit(self)

    monkeypatch.setattr(s3fs.S3File, "commit", watched)
    run("compose", bert, gpt2, "s3://models/out", "-q")
    order = [(after - before).pop() for before, after in pairwise(seen)]
    assert seen[0] == set()
    weights = {"model.safetensors", "tf_model.h5", "flax_model.msgpack"}
    assert set(order[:3]) == weights
    assert order[-1] == "config.json"
    assert s3.contents("out").keys() - set(order) == {"converter-manifest.json"}
    seen.clear()
    run("convert", bert, "s3://models/out", "-q", "--overwrite", "--to", "pytorch")
    for names in seen:  # the old marks are gone before the first new file has its name
        assert not {"config.json", "converter-manifest.json"} <= names


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("how", [KeyboardInterrupt, ConnectionResetError])
def test_an_interrupted_upload(
    how: type[BaseException], there: bool, s3: S3, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if there:
        run("convert", bert, "s3://models/out", "-q", "--dtype", "float16")
    before = s3.contents("out")
    put = s3fs.S3File.write
    written = 0

    def short(self: Any, data: bytes) -> int:
        nonlocal written
        written += len(data)
        if written > 150_000:
            raise how("in the middle")
        return int(put(self, data))

    monkeypatch.setattr(s3fs.S3File, "write", short)
    code = 130 if how is KeyboardInterrupt else 1
    run("convert", bert, "s3://models/out", "-q", "--overwrite", code=code)
    assert s3.contents("out") == before
    assert not s3.pending()


def test_a_file_that_cannot_be_committed(
    s3: S3, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = s3fs.S3File.commit

    def refuse(self: Any) -> None:
        if self.key.endswith("config.json"):
            raise PermissionError("config.json may not be written")
        commit(self)

    monkeypatch.setattr(s3fs.S3File, "commit", refuse)
    message = run("convert", bert, "s3://models/out", "-q", code=1).stderr
    assert "s3://models/out: cannot be written: access is denied: config.json may not" in message
    assert s3.contents("out") == {}
    assert not s3.pending()

    def stuck(self: Any, path: str) -> None:
        raise PermissionError("nothing may be removed")

    monkeypatch.setattr(s3fs.S3FileSystem, "rm_file", stuck)
    message = run("convert", bert, "s3://models/out", "-q", code=1).stderr
    for name in s3.contents("out"):
        assert f"s3://models/out/{name}: remains, part of an incomplete checkpoint" in message
    assert "converter-manifest.json" not in s3.contents("out")


def test_a_killed_upload_leaves_nothing_visible(s3: S3, bert: Path) -> None:
    script = """
import os, signal, s3fs, sys
close = s3fs.S3File.close
def killed(self):
    close(self)
    if self.key.endswith("config.json"):
        os.kill(os.getpid(), signal.SIGKILL)
s3fs.S3File.close = killed
import converter
converter.convert("bert", "s3://models/out")
"""
    done = subprocess.run([sys.executable, "-c", script])
    assert done.returncode == -signal.SIGKILL
    assert s3.contents("out") == {}
    for left in Path("tmp").iterdir():  # no process can clean up after SIGKILL
        subprocess.run(["rm", "-r", left], check=True)
    run("convert", bert, "s3://models/out", "-q")
    assert "config.json" in s3.contents("out")


def test_connections_that_are_dropped_once(s3: S3, bert: Path, gpt2: Path) -> None:
    dropped: set[str] = set()

    def once(method: str, address: str) -> bool:
        first = "models/" in address and address not in dropped
        dropped.add(address)
        return first and method in ("GET", "PUT")

    s3.refuse = once
    run("compose", "s3://models/bert", "s3://models/gpt2", "s3://models/both", "-q")
    s3.refuse = lambda method, address: False
    run("compose", bert, gpt2, "here", "-q")
    run("diff", "here", "s3://models/both")
    assert len(dropped) > 10


def test_connections_that_are_always_dropped(
    s3: S3, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 2)
    s3.refuse = lambda method, address: "model.safetensors" in address and "partNumber" in address
    message = run("convert", bert, "s3://models/out", "-q", code=1).stderr
    assert "Error: s3://models/out/model.safetensors: cannot be written: " in message
    assert s3.contents("out") == {}
    assert not s3.pending()
    s3.refuse = lambda method, address: method == "GET" and address.startswith("/models/bert/vocab")
    message = run("convert", "s3://models/bert", "out", "-q", code=1).stderr
    assert "Error: s3://models/bert/vocab.txt: cannot be downloaded: " in message
    assert not Path("out").exists()


def test_a_missing_bucket(s3: S3, bert: Path) -> None:
    for args in (["inspect", "s3://nothing/bert"], ["convert", bert, "s3://nothing/out"]):
        message = run(*args, code=1).stderr
        assert "bucket nothing not found\nCreate it first, or correct its name." in message
    assert "s3://models/no: not found" in run("inspect", "s3://models/no", code=1).stderr


def test_wrong_credentials(s3: S3, bert: Path) -> None:
    requests.post(f"{s3.endpoint}/moto-api/reset-auth", data="0", timeout=10)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    for args in (["inspect", "s3://models/bert"], ["convert", bert, "s3://models/out"]):
        message = run(*args, code=1).stderr
        assert "access is denied: The AWS Access Key Id you provided does not exist" in message
        assert "AWS_ACCESS_KEY_ID" in message


def test_no_credentials(s3: S3, bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    message = run("inspect", "s3://models/bert", code=1).stderr
    assert "no credentials: " in message
    assert "AWS_ACCESS_KEY_ID" in message


def test_no_server(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    message = run("inspect", "s3://models/bert", code=1).stderr
    assert "no connection: " in message
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_damage_is_reported_with_the_url(s3: S3, bert: Path) -> None:
    data = (bert / "model.safetensors").read_bytes()
    s3.client().put_object(Bucket="models", Key="bert/model.safetensors", Body=data[:-9])
    for command in (["inspect"], ["verify"], ["convert", "--json"]):
        args = [*command, "s3://models/bert", *(["out"] if "convert" in command else [])]
        message = run(*args, code=1)
        assert "s3://models/bert" in message.output
        assert os.environ["TMPDIR"] not in message.output


def test_recipes(s3: S3, bert: Path) -> None:
    jobs = [
        {"convert": {"source": "s3://models/bert", "output": "s3://models/made/one"}},
        {"convert": {"source": "s3://models/made/one", "output": "two", "to": "flax"}},
    ]
    Path("r.yaml").write_text(yaml.safe_dump({"jobs": jobs}))
    assert run("run", "r.yaml").stdout == "2 done\n"
    assert run("run", "r.yaml").stdout == "2 skipped\n"
    assert run("run", "r.yaml", "--dry-run").stdout.endswith("2 skipped\n")
    time.sleep(1.1)  # S3 states times in whole seconds
    s3.client().delete_object(Bucket="models", Key="made/one/model.safetensors")
    assert run("run", "r.yaml").stdout == "2 done\n"
    factories.make(Path("bert"), "bert", seed=8, intermediate_size=43)
    time.sleep(1.1)
    s3.put(Path("bert"), "bert")
    assert run("run", "r.yaml").stdout == "2 done\n"
    push = {**jobs[0], "push": {"repo_id": "acme/bert"}}
    Path("r.yaml").write_text(yaml.safe_dump({"jobs": [push]}))
    assert "an output that is a path" in run("run", "r.yaml", code=2).stderr
