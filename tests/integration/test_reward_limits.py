"""Reward functions that no signal and no cancelling reaches end with their process, and the next group is scored."""

from __future__ import annotations

import asyncio
import time

import psutil
import pytest

from rewards.process import GRACE_SECONDS
from tests.plug_in_files import PlugIns
from tests.reward_processes import AWAITED, CALLED, faults, in_turn, owned

MATH_SECONDS = 1.0
"""Limit that mathematics has of its own in the function."""


@pytest.mark.parametrize(("source", "does"), [(CALLED, "loop in C"), (CALLED, "catch everything"), (AWAITED, "block")])
def test_what_does_not_stop_is_ended_with_its_process_and_another_takes_its_place(
    plug_ins: PlugIns, source: str, does: str
) -> None:
    before, late, after = asyncio.run(in_turn(f"{plug_ins.module(source)}:do", "a", does, "a"))
    assert faults(late) == ["timeout"]
    assert "and its process was ended" in late.problem
    assert [faults(before), faults(after)] == [[], []]
    if source is CALLED:
        assert before.values != after.values


@pytest.mark.parametrize("limit", [0.5 * MATH_SECONDS, 2 * MATH_SECONDS], ids=["before", "after"])
def test_the_limit_holds_before_and_after_the_alarm_of_math_verify(plug_ins: PlugIns, limit: float) -> None:
    use = f"{plug_ins.module(f'import math_verify{CALLED}')}:do"
    [late] = asyncio.run(in_turn(use, "mathematics, sleep", limit=limit))
    assert late.problem == f"gave nothing within timeout_seconds ({limit:g} s)"
    assert late.seconds < limit + GRACE_SECONDS


def test_a_process_ends_with_its_owner_even_in_a_loop_that_nothing_interrupts(plug_ins: PlugIns) -> None:
    with owned(f"{plug_ins.module(CALLED)}:do", "a", "loop in C") as owner:
        looping = psutil.Process(int(owner.stdout.readline()))
        time.sleep(0.2)  # it loops by then
        assert looping.is_running()
        owner.kill()
    looping.wait(10)
