"""The page in a real Chromium: compose, convert, verify, download and push, and what it never does.

The server runs in an interpreter with Gradio, which is not part of the test extra: it needs other
versions of libraries than the frameworks do.
"""

from __future__ import annotations

import os
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

import converter
from tests import factories
from tests.app.chromium import Chromium, chromium
from tests.docs.reading_pages import blocks
from tests.environments import GRADIO, interpreter
from tests.storage.hub.conftest import HubSession, contents
from tests.storage.hub.hub_server import serving

pytestmark = [pytest.mark.browser, pytest.mark.network, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
TOKEN = "hf_test"


@dataclass
class Page:
    """A running server, and a browser that shows its page."""

    tab: Chromium
    url: str
    home: Path
    log: Path

    def run(self, command: str, **fields: object) -> None:
        """Fill in fields and click Run."""
        for name, text in fields.items():
            self.tab.type(f"#{command}-{name} textarea", str(text))
        self.tab.click(f"#{command}-run")

    def finish(self) -> str:
        """Wait for a result and return its report."""
        self.tab.wait_for("document.querySelector('#download')")
        return self.tab.text("#report")

    def error(self, part: str, where: str = "#report") -> str:
        """Wait for an error that contains a text, and return it."""
        selector = f"{where} .error"
        self.tab.wait_for(f"document.querySelector({selector!r})?.innerText.includes({part!r})")
        return self.tab.text(selector)


@contextmanager
def serve(hub: HubSession, space: str = "", token: str | None = None) -> Iterator[Page]:
    """Run ``converter app``, or the script of a Space, with a user of a Hub, and open its page."""
    log, temporary = hub.home / "server.log", hub.home / "tmp"
    temporary.mkdir()
    environment = hub.environment(token, TMPDIR=str(temporary), PYTHONUNBUFFERED="1")
    arguments = ["-m", "converter", "app", "--port", "0", "--no-browser"]
    if space:
        (hub.home / "app.py").write_text(space)
        arguments = ["app.py"]
        address = {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": "0"}
        environment |= {"SPACE_ID": "me/space", **address}
    command = [str(interpreter(GRADIO)), *arguments]
    with log.open("w") as output:
        server = subprocess.Popen(
            command, cwd=hub.home, env=environment, stdout=subprocess.PIPE, stderr=output, text=True
        )
    assert server.stdout is not None
    try:
        line = server.stdout.readline()
        url = next((word for word in line.split() if word.startswith("http://127.0.0.1:")), "")
        assert url, line + log.read_text()
        with chromium(hub.home / "profile") as tab:
            tab.open(url)
            tab.wait_for("document.querySelector('#compose-run')")
            yield Page(tab, url, hub.home, log)
            # Nothing but this server was asked for anything, and nothing is loaded from elsewhere.
            assert tab.requests
            allowed = (url, "data:", "blob:", "about:")
            assert not [each for each in tab.requests if not each.startswith(allowed)]
    finally:
        server.terminate()
        code = server.wait(30)
    assert code == 0
    assert not [*temporary.iterdir()]
    assert "Traceback" not in log.read_text()


def assert_secret(page: Page, secret: str) -> None:
    """Check that a secret is in no address, message, document, log or file."""
    assert not [each for each in (*page.tab.requests, *page.tab.messages) if secret in each]
    assert secret not in page.tab.evaluate("document.documentElement.outerHTML")
    assert secret not in page.log.read_text()
    read = []
    for path in page.home.rglob("*"):
        with suppress(OSError):  # a directory, or a file that the browser has removed meanwhile
            read.append((path, path.read_bytes()))
    assert len(read) > 10
    assert not [path for path, data in read if secret.encode() in data]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubSession]:
    with serving() as (hub, endpoint):
        yield HubSession(hub, endpoint, tmp_path)


def test_two_checkpoints_become_one_on_the_hub(hub: HubSession, tmp_path: Path) -> None:
    for name in ("bert-tiny", "gpt2-tiny"):
        (hub.home / name).symlink_to(ROOT / "fixtures" / name)
    with serve(hub) as page:
        tab = page.tab
        tab.type("#compose-encoder textarea", "bert-tiny")
        tab.type("#compose-decoder textarea", "gpt2-tiny")
        tab.click("#compose-plan")
        tab.wait_for("document.querySelector('#report pre')")
        plan = tab.text("#report")
        assert "decoder_start_token_id equals pad_token_id" in plan
        assert "85 tensors: 67 copied, 18 initialized" in plan
        assert "decoder.h.{0,1}.crossattention.c_attn.weight" in plan

        tab.click("#compose-run")
        report = page.finish()
        assert "Verified: the result is complete and correct." in report
        assert str(tmp_path) not in report
        tab.wait_for("document.querySelector('#report iframe')")
        verification = tab.evaluate(
            "(ask => (ask.open('GET', document.querySelector('#open-report').href, false),"
            " ask.send(), ask.responseText))(new XMLHttpRequest())"
        )
        assert "tensors equal to their source" in verification
        reports = [each for each in tab.requests if each.endswith("/report")]
        assert len(reports) == 2  # of the frame, and of the check above
        (hub.home / "saved").mkdir()
        with zipfile.ZipFile(tab.download("#download", hub.home / "saved")) as archive:
            archive.extractall(tmp_path / "unpacked")
        made = tmp_path / "unpacked" / "bert-tiny-gpt2-tiny"
        converter.compose(hub.home / "bert-tiny", hub.home / "gpt2-tiny", tmp_path / made.name)
        assert contents(made) == contents(tmp_path / made.name)
        assert converter.verify(made).verified

        tab.click("#pushing button")
        tab.type("#repo-id textarea", "me/mine")
        tab.type("#token input", "hf_wrong")
        tab.click("#push")
        assert "does not recognize the token" in page.error("token", "#pushed")
        tab.type("#token input", TOKEN)
        tab.click("#push")
        tab.wait_for("document.querySelector('#pushed a')")
        assert "files sent" in tab.text("#pushed")
        tab.wait_for("document.querySelector('#token input').value === ''")
        assert_secret(page, TOKEN)
        assert_secret(page, "hf_wrong")
    assert contents(made)["model.safetensors"] == hub.hub.read("me/mine", "model.safetensors")


def test_a_repository_is_rescued_by_a_pull_request_from_a_space(hub: HubSession) -> None:
    (script,) = blocks("app.md", "python")
    made = factories.make(hub.home / "made", "bert", dialect="tensorflow")
    hub.hub.publish("acme/tf", contents(made.directory))
    hub.hub.publish("acme/secret", contents(made.directory), private=True)
    # The server is logged in, as the owner of a Space may be.
    with serve(hub, script, TOKEN) as page:
        page.tab.evaluate("[...document.querySelectorAll('[role=tab]')].at(-1).click()")
        assert not page.tab.evaluate("document.querySelector('#convert-output')?.checkVisibility()")
        page.run("convert", source=made.directory)
        assert "This page opens no paths" in page.error("is not the id of a Hub repository")
        page.run("convert", source="acme/secret")
        assert "not found, or private" in page.error("acme/secret")
        page.tab.evaluate("document.querySelector('#convert-to input').click()")
        with hub.hub.lock:  # which answers nothing meanwhile
            page.run("convert", source="acme/tf")
            page.tab.wait_for("document.body.innerText.includes('Opening the checkpoints')")
            page.tab.click("#stop")
            page.tab.wait_for("document.body.innerText.includes('ends at its next step')")
        assert "there is no result" in page.error("Stopped")
        page.run("convert", source="acme/tf")
        assert "model.safetensors" in page.finish()
        page.tab.click("#pushing button")
        page.tab.type("#repo-id textarea", "acme/tf")
        page.tab.click("#create-pr input")
        page.tab.click("#push")
        page.error("a Hub access token is needed", "#pushed")
        page.tab.type("#token input", TOKEN)
        page.tab.click("#push")
        page.tab.wait_for("document.querySelector('#pushed a')")
        assert "Pull request" in page.tab.text("#pushed")
        assert page.tab.text("#pushed a").endswith("/acme/tf/discussions/1")
        assert_secret(page, TOKEN)


def test_uploaded_files_are_converted_and_a_wrong_path_gets_a_message(hub: HubSession) -> None:
    made = factories.make(hub.home / "made", "bert", file_format="torch").directory
    with serve(hub) as page:
        page.run("compose", encoder="nowhere", decoder="nowhere")
        assert "nowhere" in page.error("nowhere")
        page.tab.evaluate("[...document.querySelectorAll('[role=tab]')].at(-1).click()")
        page.tab.upload("#convert-source-files input[type=file]", sorted(made.iterdir()))
        page.tab.wait_for("document.querySelectorAll('#convert-source-files .file').length > 1")
        target = hub.home / "written"
        page.run("convert", output=target)
        assert "Verified" in page.finish()
        assert converter.diff(made, target).equal
        page.run("convert", output=target)
        assert "“Overwrite”" in page.error("exists")
        assert os.environ["HOME"] not in page.tab.text("#report")
