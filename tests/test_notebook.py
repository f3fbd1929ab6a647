"""docs/first_model.ipynb, run from its first cell to its last in a kernel of its own: it shows clips in place."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from vidiff.video.reader import read_video

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = nbformat.read(ROOT / "docs" / "first_model.ipynb", 4)
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]


def test_it_is_kept_as_it_was_written() -> None:
    assert not any(cell.outputs or cell.execution_count for cell in CODE), "clear its outputs before it is committed"


def test_it_has_the_lines_of_the_readme() -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M)
    lines = {line for cell in CODE for line in cell.source.splitlines()}
    own = {line.replace("runs/shapes", "runs/first") for line in block.splitlines() if line}
    assert own <= lines, own - lines


def test_every_cell_runs_and_clips_are_shown_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    done = NotebookClient(NOTEBOOK, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    results = [out for cell in done.cells if cell.cell_type == "code" for out in cell.outputs]
    shown = [out.data["text/html"] for out in results if "text/html" in out.get("data", {})]
    assert len(shown) == 3 and all("data:video/mp4;base64," in html for html in shown)
    said = "".join(out.text for out in results if out.get("name") == "stdout")
    assert "torch.Size([1, 3, 64, 64, 64]) True\n" in said
    assert results[-1].data["text/plain"] == "True"
    assert [read_video(tmp_path / name).shape[1] for name in ("longer.mp4", "extended.mp4")] == [64, 24]
