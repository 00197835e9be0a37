"""Plug-ins of a test's own: modules and distributions in a folder that Python looks in."""

from __future__ import annotations

from pathlib import Path

import pytest


class PlugIns:
    """A folder on the path of this process and of those that it starts."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
        self.folder = folder
        self._prefix = prefix
        self._modules = 0
        monkeypatch.syspath_prepend(folder)

    def module(self, source: str) -> str:
        """The name of a new module with that source."""
        self._modules += 1
        name = f"{self._prefix}_{self._modules}"
        (self.folder / f"{name}.py").write_text(source)
        return name

    def distribution(self, name: str, **rewards: str) -> None:
        """Install a distribution that gives these rewards as entry points."""
        information = self.folder / f"{name}-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        points = "".join(f"{key} = {value}\n" for key, value in rewards.items())
        (information / "entry_points.txt").write_text(f"[auricle.rewards]\n{points}")
