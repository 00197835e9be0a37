"""A clone of this checkout sets itself up, and its actors import its own files and the user's plug-in beside them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration import actor_files
from tests.integration.commands import CHECKOUT

PLUG_IN = f"""
import importlib, json, pathlib

found = {{room: importlib.import_module(room).__file__ for room in {actor_files.ROOMS}}}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(found))


def reward(completions, example):
    return [1.0 for _ in completions]
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # an empty cache has a gigabyte to download


def clean_environment() -> dict[str, str]:
    """Without what points at this checkout."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=clean_environment(), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cloned") / "auricle"
    run("git", "clone", "--quiet", str(CHECKOUT), str(path), cwd=path.parent)
    run("make", "setup", cwd=path)
    return path


def test_setup_gives_a_clone_an_environment_of_its_own(clone: Path) -> None:
    assert (clone / ".venv" / "bin" / "python").exists()
    help_text = run(".venv/bin/python", "-m", "cluster.launch", "--help", cwd=clone)
    assert "--nodes" in help_text


def test_every_actor_of_a_clone_imports_the_clones_files_and_the_plug_in(clone: Path, model: Path) -> None:
    folder = clone / "my experiments"
    folder.mkdir()
    (folder / "my_plugin.py").write_text(PLUG_IN)
    shutil.copy(actor_files.__file__, folder / "actor_files.py")
    output = run(str(clone / ".venv" / "bin" / "python"), "-m", "actor_files", str(model), cwd=folder)
    found = json.loads(output.splitlines()[-1])
    assert set(found) == {"driver", "rollout actor", "reward actor", "function"}
    found["reward function"] = json.loads((folder / "my_plugin.json").read_text())
    for process, files in found.items():
        for room in actor_files.ROOMS:
            assert Path(files[room]) == clone / room / "__init__.py", process
