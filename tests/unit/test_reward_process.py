"""Reward functions in processes of their own: what they give, and what becomes of one that is out of time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import pytest

from data.types import Clip, Completion, Group, Prompt
from rewards import process
from rewards.process import RewardProcess
from rewards.registry import RewardError
from rewards.score import Scorer
from rewards.terms import Term
from rewards.values import Outcome
from tests.plug_in_files import PlugIns
from tests.reward_processes import AWAITED, CALLED, EXAMPLE, LIMIT_SECONDS, START_SECONDS, at_once, faults, in_turn

LEFT = ("sleep", "loop", "catch every Exception")
WRONG = {
    "raise": ("raised", "raised KeyError('x') at "),
    "nothing": ("raised", "raised TypeError"),
    "text": ("invalid", "gave 'much'; a reward is a finite number or None"),
    "exit": ("died", "its process ended by exit status 3"),
    "crash": ("died", "its process ended by SIGSEGV"),
}


@dataclass(frozen=True)
class Judged:
    """What functions made of groups; the processes wait side by side."""

    called: str
    left: list[Outcome]
    wrong: list[Outcome]
    queued: list[Outcome]
    coroutines: list[Outcome]
    two_coroutines: list[Outcome]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judged]:
    with pytest.MonkeyPatch.context() as patch:
        plug_ins = PlugIns(tmp_path_factory.mktemp("plug_ins"), patch, "plug_in_in_a_process")
        called, awaited = f"{plug_ins.module(CALLED)}:do", f"{plug_ins.module(AWAITED)}:do"

        async def judge() -> Judged:
            found = await asyncio.gather(
                in_turn(called, "a, b", *(f"{does}, b" for does in LEFT), "a"),
                in_turn(called, *WRONG, "a", limit=START_SECONDS),
                at_once(called, "sleep", "a", "sleep", "a"),
                at_once(awaited, "wait", "raise", "a", "b", "c"),
                at_once(awaited, *"abcd", concurrency=2),
            )
            return Judged(called, *found)

        yield asyncio.run(judge())


def test_a_function_scores_its_groups_in_one_process_that_is_not_this_one(judged: Judged) -> None:
    first, last = judged.left[0], judged.left[-1]
    assert len(first.values) == 2
    assert len({*first.values, *last.values}) == 1
    assert first.values[0] != float(os.getpid())
    assert 0 < first.seconds < START_SECONDS


@pytest.mark.parametrize("does", WRONG)
def test_what_goes_wrong_costs_the_group_its_values_and_the_next_is_scored(judged: Judged, does: str) -> None:
    fault, problem = WRONG[does]
    lost = judged.wrong[list(WRONG).index(does)]
    assert faults(lost) == [fault]
    assert problem in lost.problem
    assert faults(judged.wrong[-1]) == []


def test_the_line_that_raised_is_told(judged: Judged) -> None:
    line = next(number for number, text in enumerate(CALLED.splitlines(), 1) if "KeyError" in text)
    assert judged.wrong[0].problem.endswith(f"{judged.called.removesuffix(':do')}.py:{line}")


@pytest.mark.parametrize("does", LEFT)
def test_python_code_out_of_time_is_left_and_its_process_goes_on(judged: Judged, does: str) -> None:
    late = judged.left[1 + LEFT.index(does)]
    assert faults(late) == ["timeout", "timeout"]
    assert late.problem == "gave nothing within timeout_seconds (0.2 s)"
    assert LIMIT_SECONDS <= late.seconds < LIMIT_SECONDS + process.GRACE_SECONDS


def test_groups_wait_for_their_turn_without_losing_time(judged: Judged) -> None:
    assert [faults(outcome) for outcome in judged.queued] == [["timeout"], [], ["timeout"], []]
    assert judged.queued[-1].seconds < 2 * LIMIT_SECONDS


def test_coroutines_score_groups_at_once_as_many_as_they_may(judged: Judged) -> None:
    assert [outcome.values for outcome in judged.coroutines[2:]] == [(4.0,)] * 3
    assert [outcome.values for outcome in judged.two_coroutines] == [(2.0,)] * 4


def test_a_coroutine_out_of_time_is_cancelled_and_takes_no_other_with_it(judged: Judged) -> None:
    late, _, *kept = judged.coroutines
    assert late.problem == "gave nothing within timeout_seconds (0.2 s)"
    assert [faults(outcome) for outcome in (late, *kept)] == [["timeout"], [], [], []]


def test_a_timeout_of_the_functions_own_is_what_it_raised(judged: Judged) -> None:
    assert faults(judged.coroutines[1]) == ["raised"]
    assert "raised TimeoutError('of its own')" in judged.coroutines[1].problem


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("1 / 0", "raised ZeroDivisionError"),
        ("raise SystemExit(7)", "its process ended by exit status 7 while it was loaded"),
    ],
)
def test_a_function_that_cannot_be_loaded_is_an_error(plug_ins: PlugIns, source: str, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        asyncio.run(in_turn(f"{plug_ins.module(source)}:do", "a"))


def test_a_function_that_is_not_loaded_in_time_is_an_error_and_leaves_no_process(plug_ins: PlugIns) -> None:
    name = plug_ins.module("import time; time.sleep(60)")
    before = psutil.Process().children()
    with pytest.raises(RewardError, match=rf"'{name}:do' has not been loaded within 0.3 s"):
        asyncio.run(RewardProcess(Term("slow", f"{name}:do"), 0.3).start())
    assert psutil.Process().children() == before


def test_every_term_scores_the_group_in_its_own_process_and_with_its_arguments(plug_ins: PlugIns) -> None:
    called = f"{plug_ins.module(CALLED)}:do"
    prompt = Prompt("g", EXAMPLE, (1, 2), Clip("00", 1.0, 25), seed=1)
    texts = ("Dog", "<answer>Cat</answer>")
    group = Group(prompt, tuple(Completion((1,), text, (-0.1,), (0,), "stop") for text in texts))
    length = {"target_words": 0, "slope_words": 4}

    async def score() -> Any:
        terms = [Term("mine", called), Term("accuracy", "accuracy", 2.0), Term("length", "length", 4.0, length)]
        scorer = Scorer(terms, START_SECONDS)
        try:
            await scorer.start()
            return await scorer.score(group)
        finally:
            await scorer.end()

    scored = asyncio.run(score())
    assert scored.problems == ()
    mine = scored.group.rewards["mine"]
    assert scored.group.rewards == {"mine": mine, "accuracy": (1.0, 0.0), "length": (-0.25, -0.25)}
    assert scored.group.total == (mine[0] + 1.0, mine[1] - 1.0)
