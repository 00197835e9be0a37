"""Trying a reward on what a run has logged: `python -m rewards.check`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.log import SCHEMA
from rewards.check import main, parsed
from rewards.logged import read_groups
from tests.plug_in_files import PlugIns

pytestmark = pytest.mark.heavy  # most tests start a process

REWARDS = """
import time

def letters(completions, example, *, scale=1.0):
    return [scale * len(text) for text in completions]

def choosy(completions, example):
    return [None if text == "cat" else 1.0 for text in completions]

def broken(completions, example):
    if example.id == "e0":
        raise KeyError("x")
    return [0.0, "much"] if example.id == "e1" else [0.0, 1.0]

def slow(completions, example):
    time.sleep(60 if example.id == "e1" else 0)
    return [0.0, 1.0]
"""


def row(number: int, *completions: str, dropped: str | None = None, **rewards: list[float | None]) -> dict[str, Any]:
    return {
        "group_id": f"0-{number}",
        "step": number,
        "example_id": f"e{number}",
        "question": "Which animal?",
        "choices": ["dog", "cat"],
        "answer": "dog",
        "completions": list(completions),
        "rewards": list(rewards.items()),
        "drop_reason": dropped,
    }


def write(run: Path, *steps: list[dict[str, Any]]) -> Path:
    (run / "rollouts").mkdir(parents=True)
    for number, rows in enumerate(steps, 1):
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), run / "rollouts" / f"step_{number:06d}.parquet")
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of three groups, and one that was dropped."""
    return write(
        tmp_path / "run",
        [
            row(0, "dog", "cat", accuracy=[1.0, 0.0], format=[0.0, 0.0]),
            row(9, "never", "seen", dropped="clip_missing: gone"),
        ],
        [
            row(1, "a dog", "dog", accuracy=[0.0, 1.0], format=[0.0, 0.0]),
            row(2, "cow", "cat", accuracy=[0.0, None], format=[0.0, 0.0]),
        ],
    )


Try = Callable[..., tuple[int, str]]


@pytest.fixture
def attempt(run: Path, plug_ins: PlugIns, capsys: pytest.CaptureFixture[str]) -> Try:
    """Try a function of `REWARDS`, or a built-in; gives status and output."""
    module = plug_ins.module(REWARDS)

    def check(use: str, *arguments: str, rollouts: Path = run) -> tuple[int, str]:
        path = f"{module}:{use}" if f"def {use}(" in REWARDS else use
        status = main([path, "--rollouts", str(rollouts), *arguments])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return check


def told(output: str, name: str) -> list[str]:
    """The cells behind a name in a table."""
    [line] = [line for line in output.splitlines() if re.match(rf". {name} ", line)]
    return [cell.strip() for cell in line.split("│")[2:-1]]


def test_the_distribution_and_the_share_of_groups_that_teach_nothing_are_told(attempt: Try) -> None:
    status, output = attempt("letters")
    assert status == 0
    assert told(output, "completions") == ["6"]
    assert told(output, "mean") == ["3.333"]
    assert told(output, "standard deviation") == ["0.7454"]
    assert told(output, "lowest, median, highest") == ["3, 3, 5"]
    assert told(output, "without a value") == ["0.0%"]
    assert told(output, "groups without variance") == ["66.7% (2 of 3)"]
    assert "problem" not in output


def test_a_reward_is_held_against_those_that_were_logged(attempt: Try) -> None:
    _, output = attempt("answer")
    assert told(output, "accuracy") == ["5", "0.4", "1", "100.0%"]
    assert told(output, "format") == ["6", "0", "-", "66.7%"]


def test_the_lowest_and_the_highest_completions_are_shown_once_each(attempt: Try) -> None:
    _, output = attempt("letters", "--examples", "2")
    assert [line for line in output.splitlines() if line.startswith(("lowest", "highest"))] == [
        "lowest 3, example e0, answer 'dog': 'dog'",
        "lowest 3, example e0, answer 'dog': 'cat'",
        "highest 5, example e1, answer 'dog': 'a dog'",
        "highest 3, example e2, answer 'dog': 'cat'",
    ]


def test_completions_without_a_value_are_counted_by_reason_and_are_no_problem(attempt: Try) -> None:
    status, output = attempt("choosy")
    assert status == 0
    assert told(output, "without a value") == ["33.3%, reward_none 2"]
    assert told(output, "groups without variance") == ["100.0% (3 of 3)"]


