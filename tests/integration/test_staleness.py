"""Two engines sample while the learner trains, and no token is older than it may be: read back from the rollout log."""

from __future__ import annotations

import pytest

from tests.integration.asynchronous import ALLOWED, PROMPTS, STEPS, VERIFY_EVERY, Runs
from tests.integration.loops import Run

pytestmark = pytest.mark.timeout(900)  # a busy machine starts an engine in minutes


@pytest.fixture(scope="module")
def runs(asynchronous: Runs) -> dict[int, Run]:
    """A run for each bound."""
    return asynchronous.by_staleness


@pytest.mark.parametrize("staleness", ALLOWED)
def test_no_trained_token_is_older_than_allowed_and_some_are_as_old(runs: dict[int, Run], staleness: int) -> None:
    ages = runs[staleness].ages
    assert len(ages) > STEPS * PROMPTS * 4
    assert min(ages) >= 0
    assert max(ages) == staleness


@pytest.mark.parametrize("staleness", ALLOWED)
def test_every_group_is_trained_once_and_the_ledger_balances(runs: dict[int, Run], staleness: int) -> None:
    run = runs[staleness]
    assert run.trained.group_id.is_unique
    assert run.dropped.empty
    assert run.trained.groupby("step").size().to_list() == [PROMPTS] * STEPS
    for line in run.lines:
        assert line["admitted"] == line["trained"] + line["dropped"] + line["in_flight"]
        assert line["in_flight"] <= staleness * PROMPTS  # right after a step
        assert sum(line["staleness"].values()) == PROMPTS
    assert run.lines[-1]["in_flight"] == 0
    assert run.lines[-1]["admitted"] == STEPS * PROMPTS  # nothing was sampled that no step would take


@pytest.mark.parametrize("staleness", ALLOWED)
def test_engine_and_learner_agree_on_what_one_version_sampled(runs: dict[int, Run], staleness: int) -> None:
    compared = [line["logprob_difference_max"] for line in runs[staleness].lines]
    compared = [difference for difference in compared if difference is not None]
    assert compared
    assert max(compared) < 1e-4


@pytest.mark.parametrize("staleness", ALLOWED)
def test_engines_are_held_against_the_learner_every_so_many_versions(runs: dict[int, Run], staleness: int) -> None:
    lines = runs[staleness].lines
    verified = {line["step"]: line["verified_difference"] for line in lines if line["verified_difference"] is not None}
    assert list(verified) == [line["step"] for line in lines if line["step"] % VERIFY_EVERY == 0]
    assert max(verified.values()) < 1e-4
    assert lines[-1]["engines_lost"] == 0


def test_stale_tokens_are_weighed_and_fresh_ones_count_in_full(runs: dict[int, Run]) -> None:
    fresh, stale = ([line["off_policy"] for line in runs[staleness].lines] for staleness in (0, 4))
    assert all(figures["ratio_max"] == pytest.approx(1.0, abs=1e-3) for figures in fresh)
    assert all(figures["effective_sample_size"] == pytest.approx(1.0, abs=1e-5) for figures in fresh)
    assert max(figures["ratio_max"] for figures in stale) > 1.01
    assert min(figures["effective_sample_size"] for figures in stale) < 0.9999


def test_long_completions_are_trained_like_short_ones(runs: dict[int, Run]) -> None:
    biases = [line["length_bias"] for line in runs[4].lines]
    assert any(bias != 1.0 for bias in biases[:-1])  # while some wait for their step
    assert biases[-1] == pytest.approx(1.0)  # in the end everything that was sampled
