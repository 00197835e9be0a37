"""The losses, token by token, against each paper's formula written again in plain Python."""

import math
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor

from learner import losses

NOW = [-1.0, -2.0, -0.5, -3.0, -1.0]
OLDER = [-1.5, -2.0, -2.0, -0.5, -1.1]
OWNERS = [0, 0, 1, 2, 2]
"""Tokens of three completions."""
ADVANTAGES = [1.0, 1.0, -1.0, 1.0, 1.0]
CLIP = (0.2, 0.3)


def found(surrogate: str, now: list[float] = NOW, **changed: Any) -> tuple[list[float], list[bool], list[float]]:
    """The losses, what is clipped, and the gradient by log-prob, of a sum over tokens."""
    logprobs = torch.tensor(now, dtype=torch.float64, requires_grad=True)
    older = torch.tensor(changed.get("older", OLDER), dtype=torch.float64)
    advantages = torch.tensor(changed.get("advantages", ADVANTAGES), dtype=torch.float64)
    clip = changed.get("clip", CLIP)
    bounds = losses.Clip(*clip, changed.get("dual"))
    loss, cut = losses.SURROGATES[surrogate](logprobs, older, advantages, torch.tensor(OWNERS), bounds)
    [gradient] = torch.autograd.grad(loss.sum(), logprobs)
    return loss.tolist(), cut.tolist(), gradient.tolist()


def test_the_clipped_ratio_is_ppos() -> None:
    ratios = [math.exp(now - older) for now, older in zip(NOW, OLDER, strict=True)]
    expected = [-min(r * a, min(max(r, 0.8), 1.3) * a) for r, a in zip(ratios, ADVANTAGES, strict=True)]
    loss, cut, gradient = found("clipped")
    assert loss == pytest.approx(expected)
    assert cut == [True, False, False, False, False]
    flat = [0.0 if clipped else -r * a for clipped, r, a in zip(cut, ratios, ADVANTAGES, strict=True)]
    assert gradient == pytest.approx(flat)


@pytest.mark.parametrize(("advantage", "cut"), [(1.0, False), (-1.0, True)])
def test_a_ratio_that_has_fallen_is_clipped_where_that_is_what_the_advantage_wants(advantage: float, cut: bool) -> None:
    assert found("clipped", advantages=[advantage] * 5)[1][3] is cut


def test_gspos_ratio_is_the_geometric_mean_of_a_completions_and_is_clipped_as_one() -> None:
    apart = [now - older for now, older in zip(NOW, OLDER, strict=True)]
    means = {owner: sum(apart[i] for i in range(5) if OWNERS[i] == owner) / OWNERS.count(owner) for owner in OWNERS}
    ratios = [math.exp(means[owner]) for owner in OWNERS]
    expected = [-min(r * a, min(max(r, 0.8), 1.3) * a) for r, a in zip(ratios, ADVANTAGES, strict=True)]
    loss, cut, gradient = found("sequence", clip=CLIP)
    assert loss == pytest.approx(expected)
    assert cut == [ratios[0] > 1.3] * 2 + [False] * 3
    assert sum(gradient[3:]) == pytest.approx(-ratios[3] * 2)  # two tokens have the completion's loss each
    assert gradient[3] == gradient[4]


def test_rloos_ratio_is_the_product_of_a_completions_and_its_tokens_share_one_loss() -> None:
    apart = [sum(NOW[i] - OLDER[i] for i in range(5) if OWNERS[i] == owner) for owner in range(3)]
    ratios = [math.exp(value) for value in apart]
    of_a_completion = [-min(r * a, min(max(r, 0.8), 1.3) * a) for r, a in zip(ratios, (1.0, -1.0, 1.0), strict=True)]
    loss, cut, gradient = found("completion")
    assert [sum(loss[i] for i in range(5) if OWNERS[i] == owner) for owner in range(3)] == pytest.approx(
        of_a_completion
    )
    assert cut == [True, True, False, False, False]
    assert gradient == pytest.approx([0.0, 0.0, ratios[1], -ratios[2], -ratios[2]])


