"""The notebook in docs/ runs in another folder, with the command `sotglp` on the path."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from processes import PATIENCE

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_notebook_goes_from_own_images_to_the_figure(tmp_path, monkeypatch, python):
    program = tmp_path / "bin" / "sotglp"  # pip's starts the same file
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{python}" "{ROOT / "scripts" / "__main__.py"}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = tmp_path / "folder"
    folder.mkdir()
    notebook = nbformat.read(ROOT / "docs" / "own-images.ipynb", as_version=4)
    NotebookClient(notebook, timeout=PATIENCE, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    said = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "class apple: 4 train, 2 val, 2 test; class leaf: 4 train, 2 val, 2 test; class sky: " in said
    assert ".py:" not in said  # no raw warning, with a file and a line
    assert "['apple' 'leaf' 'sky']" in said and "image/png" in outputs[-1].data
    assert {path.name for path in folder.iterdir()} == {"my_images", "output"}
