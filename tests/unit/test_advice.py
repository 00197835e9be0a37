"""What a run is told while it goes on."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.advice import AFTER_STEPS, Adviser
from configs.schema import Config

PROMPTS, SIZE = 10, 4


def config(**changes: Any) -> Config:
    algorithm = {"prompts_per_step": PROMPTS, "group_size": SIZE} | changes.pop("algorithm", {})
    return Config.model_validate({"model": {"path": "m"}, "data": {"train": "t"}, "algorithm": algorithm, **changes})


def line(**changes: Any) -> dict[str, Any]:
    """Of a step in which all is well."""
    rewards = {"accuracy": 0.5, "format": 0.9}
    healthy = {"reward_mean": 1.4, "accuracy": 0.5, "rewards": rewards, "zero_variance_groups": 2, "truncated": 1}
    healthy["off_policy"] = {"effective_sample_size": 0.97}
    return healthy | changes


def told(settings: Config, *lines: dict[str, Any]) -> list[str]:
    adviser = Adviser(settings)
    return [text for found in lines for text in adviser.look(found)]


def test_a_healthy_run_is_told_nothing() -> None:
    assert told(config(), *[line()] * 3 * AFTER_STEPS) == []


def test_nothing_is_said_before_there_are_steps_enough_and_then_once() -> None:
    bad = line(truncated=30)
    assert told(config(), *[bad] * (AFTER_STEPS - 1)) == []
    (advice,) = told(config(), *[bad] * 3 * AFTER_STEPS)
    assert "75% of the completions are cut off" in advice
    assert "rollout.max_completion_tokens (256)" in advice


def test_a_run_that_gets_worse_later_is_told_then() -> None:
    assert len(told(config(), *[line()] * 50, *[line(truncated=30)] * AFTER_STEPS)) == 1


@pytest.mark.parametrize(
    ("accuracy", "mend"),
    [(0.97, "harder questions"), (0.02, "easier questions, or fine-tune first"), (0.5, "raise rollout.temperature")],
)
def test_groups_that_score_alike_are_named_with_what_their_accuracy_suggests(accuracy: float, mend: str) -> None:
    (advice,) = told(config(), *[line(zero_variance_groups=9, accuracy=accuracy)] * AFTER_STEPS)
    assert "90% of the groups score alike" in advice
    assert mend in advice
    assert "algorithm.dynamic_sampling=true" in advice


@pytest.mark.parametrize(
    ("algorithm", "costs"),
    [
        ({"kl_in": "reward", "beta": 0.1}, "teach by their KL alone"),
        ({"kl_in": "reward", "beta": 0.0}, "teach nothing"),
        ({"kl_in": "loss", "beta": 0.1}, "teach nothing"),
    ],
)
def test_groups_that_score_alike_are_compared_by_their_kl_where_it_is_in_the_reward(
    algorithm: dict[str, Any], costs: str
) -> None:
    (advice,) = told(config(algorithm=algorithm), *[line(zero_variance_groups=9)] * AFTER_STEPS)
    assert f"90% of the groups score alike and {costs}" in advice


@pytest.mark.parametrize(("dropped", "share"), [(90, "90%"), (30, None)])
def test_with_dynamic_sampling_the_groups_that_it_drops_count(dropped: int, share: str | None) -> None:
    settings = config(algorithm={"dynamic_sampling": True})
    lines = [
        line(zero_variance_groups=0, trained=PROMPTS * step, dropped_by_reason={"zero_variance": dropped * step})
        for step in range(1, AFTER_STEPS + 1)
    ]
    found = told(settings, *lines)
    assert [share in advice for advice in found] == [True] * (share is not None)
    assert not any("dynamic_sampling" in advice for advice in found)


def test_a_low_format_rate_is_named_under_the_rewards_own_name() -> None:
    settings = config(rewards=[{"use": "accuracy"}, {"use": "format", "name": "shape"}])
    (advice,) = told(settings, *[line(rewards={"accuracy": 0.5, "shape": 0.3})] * AFTER_STEPS)
    assert "only 30% of the completions have the form that the reward 'shape' asks for" in advice


def test_without_a_reward_of_the_format_nothing_is_known_of_it() -> None:
    settings = config(rewards=[{"use": "accuracy"}])
    assert told(settings, *[line(rewards={"accuracy": 0.5})] * AFTER_STEPS) == []


def test_supervised_steps_have_no_completions_to_advise_on() -> None:
    assert told(config(algorithm={"name": "sft"}), *[{"step": 1, "loss": 0.3}] * AFTER_STEPS) == []


def test_a_policy_that_moves_on_faster_than_it_is_followed_is_told_of() -> None:
    drifted = line(off_policy={"effective_sample_size": 0.85})
    steps = [line()] * (AFTER_STEPS - 3) + [drifted] * 3
    settings = config(algorithm={"max_staleness": 2})
    (advice,) = told(settings, *steps)
    assert "the stale tokens of 3 were worth less than 90% of their number" in advice
    assert "lower learner.learning_rate or algorithm.max_staleness" in advice
    assert told(settings, line(), *steps[:-1]) == []
    assert told(config(), *steps) == []
