"""The tutorial notebook runs from top to bottom, and what it says of its own figures holds."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs" / "tutorial.ipynb"


@pytest.mark.slow
def test_the_tutorial_runs_from_top_to_bottom():
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=900, resources=resources).execute()  # its own assertions fail here
    assert _said(json.loads(nbformat.writes(notebook))) == []


def test_the_tutorial_is_kept_with_its_pictures_and_without_complaints():
    cells = json.loads(NOTEBOOK.read_text())
    pictures = [
        output for cell in cells["cells"] for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 4  # training and auxiliary faces, curves, features
    assert _said(cells) == []


def _said(cells):
    """What cells wrote to the error stream."""
    outputs = [output for cell in cells["cells"] for output in cell.get("outputs", [])]
    return [output["text"] for output in outputs if output.get("name") == "stderr"]
