"""An update does not depend on how the work is packed and sharded, and goes on from a checkpoint on other ranks."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from configs.algorithms import ALGORITHMS as CONFIGURED
from data.types import ClipFeatures, Completion, Group, Prompt
from learner.hf import load_model, load_tensors
from learner.packing import Sequences, expand_audio, pack
from learner.policy import MicroBatch, Policy
from learner.released import name_of_parameter
from tests.integration.learner_ranks import (
    BETA,
    ENTROPY_COEFFICIENT,
    NARROW,
    TOTALS,
    Job,
    Outcome,
    fabricate,
    lessons,
    run_ranks,
    stale,
)
from tests.integration.models import hearing_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # a busy machine starts an engine in minutes

ROUNDING = 1e-5
"""Relative difference that another order of float32 sums may make."""
OFFLOADED = ((1, "optimizer"), (2, "optimizer"), (3, "optimizer"), (3, "all"))
"""ZeRO stage, and what of it lives in CPU memory."""
SHARDED = {"1": (1, "none"), "2": (2, "none"), "3": (3, "none"), "3, offload optimizer": (3, "optimizer")}
"""ZeRO stage and offload of ranks in bfloat16, which sum their gradients in float32."""
COARSE = 0.03
"""The same where the model is in bfloat16, which has 8 bits."""
LEVELS = ("token", "sequence")
"""At which completions of an older policy are weighed."""
ALGORITHMS: dict[str, dict[str, Any]] = {
    "dr_grpo": {},
    "dapo": {"mask_truncated": True},
    "rloo": {"beta": 0.3, "clip": [0.7, 0.5]},
    "reinforce_plus_plus": {"beta": 0.3},
    "gspo": {"clip": [0.1, 0.2]},
    "cispo": {"clip": [0.5, 0.7]},
}
"""Names, with keys that make what is theirs show."""
QUIET = {"one rank": 0, "two ranks, ZeRO 2": 2, "two ranks, ZeRO 3": 3}
"""Where a step comes in between that teaches nothing, and the ZeRO stage there."""
BROKEN: dict[str, dict[str, Any]] = {
    "one rank": {"zero_stage": 0},
    "two ranks, ZeRO 0": {"zero_stage": 0},
    "two ranks, ZeRO 2, offload optimizer": {"zero_stage": 2, "offload": "optimizer"},
    "two ranks, ZeRO 3, offload all": {"zero_stage": 3, "offload": "all"},
    "two ranks in bfloat16, ZeRO 1": {"zero_stage": 1, "dtype": "bfloat16"},
    "two ranks in bfloat16, ZeRO 3": {"zero_stage": 3, "dtype": "bfloat16"},
    "two ranks, sft": {"zero_stage": 2, "beta": 0.0, "entropy_coefficient": 0.0, "algorithm": {"name": "sft"}},
}
"""Where a step comes in between whose loss or gradient is not finite, and what is peculiar there."""
CLIPPED_NORM = 0.05
SMALL = 350
"""Tokens of a micro-batch that holds one group, or two of the shortest."""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another policy, so that the divergence and its gradient are not zero."""
    return hearing_model(tmp_path_factory.mktemp("reference"), seed=1)


def coarsely(name: str, micro_batch_tokens: int, updates: int = 1, load: str | None = None) -> Job:
    """A job in bfloat16, sharded as the end of its name says."""
    stage, offload = SHARDED[name.partition("ZeRO ")[2]]
    return Job(name, stage, micro_batch_tokens, updates, load, dtype="bfloat16", offload=offload)


def named(name: str, stage: int, micro_batch_tokens: int, where: str = "") -> Job:
    """A job that takes an algorithm's step from groups of an older policy."""
    keys = {"beta": CONFIGURED[name]["beta"], "name": name, "ratio": "sampled", **ALGORITHMS[name]}
    return Job(name + where, stage, micro_batch_tokens, stale="none", entropy_coefficient=0.0, algorithm=keys)


def quiet(where: str) -> list[Job]:
    """Two updates, and the same two around one from which nothing can be learned."""
    stage, plain = QUIET[where], {"beta": 0.0, "entropy_coefficient": 0.0}
    return [
        Job(f"two updates on {where}", stage, SMALL, updates=2, **plain),
        Job(f"two updates and a quiet one on {where}", stage, SMALL, updates=3, alike=(1,), **plain),
    ]


