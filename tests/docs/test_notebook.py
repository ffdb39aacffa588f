"""The notebook in ``examples/``, run by a kernel of Jupyter."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest

from tests.docs.reading_pages import ROOT

nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOK = ROOT / "examples" / "notebook.ipynb"
MORE = """
from IPython.core.completer import provisionalcompleter
from converter import progress

progress._DELAY = 0
converter.convert(bert, out.parent / "shown")
typed = "converter.compose(bert, gpt2, out, dty"
with provisionalcompleter():
    print([each.text for each in get_ipython().Completer.completions(typed, len(typed))])
print(sorted(dir(converter))[:3])
try:
    converter.convert(bert, out)
except converter.OutputError as error:
    print(error.remedy)
"""


def read() -> Any:
    import nbformat

    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def cells() -> list[Any]:
    """Return the cells of code after a run, without torch, and one more."""
    import nbformat

    notebook = read()
    for cell in notebook.cells:
        cell.source = cell.source.replace('find_spec("torch")', "False")
    notebook.cells.append(nbformat.v4.new_code_cell(MORE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        patch.setenv("IPYTHONDIR", os.devnull + "-none")
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")
        client = nbclient.NotebookClient(
            notebook, timeout=120, resources={"metadata": {"path": str(ROOT)}}
        )
        client.execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: Any, kind: str) -> str:
    """Return the outputs of a cell, as text or HTML."""
    texts = [each.get("data", {}).get(kind, "") for each in cell.outputs]
    if kind == "text/plain":
        texts += [each.get("text", "") for each in cell.outputs]
    return "\n".join(texts)


def test_it_is_kept_without_outputs() -> None:
    for cell in read().cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None


@pytest.mark.slow
def test_results_fit_a_screen_and_are_tables(cells: list[Any]) -> None:
    tables = [shown(cell, "text/html") for cell in cells]
    assert sum("<table" in each for each in tables) >= 5
    for cell in cells:
        for output in cell.outputs:
            assert len(output.get("data", {}).get("text/plain", "")) <= 1_500
    assert "67 of 67" in shown(cells[4], "text/plain")


def test_warnings_are_those_of_the_cell(cells: list[Any]) -> None:
    printed = [each for each in cells[3].outputs if each.get("name") == "stderr"]
    text = "".join(each.text for each in printed)
    said = re.findall("ConverterWarning: (.*)", text)
    assert len(said) == len({*said}) >= 2


def test_a_bar_completion_and_errors_are_as_in_python(cells: list[Any]) -> None:
    text = shown(cells[-1], "text/plain")
    assert "convert: " in text, "the bar"
    assert "'dtype='" in text
    assert "['CheckpointError'" in text
    assert "Add overwrite=True to replace it" in text
    assert "[[" in shown(cells[6], "text/plain"), "values of a tensor"
