"""Two engines sample while the learner trains, and no token is older than it may be: read back from the rollout log."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cluster.placement import Node
from configs.schema import Config
from tests.integration import recordings
from tests.integration.loops import Run, loop

pytestmark = pytest.mark.timeout(600)  # a busy machine starts an engine in minutes

STEPS = 8
PROMPTS = 4
ALLOWED = (0, 1, 4)
VERIFY_EVERY = 3


def configured(folder: Path, model: Path, questions: recordings.Questions, staleness: int) -> Config:
    return Config.model_validate(
        {
            "run": {"name": f"staleness-{staleness}", "dir": str(folder)},
            "model": {"path": str(model), "audio_tower": "frozen", "projector": "trained"},
            "data": {"train": str(questions.train)},
            "rollout": {
                "engines": 2,
                "max_completion_tokens": 24,
                "max_model_tokens": 1024,
                "verify_every": VERIFY_EVERY,
            },
            "rewards": [{"use": "tests.integration.plug_ins:vowels"}],
            "learner": {"learning_rate": 1e-3, "schedule": "constant", "threads": 1},
            "algorithm": {"group_size": 4, "prompts_per_step": PROMPTS, "max_staleness": staleness},
        }
    )


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, model: Path, questions: recordings.Questions, nodes: list[Node]
) -> dict[int, Run]:
    """A run for each bound, one after the other on the same actors."""
    folder = tmp_path_factory.mktemp("staleness")
    configs = {staleness: configured(folder, model, questions, staleness) for staleness in ALLOWED}

    async def run_all() -> dict[int, Run]:
        async with loop(configs[1], nodes) as started:
            return {staleness: await started.run(config, STEPS) for staleness, config in configs.items()}

    return asyncio.run(run_all())


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
