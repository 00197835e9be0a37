"""Which checkpoint a run goes on from when files of it are broken or its writer was killed, and which ones stay."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.checkpoints import CheckpointError, to_keep
from cluster.run_directory import RunDirectory
from configs.schema import Checkpoint
from data.remote import WHOLE
from tests.unit.test_run_directory import FACTS, newest, write_checkpoint
from tests.unit.test_run_storage import config, runs, save, url  # noqa: F401 - fixtures

CHANGES = {
    "open": lambda arguments: "w" in str(arguments[1]) or "a" in str(arguments[1]),
    "os.mkdir": lambda _: True,
    "os.rename": lambda _: True,
    "os.remove": lambda _: True,
    "os.rmdir": lambda _: True,
}
"""Python's audit events of what changes files."""


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "breaks", "told"),
    [
        ("hf/config.json", Path.unlink, r"hf/config\.json is not there"),
        ("hf/config.json", cut, r"hf/config\.json has 0 of 2 bytes"),
        ("hf/config.json", flip, r"hf/config\.json has other content"),
        ("trainer/state.json", cut, r"trainer/state\.json has \d+ of \d+ bytes"),
        ("trainer/state.json", flip, r"trainer/state\.json has other content"),
        (WHOLE, cut, r"whole\.json is no JSON"),
    ],
)
def test_a_broken_checkpoint_is_told_of_and_the_one_before_is_taken(
    tmp_path: Path, name: str, breaks: Callable[[Path], Any], told: str
) -> None:
    run = RunDirectory.create(config(str(tmp_path)), fresh=False)
    for step in (1, 2, 3):
        save(run, step)
    breaks(tmp_path / "r" / "checkpoints" / "step_3" / name)
    said: list[str] = []
    step, state = run.checkpoints.start(said.append)
    assert (step, state and state["step"]) == (2, 2)
    [line] = said
    assert re.search(told, line)
    assert line.endswith("step_3.broken, and the run goes on from step 2")
    assert (tmp_path / "r" / "checkpoints" / "step_3.broken" / "trainer").is_dir()
    save(run, 3, keep=1)
    assert run.checkpoints.steps() == [2, 3]  # replaced engines start from the one
    run.close()


def test_a_checkpoint_by_url_is_known_by_the_sizes_of_its_files(url: str) -> None:  # noqa: F811
    run = RunDirectory.create(config(url), fresh=False)
    for step in (1, 2):
        save(run, step)
    assert run.checkpoints.start(print)[0] == 2
    run.storage._remote.write("checkpoints/step_2/hf/config.json", b"{")  # type: ignore[attr-defined]
    said: list[str] = []
    assert run.checkpoints.start(said.append)[0] == 1
    assert "hf/config.json has 1 of 2 bytes" in said[0]
    assert "step_2.broken, and the run goes on from step 1" in said[0]
    save(run, 2, keep=1)
    assert run.checkpoints.steps() == [1, 2]
    assert run.storage.read("checkpoints/step_2.broken/hf/config.json") == "{"
    run.close()


def test_what_was_written_of_a_checkpoint_is_given_up_and_a_whole_one_stays(runs: str) -> None:  # noqa: F811
    run = RunDirectory.create(config(runs), fresh=False)
    write_checkpoint(run.checkpoints.begin(1))
    run.checkpoints.abandon()
    run.checkpoints.abandon()
    assert run.storage.names("checkpoints") == []
    save(run, 2)
    run.checkpoints.abandon()
    assert run.checkpoints.start(print)[0] == 2
    run.close()


def test_where_every_checkpoint_is_broken_the_run_neither_begins_anew_nor_moves_anything(tmp_path: Path) -> None:
    run = RunDirectory.create(config(str(tmp_path)), fresh=False)
    for step in (1, 2):
        save(run, step)
        cut(tmp_path / "r" / "checkpoints" / f"step_{step}" / "hf" / "config.json")
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"step_2 is broken: .*step_1 is broken: .*--fresh begins anew"):
            run.checkpoints.start(print)
    assert run.checkpoints.steps() == [1, 2]
    run.close()


def test_questions_are_held_against_the_newest_checkpoint_that_can_be_read(tmp_path: Path) -> None:
    run = RunDirectory.create(config(str(tmp_path)), fresh=False)
    for step in (1, 2):
        save(run, step)
    cut(tmp_path / "r" / "checkpoints" / "step_2" / "trainer" / "state.json")
    assert run.checkpoints.newest()[0] == 1
    run.close()


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, {8, 9}),
        ({"keep": 1, "keep_every": 4}, {4, 8, 9}),
        ({"keep": 1, "keep_best": 1}, {5, 9}),
        ({"keep": 1, "keep_best": 2}, {3, 5, 9}),
        ({"keep": 1, "keep_best": 9}, {3, 5, 7, 9}),
    ],
)
def test_the_newest_multiples_and_the_best_stay(settings: dict[str, int], kept: set[int]) -> None:
    accuracy = {3: 0.5, 5: 0.5, 7: 0.25, 100: 1.0}
    assert to_keep(Checkpoint.model_validate(settings), range(1, 10), accuracy) == kept


def test_the_best_are_known_by_the_validation_of_their_step(tmp_path: Path) -> None:
    run = RunDirectory.create(config(str(tmp_path)), fresh=False)
    for step, accuracy in ((1, None), (2, 0.5), (3, None), (4, 0.25)):
        run.append_metrics({"step": step, "validation_accuracy": accuracy})
    assert run.validated() == {2: 0.5, 4: 0.25}
    run.close()


@pytest.mark.heavy
def test_a_writer_that_is_killed_between_any_two_changes_of_files_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    run = RunDirectory.create(config(str(kept)), fresh=False)
    for step in (1, 2):
        save(run, step)
    run.close()
    found = []
    for changes in range(1000):
        folder = tmp_path / "tried"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kept, folder)
        ended = killed_after(changes, folder)
        left = RunDirectory(str(folder / "r"))
        said: list[str] = []
        step, state = left.checkpoints.start(said.append)
        assert said == []
        assert state["step"] == step
        left.storage.claim()
        assert sorted(path.name for path in (folder / "r" / "checkpoints").iterdir())[-1] == f"step_{step}"
        assert not list((folder / "r" / "checkpoints").glob(".*"))
        found.append(step)
        save(left, 3, keep=2)
        assert left.checkpoints.steps()[-1] == 3
        left.close()
        if ended:
            break
    assert found == sorted(found)
    assert (found[0], found[-1]) == (2, 3)
    assert len(found) > 10


def killed_after(changes: int, folder: Path) -> bool:
    """Save a third checkpoint in another process, which kills itself after so many changes; whether it came through."""
    child = os.fork()
    if child == 0:
        left = changes

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if event in CHANGES and CHANGES[event](arguments):
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1

        try:
            sys.addaudithook(hook)
            run = RunDirectory(str(folder / "r"))
            files = write_checkpoint(run.checkpoints.begin(3), json.dumps({**FACTS, "questions": {}, "step": 3}))
            run.checkpoints.finish(3, files)
            run.checkpoints.tidy(newest(1))
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status == 0
