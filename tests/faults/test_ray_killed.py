"""All of Ray that a run goes on on is killed: the launch ends soon, with a line, and another goes on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.integration.commands import command
from tests.integration.recordings import Questions
from tests.integration.runs import START_SECONDS, finished, metrics_lines, missing_groups, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EVERY_STEPS, STEPS = 2, 1000
END_SECONDS = 60.0
"""Where Ray itself ends the launch, after a minute, it says nothing to the user."""


def test_a_launch_whose_ray_is_killed_ends_and_another_goes_on(
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
        steps = metrics_lines(run)[-1]["step"] + 2
        finished(config, "--resume", f"run.max_steps={steps}")
    assert [line["step"] for line in metrics_lines(run)] == list(range(1, steps + 1))
    assert missing_groups(run) == []
