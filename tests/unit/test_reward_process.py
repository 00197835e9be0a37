"""Reward functions in processes of their own: what they give, and what becomes of one that is out of time."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import psutil
import pytest

from data.types import Clip, Completion, Group, Prompt
from rewards import process
from rewards.registry import RewardError
from rewards.score import Scorer
from rewards.terms import Term
from rewards.values import Outcome
from tests.plug_in_files import PlugIns
from tests.reward_processes import (
    AWAITED,
    CALLED,
    EXAMPLE,
    LIMIT_SECONDS,
    START_SECONDS,
    at_once,
    faults,
    in_turn,
    owned,
    running,
)

pytestmark = pytest.mark.heavy  # each test starts processes

LEFT = ("sleep", "loop", "catch every Exception")
WRONG = {
    "raise": ("raised", "raised KeyError('x') at "),
    "nothing": ("invalid", "gave None; return a list of 1 values, one for each completion"),
    "by name": ("invalid", "gave {'by name': 1.0} (dict); return a list of 1 values"),
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
    told: list[Outcome]
    coroutines: list[Outcome]
    two_coroutines: list[Outcome]
    blocked: list[Outcome]


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
                in_turn(called, "lead away", "raise at length", "ignored signals", limit=START_SECONDS),
                at_once(awaited, "wait", "raise", "a", "b", "c", "cancel"),
                at_once(awaited, *"abcd", concurrency=2),
                at_once(awaited, "a", "block", "b"),
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
    assert [outcome.values for outcome in judged.coroutines[2:5]] == [(5.0,)] * 3
    assert [outcome.values for outcome in judged.two_coroutines] == [(2.0,)] * 4


def test_a_coroutine_out_of_time_is_cancelled_and_takes_no_other_with_it(judged: Judged) -> None:
    late, _, *kept, _ = judged.coroutines
    assert late.problem == "gave nothing within timeout_seconds (0.2 s)"
    assert [faults(outcome) for outcome in (late, *kept)] == [["timeout"], [], [], []]


@pytest.mark.parametrize(("place", "error"), [(1, "TimeoutError"), (5, "CancelledError")])
def test_a_timeout_or_an_end_of_the_functions_own_is_what_it_raised(judged: Judged, place: int, error: str) -> None:
    assert faults(judged.coroutines[place]) == ["raised"]
    assert f"raised {error}('of its own')" in judged.coroutines[place].problem


def test_a_coroutine_that_blocks_the_loop_is_late_alone_and_the_others_are_asked_again(judged: Judged) -> None:
    first, blocked, last = judged.blocked
    assert [faults(outcome) for outcome in (first, blocked, last)] == [[], ["timeout"], []]
    assert blocked.problem.startswith("blocked its event loop beyond timeout_seconds (0.2 s), and its process was end")


def test_the_last_line_of_the_functions_own_file_is_told_and_where_it_led(judged: Judged) -> None:
    line = next(number for number, text in enumerate(CALLED.splitlines(), 1) if "json.loads" in text)
    assert f".py:{line}, in " in judged.told[0].problem
    assert "json/decoder.py:" in judged.told[0].problem


def test_of_what_was_raised_no_more_than_is_read_is_told(judged: Judged) -> None:
    assert judged.told[1].problem.startswith("raised KeyError('xxx")
    assert len(judged.told[1].problem) < 700


def test_what_the_function_starts_can_be_interrupted(judged: Judged) -> None:
    assert judged.told[2].values == (0.0,)


async def test_every_term_scores_the_group_in_its_own_process_and_with_its_arguments(plug_ins: PlugIns) -> None:
    called, other = (f"{plug_ins.module(CALLED)}:do" for _ in range(2))
    prompt = Prompt("g", EXAMPLE, (1, 2), Clip("00", 1.0, 25), seed=1)
    texts = ("Dog", "<answer>Cat</answer>")
    group = Group(prompt, tuple(Completion((1,), text, (-0.1,), (0,), "stop") for text in texts))
    length = {"target_words": 0, "slope_words": 4}
    terms = [
        Term("mine", called),
        Term("other", other, 0.0),
        Term("accuracy", "accuracy", 2.0),
        Term("length", "length", 4.0, length),
    ]
    scorer = Scorer(terms, START_SECONDS)
    try:
        await scorer.start()
        scored = await scorer.score(group)
    finally:
        await scorer.end()
    assert scored.problems == ()
    mine, others = (scored.group.rewards[name] for name in ("mine", "other"))
    assert len({mine[0], others[0], float(os.getpid())}) == 3
    assert scored.group.rewards == {
        "mine": mine,
        "other": others,
        "accuracy": (1.0, 0.0),
        "length": (-0.25, -0.25),
    }
    assert scored.group.total == (mine[0] + 1.0, mine[1] - 1.0)


@pytest.mark.parametrize("does", ["fork and exit", "hand on and exit"])
def test_a_process_that_ends_is_missed_though_another_holds_its_socket(plug_ins: PlugIns, does: str) -> None:
    lost, scored = asyncio.run(in_turn(f"{plug_ins.module(CALLED)}:do", does, "a", limit=4.0))
    assert lost.problem == "its process ended by exit status 3"
    assert faults(scored) == []


def gone(pid: int) -> bool:
    """Whether a process ends within seconds; whose parent is gone may be left as a zombie for a while."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)
                continue
        return True
    return False