def breaking(where: str) -> tuple[str, ...]:
    """What is tried there."""
    return ("clip", "loss") if where == "one rank" or "offload" in where else ("clip",)


def broken(where: str) -> list[Job]:
    """Two updates, and the same two around one that is not finite."""
    how: dict[str, Any] = {"micro_batch_tokens": SMALL, **BROKEN[where]}
    return [
        Job(f"whole on {where}", updates=2, **how),
        *(Job(f"broken {what} on {where}", updates=3, broken=what, **how) for what in breaking(where)),
    ]


@pytest.fixture(scope="module")
def outcomes(model: Path, reference: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("ranks")
    saved = str(folder / "checkpoint")
    coarse = str(folder / "bfloat16")
    several = str(folder / "several")
    alone = [
        Job("whole", 0, 100_000),
        Job("no reference", 0, 100_000, beta=0.0, entropy_coefficient=0.0),
        Job("hardly a reference", 0, 100_000, beta=1e-20, entropy_coefficient=0.0),
        Job("all alike", 0, 100_000, beta=0.0, entropy_coefficient=0.0, alike=(0,)),
        *quiet("one rank"),
        *broken("one rank"),
        *(Job(f"stale, {level}", 0, 100_000, stale=level) for level in LEVELS),
        Job("several", 0, 100_000, stale="token", several=True),
        Job("several twice", 0, 100_000, updates=2, save=several, stale="token", several=True),
        Job("uneven", 0, 100_000, uneven=True, threads=None),
        *(named(name, 0, 100_000) for name in ALGORITHMS),
        Job("sft", 0, 100_000, beta=0.0, entropy_coefficient=0.0, algorithm={"name": "sft"}),
        Job("saved", 0, SMALL, updates=2, save=saved),
        Job("clipped", 0, 100_000, max_grad_norm=CLIPPED_NORM),
        Job("about one clip", 0, 100_000, one_clip=True),
        Job("saved in bfloat16", 0, SMALL, updates=2, save=coarse, dtype="bfloat16"),
        Job("loaded in bfloat16", 0, SMALL, updates=0, load=coarse, dtype="bfloat16"),
        Job("resumed in bfloat16", 0, SMALL, load=coarse, dtype="bfloat16"),
    ]
    together = [
        *(Job(f"two ranks, ZeRO {stage}", stage, SMALL) for stage in (0, 2, 3)),
        Job("two ranks, ZeRO 0, each group alone", 0, 1),
        *(job for where in QUIET if where.startswith("two") for job in quiet(where)),
        *(job for where in BROKEN if where.startswith("two") for job in broken(where)),
        *(Job(f"resumed, ZeRO {stage}", stage, SMALL, load=saved) for stage in (2, 3)),
        *(Job(f"clipped, ZeRO {stage}", stage, SMALL, max_grad_norm=CLIPPED_NORM) for stage in (0, 2, 3)),
        Job("two ranks about one clip, each group alone", 0, 1, one_clip=True),
        Job("two ranks about one clip, ZeRO 3", 3, SMALL, one_clip=True),
        *(Job(f"stale, {level}, on two ranks", 3, 1, stale=level) for level in LEVELS),
        *(named(name, 3, SMALL, " on two ranks") for name in ALGORITHMS),
        Job("sft on two ranks", 3, SMALL, beta=0.0, entropy_coefficient=0.0, algorithm={"name": "sft"}),
        Job("several on two ranks", 3, 1, stale="token", several=True),
        Job("several, resumed", 3, SMALL, load=several, stale="token", several=True),
        Job("bfloat16, ZeRO 0", 0, SMALL, dtype="bfloat16"),
        *(coarsely(f"bfloat16, ZeRO {how}", SMALL) for how in SHARDED),
        *(coarsely(f"one micro-batch in bfloat16, ZeRO {how}", 100_000) for how in SHARDED),
        *(coarsely(f"loaded in bfloat16, ZeRO {how}", SMALL, updates=0, load=coarse) for how in SHARDED),
        *(coarsely(f"resumed in bfloat16, ZeRO {how}", SMALL, load=coarse) for how in SHARDED),
        Job("two ranks, ZeRO 3, computed again", 3, SMALL, again=True),
        Job("uneven on two ranks", 3, 1, uneven=True, again=True, threads=None),
        *(Job(f"two ranks, ZeRO {stage}, offload {part}", stage, SMALL, offload=part) for stage, part in OFFLOADED),
        *(
            Job(f"resumed, ZeRO {stage}, offload {part}", stage, SMALL, load=saved, offload=part)
            for stage, part in OFFLOADED
        ),
    ]
    return {
        **run_ranks(folder / "one", 1, model, reference, alone),
        **run_ranks(folder / "two", 2, model, reference, together),
    }


@pytest.mark.parametrize(
    "how",
    ["0", "0, each group alone", "2", "3", "3, computed again"]
    + [f"{stage}, offload {part}" for stage, part in OFFLOADED],
)
def test_one_rank_with_one_micro_batch_and_two_ranks_with_several_make_the_same_update(
    outcomes: dict[str, Outcome], how: str
) -> None:
    whole, split = outcomes["whole"], outcomes[f"two ranks, ZeRO {how}"]
    assert whole.micro_batches == 1
    each_alone = len(TOTALS) // 2
    assert split.micro_batches == each_alone if "alone" in how else 2 <= split.micro_batches < each_alone
    assert split.grad_norms == pytest.approx(whole.grad_norms, rel=ROUNDING)
    assert_equal(whole, split)


@pytest.mark.parametrize("how", ["each group alone", "ZeRO 3"])
def test_a_clip_that_several_groups_of_a_micro_batch_hear_is_encoded_once_with_the_gradient_of_all(
    outcomes: dict[str, Outcome], how: str
) -> None:
    once, split = outcomes["about one clip"], outcomes[f"two ranks about one clip, {how}"]
    assert once.heard == once.micro_batches == 1
    assert split.heard == split.micro_batches
    assert split.grad_norms == pytest.approx(once.grad_norms, rel=ROUNDING)
    assert_equal(once, split)


@pytest.mark.parametrize(
    ("alone", "shared"), [("whole", "two ranks, ZeRO 0"), ("sft", "sft on two ranks")], ids=["groups", "lessons"]
)
def test_a_rank_tells_how_many_tokens_it_packed_itself(outcomes: dict[str, Outcome], alone: str, shared: str) -> None:
    assert outcomes[alone].rank_tokens == outcomes[alone].packed_tokens
    [own], [all_ranks] = outcomes[shared].rank_tokens, outcomes[shared].packed_tokens
    assert 0 < own < all_ranks


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_gradients_are_clipped_to_their_norm_over_all_ranks(outcomes: dict[str, Outcome], stage: int) -> None:
    free, clipped, split = outcomes["whole"], outcomes["clipped"], outcomes[f"clipped, ZeRO {stage}"]
    assert clipped.grad_norms == pytest.approx(free.grad_norms, rel=ROUNDING)
    assert split.grad_norms == pytest.approx(free.grad_norms, rel=ROUNDING)
    clipped_gradient = torch.cat([moment.flatten() for moment in moments(split).values()])
    assert clipped_gradient.norm() == pytest.approx(0.1 * CLIPPED_NORM, rel=1e-4)
    assert_equal(clipped, split)


@pytest.mark.parametrize("how", ["0", *SHARDED])
def test_ranks_in_bfloat16_have_the_gradient_of_float32(outcomes: dict[str, Outcome], how: str) -> None:
    fine, coarse = outcomes["whole"], outcomes[f"bfloat16, ZeRO {how}"]
    assert coarse.grad_norms == pytest.approx(fine.grad_norms, rel=COARSE)
    expected, found = moments(fine), moments(coarse)
    largest = max(moment.norm() for moment in expected.values())
    for name, moment in expected.items():
        if moment.norm() > 1e-2 * largest:
            assert (found[name] - moment).norm() < COARSE * moment.norm(), name


@pytest.mark.parametrize("how", SHARDED)
@pytest.mark.parametrize("layout", ["", "one micro-batch in "])
def test_sharded_gradients_of_bfloat16_are_summed_in_float32(
    outcomes: dict[str, Outcome], layout: str, how: str
) -> None:
    """Over micro-batches and over ranks: every sum in bfloat16 is one of its numbers, of sums in float32 a part is."""
    gradients = torch.cat([moment.flatten() for moment in moments(outcomes[f"{layout}bfloat16, ZeRO {how}"]).values()])
    gradients = gradients[gradients.abs() > 1e-7] / 0.1
    rounded = (gradients - gradients.bfloat16().float()).abs() < 1e-5 * gradients.abs()
    assert rounded.float().mean() < 0.7


@pytest.mark.parametrize(
    "how",
    [
        "two ranks, ZeRO 0, each group alone",
        "two ranks, ZeRO 3",
        "two ranks, ZeRO 3, computed again",
        "several on two ranks",
    ],
)
def test_the_ranks_tell_what_the_policy_gave_each_token_of_their_groups_before_the_first_update(
    outcomes: dict[str, Outcome], model: Path, how: str
) -> None:
    groups, _ = fabricate(str(model))
    for group, whole, split in zip(groups, outcomes["whole"].logprobs, outcomes[how].logprobs, strict=True):
        scored = [value is not None for value in group.total]
        expected = [len(one.token_ids) * there for one, there in zip(group.completions, scored, strict=True)]
        assert [len(values) for values in whole] == [len(values) for values in split] == expected
        for values, others in zip(whole, split, strict=True):
            assert values == pytest.approx(others, abs=1e-4)


def test_nothing_is_told_of_groups_that_were_not_computed(outcomes: dict[str, Outcome]) -> None:
    assert [values is None for values in outcomes["all alike"].logprobs] == [False] + [True] * (len(TOTALS) - 1)


def moments(outcome: Outcome) -> dict[str, Tensor]:
    """The first moment by parameter, which after one update is a tenth of the gradient."""
    return {name: tensor for name, tensor in outcome.state.items() if name.startswith("exp_avg/")}


def test_a_rank_without_work_calls_sharded_modules_no_oftener_than_the_others(outcomes: dict[str, Outcome]) -> None:
    whole, split = outcomes["uneven"], outcomes["uneven on two ranks"]
    assert (whole.micro_batches, split.micro_batches) == (1, 2)
    assert_equal(whole, split)


def test_ranks_share_the_cpus_of_their_machine(outcomes: dict[str, Outcome]) -> None:
    alone, beside = outcomes["uneven"].threads, outcomes["uneven on two ranks"].threads
    assert 1 <= alone <= len(os.sched_getaffinity(0))
    assert beside == max(alone // 2, 1)


def test_loss_and_gradient_are_the_papers_written_by_hand(
    outcomes: dict[str, Outcome], model: Path, reference: Path
) -> None:
    policy, other = policies(model, reference)
    groups, features = fabricate(str(model))
    loss = loss_by_hand(policy, other, groups, features)
    loss.backward()
    whole = outcomes["whole"]
    assert whole.losses == pytest.approx([loss.item()], rel=1e-5)
    assert_gradient(whole, policy)


@pytest.mark.parametrize("level", LEVELS)
def test_an_asynchronous_step_makes_the_gradient_and_the_weights_that_are_written_by_hand(
    outcomes: dict[str, Outcome], model: Path, reference: Path, level: str
) -> None:
    policy, other = policies(model, reference)
    groups, features = fabricate(str(model))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0)
    truncated: list[bool] = []

    def weighed(logprobs: Tensor, sampled: Tensor, advantage: float) -> Tensor:
        return plain_gain(logprobs, sampled, advantage) * truncated_weights(logprobs, sampled, level, truncated)

    loss_by_hand(policy, other, stale(groups), features, weighed).backward()
    assert 0 < sum(truncated) < len(truncated)
    largest = max(parameter.grad.abs().max() for parameter in policy.parameters() if parameter.grad is not None)
    gradients = {name: parameter.grad for name, parameter in policy.model.named_parameters()}
    optimizer.step()
    for outcome in (outcomes[f"stale, {level}"], outcomes[f"stale, {level}, on two ranks"]):
        for name, parameter in policy.model.named_parameters():
            if gradients[name] is None:
                continue
            found = outcome.state[f"exp_avg/{name_of_parameter(name)}"] / 0.1
            assert (found - gradients[name]).abs().max() < 1e-4 * largest, name
            clear = gradients[name].abs() > 1e-3 * largest  # Adam's first step is the gradient's sign
            stepped = outcome.state[f"master/{name_of_parameter(name)}"]
            assert (stepped - parameter.detach())[clear].abs().sum() < 1e-6 * max(int(clear.sum()), 1), name
    assert_equal(outcomes[f"stale, {level}"], outcomes[f"stale, {level}, on two ranks"])
    unweighed = outcomes["whole"]
    assert outcomes[f"stale, {level}"].grad_norms != pytest.approx(unweighed.grad_norms, rel=0.01)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_algorithm_makes_the_gradient_of_its_papers_formula(
    outcomes: dict[str, Outcome], model: Path, reference: Path, name: str
) -> None:
    policy, other = policies(model, reference)
    groups, features = fabricate(str(model))
    groups = stale(groups)
    completions = [
        Seen(
            number,
            total,
            completion.finish_reason,
            torch.tensor(completion.logprobs).double(),
            *forward(policy, other, group.prompt, features[group.prompt.clip.sha256], completion.token_ids),
        )
        for number, group in enumerate(groups)
        for completion, total in zip(group.completions, group.total, strict=True)
        if total is not None
    ]
    FORMULAS[name](completions).backward()
    alone, together = outcomes[name], outcomes[f"{name} on two ranks"]
    assert_gradient(alone, policy)
    assert together.grad_norms == pytest.approx(alone.grad_norms, rel=ROUNDING)
    assert_equal(alone, together, rounding=1e-4)  # Adam's first step is a sign, and clipped gradients are small


def test_a_supervised_step_has_the_gradient_of_the_mean_over_the_answers_tokens(
    outcomes: dict[str, Outcome], model: Path, reference: Path
) -> None:
    policy, other = policies(model, reference)
    groups, features = fabricate(str(model))
    answers = [
        forward(policy, other, lesson.prompt, features[lesson.prompt.clip.sha256], lesson.answer)[0]
        for lesson in lessons(groups)
    ]
    loss = -torch.cat(answers).mean()
    loss.backward()
    alone, together = outcomes["sft"], outcomes["sft on two ranks"]
    assert alone.losses == pytest.approx([loss.item()], rel=1e-5)
    assert_gradient(alone, policy)
    assert together.losses == pytest.approx(alone.losses, rel=ROUNDING)
    assert_equal(alone, together)


def assert_gradient(outcome: Outcome, policy: Policy) -> None:
    """The first moment is a tenth of the policy's gradient."""
    gradients = {name: one.grad for name, one in policy.model.named_parameters() if one.grad is not None}
    largest = max(gradient.abs().max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        found = outcome.state[f"exp_avg/{name_of_parameter(name)}"] / 0.1
        assert (found - gradient).abs().max() < 1e-4 * largest, name


@dataclass
class Seen:
    """A completion, its log-probs in float64."""

    group: int
    reward: float
    finish_reason: str
    sampled: Tensor
    now: Tensor
    reference: Tensor

    @property
    def ratio(self) -> Tensor:
        return (self.now - self.sampled).exp()

    @property
    def log_ratio_to_reference(self) -> Tensor:
        return self.now - self.reference


def forward(
    policy: Policy, reference: Policy, prompt: Prompt, clip: ClipFeatures, token_ids: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Log-probs of a completion that is alone with its prompt, of the policy and of the reference."""
    expanded = expand_audio(prompt.token_ids, policy.audio_token_id, prompt.clip.audio_tokens)
    batch = MicroBatch(pack([Sequences(expanded, [token_ids])]), [clip])
    return policy(batch)[0].double(), reference(batch)[0].double()


def of_the_group(one: Seen, completions: Sequence[Seen]) -> list[float]:
    return [other.reward for other in completions if other.group == one.group]


def ppo(ratio: Tensor, advantage: float, low: float, high: float) -> Tensor:
    return torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def group_standardised(one: Seen, completions: Sequence[Seen]) -> float:
    rewards = of_the_group(one, completions)
    return (one.reward - statistics.mean(rewards)) / (statistics.stdev(rewards) + 1e-4)


def dr_grpo(completions: Sequence[Seen]) -> Tensor:
    longest = 256
    gains = [
        ppo(one.ratio, one.reward - statistics.mean(of_the_group(one, completions)), 0.2, 0.2).sum() / longest
        for one in completions
    ]
    return -torch.stack(gains).mean()


def dapo(completions: Sequence[Seen]) -> Tensor:
    whole = [one for one in completions if one.finish_reason == "stop"]
    assert 0 < len(whole) < len(completions)
    return -torch.cat([ppo(one.ratio, group_standardised(one, completions), 0.2, 0.28) for one in whole]).mean()


def rloo(completions: Sequence[Seen]) -> Tensor:
    def penalised(one: Seen) -> float:
        return one.reward - 0.3 * (one.sampled - one.reference).sum().item()

    gains = []
    for one in completions:
        others = [penalised(other) for other in completions if other.group == one.group and other is not one]
        ratio = (one.now - one.sampled).sum().exp()
        gains.append(ppo(ratio, penalised(one) - statistics.mean(others), *ALGORITHMS["rloo"]["clip"]))
    return -torch.stack(gains).mean()


def reinforce_plus_plus(completions: Sequence[Seen]) -> Tensor:
    apart = [one.reward - statistics.mean(of_the_group(one, completions)) for one in completions]
    deviation = statistics.stdev(apart) + 1e-4
    losses = [
        (-ppo(one.ratio, value / deviation, 0.2, 0.2) + 0.3 * one.log_ratio_to_reference.square() / 2).mean()
        for one, value in zip(completions, apart, strict=True)
    ]
    return torch.stack(losses).mean()


def gspo(completions: Sequence[Seen]) -> Tensor:
    gains = [
        ppo((one.now - one.sampled).mean().exp(), group_standardised(one, completions), 0.1, 0.2) for one in completions
    ]
    return -torch.stack(gains).mean()


def cispo(completions: Sequence[Seen]) -> Tensor:
    gains = [one.ratio.detach().clamp(0.5, 1.7) * group_standardised(one, completions) * one.now for one in completions]
    return -torch.cat(gains).mean()


FORMULAS: dict[str, Callable[[Sequence[Seen]], Tensor]] = {
    "dr_grpo": dr_grpo,
    "dapo": dapo,
    "rloo": rloo,
    "reinforce_plus_plus": reinforce_plus_plus,
    "gspo": gspo,
    "cispo": cispo,
}


def test_a_second_update_is_the_clipped_one_that_is_written_by_hand(
    outcomes: dict[str, Outcome], model: Path, reference: Path
) -> None:
    policy, other = policies(model, reference)
    groups, features = fabricate(str(model))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0)
    proximal: list[Tensor] = []
    weights: list[Tensor] = []
    clipped: list[bool] = []

    def first(logprobs: Tensor, sampled: Tensor, advantage: float) -> Tensor:
        proximal.append(logprobs.detach())
        weights.append(truncated_weights(logprobs, sampled, "token", []))
        return plain_gain(logprobs, sampled, advantage) * weights[-1]

    def second(logprobs: Tensor, _: Tensor, advantage: float) -> Tensor:
        ratio = (logprobs - proximal.pop(0)).exp()
        bounded = ratio.clamp(1 - NARROW[0], 1 + NARROW[1])
        flat = bounded * advantage < ratio * advantage
        clipped.extend(flat.tolist())
        return torch.where(flat, bounded.detach(), ratio) * advantage * weights.pop(0)

    for gain in (first, second):
        optimizer.zero_grad()
        loss_by_hand(policy, other, stale(groups), features, gain).backward()
        optimizer.step()
    assert 0.1 < sum(clipped) / len(clipped) < 0.9
    alone, together = outcomes["several"], outcomes["several on two ranks"]
    names = {name: name_of_parameter(name) for name, _ in policy.model.named_parameters()}
    by_hand_state = {
        names[name]: optimizer.state[parameter]["exp_avg"]
        for name, parameter in policy.model.named_parameters()
        if parameter.grad is not None
    }
    largest = max(moment.abs().max() for moment in by_hand_state.values())
    for outcome in (alone, together):
        assert outcome.clipped_again == pytest.approx([sum(clipped) / len(clipped)], abs=0.02)
        for name, moment in by_hand_state.items():
            assert (outcome.state[f"exp_avg/{name}"] - moment).abs().max() < 1e-3 * largest, name
    assert outcomes["stale, token"].clipped_again == [0.0]


def test_a_resume_goes_on_with_every_update_of_the_steps_before_it(outcomes: dict[str, Outcome]) -> None:
    assert_equal(outcomes["several twice"], outcomes["several, resumed"], rounding=1e-3)


def truncated_weights(logprobs: Tensor, sampled: Tensor, level: str, truncated: list[bool]) -> Tensor:
    """min(ratio, 2), the ratio of each token or of the whole completion."""
    apart = logprobs.detach() - sampled
    ratio = apart.exp() if level == "token" else apart.sum().exp().expand(len(apart))
    truncated += (ratio > 2.0).tolist()
    return ratio.clamp(max=2.0)


def by_hand(rewards: Sequence[float | None]) -> list[float | None]:
    """(r - mean) / (std + 1e-4) over what is not dropped, with the unbiased deviation."""
    kept = [reward for reward in rewards if reward is not None]
    mean, deviation = statistics.mean(kept), statistics.stdev(kept)
    return [None if reward is None else (reward - mean) / (deviation + 1e-4) for reward in rewards]


def policies(model: Path, reference: Path) -> tuple[Policy, Policy]:
    """The policy to train, and the one that it is held against."""
    policy, other = (Policy(load_model(str(path), torch.float32), temperature=1.0) for path in (model, reference))
    policy.eval()
    other.requires_grad_(False).eval()
    return policy, other


def plain_gain(logprobs: Tensor, _: Tensor, advantage: float) -> Tensor:
    """The advantage, with the gradient of the log-prob."""
    return (logprobs - logprobs.detach()).exp() * advantage


def loss_by_hand(
    policy: Policy,
    reference: Policy,
    groups: Sequence[Group],
    features: dict[str, ClipFeatures],
    gain: Callable[[Tensor, Tensor, float], Tensor] = plain_gain,
) -> Tensor:
    """The mean over all completions that are not dropped, and the entropy's over all of their tokens; `gain` is of
    log-probs, sampled log-probs and advantage."""
    by_completion = [
        one_completion(policy, reference, group, features[group.prompt.clip.sha256], tokens, advantage, gain)
        for group in groups
        for tokens, advantage in zip(group.completions, by_hand(group.total), strict=True)
        if advantage is not None
    ]
    losses, entropies = zip(*by_completion, strict=True)
    return torch.stack(losses).mean() - ENTROPY_COEFFICIENT * torch.cat(entropies).mean()


def one_completion(
    policy: Policy,
    reference: Policy,
    group: Group,
    clip: ClipFeatures,
    completion: Completion,
    advantage: float,
    gain: Callable[[Tensor, Tensor, float], Tensor],
) -> tuple[Tensor, Tensor]:
    """The mean loss of a token of one completion, which is alone with its prompt, and the entropy of each."""
    prompt = expand_audio(group.prompt.token_ids, policy.audio_token_id, group.prompt.clip.audio_tokens)
    batch = MicroBatch(pack([Sequences(prompt, [completion.token_ids])]), [clip])
    logprobs, entropy = (values.double() for values in policy(batch, entropy="gradient"))
    apart = reference(batch)[0].double() - logprobs
    gained = gain(logprobs, torch.tensor(completion.logprobs).double(), advantage)
    return (-gained + BETA * (apart.exp() - apart - 1)).mean(), entropy


def assert_equal(one: Outcome, other: Outcome, rounding: float = ROUNDING) -> None:
    """Weights, and the first moment, which after one update is a tenth of the gradient before clipping."""
    assert one.state.keys() == other.state.keys()
    largest = max(moment.abs().max() for moment in moments(one).values())
    assert largest > 1e-4
    for name, tensor in one.state.items():
        if name.startswith("exp_avg_sq/"):
            continue
        scale = largest if name.startswith("exp_avg/") else tensor.abs().max()
        difference = (tensor - other.state[name]).norm() / (scale * tensor.numel() ** 0.5)
        assert difference < rounding, f"{name}: {difference}"


def test_a_group_without_variance_is_left_out_where_only_the_advantage_counts(
    outcomes: dict[str, Outcome], model: Path
) -> None:
    skipped, packed = outcomes["no reference"], outcomes["hardly a reference"]
    assert skipped.zero_variance_groups == packed.zero_variance_groups == [1]
    groups, _ = fabricate(str(model))
    idle = groups[TOTALS.index((1.0, 1.0, 1.0))]
    tokens = idle.prompt.expanded_tokens + sum(len(completion.token_ids) - 1 for completion in idle.completions)
    assert packed.packed_tokens[0] - skipped.packed_tokens[0] == tokens
    assert_equal(packed, skipped)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_group_that_scored_alike_has_no_variance_whatever_it_is_compared_by(
    outcomes: dict[str, Outcome], name: str
) -> None:
    assert outcomes[name].zero_variance_groups == [1]


@pytest.mark.parametrize("where", QUIET)
def test_a_step_without_any_variance_moves_nothing_by_the_moments_of_those_before_it(
    outcomes: dict[str, Outcome], where: str
) -> None:
    plain, between = outcomes[f"two updates on {where}"], outcomes[f"two updates and a quiet one on {where}"]
    assert (plain.applied, between.applied) == ([1, 1, 2], [1, 0, 1, 2])
    assert between.zero_variance_groups == [1, len(TOTALS), 1]
    assert [norm > 0 for norm in between.grad_norms] == [True, False, True]
    assert between.state.keys() == plain.state.keys()
    for name, tensor in plain.state.items():
        assert torch.equal(tensor, between.state[name]), name


def test_a_step_without_any_variance_is_measured_and_changes_nothing(outcomes: dict[str, Outcome], model: Path) -> None:
    alike = outcomes["all alike"]
    assert alike.zero_variance_groups == [len(TOTALS)]
    assert (alike.grad_norms, alike.losses) == ([0.0], [0.0])
    assert 0 < alike.packed_tokens[0] <= SMALL
    before = dict(load_tensors(str(model)))
    for name, tensor in alike.state.items():
        part, _, parameter = name.partition("/")
        assert torch.equal(tensor, before[parameter]) if part == "master" else not torch.any(tensor), name


@pytest.mark.parametrize(("where", "what"), [(where, what) for where in BROKEN for what in breaking(where)])
def test_a_step_that_is_not_finite_on_one_rank_is_skipped_on_all_and_changes_nothing(
    outcomes: dict[str, Outcome], what: str, where: str
) -> None:
    plain, between = outcomes[f"whole on {where}"], outcomes[f"broken {what} on {where}"]
    assert between.skipped == [False, True, False]
    assert [math.isfinite(norm) for norm in between.grad_norms] == [True, False, True]
    assert between.grad_norms[::2] == plain.grad_norms
    for name, tensor in plain.state.items():
        assert torch.equal(tensor, between.state[name]), name


def test_every_weight_is_updated(outcomes: dict[str, Outcome]) -> None:
    found = moments(outcomes["whole"])
    idle = [name for name, tensor in found.items() if not torch.any(tensor)]
    assert idle == ["exp_avg/audio_tower.embed_positions.weight"] or not idle


@pytest.mark.parametrize("how", SHARDED)
def test_sharded_ranks_in_bfloat16_go_on_from_what_one_rank_saved(outcomes: dict[str, Outcome], how: str) -> None:
    saved, loaded = outcomes["loaded in bfloat16"], outcomes[f"loaded in bfloat16, ZeRO {how}"]
    assert any(not torch.equal(value, value.bfloat16().float()) for value in saved.state.values())
    for name, tensor in saved.state.items():
        assert torch.equal(tensor, loaded.state[name]), name
    uninterrupted, resumed = outcomes["saved in bfloat16"], outcomes[f"resumed in bfloat16, ZeRO {how}"]
    assert resumed.grad_norms == pytest.approx(uninterrupted.grad_norms[1:], rel=COARSE)


@pytest.mark.parametrize("how", ["2", "3", *(f"{stage}, offload {part}" for stage, part in OFFLOADED)])
def test_two_sharded_ranks_go_on_from_what_one_rank_saved(outcomes: dict[str, Outcome], how: str) -> None:
    uninterrupted, resumed = outcomes["saved"], outcomes[f"resumed, ZeRO {how}"]
    assert resumed.grad_norms == pytest.approx(uninterrupted.grad_norms[1:], rel=ROUNDING)
    assert_equal(uninterrupted, resumed)
    assert resumed.grad_norms[0] != pytest.approx(uninterrupted.grad_norms[0], rel=1e-3)


def test_a_rank_in_bfloat16_goes_on_with_its_float32_weights_and_moments(outcomes: dict[str, Outcome]) -> None:
    uninterrupted, resumed = outcomes["saved in bfloat16"], outcomes["resumed in bfloat16"]
    assert resumed.grad_norms == uninterrupted.grad_norms[1:]
    for name, tensor in uninterrupted.state.items():
        assert torch.equal(tensor, resumed.state[name]), name
    masters = [tensor for name, tensor in resumed.state.items() if name.startswith("master/")]
    assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in masters)
