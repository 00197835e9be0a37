"""A disk that has no room for a checkpoint: the run goes on without it, or ends in a line and goes on when there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.small_disk import filled, small_disk
from tests.integration.commands import command
from tests.integration.recordings import Questions
from tests.integration.runs import RUN_SECONDS, START_SECONDS, metrics_lines, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DISK_BYTES = 64_000_000
STEPS = 100_000


@dataclass(frozen=True)
class Run:
    """A run whose disk was full for a while, and its resume, which was not to put up with that."""

    path: Path
    told: str
    """Of the checkpoint that could not be written."""
    checkpoints: list[int]
    """Steps of those that were there while the disk was full."""
    status: int
    output: str
    """Of the resume."""
    left: list[str]


def steps_of(run: Path) -> list[int]:
    """Of the checkpoints that are there, the oldest first."""
    return sorted(int(path.name.removeprefix("step_")) for path in (run / "checkpoints").glob("step_*"))


def bytes_of(folder: Path) -> int:
    """Of all files in it."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, model: Path, questions: Questions) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("full")
    with small_disk(folder / "disk", DISK_BYTES) as disk:
        path = disk / "full"
        config = write_config(
            folder / "full.yaml",
            model,
            questions.train,
            run={"max_steps": STEPS, "dir": str(disk)},
            learner={"schedule": "constant"},
            checkpoint={"every_steps": 2, "keep": 1, "in_background": False, "on_failure": "continue"},
        )
        with command("cluster.launch", "--config", config.name, cwd=folder) as started:
            started.wait_for(lambda: steps_of(path), "a checkpoint", START_SECONDS)
            size = bytes_of(path / "checkpoints" / f"step_{steps_of(path)[-1]}")

            def told() -> list[str]:
                return [line for line in started.lines if "has no checkpoint, and the run goes on" in line]

            with filled(disk, free=size // 2):
                started.wait_for(told, "a checkpoint that has no room", RUN_SECONDS)
                step = len(metrics_lines(path)) + 2
                started.wait_for(lambda: len(metrics_lines(path)) >= step, "further steps", RUN_SECONDS)
                there = steps_of(path)
            started.wait_for(lambda: steps_of(path)[-1] > step, "a checkpoint when there is room", RUN_SECONDS)
        stop = ("--resume", "checkpoint.on_failure=stop", "checkpoint.in_background=true")
        with command("cluster.launch", "--config", config.name, *stop, cwd=folder) as resumed:
            before = len(metrics_lines(path))
            resumed.wait_for(lambda: len(metrics_lines(path)) > before, "a step of the resume", START_SECONDS)
            with filled(disk, free=size // 2):
                status = resumed.wait(RUN_SECONDS)
                left = [line for line in resumed.left().values() if line.startswith("ray::") and "Agent" not in line]
            yield Run(path, told()[0], there, status, resumed.output, left)


def test_a_checkpoint_without_room_is_told_of_with_path_and_bytes_and_the_run_goes_on(run: Run) -> None:
    told = re.search(r"step (\d+) has no checkpoint, and the run goes on: (\S+) cannot be written: (.*)", run.told)
    assert told is not None, run.told
    assert told[2].startswith(str(run.path / "checkpoints"))
    takes, free = map(float, re.fullmatch(r"it takes ([\d.]+) MB, and ([\d.]+) MB are free there", told[3]).groups())  # type: ignore[union-attr]
    assert takes > free > 0


def test_the_one_before_stays(run: Run) -> None:
    [before] = run.checkpoints
    told = re.search(r"step (\d+) has no checkpoint", run.told)
    assert told is not None
    assert before < int(told[1])


def test_a_run_that_is_to_stop_ends_in_a_line_and_leaves_what_can_be_resumed(run: Run) -> None:
    assert run.status == 2, run.output
    [line] = [line for line in run.output.splitlines() if line.startswith("error: ")]
    assert re.search(rf"{run.path}/checkpoints/\S+ cannot be written: it takes [\d.]+ MB, and", line)
    assert re.search(r"resuming \S+ from step \d+", run.output)
    assert run.left == []
    [name] = [path.name for path in (run.path / "checkpoints").iterdir()]
    assert re.fullmatch(r"step_\d+", name)
