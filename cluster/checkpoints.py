"""A run's checkpoints: which are whole and as they were written, which stay, and what each tells of the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cluster.run_storage import RunStorage
from configs.schema import Checkpoint
from data.checksums import Checksums, differences
from data.remote import WHOLE, discard
from data.step_files import checkpoint_name, checkpoint_step

FOLDER = "checkpoints"
STATE = ("step", "updates", "position", "outstanding", "dropped_since", "ledger", "train_seconds", "questions")
"""What `trainer/state.json` of a checkpoint has to tell of the run."""


class CheckpointError(ValueError):
    """A checkpoint is missing, broken or of another version of Auricle."""


class BrokenCheckpoint(CheckpointError):
    """It is not as it was written."""


class Checkpoints:
    """Those of one run.

    Args:
        storage: of the run.
    """

    def __init__(self, storage: RunStorage) -> None:
        self._storage = storage
        self._begun = ""
        """Where the one is written that was begun, until it has its name."""
        self._started_from: int | None = None
        """The one that stays while the run goes on: an engine that is replaced starts from it."""

    def place(self, step: int) -> str:
        """Path or URL of a step's."""
        return self._storage.place(_name(step))

    def steps(self) -> list[int]:
        """Steps of those that are whole, the oldest first."""
        return sorted(_steps(self._storage.whole(FOLDER)))

    def newest(self) -> tuple[int, dict[str, Any]] | tuple[None, None]:
        """Step and state of the newest that can be read; what else is in it is not looked at."""
        for step in reversed(self.steps()):
            try:
                return step, self.state(step)
            except BrokenCheckpoint:
                continue
        return None, None

    def start(self, say: Callable[[str], object]) -> tuple[int, dict[str, Any]] | tuple[None, None]:
        """Step and state of the newest that is as it was written, from which the run goes on.

        Newer ones are set aside, and the user is told what is wrong with them.

        Raises:
            CheckpointError: there are some, and all are broken.
        """
        broken: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                self._check(step)
                state = self.state(step)
            except BrokenCheckpoint as error:
                broken[step] = str(error)
                continue
            for newer, why in broken.items():
                aside = self._storage.set_aside(_name(newer))
                say(f"{why}; it is kept as {aside}, and the run goes on from step {step}")
            self._started_from = step
            return step, state
        if broken:
            raise CheckpointError(
                "no checkpoint is as it was written: " + "; ".join(broken.values()) + ". Put one back from a copy; "
                "--fresh begins anew, and keeps what is there"
            )
        return None, None

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint knows of the run: step, data position, ledger, seconds of training.

        Raises:
            BrokenCheckpoint: it cannot be read.
            CheckpointError: another version of Auricle wrote it.
        """
        place = self.place(step)
        state = self._json(step, "trainer/state.json")
        missing = [name for name in STATE if name not in state]
        if missing:
            raise CheckpointError(
                f"{place}/trainer/state.json does not tell {', '.join(missing)}: another version of Auricle wrote it, "
                f"and its run cannot be resumed. A new run goes on from its weights: run.name=OTHER "
                f"run.init_from={place}"
            )
        return state

    def begin(self, step: int) -> str:
        """The place to write one into."""
        self._begun = ""
        self._begun = self._storage.begin(_name(step))
        return self._begun

    def finish(self, step: int, files: Checksums) -> int:
        """Give one its name when it is written; gives its bytes.

        Args:
            step: that was begun.
            files: what was written.

        Raises:
            CheckpointError: something of it is not here.
        """
        if absent := differences(self._begun, files, contents=False):
            raise CheckpointError(
                f"the learner has written {self._begun}, and here {' and '.join(absent[:3])}: run.dir has to lie on "
                f"storage that every node reaches"
            )
        self._storage.finish(_name(step), files)
        self._begun = ""
        return sum(file["bytes"] for file in files.values())

    def tidy(self, keep: Callable[[Sequence[int]], set[int]]) -> None:
        """Remove those that need not stay.

        Args:
            keep: of the steps of those that are there, the oldest first, the ones that stay.
        """
        steps = self.steps()
        kept = {*keep(steps), *steps[-1:], self._started_from}
        for old in _steps(self._storage.names(FOLDER)):  # what was broken off by URL is among them
            if old not in kept:
                self._storage.remove(_name(old))

    def abandon(self) -> None:
        """Remove what was written of the one that was begun, if it has no name yet."""
        if self._begun:
            discard(self._begun)

    def _check(self, step: int) -> None:
        """Raise BrokenCheckpoint where one is not as it was written, as far as it tells of that."""
        if self._storage.exists(f"{_name(step)}/{WHOLE}"):
            files = self._json(step, WHOLE).get("files", {})
            if found := differences(self.place(step), files):
                more = f" and {len(found) - 3} more" if len(found) > 3 else ""
                raise BrokenCheckpoint(f"{self.place(step)} is broken: {', '.join(found[:3])}{more}")

    def _json(self, step: int, name: str) -> dict[str, Any]:
        text = self._storage.read(f"{_name(step)}/{name}")
        try:
            found = None if text is None else json.loads(text)
        except ValueError as error:
            raise BrokenCheckpoint(f"{self.place(step)} is broken: {name} is no JSON ({error})") from error
        if not isinstance(found, dict):
            raise BrokenCheckpoint(f"{self.place(step)} is broken: {name} is not there, or holds no object")
        return found


def to_keep(settings: Checkpoint, steps: Sequence[int], accuracy: Mapping[int, float]) -> set[int]:
    """The steps whose checkpoints stay.

    Args:
        settings: how many.
        steps: that have one, the oldest first.
        accuracy: on the validation questions, of the steps that have one.
    """
    newest = steps[-settings.keep :]
    multiples = [step for step in steps if settings.keep_every and step % settings.keep_every == 0]
    told = sorted((step for step in steps if step in accuracy), key=lambda step: (accuracy[step], step), reverse=True)
    return {*newest, *multiples, *told[: settings.keep_best]}


def _name(step: int) -> str:
    return f"{FOLDER}/{checkpoint_name(step)}"


def _steps(names: Sequence[str]) -> list[int]:
    """N of each `step_N`; other names are the user's."""
    return [step for name in names if (step := checkpoint_step(name)) is not None]
