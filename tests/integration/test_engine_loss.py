"""An engine dies or hangs while a run goes on: another takes its place, and no group is lost."""

from __future__ import annotations

import pytest

from tests.integration.asynchronous import GROUP_SIZE, LOSING, PROMPTS, SIGNALS, STEPS, UPDATE_SECONDS, Runs

pytestmark = pytest.mark.timeout(900)  # a busy machine starts an engine in minutes


@pytest.mark.parametrize("name", SIGNALS)
def test_the_run_goes_on_and_every_group_is_trained_once(asynchronous: Runs, name: str) -> None:
    run = asynchronous.by_loss[name]
    assert [line["step"] - run.first_version for line in run.lines] == list(range(1, STEPS + 1))
    assert run.trained.group_id.is_unique
    assert len(run.trained) == STEPS * PROMPTS == run.lines[-1]["admitted"]
    assert run.dropped.empty
    assert max(run.ages) <= LOSING
    assert all(len(group) == GROUP_SIZE for group in run.trained.completions)


@pytest.mark.parametrize("name", SIGNALS)
def test_another_engine_takes_the_place_of_the_lost_one(asynchronous: Runs, name: str) -> None:
    assert asynchronous.replaced[name]
    last = asynchronous.by_loss["whole"].lines[-1]
    assert last["engines"] == 2
    assert last["engines_lost"] == len(SIGNALS)
    assert min(asynchronous.busy.values()) > 0


def test_the_new_engine_samples_from_the_newest_weights(asynchronous: Runs) -> None:
    compared = [line["logprob_difference_max"] for run in asynchronous.by_loss.values() for line in run.lines]
    assert max(difference for difference in compared if difference is not None) < 1e-4


def test_the_user_is_told_which_engine_was_lost_and_why(asynchronous: Runs) -> None:
    told = [text for text in asynchronous.said if "engine-0 is lost, and another takes its place" in text]
    assert len(told) == len(SIGNALS)
    assert "has not taken version" in told[1]
    assert f"rollout.update_timeout_seconds ({UPDATE_SECONDS:g} s)" in told[1]