@pytest.mark.parametrize(
    ("surrogate", "ratios"),
    [
        ("clipped", [math.exp(0.5), 1.0, math.exp(1.5), math.exp(-2.5), math.exp(0.1)]),
        ("sequence", [math.exp(0.25)] * 2 + [math.exp(1.5)] + [math.exp(-1.2)] * 2),
        ("completion", [math.exp(0.5)] * 2 + [math.exp(1.5)] + [math.exp(-2.4)] * 2),
    ],
)
def test_a_negative_advantage_counts_no_more_often_than_the_dual_clip(surrogate: str, ratios: list[float]) -> None:
    sizes = [OWNERS.count(owner) if surrogate == "completion" else 1 for owner in OWNERS]
    loss, cut, gradient = found(surrogate, advantages=[-2.0] * 5, dual=1.6)
    assert loss == pytest.approx([min(max(r, 0.8), 1.6) * 2 / n for r, n in zip(ratios, sizes, strict=True)])
    assert cut == [r < 0.8 or r > 1.6 for r in ratios]
    assert [value == 0 for value in gradient] == cut
    assert found(surrogate, advantages=[2.0] * 5, dual=1.6) == found(surrogate, advantages=[2.0] * 5)


@pytest.mark.parametrize("apart", [200.0, -200.0])
@pytest.mark.parametrize("surrogate", losses.SURROGATES)
def test_log_probs_that_are_far_apart_make_nothing_infinite(surrogate: str, apart: float) -> None:
    logprobs = torch.tensor([-1.0] * 5, requires_grad=True)
    for advantage in (1.0, -1.0):
        bounds, advantages = losses.Clip(0.2, 0.3), torch.full((5,), advantage)
        loss, _ = losses.SURROGATES[surrogate](
            logprobs, logprobs.detach() - apart, advantages, torch.tensor(OWNERS), bounds
        )
        [gradient] = torch.autograd.grad(loss.sum(), logprobs)
        assert loss.isfinite().all()
        assert loss.square().isfinite().all()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("estimator", losses.KL)
def test_a_reference_that_is_far_away_makes_no_estimate_of_the_kl_infinite(estimator: str) -> None:
    logprobs = torch.tensor([-300.0, -1.0], requires_grad=True)
    kl = losses.KL[estimator](logprobs, torch.tensor([-1.0, -300.0]))
    [gradient] = torch.autograd.grad(kl.sum(), logprobs)
    assert kl.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient[0] <= 0 or estimator == "k1"
    assert gradient[1] > 0


def test_cispo_truncates_a_tokens_weight_and_keeps_its_gradient() -> None:
    ratios = [math.exp(now - older) for now, older in zip(NOW, OLDER, strict=True)]
    weights = [min(ratio, 1.3) for ratio in ratios]
    loss, cut, gradient = found("weighted", clip=(1.0, 0.3))
    assert loss == pytest.approx([-w * a * now for w, a, now in zip(weights, ADVANTAGES, NOW, strict=True)])
    assert gradient == pytest.approx([-w * a for w, a in zip(weights, ADVANTAGES, strict=True)])
    assert cut == [True, False, True, False, False]


@pytest.mark.parametrize("surrogate", losses.SURROGATES)
def test_every_surrogate_of_the_policy_itself_has_the_plain_policy_gradient(surrogate: str) -> None:
    _, cut, gradient = found(surrogate, older=NOW)
    assert not any(cut)
    sums = [sum(gradient[i] for i in range(5) if OWNERS[i] == owner) for owner in range(3)]
    assert sums == pytest.approx([-2.0, 1.0, -2.0])


def test_estimates_of_the_kl_match_their_formulas() -> None:
    policy, reference = torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -0.5])
    assert losses.kl_k1(policy, reference).tolist() == pytest.approx([0.0, -1.5])
    assert losses.kl_k2(policy, reference).tolist() == pytest.approx([0.0, 1.125])
    assert losses.kl_k3(policy, reference).tolist() == pytest.approx([0.0, math.exp(1.5) - 1.5 - 1], rel=1e-6)


