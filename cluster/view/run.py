"""A run's directory as a reader sees it, finished or while it is written. Nothing in it is touched, no lock either."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import yaml

from cluster.errors import UsageError
from cluster.evaluation.scoring import without_rows
from cluster.outputs import finite
from cluster.run_lock import FILE as LOCK
from configs.load import flat
from data.step_files import checkpoints

Found = TypeVar("Found")
Mark = tuple[int, int]
"""Time of change and size of a file."""

EVALUATIONS = "eval"
LOCKS = Path("/proc/locks")
"""Where the kernel tells who holds which file."""
FRESH_SECONDS = 60.0
"""A run whose figures are newer than this is taken for one that goes on: it may be written by another machine."""


class Metrics:
    """`metrics.jsonl` so far, which grows by a line a step, and which a resume cuts.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        """Nested values under names with dots; what is no finite number is None. Never changed, only replaced."""
        self._read = 0
        """Bytes of the file that `lines` are made of."""
        self._inode = 0

    def refresh(self) -> None:
        """Read what was written since the last time."""
        try:
            state = self.path.stat()
        except FileNotFoundError:
            self.lines, self._read = [], 0
            return
        if state.st_ino != self._inode or state.st_size < self._read:
            self.lines, self._read, self._inode = [], 0, state.st_ino
        if state.st_size == self._read:
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            whole, newline, _ = file.read().rpartition(b"\n")
        if newline:
            new = [finite(flat(json.loads(line))) for line in whole.splitlines() if line.strip()]
            self.lines = [*self.lines, *new]
            self._read += len(whole) + 1


class ViewedRun:
    """One run; its methods may be called by several threads.

    Args:
        path: its directory.
        name: what the page calls it.

    Raises:
        UsageError: it is none.
    """

    def __init__(self, path: Path, name: str = "") -> None:
        self.path = path.resolve()
        if not self.is_there:
            raise UsageError(f"{path} holds no run: config.yaml is missing; name a run's directory")
        self.name = name or self.path.name
        self._metrics = Metrics(path / "metrics.jsonl")
        self._kept: dict[Path, tuple[Mark, Any]] = {}
        """What was read of each file when it had that mark."""
        self._lock = threading.Lock()

    @property
    def is_there(self) -> bool:
        """Whether it has not been deleted or moved away."""
        return (self.path / "config.yaml").is_file()

    @property
    def config_text(self) -> str:
        """The resolved configuration, as it was written."""
        return (self.path / "config.yaml").read_text(encoding="utf-8")

    @property
    def config(self) -> dict[str, Any]:
        """The same as values; empty where the run is gone."""
        return self._of(self.path / "config.yaml", yaml.safe_load) or {}

    @property
    def environment(self) -> dict[str, Any]:
        """Where the run was begun; empty where that is not known."""
        return self._json("environment.json") or {}

    @property
    def summary(self) -> dict[str, Any] | None:
        """`summary.json`, or None while the run goes on."""
        return self._json("summary.json")

    @property
    def is_written(self) -> bool:
        """Whether a process of this machine holds it, or one of another has just written a step."""
        if _is_locked(self.path / LOCK):
            return True
        changed = _mark(self._metrics.path)
        return self.summary is None and changed is not None and time.time() - changed[0] / 1e9 < FRESH_SECONDS

    def lines(self) -> list[dict[str, Any]]:
        """The steps so far; see `Metrics.lines`."""
        with self._lock:
            self._metrics.refresh()
            return self._metrics.lines

    def evaluations(self) -> dict[str, dict[str, Any]]:
        """Figures of every evaluation by name, without rows, in the order of their steps."""
        found = {
            file.stem: self._of(file, lambda text: finite(without_rows(json.loads(text))))
            for file in self._evaluation_files()
        }
        there = {name: figures for name, figures in found.items() if figures is not None}
        return dict(sorted(there.items(), key=lambda item: (item[1].get("step", 0), item[0] == "silent", item[0])))

    def evaluation(self, name: str) -> dict[str, Any]:
        """One evaluation with its rows; raises KeyError where there is none."""
        file = self.path / EVALUATIONS / f"{name}.json"
        if file not in self._evaluation_files():
            raise KeyError(name)
        return finite(json.loads(file.read_text(encoding="utf-8")))  # type: ignore[no-any-return]

    def revisions(self) -> dict[str, str]:
        """A text for what is told of the steps and one for the evaluations, another whenever there is something new."""
        steps = [self.path / name for name in ("metrics.jsonl", "summary.json", "config.yaml")]
        return {
            "steps": repr([*map(_mark, steps), self.is_written]),
            "evaluations": repr([(file.name, _mark(file)) for file in self._evaluation_files()]),
        }

    def tokenizer_file(self) -> Path | None:
        """The run's tokenizer: of its newest checkpoint, of the engines' model, or of the model that it began with."""
        newest = [checkpoint / "hf" for checkpoint in reversed(checkpoints(self.path / "checkpoints"))]
        folders = [*newest, self.path / "engine_model", Path(self.config["model"]["path"]).expanduser()]
        return next((file for folder in folders if (file := folder / "tokenizer.json").is_file()), None)

    def _evaluation_files(self) -> list[Path]:
        return sorted((self.path / EVALUATIONS).glob("*.json"))

    def _json(self, name: str) -> dict[str, Any] | None:
        return self._of(self.path / name, lambda text: finite(json.loads(text)))

    def _of(self, file: Path, read: Callable[[str], Found]) -> Found | None:
        """What a file holds, read again when it has changed; None where it is not there."""
        mark = _mark(file)
        if mark is None:
            return None
        kept = self._kept.get(file)
        if kept is None or kept[0] != mark:
            kept = self._kept[file] = mark, read(file.read_text(encoding="utf-8"))
        return kept[1]


