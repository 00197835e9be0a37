"""Importance weights, and the losses that use them, against values written by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from configs.schema import Algorithm
from learner.losses import SURROGATES
from learner.off_policy import Importance, importance, policy_loss

LOGPROBS = [-1.0, -2.0, -0.5, -3.0]
SAMPLED = [-1.5, -2.0, -2.0, -0.5]
OWNERS = [0, 0, 1, 2]
"""Tokens of three completions."""


def weighed(**settings: Any) -> Importance:
    algorithm = Algorithm.model_validate({"max_staleness": 1, **settings})
    return importance(
        torch.tensor(LOGPROBS, dtype=torch.float64, requires_grad=True),
        torch.tensor(SAMPLED, dtype=torch.float64),
        torch.tensor(OWNERS),
        algorithm,
    )


def approximately(values: list[float]) -> Any:
    return pytest.approx(values, rel=1e-12)


def test_a_tokens_weight_is_its_ratio_up_to_the_cap() -> None:
    found = weighed()
    assert found.ratios.tolist() == approximately([math.exp(0.5), 1.0, math.exp(1.5), math.exp(-2.5)])
    assert found.weights.tolist() == approximately([math.exp(0.5), 1.0, 2.0, math.exp(-2.5)])
    assert found.cut.tolist() == [False, False, True, False]
    assert not found.weights.requires_grad


def test_a_completions_weight_is_the_product_of_its_tokens_ratios() -> None:
    found = weighed(correction={"level": "sequence", "cap": 5.0})
    assert found.weights.tolist() == approximately([math.exp(0.5), math.exp(0.5), math.exp(1.5), math.exp(-2.5)])


def test_ratios_out_of_bounds_count_nothing() -> None:
    found = weighed(correction={"level": "token", "cap": 10.0, "mask": [0.5, 3.0]})
    assert found.weights.tolist() == approximately([math.exp(0.5), 1.0, 0.0, 0.0])
    assert found.masked.tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_staleness": 0}, [-1.0] * 4),
        ({"correction": {"level": "none"}}, [-1.0] * 4),
        ({}, [-math.exp(0.5), -1.0, -2.0, -math.exp(-2.5)]),
        ({"ratio": "sampled", "clip": [0.2, 0.3]}, [-1.3, -1.0, -1.3, -math.exp(-2.5)]),
    ],
)
def test_a_token_is_weighed_or_clipped_or_neither_but_never_both(
    settings: dict[str, Any], expected: list[float]
) -> None:
    algorithm = Algorithm.model_validate({"max_staleness": 1, **settings})
    logprobs, sampled = torch.tensor(LOGPROBS, dtype=torch.float64), torch.tensor(SAMPLED, dtype=torch.float64)
    found = weighed(**settings)
    loss, _ = policy_loss(logprobs, sampled, None, torch.ones(4), torch.tensor(OWNERS), found, algorithm)
    assert loss.tolist() == approximately(expected)
    assert found.ratios.tolist() == weighed().ratios.tolist()  # they are measured all the same


def test_a_masked_token_is_not_counted_as_truncated() -> None:
    found = weighed(correction={"level": "token", "cap": 1.2, "mask": [0.5, 3.0]})
    assert (found.cut.tolist(), found.masked.tolist()) == ([True, False, False, False], [False, False, True, True])


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_a_masked_completion_has_no_gradient_whatever_the_surrogate(surrogate: str) -> None:
    settings = {"surrogate": surrogate, "correction": {"mask": [0.5, 3.0]}}
    algorithm = Algorithm.model_validate({"max_staleness": 1, **settings})
    logprobs = torch.tensor([-1.0, -90.0, -0.5, -3.0], dtype=torch.float64, requires_grad=True)
    sampled = torch.tensor([-20.0, -2.0, -0.7, -0.5], dtype=torch.float64)
    owners = torch.tensor([0, 0, 1, 2])
    found = importance(logprobs, sampled, owners, algorithm)
    assert found.masked.tolist() == [True, True, False, True]
    loss, _ = policy_loss(logprobs, sampled, None, torch.ones(4), owners, found, algorithm)
    [by_token] = torch.autograd.grad(loss.sum(), logprobs)
    assert [value == 0.0 for value in by_token.tolist()] == found.masked.tolist()


@pytest.mark.parametrize(
    ("surrogate", "level"),
    [("clipped", "token"), ("weighted", "token"), ("sequence", "sequence"), ("completion", "sequence")],
)
def test_what_has_one_ratio_a_completion_is_corrected_by_completion(surrogate: str, level: str) -> None:
    keys = {"max_staleness": 1, "surrogate": surrogate}
    assert Algorithm.model_validate(keys).correction_level == level
    assert Algorithm.model_validate({**keys, "ratio": "sampled"}).correction_level == "none"
    assert Algorithm.model_validate({**keys, "max_staleness": 0}).correction_level == "none"
    refused = {**keys, "correction": {"level": "token"}}
    if level == "sequence":
        with pytest.raises(
            ValueError, match=rf"algorithm\.correction\.level: token .* algorithm\.surrogate: {surrogate}"
        ):
            Algorithm.model_validate(refused)
    else:
        assert Algorithm.model_validate(refused).correction_level == "token"


def test_ratios_of_log_probs_that_are_far_apart_are_finite() -> None:
    for level in ("token", "sequence"):
        algorithm = Algorithm.model_validate({"max_staleness": 1, "correction": {"level": level}})
        logprobs, sampled = torch.tensor([-0.5, -0.5]), torch.tensor([-120.0, -120.0])
        found = importance(logprobs, sampled, torch.tensor([0, 0]), algorithm)
        assert found.ratios.isfinite().all()
        assert found.ratios.square().isfinite().all()
        assert found.weights.tolist() == [2.0, 2.0]


def gradient(loss: Tensor, of: Tensor) -> list[float]:
    [found] = torch.autograd.grad(loss.sum(), of)
    return found.tolist()


def test_the_gradient_of_a_corrected_token_is_its_weight_times_its_advantage() -> None:
    logprobs = torch.tensor(LOGPROBS, dtype=torch.float64, requires_grad=True)
    advantages, weights = torch.tensor([1.0, -1.0, 2.0, 1.0]), torch.tensor([0.5, 1.0, 2.0, 0.0])
    found = Importance(weights, weights, weights > 2, weights == 0)
    algorithm, owners = Algorithm(max_staleness=1), torch.tensor(OWNERS)
    loss, _ = policy_loss(logprobs, torch.tensor(SAMPLED), None, advantages, owners, found, algorithm)
    assert loss.tolist() == approximately([-0.5, 1.0, -4.0, 0.0])
    assert gradient(loss, logprobs) == approximately([-0.5, 1.0, -4.0, 0.0])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [-1.3 * math.exp(0.5), 2.0, math.exp(0.5) * 2.0, -math.exp(-3.5)]),
        ({"correction": {"level": "none"}}, [-1.3, 2.0, math.exp(0.5), -math.exp(-1.0)]),
        ({"ratio": "sampled"}, [-1.3, 2.0, math.exp(2.0), -math.exp(-3.5)]),
    ],
)
def test_a_further_update_is_clipped_by_how_far_the_first_has_gone_and_weighed_as_in_the_first(
    settings: dict[str, Any], expected: list[float]
) -> None:
    algorithm = Algorithm.model_validate({"max_staleness": 1, "updates_per_step": 2, "clip": [0.2, 0.3], **settings})
    first, sampled = torch.tensor(LOGPROBS, dtype=torch.float64), torch.tensor(SAMPLED, dtype=torch.float64)
    now = first + torch.tensor([0.5, 0.0, 0.5, -1.0])
    advantages = torch.tensor([1.0, -2.0, -1.0, 1.0], dtype=torch.float64)
    found = weighed(**settings)
    loss, _ = policy_loss(now, sampled, first, advantages, torch.tensor(OWNERS), found, algorithm)
    assert loss.tolist() == approximately(expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": "sampled", "correction": {"level": "token"}}, "twice"),
        ({"correction": {"level": "none", "mask": [0.5, 2.0]}}, "needs algorithm.correction.level"),
        ({"correction": {"level": "token", "mask": [1.5, 2.0]}}, "bounds around 1"),
        ({"clip": [0.1, 0.1]}, "needs algorithm.ratio: sampled"),
        ({"max_staleness": 0, "correction": {"cap": 5.0}}, "truncates nothing"),
        ({"dual_clip": 3.0}, "algorithm.dual_clip: 3 bounds nothing"),
        ({"ratio": "sampled", "surrogate": "weighted", "dual_clip": 3.0}, "algorithm.surrogate: weighted has none"),
        ({"ratio": "sampled", "dual_clip": 1.0}, "greater than 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Algorithm.model_validate(settings)
