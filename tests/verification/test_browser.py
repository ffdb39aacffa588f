"""The HTML page in a real browser: on desktop and phone, light, dark and printed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from converter.commands.verify import verify
from converter.report.html import page
from converter.verification.result import Verification
from tests import factories
from tests.verification import damage
from tests.verification.browser import browse, look
from tests.verification.damage import QUERY, alter, copy_of, key_of, rewrite

pytestmark = pytest.mark.browser

LIGHT, DARK = "rgb(255, 255, 255)", "rgb(20, 23, 26)"


@pytest.fixture
def requests() -> Iterator[tuple[int, list[str]]]:
    """Run a local server and yield its port and every requested path."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, paths
        server.shutdown()


def written(target: Path, actual: Verification) -> Path:
    target.write_text(page(actual), "utf-8")
    return target


@pytest.fixture(scope="module")
def broken(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a checkpoint with a damaged layer."""
    directory = copy_of(sound, tmp_path_factory.mktemp("broken") / "it")
    alter(directory / "tf_model.h5", [key_of(directory / "tf_model.h5", QUERY)], damage.negated)
    file = directory / "model.safetensors"
    alter(file, [key_of(file, QUERY)], damage.reinitialized)
    return directory


@pytest.mark.parametrize(("width", "dark"), [(1100, False), (390, True), (320, False)])
@pytest.mark.parametrize("which", ["sound", "broken"])
def test_everything_is_visible_and_nothing_overflows(
    sound: Path,
    broken: Path,
    sources: tuple[Path, Path],
    tmp_path: Path,
    which: str,
    width: int,
    dark: bool,
) -> None:
    directory = {"sound": sound, "broken": broken}[which]
    result = verify(directory, against=sources, value_report=True)
    statistics = look(written(tmp_path / "page.html", result), width, dark=dark)
    assert statistics["wide"] == 0
    assert statistics["beyond"] == []
    assert statistics["hidden"] == []
    assert result.value_report is not None
    layers = sum(len(section.layers) for section in result.value_report.sections)
    assert len(statistics["plots"]) == layers > 8
    colors = set()
    for plot in statistics["plots"]:
        assert plot["width"] > 90
        assert plot["height"] > 25
        assert plot["seen"]
        colors.add(plot["fill"])
    # The submodels, initialized weights and a damaged layer have different colors.
    assert len(colors) == (3 if which == "sound" else 4)
    assert all(share["height"] > 10 and share["seen"] for share in statistics["shares"])
    assert (statistics["paper"], statistics["ink"] != statistics["paper"]) == (
        DARK if dark else LIGHT,
        True,
    )
    assert statistics["badge"].startswith("verified" if which == "sound" else "not verified: ")


def test_hostile_names_load_and_run_nothing(
    sound: Path, tmp_path: Path, requests: tuple[int, list[str]]
) -> None:
    port, paths = requests
    url = f"http://127.0.0.1:{port}/lure"
    hostile_names = (
        f"<img src='{url}' onerror=alert(1)>",
        f'"><script src="{url}"></script><script>document.title="run"</script>',
        f"</style></title><link rel=stylesheet href={url}><iframe src={url}></iframe>",
    )
    directory = copy_of(sound, tmp_path / "<img src=x onerror=alert(1)>")

    def add_hostile_names(tensors: dict[str, damage.Array]) -> None:
        tensors.update({f"encoder.{text}": tensors[next(iter(tensors))] for text in hostile_names})

    rewrite(directory / "model.safetensors", add_hostile_names)
    result = verify(directory, value_report=True)
    assert all(any(text in str(each) for each in result.problems) for text in hostile_names)
    statistics = look(written(tmp_path / "page.html", result), 1100, port=port)
    assert paths == ["/control"]  # requested by the frame, to show that the server is reachable
    assert statistics["requests"] == []
    assert statistics["active"] == 0
    assert statistics["handlers"] == 0
    assert statistics["title"] == "<img src=x onerror=alert(1)>: not verified"


def test_the_page_of_an_unreadable_checkpoint(tmp_path: Path) -> None:
    made = factories.make(tmp_path / "it", "bert")
    made.file.write_bytes(b"nothing")
    statistics = look(
        written(tmp_path / "page.html", verify(tmp_path / "it", value_report=True)), 390
    )
    assert statistics["badge"].startswith("not verified: ")
    assert statistics["beyond"] == statistics["plots"] == []


@pytest.mark.slow
def test_print_and_screenshot(sound: Path, tmp_path: Path) -> None:
    at = written(tmp_path / "page.html", verify(sound, value_report=True))
    paper, picture = tmp_path / "page.pdf", tmp_path / "page.png"
    browse(tmp_path / "profile", f"--print-to-pdf={paper}", at.as_uri())
    assert paper.read_bytes().startswith(b"%PDF")
    browse(tmp_path / "profile", "--window-size=1100,1400", f"--screenshot={picture}", at.as_uri())
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 30_000