class Library:
    """The runs of a command line, those that begin later in its directories too, without those that are deleted.

    Args:
        paths: directories of runs, or directories that hold such.

    Raises:
        UsageError: one of them is no directory.
    """

    def __init__(self, paths: list[str]) -> None:
        self._places = [Path(path) for path in paths]
        for place in self._places:
            if not place.is_dir():
                raise UsageError(f"{place} is no directory: name a run's directory, or one that holds runs")
        self.runs: dict[str, ViewedRun] = {}
        """By name: that of the directory, and where several have the same by as much of their paths as tells them
        apart."""
        self.refresh()

    def refresh(self) -> None:
        """Find what has begun since the last time, and forget what is gone."""
        there = {name: run for name, run in self.runs.items() if run.is_there}
        known = {run.path for run in there.values()}
        found = dict.fromkeys(path for place in self._places for path in _runs_at(place))
        new = [path for path in found if path not in known]
        parts = 1
        while len({_name(path, parts) for path in new} - there.keys()) < len(new):
            parts += 1
        for path in new:
            with suppress(UsageError):  # it is gone since it was found
                there[_name(path, parts)] = ViewedRun(path, _name(path, parts))
        self.runs = there


def _runs_at(place: Path) -> list[Path]:
    """The directory itself where it is a run, else the runs in it."""
    if (place / "config.yaml").is_file():
        return [place.resolve()]
    return sorted(file.parent.resolve() for file in place.glob("*/config.yaml"))


def _name(path: Path, parts: int) -> str:
    return "/".join(path.parts[-parts:])


def _mark(file: Path) -> Mark | None:
    try:
        state = file.stat()
    except FileNotFoundError:
        return None
    return state.st_mtime_ns, state.st_size


def _is_locked(file: Path) -> bool:
    """Whether a process of this machine holds a lock on the file, which is only looked up."""
    try:
        state = file.stat()
        locks = LOCKS.read_text(encoding="utf-8")
    except OSError:  # no run of this machine, or no such kernel
        return False
    held = f"{os.major(state.st_dev):02x}:{os.minor(state.st_dev):02x}:{state.st_ino}"
    return any(held in line.split() for line in locks.splitlines())