@pytest.mark.parametrize(
    ("use", "arguments", "problems"),
    [
        (
            "broken",
            (),
            [r"problem in 1 groups \(examples e0\): raised KeyError\('x'\) at .*:12", r"\(examples e1\): gave 'much'"],
        ),
        ("slow", ("--timeout-seconds", "0.3"), [r"problem in 1 groups \(examples e1\): gave nothing within"]),
        ("slow", ("--timeout-seconds", "0.3", "--groups", "1"), []),
    ],
)
def test_every_problem_is_told_and_makes_the_exit_status(
    attempt: Try, use: str, arguments: tuple[str, ...], problems: list[str]
) -> None:
    status, output = attempt(use, *arguments)
    assert status == (1 if problems else 0)
    assert output.count("problem in") == len(problems)
    for problem in problems:
        assert re.search(problem, output)


def test_a_reward_that_gives_nothing_at_all_is_told_as_that(attempt: Try, run: Path) -> None:
    status, output = attempt("choosy", rollouts=write(run.parent / "cats", [row(0, "cat", "cat")]))
    assert status == 0
    assert told(output, "without a value") == ["100.0%, reward_none 2"]
    assert told(output, "groups without variance") == ["100.0% (1 of 1)"]
    assert "standard deviation" not in output


def test_arguments_reach_the_reward_as_json_or_as_text(attempt: Try) -> None:
    assert told(attempt("letters", "--args", "scale=2")[1], "mean") == ["6.667"]
    assert told(attempt("letters", "--args", '{"scale": 3}')[1], "mean") == ["10"]
    assert parsed(["a=1.5", "b=text", "c=[1, 2]", "d=x=y"]) == {"a": 1.5, "b": "text", "c": [1, 2], "d": "x=y"}


def test_the_format_reward_asks_for_the_form_of_the_runs_prompt(attempt: Try, run: Path) -> None:
    thoughtful = write(run.parent / "think", [row(0, "<think>woof</think><answer>dog</answer>", "cat")])
    assert told(attempt("format", rollouts=thoughtful)[1], "mean") == ["0"]
    (thoughtful / "config.yaml").write_text("data: {prompt: think}\n")
    assert told(attempt("format", rollouts=thoughtful)[1], "mean") == ["0.5"]


def test_groups_are_spread_over_the_run(tmp_path: Path) -> None:
    run = write(tmp_path / "long", *([row(step, "dog", "cat")] for step in range(10)))
    assert [group.example.id for group in read_groups(run, 3)] == ["e0", "e3", "e6"]
    assert len(read_groups(run, 99)) == 10


@pytest.mark.parametrize(
    ("use", "arguments", "message"),
    [
        ("answr", (), "error: rewards: 'answr' is not a reward; did you mean answer?"),
        ("letters", ("--args", "scales=2"), "got an unexpected keyword argument 'scales'"),
        ("length", ("--args", "target_words=1", "slope_words=0"), "args.slope_words is 0; give"),
    ],
)
def test_a_reward_that_cannot_be_used_is_one_line_and_status_2(
    attempt: Try, use: str, arguments: tuple[str, ...], message: str
) -> None:
    status, output = attempt(use, *arguments)
    assert status == 2
    assert message in output
    assert len(output.splitlines()) == 1


def test_a_directory_without_rollouts_and_a_run_without_a_trained_group_are_named(attempt: Try, tmp_path: Path) -> None:
    assert attempt("answer", rollouts=tmp_path)[0] == 2
    dropped = write(tmp_path / "dropped", [row(0, dropped="clip_missing: gone")])
    status, output = attempt("answer", rollouts=dropped)
    assert (status, output) == (2, f"error: {dropped} has trained no group: all that its rollouts/ hold were dropped\n")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", "data: [", "is no configuration of a run"),
        ("config.yaml", "data: {prompt: {form: sung}}", "is no configuration of a run"),
        ("config.yaml", "", "is no configuration of a run: it has no section `data`"),
        ("rollouts/step_000009.parquet", "", "cannot be read as a rollout log"),
        ("rollouts/step_000009.parquet", "PAR1 no PAR1", "cannot be read as a rollout log"),
    ],
)
def test_a_file_of_the_run_that_is_broken_is_named_in_one_error(
    attempt: Try, run: Path, name: str, content: str, message: str
) -> None:
    (run / name).write_text(content)
    status, output = attempt("letters")
    assert status == 2
    assert output.startswith(f"error: {run / name} {message}")


def test_an_argument_that_is_none_is_refused(attempt: Try, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (("--args", "limit"), "argument --args: 'limit' is neither KEY=VALUE"),
        (("--groups", "0"), "argument --groups: '0' is not an integer of at least 1"),
    ):
        with pytest.raises(SystemExit) as ended:
            attempt("answer", *arguments)
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
