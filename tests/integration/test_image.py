"""The layers of the image, made in a folder without a container: packages first, then the code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from data.cache import cache_directory
from tests.deploy_files import CHECKOUT, instructions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # an empty cache has a gigabyte to download


def layers() -> list[tuple[str, str]]:
    """The image's instructions that fill the checkout."""
    found = instructions()
    first = next(number for number, (name, _) in enumerate(found) if name == "WORKDIR") + 1
    return [(name, text) for name, text in found[first:] if name in ("COPY", "RUN")]


def add(layer: tuple[str, str], image: Path) -> None:
    """Do in a folder what an instruction does in the image."""
    name, text = layer
    if name == "COPY":
        copied, target = text.split()
        listed = subprocess.run(["git", "ls-files", copied], cwd=CHECKOUT, capture_output=True, text=True, check=True)
        assert listed.stdout, f"nothing to copy: {text}"
        for file in listed.stdout.splitlines():
            place = image / target / Path(file).relative_to(copied)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / file, place)
        return
    command = re.sub(r"--mount=\S+", "", text).replace("AURICLE_CACHE=/wheels", f"AURICLE_CACHE={cache_directory()}")
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(["sh", "-c", command], cwd=image, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_edited_line_of_code_does_not_install_the_packages_anew(tmp_path: Path) -> None:
    image = tmp_path / "auricle"
    image.mkdir()
    all_layers = layers()
    code = all_layers.index(("COPY", ". ."))
    for layer in all_layers[:code]:
        add(layer, image)
    assert not (image / "cluster").exists()
    log = image / ".venv" / "setup.log"
    before = log.read_text()
    for layer in all_layers[code:]:
        add(layer, image)
    commands = [line for line in log.read_text()[len(before) :].splitlines() if line.startswith("$ ")]
    assert len(commands) == 1
    assert "--editable" in commands[0]
    python = image / ".venv" / "bin" / "python"
    told = subprocess.run([python, "-m", "cluster.launch", "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert (told.returncode, "--nodes" in told.stdout) == (0, True)