def test_in_expectation_k1_and_k3_are_the_kl_and_k2_has_its_gradient() -> None:
    logits = torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64, requires_grad=True)
    other = torch.tensor([0.0, 0.5, 0.7], dtype=torch.float64).log_softmax(0)
    logprobs = logits.log_softmax(0)
    chances = logprobs.exp().detach()
    kl = (logprobs.exp() * (logprobs - other)).sum()
    for name in ("k1", "k3"):
        assert (chances * losses.KL[name](logprobs, other)).sum().item() == pytest.approx(kl.item())
    [exact] = torch.autograd.grad(kl, logits, retain_graph=True)
    [of_k2] = torch.autograd.grad((chances * losses.KL["k2"](logprobs, other)).sum(), logits, retain_graph=True)
    [of_k1] = torch.autograd.grad((chances * losses.KL["k1"](logprobs, other)).sum(), logits)
    assert of_k2.tolist() == pytest.approx(exact.tolist())
    assert of_k1.tolist() == pytest.approx([0.0] * 3, abs=1e-12)


@pytest.mark.parametrize(
    ("mean", "expected"),
    [
        ("sequence", (1 / 3 + 1 / 3 + 1 / 3 + 1) / 2),
        ("token", 1.0),
        ("constant", 4 / (2 * 10)),
        ("sum", 4 / 2),
    ],
)
def test_a_mean_weighs_tokens_as_its_paper_does(mean: Any, expected: float) -> None:
    weights = [losses.token_weight(mean, tokens, 2, 4, 10) for tokens in (3, 3, 3, 1)]
    assert sum(weights) == pytest.approx(expected)


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
    flat = double([p for policy in policies for p in policy]).requires_grad_(True)
    reference = double([r for reference in references for r in reference])
    weights = double([losses.token_weight("sequence", len(one), 2, 4, 9) for one in policies for _ in one])
    owners = torch.tensor([0, 0, 0, 1])
    gained, _ = losses.clipped(flat, flat.detach(), double(advantages)[owners], owners, losses.Clip(0.2, 0.2))
    loss = losses.objective(gained, losses.kl_k3(flat, reference), torch.zeros(4), weights, beta, 0.0)
    loss.backward()
    assert loss.item() == pytest.approx(hand_written(policies, references, advantages, beta), rel=1e-12)
    # d/dp of -A * exp(p - p0) + beta * k3 at p = p0
    in_order = chain.from_iterable(references)
    gradient = [
        w * (-a + beta * (1 - math.exp(r - p)))
        for w, a, p, r in zip(weights.tolist(), [0.7, 0.7, 0.7, -0.7], flat.tolist(), in_order, strict=True)
    ]
    assert flat.grad.tolist() == pytest.approx(gradient, rel=1e-12)


@pytest.mark.parametrize("mean", ["sequence", "token", "constant", "sum"])
def test_the_kl_is_weighed_as_the_mean_weighs_tokens_and_the_entropy_as_every_token_alike(mean: Any) -> None:
    lengths, most = (3, 1), 10
    weights = double([losses.token_weight(mean, length, 2, 4, most) for length in lengths for _ in range(length)])
    kl, entropy, nothing = double([1.0, 2.0, 3.0, 4.0]), double([1.0, 3.0, 2.0, 6.0]), double([0.0] * 4)
    by_mean = {
        "sequence": ((1 + 2 + 3) / 3 + 4) / 2,
        "token": (1 + 2 + 3 + 4) / 4,
        "constant": (1 + 2 + 3 + 4) / most / 2,
        "sum": (1 + 2 + 3 + 4) / 2,
    }
    assert losses.objective(nothing, kl, entropy, weights, 0.5, 0.0).item() == pytest.approx(0.5 * by_mean[mean])
    assert losses.objective(nothing, None, entropy, weights, 0.5, 0.1 / 4).item() == pytest.approx(-0.1 * 3.0)


def double(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
