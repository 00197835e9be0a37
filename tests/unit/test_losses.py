import math
from itertools import chain

import pytest
import torch

from learner import losses


def test_k3_is_zero_for_equal_policies_and_matches_its_formula() -> None:
    policy, reference = torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -0.5])
    expected = [0.0, math.exp(1.5) - 1.5 - 1]
    assert losses.kl_k3(policy, reference).tolist() == pytest.approx(expected, rel=1e-6)


def hand_written(
    policies: list[list[float]], references: list[list[float]], advantages: list[float], beta: float
) -> float:
    """Mean over tokens within a completion, then over completions, in float64, as the paper writes it."""
    total = 0.0
    for policy, reference, advantage in zip(policies, references, advantages, strict=True):
        tokens = [-advantage + beta * (math.exp(r - p) - (r - p) - 1) for p, r in zip(policy, reference, strict=True)]
        total += sum(tokens) / len(tokens)
    return total / len(policies)


def test_grpo_loss_and_gradient_match_a_float64_reference() -> None:
    policies = [[-0.3, -1.2, -0.7], [-2.0]]
    references = [[-0.5, -1.0, -0.7], [-1.5]]
    advantages, beta = [0.7, -0.7], 0.04
    flat = torch.tensor([p for policy in policies for p in policy], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1 / (3 * 2)] * 3 + [1 / (1 * 2)], dtype=torch.float64)
    loss = losses.grpo(
        losses.surrogate(flat, torch.tensor([0.7, 0.7, 0.7, -0.7], dtype=torch.float64)),
        flat,
        torch.zeros(4),
        weights,
        torch.tensor([r for reference in references for r in reference], dtype=torch.float64),
        beta,
        0.0,
    )
    loss.backward()
    assert loss.item() == pytest.approx(hand_written(policies, references, advantages, beta), rel=1e-12)
    # d/dp of -A * exp(p - p0) + beta * k3 at p = p0
    in_order = chain.from_iterable(references)
    gradient = [
        w * (-a + beta * (1 - math.exp(r - p)))
        for w, a, p, r in zip(weights.tolist(), [0.7, 0.7, 0.7, -0.7], flat.tolist(), in_order, strict=True)
    ]
    assert flat.grad is not None
    assert flat.grad.tolist() == pytest.approx(gradient, rel=1e-12)


def test_entropy_bonus_lowers_the_loss_by_its_weighted_mean() -> None:
    logprobs, weights = torch.zeros(2), torch.tensor([0.5, 0.5])
    entropy = torch.tensor([1.0, 3.0])
    surrogate = losses.surrogate(logprobs, torch.ones(2))
    plain = losses.grpo(surrogate, logprobs, entropy, weights, None, 0.0, 0.0)
    bonus = losses.grpo(surrogate, logprobs, entropy, weights, None, 0.0, 0.1)
    assert (plain - bonus).item() == pytest.approx(0.2)
