"""Admission against a brute-force schedule, over random interleavings, and by hand where the rule is subtle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.admission import Admission, AdmissionError


def started(admission: Admission, names: str, engines_at: int) -> None:
    for name in names:
        admission.start(name, engines_at)


def finished(admission: Admission, names: str, oldest: int) -> None:
    for name in names:
        admission.finish(name, oldest)


def test_on_policy_nothing_starts_before_the_engines_have_the_new_version() -> None:
    admission = Admission(prompts_per_step=2, max_staleness=0, last_step=9)
    started(admission, "ab", 0)
    assert admission.room(engines_at=0) == 0
    finished(admission, "ba", 0)
    assert admission.take() == ["a", "b"]
    assert (admission.room(engines_at=0), admission.room(engines_at=1)) == (0, 2)


def test_a_finished_group_keeps_its_place_until_it_is_trained() -> None:
    admission = Admission(prompts_per_step=2, max_staleness=1, last_step=9)
    started(admission, "abcd", 0)
    finished(admission, "abcd", 0)
    assert admission.room(engines_at=0) == 0
    admission.take()
    assert admission.room(engines_at=1) == 2


def test_a_step_takes_the_oldest_whatever_finished_first() -> None:
    admission = Admission(prompts_per_step=1, max_staleness=2, last_step=9)
    started(admission, "abc", 0)
    finished(admission, "cba", 0)
    assert admission.take() == ["a"]


def test_younger_groups_pass_only_as_long_as_all_behind_can_still_be_trained() -> None:
    """Two passes of a step each would leave four groups for the last step that may take them, which takes two."""
    admission = Admission(prompts_per_step=2, max_staleness=2, last_step=9)
    started(admission, "abcdef", 0)
    finished(admission, "ef", 0)
    assert admission.take() == ["e", "f"]
    started(admission, "gh", 1)
    finished(admission, "gh", 1)
    assert admission.take() == []
    finished(admission, "dc", 0)
    assert admission.take() == ["c", "d"]


def test_a_group_at_its_limit_is_waited_for_and_dropping_it_ends_the_wait() -> None:
    admission = Admission(prompts_per_step=1, max_staleness=0, last_step=9)
    started(admission, "a", 0)
    assert (admission.take(), admission.room(engines_at=0)) == ([], 0)
    admission.drop("a")
    assert admission.room(engines_at=0) == 1


def test_a_lost_group_is_asked_again_without_a_second_place() -> None:
    admission = Admission(prompts_per_step=1, max_staleness=1, last_step=9)
    started(admission, "ab", 0)
    admission.restart("a", 0)
    assert (admission.take(), admission.outstanding, admission.room(engines_at=0)) == ([], 2, 0)


def test_what_starts_while_a_step_is_taken_fits_into_the_later_ones() -> None:
    """Engines differ: the step takes a group of each version, and the older one has not the newest weights yet."""
    admission = Admission(prompts_per_step=2, max_staleness=1, last_step=9, version=1)
    admission.start("a", engines_at=0)
    admission.start("b", engines_at=0)
    admission.finish("a", oldest=0)
    admission.finish("b", oldest=1)
    assert admission.take() == ["a", "b"]
    assert (admission.room(engines_at=0), admission.room(engines_at=1)) == (0, 2)


def test_a_step_that_trained_nothing_is_taken_again_with_other_groups() -> None:
    admission = Admission(prompts_per_step=2, max_staleness=1, last_step=1)
    started(admission, "ab", 0)
    finished(admission, "ab", 0)
    assert (admission.take(), admission.room(engines_at=0)) == (["a", "b"], 0)
    admission.skip()
    assert (admission.version, admission.outstanding, admission.room(engines_at=0)) == (0, 0, 2)


def test_a_resume_starts_no_more_than_a_fresh_run() -> None:
    assert (
        Admission(4, 2, last_step=100, version=50).room(engines_at=50) == Admission(4, 2, last_step=100).room(0) == 12
    )


def test_no_group_starts_that_no_step_is_left_for() -> None:
    admission = Admission(prompts_per_step=2, max_staleness=4, last_step=2)
    assert (admission.room(engines_at=0), admission.unstarted) == (4, 4)
    started(admission, "abcd", 0)
    finished(admission, "abcd", 0)
    admission.take()
    assert (admission.room(engines_at=1), admission.unstarted) == (0, 0)


def test_engines_that_lag_leave_less_room() -> None:
    admission = Admission(prompts_per_step=1, max_staleness=2, last_step=9)
    started(admission, "a", 0)
    finished(admission, "a", 0)
    admission.take()
    assert [admission.room(engines_at=version) for version in (1, 0)] == [3, 2]


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        (lambda admission: admission.start("d", 0), "no room for group d at version 1, engines at 0"),
        (lambda admission: admission.start("a", 1), "a is outstanding already"),
        (lambda admission: admission.finish("a", -1), "a has a token of version -1"),
        (lambda admission: admission.restart("c", 1), "c is finished"),
    ],
)
def test_a_defect_of_the_control_loop_is_an_error(defect: Callable[[Admission], None], message: str) -> None:
    admission = Admission(prompts_per_step=1, max_staleness=1, last_step=9)
    started(admission, "ab", 0)
    finished(admission, "b", 0)
    admission.take()
    started(admission, "c", 1)
    finished(admission, "c", 1)
    with pytest.raises(AdmissionError, match=message):
        defect(admission)


class Schedule:
    """Admission beside a plain account of every group: when it started, and whether it is finished."""

    def __init__(self, prompts: int, staleness: int, steps: int) -> None:
        self.prompts, self.staleness, self.steps = prompts, staleness, steps
        self.admission = Admission(prompts, staleness, steps)
        self.engines_at = 0
        self.oldest: dict[str, int] = {}
        self.finished: set[str] = set()
        self.trained: set[str] = set()
        self.started = 0

    @property
    def version(self) -> int:
        return self.admission.version

    def feasible(self, oldest: list[int], version: int) -> bool:
        """Whether the steps from `version` on can take all of these within their bound, and within the run."""
        limits = sorted(min(value + self.staleness, self.steps - 1) for value in oldest)
        return all(limit >= version + place // self.prompts for place, limit in enumerate(limits))

    def check(self) -> None:
        assert self.feasible(list(self.oldest.values()), self.version)
        room = next(
            room for room in range(1000) if not self.feasible([*self.oldest.values()] + [self.engines_at] * (room + 1),
                                                              self.version)
        )  # fmt: skip
        assert self.admission.room(self.engines_at) == room
        assert self.admission.outstanding == len(self.oldest)
        assert self.admission.finished == len(self.finished)
        self.check_batch()

    def check_batch(self) -> None:
        ready = sorted(self.finished, key=lambda name: (self.oldest[name], int(name)))[: self.prompts]
        behind = [oldest for name, oldest in self.oldest.items() if name not in ready]
        goes = len(ready) == self.prompts and self.feasible(behind, self.version + 1)
        limits = {name: min(self.oldest[name] + self.staleness, self.steps - 1) for name in self.oldest}
        expected = sorted(self.finished, key=lambda name: (limits[name], int(name)))[: self.prompts] if goes else []
        assert deepcopy(self.admission).take() == expected

    def fill(self) -> None:
        for _ in range(self.admission.room(self.engines_at)):
            self.started += 1
            self.admission.start(str(self.started), self.engines_at)
            self.oldest[str(self.started)] = self.engines_at

    def finish(self, name: str, oldest: int) -> None:
        self.oldest[name] = max(self.oldest[name], oldest)
        self.admission.finish(name, self.oldest[name])
        self.finished.add(name)

    def drop(self, name: str) -> None:
        self.admission.drop(name)
        self.finished.discard(name)
        del self.oldest[name]

    def restart(self, name: str) -> None:
        self.admission.restart(name, self.engines_at)
        self.oldest[name] = max(self.oldest[name], self.engines_at)

    def train(self) -> None:
        version, batch = self.version, self.admission.take()
        assert all(version - self.oldest[name] <= self.staleness for name in batch)
        for name in batch:
            del self.oldest[name]
        self.finished -= set(batch)
        assert not self.trained & set(batch)
        self.trained |= set(batch)

    def train_in_vain(self) -> None:
        """A step begins, and further groups with it; then nothing comes of it."""
        version, trained = self.version, set(self.trained)
        self.train()
        if self.version > version:
            self.trained = trained
            self.fill()
            self.admission.skip()

    def sampling(self) -> list[str]:
        return [name for name in self.oldest if name not in self.finished]


ACTIONS = ("finish",) * 12 + ("train",) * 6 + ("engines",) * 3 + ("drop", "lose", "skip")
"""Drops, losses and skips make room and renew old groups: few, so that groups grow old."""


@st.composite
def schedules(draw: st.DrawFn) -> tuple[Schedule, Iterator[tuple[str, int]]]:
    schedule = Schedule(draw(st.integers(1, 3)), draw(st.integers(0, 4)), draw(st.integers(1, 12)))
    calls = draw(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 99)), max_size=80))
    return schedule, iter(calls)


@pytest.mark.heavy
@settings(max_examples=300)
@given(schedules())
def test_every_interleaving_keeps_the_bound_and_ends(case: tuple[Schedule, Iterator[tuple[str, int]]]) -> None:
    schedule, calls = case
    for action, number in calls:
        schedule.fill()
        sampling = schedule.sampling()
        if action == "finish" and sampling:
            name = sampling[number % len(sampling)]
            schedule.finish(name, min(schedule.engines_at + number // 10 % 3 - 1, schedule.version))  # engines differ
        elif action == "train":
            schedule.train()
        elif action == "skip":
            schedule.train_in_vain()
        elif action == "engines":
            schedule.engines_at = schedule.version
        elif action == "drop" and sampling:
            schedule.drop(sampling[number % len(sampling)])
        elif action == "lose" and sampling:
            schedule.restart(sampling[number % len(sampling)])
        schedule.check()
    while schedule.version < schedule.steps:  # no deadlock: with engines up to date and all finished, a step goes
        before = schedule.version
        schedule.engines_at = before
        schedule.fill()
        for name in schedule.sampling():
            schedule.finish(name, 0)
        schedule.train()
        assert schedule.version == before + 1
    assert schedule.admission.outstanding == 0
    assert len(schedule.trained) == schedule.prompts * schedule.steps
