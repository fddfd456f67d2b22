"""The notebook runs from top to bottom, and what it says of the predictor and of the search comes out."""

import os
import re
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the Jupyter client
def test_it_runs_and_the_predictor_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(ROOT / "notebooks" / "meta_network.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # stored without
    done = nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": os.fspath(tmp_path)}}).execute()
    outputs = [output for cell in done.cells for output in cell.get("outputs", ())]
    printed = "".join(output.get("text", "") for output in outputs)
    error, guess = map(float, re.search(r"not seen: ([\d.]+) points; .*: ([\d.]+) points", printed).groups())  # type: ignore[union-attr]
    assert error < guess
    (correlation,) = re.findall(r"rank correlation: ([\d.]+)", printed)
    assert float(correlation) > 0.5
    assert re.search(r"^\|.*\|\nvalidation accuracy 9[01]\.\d+ %, the best of the table 91\.607 %\nrecommended: \|", printed, re.MULTILINE)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert not any(output.get("name") == "stderr" for output in outputs), [o for o in outputs if o.get("name") == "stderr"]
