"""The notebook of docs/ runs on what a run leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.commands import CHECKOUT
from tests.integration.runs import Finished

pytestmark = pytest.mark.timeout(600)  # a busy machine starts an engine in minutes

NOTEBOOK = CHECKOUT / "docs" / "explore.ipynb"


def test_every_cell_of_the_notebook_runs_one_after_the_other(recorded: Finished, tmp_path: Path) -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 4
    assert all(not cell["outputs"] for cell in cells)
    script = tmp_path / "notebook.py"
    script.write_text("\n\n".join("".join(cell["source"]) for cell in cells))
    environment = os.environ | {"AURICLE_RUN": str(recorded.path), "MPLBACKEND": "Agg", "PYTHONPATH": str(CHECKOUT)}
    ran = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    assert "groups trained" in ran.stdout
    assert (tmp_path / "curves.png").stat().st_size > 0
