"""What a run shows of its steps, in a terminal and in a file."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from cluster.progress import TABLE_STEPS, Reporter


def line(step: int, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "step": step,
        "reward_mean": 1.25,
        "accuracy": 0.4,
        "kl": 0.012,
        "completion_tokens_mean": 17.3,
        "staleness_max": 1,
        "tokens_per_second": 812.0,
        "step_seconds": 90.0,
    }
    return values | changes


def shown(total: int, *lines: dict[str, Any], terminal: bool) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100, color_system=None, highlight=False)
    reporter = Reporter(console)
    with reporter.steps(0, total) as steps:
        for one in lines:
            steps.show(one)
    return file.getvalue()


def test_a_file_gets_the_first_every_tenth_and_the_last_step_in_plain_lines() -> None:
    lines = shown(12, *map(line, range(1, 13)), terminal=False).splitlines()
    assert [text.split()[1] for text in lines] == ["1/12", "10/12", "12/12"]
    assert lines[1] == (
        "step 10/12  reward 1.250  accuracy 40.0%  kl 0.012  length 17.3  stale 1  tokens/s 812  seconds 90.0  "
        "left 0:03:00"
    )


def test_a_terminal_gets_a_table_of_the_newest_steps_with_the_time_that_is_left() -> None:
    last = shown(100, *map(line, range(1, 21)), terminal=True).rpartition("step ")[2]
    steps = [text.split()[0] for text in last.splitlines() if "1.250" in text]
    assert steps == [str(step) for step in range(21 - TABLE_STEPS, 21)]
    assert "left 2:00:00" in last
    assert "20/100" in last


def test_the_time_left_is_by_the_pace_of_the_newest_steps() -> None:
    lines = [line(step, step_seconds=10.0 if step < 12 else 2.0) for step in range(1, 21)]
    assert shown(30, *lines, terminal=False).splitlines()[-1].endswith("left 0:00:20")


def test_a_supervised_step_shows_its_loss_and_rate() -> None:
    step = {"step": 1, "loss": 0.5, "learning_rate": 1e-3, "tokens_per_second": 9.0, "step_seconds": 1.0}
    assert "loss 0.500  rate 1.0e-03" in shown(1, step, terminal=False)


def test_a_run_without_the_accuracy_reward_shows_none() -> None:
    assert "accuracy" not in shown(1, line(1, accuracy=None), terminal=False)