@pytest.mark.parametrize("last", ["a", "exit", "loop in C"], ids=["ends", "exits", "is killed"])
def test_what_a_function_has_started_ends_with_its_process(
    plug_ins: PlugIns, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.2)
    [child], *_ = (
        outcome.values
        for outcome in asyncio.run(in_turn(f"{plug_ins.module(CALLED)}:do", "start another", last, limit=1.0))
    )
    assert gone(int(child))


def test_what_a_function_has_started_ends_with_the_owner_that_is_killed(plug_ins: PlugIns) -> None:
    with owned(f"{plug_ins.module(CALLED)}:do", "start another", "sleep") as owner:
        child = int(owner.stdout.readline())
        owner.kill()
    assert gone(child)


async def test_a_group_beside_one_that_nothing_stops_is_asked_again(
    plug_ins: PlugIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "GRACE_SECONDS", 1.0)
    async with running(f"{plug_ins.module(AWAITED)}:do", limit=0.5) as found:
        await found.start()
        stays = asyncio.create_task(found.score(["stay"], EXAMPLE))
        await asyncio.sleep(1.3)
        beside = await found.score(["linger"], EXAMPLE)
        assert (faults(await stays), faults(beside)) == (["timeout"], [])


COUNTED = """
import os, pathlib
imports = pathlib.Path(__file__).with_suffix(".imports")
count = int(imports.read_text()) if imports.exists() else 0
imports.write_text(str(count + 1))
assert count not in {fail_at}, "not again"

def do(completions, example):
    if completions == ["exit"]:
        os._exit(3)
    return [float(count)] * len(completions)
"""


def test_a_function_that_cannot_be_loaded_again_costs_groups_until_it_can(
    plug_ins: PlugIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "RESTART_SECONDS", 0.01)
    use = f"{plug_ins.module(COUNTED.format(fail_at='(1, 2)'))}:do"
    first, *lost, last = asyncio.run(in_turn(use, "a", "exit", "b", "c", "d", limit=START_SECONDS))
    assert (first.values, last.values) == ((0.0,), (3.0,))
    assert [faults(outcome) for outcome in lost] == [["died"]] * 3
    assert "its process ended, and could not be started again (rewards: " in lost[1].problem
    assert "AssertionError('not again')" in lost[1].problem


def test_a_function_that_cannot_be_loaded_again_many_times_ends_the_run_by_name(
    plug_ins: PlugIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "RESTART_SECONDS", 0.01)
    use = f"{plug_ins.module(COUNTED.format(fail_at='range(1, 99)'))}:do"
    with pytest.raises(RewardError, match=rf"rewards: '{use}', 5 times in a row: could not be started again"):
        asyncio.run(in_turn(use, "exit", *"abcde", limit=START_SECONDS))


async def test_a_function_that_only_observes_is_given_up_and_ends_no_run(
    plug_ins: PlugIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "RESTART_SECONDS", 0.01)
    use = f"{plug_ins.module(COUNTED.format(fail_at='range(1, 99)'))}:do"
    async with running(use, limit=START_SECONDS, weight=0.0) as found:
        outcomes = [await found.score([text], EXAMPLE) for text in ("exit", *"abcdefg")]
    assert [faults(outcome) for outcome in outcomes] == [["died"]] * 8
    assert outcomes[-1].problem.startswith("it is given up: could not be started again")


async def test_a_function_whose_file_has_changed_is_told_of_when_it_is_started_again(plug_ins: PlugIns) -> None:
    name = plug_ins.module(CALLED)
    async with running(f"{name}:do", limit=START_SECONDS) as found:
        outcomes = [await found.score([text], EXAMPLE) for text in ("exit", "a", "exit")]
        (plug_ins.folder / f"{name}.py").write_text(f"{CALLED}\n# mended\n")
        outcomes += [await found.score(["a"], EXAMPLE) for _ in range(2)]
    *before, told, after = (outcome.note for outcome in outcomes)
    assert (before, after) == ([""] * 3, "")
    assert told.startswith(f"reward {name}:do was started again; ")
    assert told.endswith(f"{name}.py is another than when the run began")
