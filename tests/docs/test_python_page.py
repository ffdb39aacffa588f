"""The page on using the package from Python: its examples run, and its claims hold.

Those that hand checkpoints to the frameworks run in ``tests/transformers/test_loading.py``.
"""

from __future__ import annotations

import inspect
import logging
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import converter
from converter import options as declared
from converter.option_declaration import options_of
from converter.python_calls import in_python
from tests.docs.reading_pages import ROOT, blocks

EXAMPLES = [code for code in blocks("python.md", "python") if "transformers" not in code]

USER = """
from pathlib import Path

import converter
from converter import Comparison, ConverterError, LazyTensor, OpenedCheckpoint, Progress
from converter import WriteResult


def progress(done: int, total: int, tensor: str) -> None: ...


callback: Progress = progress
result: WriteResult = converter.compose("a", Path("b"), "c", dtype="float16", progress=callback)
nbytes: int = result.plan.nbytes
with converter.open_checkpoint("a") as checkpoint:
    same: OpenedCheckpoint = checkpoint
    tensor: LazyTensor = checkpoint["x"]
    shape: tuple[int, ...] = tensor.shape
    names: list[str] = list(checkpoint)
comparison: Comparison = converter.diff("a", "b", tolerance=0.5)
largest: list[float] = [each.max_abs for each in comparison.differing.values()]
try:
    urls: list[str] = [converter.push("a", "b/c").url]
except ConverterError as error:
    texts: list[str] = [problem.what for problem in error.problems]
for outcome in converter.run("a.yaml", on_result=print).results:
    status: str = outcome.status
"""
WRONG = """
converter.convert("a", "b", dtyp="float16")
converter.convert("a", "b", dtype="fp16")
converter.verify("a", jobs="2")
verified: str = converter.verify("a").verified
"""


def test_every_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("fixtures", "mappings"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    level = logging.getLogger("converter").level
    monkeypatch.setattr(logging, "basicConfig", lambda: None)
    names: dict[str, object] = {}
    assert len(EXAMPLES) >= 9
    try:
        for code in EXAMPLES:
            exec(compile(code, "docs/python.md", "exec"), names)
    finally:
        logging.getLogger("converter").setLevel(level)
    printed = capsys.readouterr().out
    assert "100% " in printed
    assert "nothing is left of it" in printed
    assert "UsageError" in printed or "Error " in printed
    assert "['seed-0', 'seed-1', 'seed-2', 'seed-3']" in printed
    made = {path.name for path in tmp_path.iterdir()} - {"fixtures"}
    assert {"bert2gpt2", "float16", "split", "shown", "rescued", "seed-3"} <= made
    assert not {"planned", "never", "odd"} & made


def test_every_public_name_is_there() -> None:
    for name in converter.__all__:
        assert getattr(converter, name) is not None
        assert name in dir(converter)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        converter.nothing  # noqa: B018


COMMANDS = {
    "compose": declared.ComposeOptions,
    "convert": declared.ConvertOptions,
    "split": declared.SplitOptions,
    "inspect": declared.InspectOptions,
    "verify": declared.VerifyOptions,
    "diff": declared.DiffOptions,
    "push": declared.PushOptions,
    "run": declared.RunOptions,
}


@pytest.mark.parametrize("name", COMMANDS)
def test_signature_and_help_show_every_option_with_its_default(name: str) -> None:
    function = getattr(converter, name)
    shown = inspect.signature(function).parameters
    assert function.__name__ == name
    options = options_of(COMMANDS[name])
    assert list(shown) == list(options)
    text = inspect.getdoc(function) or ""
    for each in options.values():
        assert f"    {each.name}: {in_python(each.declared.help)}" in text
        assert (shown[each.name].default is inspect.Parameter.empty) == each.is_argument
        if not each.is_argument:
            assert shown[each.name].default == each.default
            assert shown[each.name].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("name", COMMANDS)
def test_a_misspelt_option_is_a_type_error(name: str) -> None:
    start = rf"^{name}\(\) got an unexpected keyword argument 'mappng'\. "
    with pytest.raises(TypeError, match=start + r"(Did you mean 'mapping'\?|See help|One of: )"):
        getattr(converter, name)("a", "b", "c", mappng=[])


def test_a_misspelt_option_is_corrected() -> None:
    with pytest.raises(TypeError) as caught:
        converter.compose("a", "b", "c", dtyp="float16")  # type: ignore[call-arg]
    said = "compose() got an unexpected keyword argument 'dtyp'. Did you mean 'dtype'?"
    assert str(caught.value) == said
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    with pytest.raises(converter.UsageError, match=r"to: must be a list, such as \['flax'\]"):
        converter.convert("a", "b", to="flax")  # type: ignore[arg-type]
    with pytest.raises(
        converter.UsageError, match=r"mapping: must be a list, such as \['a.toml'\]"
    ):
        converter.convert("a", "b", mapping=Path("a.toml"))  # type: ignore[arg-type]
    with pytest.raises(converter.UsageError, match="mapping: must be a list, not <generator"):
        converter.convert("a", "b", mapping=(name for name in "ab"))  # type: ignore[arg-type]
    with pytest.raises(converter.UsageError, match="dtype: None is not one of keep"):
        converter.convert("a", "b", dtype=None)  # type: ignore[arg-type]
    with pytest.raises(converter.UsageError, match="jobs: '2' has the wrong type"):
        converter.convert("a", "b", jobs="2")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^convert\(\): missing a required argument: 'output'$"):
        converter.convert("a")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^convert\(\): too many positional arguments$"):
        converter.convert("a", "b", "float16")  # type: ignore[call-arg, arg-type]


def test_dir_lists_public_names_only() -> None:
    assert dir(converter) == sorted(converter.__all__)


def test_the_reports_have_a_document() -> None:
    for name in (
        "Comparison",
        "Inspection",
        "PushResult",
        "WriteResult",
        "RunSummary",
        "Verification",
    ):
        assert callable(getattr(converter, name).to_dict)


@pytest.mark.slow
def test_mypy_sees_the_types_of_the_installed_package(tmp_path: Path) -> None:
    """Installed as by a user, so that ``py.typed`` counts, and checked with ``--strict``."""
    venv.create(tmp_path / "venv", with_pip=False)
    (site,) = (tmp_path / "venv").glob("lib/*/site-packages")
    (site / "converter").symlink_to(ROOT / "converter")
    (tmp_path / "user.py").write_text(USER + WRONG)
    args = ["--strict", "--python-executable", f"{tmp_path}/venv/bin/python", "user.py"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", *args],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    first = USER.count("\n") + 2
    actual = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert [line.split(":")[1] for line in actual] == [str(first + n) for n in range(4)], (
        done.stdout
    )
    for line, what in zip(
        actual, ('"dtyp"', '"dtype"', '"jobs"', "Incompatible types"), strict=True
    ):
        assert what in line
