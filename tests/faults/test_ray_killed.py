"""All of Ray that a run goes on on is killed: the launch ends soon, with a line, and another could go on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from cluster.run_directory import RunDirectory
from tests.integration.commands import command
from tests.integration.recordings import Questions
from tests.integration.runs import START_SECONDS, metrics_lines, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EVERY_STEPS, STEPS = 2, 1000
END_SECONDS = 60.0
"""Where Ray itself ends the launch, after a minute, it says nothing to the user."""


def test_a_launch_whose_ray_is_killed_ends_and_leaves_what_another_goes_on_from(
    tmp_path: Path, model: Path, questions: Questions
) -> None:
    config = write_config(
        tmp_path / "ray.yaml",
        model,
        questions.train,
        run={"max_steps": STEPS},
        learner={"schedule": "constant"},
        checkpoint={"every_steps": EVERY_STEPS},
    )
    run = tmp_path / "runs" / "ray"
    with command("cluster.launch", "--config", config.name, cwd=tmp_path) as started:
        there = run / "checkpoints" / f"step_{EVERY_STEPS}"
        started.wait_for(there.exists, "a checkpoint", START_SECONDS)
        for pid in started.left():
            if pid != started.process.pid:
                os.kill(pid, signal.SIGKILL)
        status = started.wait(END_SECONDS)
        assert status not in (0, None)
        assert any(line.startswith("error: ") and "--resume" in line for line in started.lines), started.output
        assert not started.left()
    left, said = RunDirectory(str(run)), list[str]()
    left.storage.check_free()
    step, _ = left.checkpoints.start(said.append)
    assert step is not None
    assert metrics_lines(run)[-1]["step"] - step < 2 * EVERY_STEPS
    assert said == []
