"""Ctrl-C ends a run: soon, with the status of an interrupt, and with every process of it. So does SIGTERM."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.integration.commands import command, until
from tests.integration.recordings import Questions
from tests.integration.runs import START_SECONDS, metrics_lines, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # a busy machine starts an engine in minutes

END_SECONDS = 30.0
GONE_SECONDS = 15.0


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,  # as a terminal does
        pytest.param(signal.SIGTERM, marks=pytest.mark.long),  # as `timeout` does; it ends Ray too
    ],
    ids=["SIGINT", "SIGTERM"],
)
def test_an_interrupted_run_ends_with_status_130_and_leaves_no_process(
    number: int, tmp_path: Path, model: Path, questions: Questions
) -> None:
    config = write_config(tmp_path / "interrupted.yaml", model, questions.train, run={"max_steps": 1000})
    with command("cluster.launch", "--config", config.name, cwd=tmp_path) as started:
        steps = tmp_path / "runs" / "interrupted"
        started.wait_for(lambda: metrics_lines(steps), "the first step", START_SECONDS)
        assert len(started.left()) > 5
        os.killpg(started.process.pid, number)
        assert started.wait(END_SECONDS) == 130, started.output
        until(lambda: not started.left(), "the end of every process", GONE_SECONDS)
        assert "Traceback" not in started.output
