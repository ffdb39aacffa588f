"""An S3 on loopback: moto's server, behind something that may drop connections."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pytest
import requests
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from tests import factories


@dataclass
class S3:
    """The server, and what has happened there."""

    endpoint: str = ""
    refuse: Callable[[str, str], bool] = lambda method, address: False
    """Whether the connection of a request is dropped before it is answered."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and address of every request."""
    bucket: str = ""

    def client(self) -> Any:
        """Amazon's own client."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )

    def contents(self, below: str) -> dict[str, bytes]:
        """Return the objects below a prefix, by the rest of the key."""
        client = self.client()
        listed = client.list_objects_v2(Bucket=self.bucket, Prefix=f"{below}/").get("Contents", [])
        return {
            each["Key"][len(below) + 1 :]: client.get_object(Bucket=self.bucket, Key=each["Key"])[
                "Body"
            ].read()
            for each in listed
        }

    def pending(self) -> list[str]:
        """Return the keys of uploads that were neither completed nor aborted."""
        found = self.client().list_multipart_uploads(Bucket=self.bucket)
        return [each["Key"] for each in found.get("Uploads", [])]

    def put(self, directory: Path, below: str) -> None:
        """Upload a directory."""
        for path in directory.rglob("*"):
            if path.is_file():
                key = f"{below}/{path.relative_to(directory).as_posix()}"
                self.client().put_object(Bucket=self.bucket, Key=key, Body=path.read_bytes())


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    found = S3()
    moto = DomainDispatcherApplication(create_backend_app)

    def app(environ: dict[str, Any], start: Any) -> Any:
        address = f"{environ['PATH_INFO']}?{environ['QUERY_STRING']}"
        found.asked.append((environ["REQUEST_METHOD"], address))
        if found.refuse(*found.asked[-1]):
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return moto(environ, start)

    listening = make_server("127.0.0.1", 0, app, threaded=True)
    found.endpoint = f"http://127.0.0.1:{listening.port}"
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    yield found
    listening.shutdown()
    thread.join()


@pytest.fixture
def s3(server: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """Yield the server with a new bucket; credentials and addresses are in the environment."""
    for name, value in {
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "TMPDIR": str(tmp_path / "tmp"),
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)
    Path("tmp").mkdir()
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    requests.post(f"{server.endpoint}/moto-api/reset", timeout=10)
    server.refuse = lambda method, address: False
    server.bucket = "models"
    server.client().create_bucket(Bucket=server.bucket)
    server.asked.clear()
    yield server
    server.refuse = lambda method, address: False
    requests.post(f"{server.endpoint}/moto-api/reset-auth", data="1000000", timeout=10)
    assert not any(Path("tmp").iterdir()), "something was left behind"


@pytest.fixture
def bert(s3: S3) -> Path:
    """Write a BERT locally and as ``s3://models/bert``."""
    made = factories.make(Path("bert"), "bert", intermediate_size=41).directory
    (made / "vocab.txt").write_text("[PAD]\n[CLS]\n")
    s3.put(made, "bert")
    return made


@pytest.fixture
def gpt2(s3: S3) -> Path:
    """Write a GPT-2 locally and as ``s3://models/gpt2``."""
    made = factories.make(Path("gpt2"), "gpt2", "GPT2LMHeadModel", file_format="torch").directory
    s3.put(made, "gpt2")
    return made
