"""The policy-gradient updates from the groups of a step: one, or several from the same groups.

Every rank sees all groups (without audio they are small), so each computes the same advantages, counts and plan, and
nothing has to be agreed on before the first backward. A loss or gradient that is not finite on one of them is found by
all in the norm of the gradient, and none updates. So it is too where no group has anything to learn from: every
rank then measures one group and takes no step, since AdamW's moments would move the weights by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.schema import Config
from data.types import ClipFeatures, Group
from learner import losses
from learner.advantage import Values, advantages
from learner.clock import PhaseClock
from learner.engine import Engine
from learner.head import Entropy
from learner.kl_reward import less_kl
from learner.micro_batches import Share, shares
from learner.off_policy import Importance, importance, policy_loss
from learner.packing import Packed, Sequences
from learner.policy import MicroBatch
from learner.result import UpdateResult
from learner.schedule import learning_rate
from learner.sums import Sums

Reference = Callable[[MicroBatch, Entropy], tuple[Tensor, Tensor]]
"""What the KL is measured against, called as a policy is: a frozen copy, or the policy with its adapters off."""

GroupLogprobs = Mapping[int, Sequence[NDArray[np.float32]]]
"""By index of a group: one array a completion, a log-prob a token, in nats; empty where a completion is not trained."""

SUMS = (
    "loss", "kl", "entropy", "tokens", "packed", "current_tokens", "difference", "off_policy_difference",
    "ratio", "weight", "weight_squared", "cut", "masked", "further_cut", "further_tokens",
)  # fmt: skip
LARGEST = ("difference_max", "off_policy_difference_max", "ratio_max")


class Update:
    """Applies policy-gradient updates to an engine; holds the reference policy."""

    def __init__(self, config: Config, engine: Engine, reference: Reference | None) -> None:
        self.config = config
        self.engine = engine
        self.reference = reference
        self.logprobs: GroupLogprobs = {}
        """Of the last call, as far as this rank computed them, from before its first update."""

    def __call__(self, groups: Sequence[Group], fetch: Callable[[Group], ClipFeatures], step: int) -> UpdateResult:
        """Update from `groups`; `fetch` gives the features of a group's clip, and is called on the owning rank only."""
        algorithm = self.config.algorithm
        clock = PhaseClock(self.engine.device)
        rewards, kl_of_rewards = self._rewards(groups, fetch)
        clock("reference")
        found = advantages(rewards, algorithm.advantage)
        trained = found if not algorithm.mask_truncated else tuple(map(_whole_ones, groups, found))
        counts = _Counts.of(groups, trained)
        useful = self._useful(trained)
        used = useful or [0]  # nothing to learn from: one group is measured
        steps = len(useful) > 0
        sequences = {index: self._sequences(groups[index], trained[index]) for index in used}
        clock("pack")

        def parts() -> Iterator[_Part]:
            for share in shares(
                sequences,
                lambda index: groups[index].prompt.clip.sha256,
                lambda index: fetch(groups[index]),
                self.config.learner.micro_batch_tokens,
            ):
                tokens = self._tokens(share, groups, trained, counts, step)
                weighted = share.planned and steps
                yield _Part(share.indices, share.batch, tokens.to(self.engine.device), share.planned, weighted)

        rate = learning_rate(step, self.config.run.max_steps, self.config.learner)
        sums = Sums(SUMS, LARGEST, self.engine.device)
        norms: list[float] = []
        first: list[tuple[tuple[int, ...], Tensor, Tensor]] = []  # of each micro-batch
        work: Iterable[_Part] = parts() if algorithm.updates_per_step == 1 else list(parts())
        for _ in range(algorithm.updates_per_step):
            for part in work:
                clock("pack")
                with torch.set_grad_enabled(steps):
                    loss = self._loss(part, counts, sums, clock)
                if steps:
                    self.engine.backward(loss)
                part.batch.forget_masks()
                if part.planned and part.first is not None and not norms:
                    first.append((part.indices, part.tokens.owners, part.first.logprobs))
                clock("backward")
            if not steps:
                break
            norms.append(self.engine.step(rate))
            clock("optimizer")
            if not math.isfinite(norms[-1]):
                break
        self.logprobs = dict(item for part in first for item in _by_group(groups, *part))
        rank_tokens, totals = int(sums["packed"]), sums.over_ranks()
        tokens_seen = max(totals["tokens"], 1.0)
        current = totals["current_tokens"]
        made = [norm for norm in norms if math.isfinite(norm)]
        return UpdateResult(
            advantages=trained,
            loss=totals["loss"],
            kl=totals["kl"] / tokens_seen if self._kl_in_loss else kl_of_rewards,
            entropy=totals["entropy"] / tokens_seen,
            grad_norm=max(made or norms, default=0.0),
            learning_rate=rate,
            updates=len(made),
            skipped=not made and not math.isfinite(norms[0] if norms else totals["loss"]),
            logprob_difference_max=totals["difference_max"] if current else None,
            logprob_difference_mean=totals["difference"] / current if current else None,
            off_policy=_off_policy(totals, tokens_seen),
            zero_variance_groups=sum(_alike(group.total) for group in groups),
            packed_tokens=int(totals["packed"]),
            rank_tokens=rank_tokens,
            seconds=clock.seconds,
        )

    def _useful(self, trained: Sequence[Values]) -> list[int]:
        """The groups that there is something to learn from."""
        skip = not self._kl_in_loss and not self.config.algorithm.entropy_coefficient
        return [
            index
            for index, values in enumerate(trained)
            if any(value is not None for value in values) and not (skip and not any(values))
        ]

    @property
    def _kl_in_loss(self) -> bool:
        return self.reference is not None and self.config.algorithm.kl_in == "loss"

    def _rewards(
        self, groups: Sequence[Group], fetch: Callable[[Group], ClipFeatures]
    ) -> tuple[Sequence[Sequence[float | None]], float]:
        """What the completions are compared by, and the mean KL of a token where that is a part of it."""
        totals = [group.total for group in groups]
        algorithm = self.config.algorithm
        if self.reference is None or algorithm.kl_in == "loss":
            return totals, 0.0
        sequences = [self._sequences(group, group.total) for group in groups]
        return less_kl(groups, sequences, self.reference, fetch, algorithm, self.config.learner.micro_batch_tokens)

    def _sequences(self, group: Group, values: Sequence[float | None]) -> Sequences:
        """The group's token ids, with the clip expanded and completions without a value empty."""
        completions = [
            completion.token_ids if value is not None else ()
            for completion, value in zip(group.completions, values, strict=True)
        ]
        return Sequences.of(group.prompt, completions, self.engine.policy.audio_token_id)

    def _tokens(
        self, share: Share, groups: Sequence[Group], trained: Sequence[Values], counts: _Counts, step: int
    ) -> _TokenData:
        """What the loss needs of a micro-batch's tokens."""
        flat = [
            (completion, value)
            for index in share.indices
            for completion, value in zip(groups[index].completions, trained[index], strict=True)
        ]
        mean, most = self.config.algorithm.mean, self.config.rollout.max_completion_tokens
        weights = [
            losses.token_weight(mean, len(completion.token_ids), counts.completions, counts.tokens, most)
            for completion, _ in flat
        ]
        sampled = [logprob for completion, value in flat if value is not None for logprob in completion.logprobs]
        current = [groups[index].is_of(step) for index in share.indices for _ in groups[index].completions]
        owners = torch.from_numpy(share.batch.packed.owners)  # (N,)
        return _TokenData(
            torch.tensor([value or 0.0 for _, value in flat])[owners],
            torch.tensor(weights)[owners],
            torch.tensor(sampled),
            owners,
            torch.tensor(current)[owners],
        )

    def _loss(self, part: _Part, counts: _Counts, sums: Sums, clock: PhaseClock) -> Tensor:
        """This part's share of the objective; the first time it keeps what the further updates need of the first."""
        algorithm, tokens, first = self.config.algorithm, part.tokens, part.first
        reference = self._reference_logprobs(part.batch) if first is None else first.reference
        clock("reference")
        logprobs, entropy = self.engine.forward(part.batch, "gradient" if algorithm.entropy_coefficient else "value")
        if first is None:
            found = importance(logprobs, tokens.sampled_logprobs, tokens.owners, algorithm)
            part.first = _First(logprobs.detach(), reference, found)
        else:
            found = first.importance
        before = None if first is None else first.logprobs
        gained, cut = policy_loss(
            logprobs, tokens.sampled_logprobs, before, tokens.advantages, tokens.owners, found, algorithm
        )
        kl = None if reference is None else losses.KL[algorithm.kl](logprobs, reference)
        weights = tokens.weights * part.weighted
        bonus = algorithm.entropy_coefficient * part.weighted / max(counts.tokens, 1)
        loss = losses.objective(gained, kl, entropy, weights, algorithm.beta, bonus)
        if part.planned and len(logprobs) and first is None:
            values = {"loss": loss, "kl": 0.0 if kl is None else kl.sum(), "entropy": entropy.sum()}
            sums.add(values | _told(logprobs, tokens, found, cut, part.batch.packed))
        elif part.planned and len(logprobs):
            sums.add({"further_cut": cut.sum(), "further_tokens": len(cut)})
        clock("forward")
        return loss

    def _reference_logprobs(self, batch: MicroBatch) -> Tensor | None:
        if self.reference is None or not self._kl_in_loss:
            return None
        with torch.no_grad():
            return self.reference(batch, "none")[0]


@dataclass(frozen=True, slots=True)
class _Counts:
    """What of the step is trained, over all ranks."""

    completions: int
    tokens: int

    @classmethod
    def of(cls, groups: Sequence[Group], trained: Sequence[Values]) -> _Counts:
        lengths = [
            len(completion.token_ids)
            for group, values in zip(groups, trained, strict=True)
            for completion, value in zip(group.completions, values, strict=True)
            if value is not None
        ]
        return cls(len(lengths), sum(lengths))


@dataclass(frozen=True, slots=True)
class _TokenData:
    """What the loss needs beside the forward, one value a predicted token, (N,)."""

    advantages: Tensor
    weights: Tensor
    sampled_logprobs: Tensor
    owners: Tensor
    current: Tensor
    """Whether the version that learns made all of the token's group."""

    def to(self, device: torch.device) -> _TokenData:
        """Where the log-probs are."""
        return _TokenData(*(getattr(self, name).to(device) for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class _First:
    """What the first update found of a micro-batch, (N,) each."""

    logprobs: Tensor
    """Of the policy before it: the proximal one of the further updates."""
    reference: Tensor | None
    importance: Importance


@dataclass(slots=True)
class _Part:
    """A micro-batch of this rank."""

    indices: tuple[int, ...]
    """Of its groups."""
    batch: MicroBatch
    tokens: _TokenData
    planned: bool
    """Whether it is of the plan; see `learner.micro_batches`."""
    weighted: bool
    """Whether its loss counts."""
    first: _First | None = None


def _by_group(
    groups: Sequence[Group], indices: Sequence[int], owners: Tensor, logprobs: Tensor
) -> Iterator[tuple[int, list[NDArray[np.float32]]]]:
    """A micro-batch's log-probs (N,) by index of the group, one array a completion."""
    counts = [len(groups[index].completions) for index in indices]
    lengths = torch.bincount(owners, minlength=sum(counts)).tolist()
    parts = iter(logprobs.float().cpu().split(lengths))
    for index, count in zip(indices, counts, strict=True):
        yield index, [next(parts).numpy() for _ in range(count)]


def _whole_ones(group: Group, values: Values) -> Values:
    """The advantages without those of completions that ended at the token limit."""
    return tuple(
        None if completion.finish_reason == "length" else value
        for completion, value in zip(group.completions, values, strict=True)
    )


def _alike(values: Values) -> bool:
    """Whether a group has completions to compare, and they scored alike."""
    kept = [value for value in values if value is not None]
    return len(kept) > 1 and len(set(kept)) == 1


def _off_policy(totals: Mapping[str, float], tokens: float) -> dict[str, float]:
    """How far so many tokens are from the policy that learns; see `UpdateResult`."""
    return {
        "ratio_mean": totals["ratio"] / tokens,
        "ratio_max": totals["ratio_max"],
        "clipped": totals["cut"] / tokens,
        "further_clipped": totals["further_cut"] / max(totals["further_tokens"], 1.0),
        "masked": totals["masked"] / tokens,
        "effective_sample_size": totals["weight"] ** 2 / max(totals["weight_squared"] * tokens, 1e-12),
        "logprob_difference_mean": totals["off_policy_difference"] / tokens,
        "logprob_difference_max": totals["off_policy_difference_max"],
    }


def _told(
    logprobs: Tensor, tokens: _TokenData, ratios: Importance, cut: Tensor, packed: Packed
) -> dict[str, Tensor | float]:
    """What a micro-batch adds to the figures of its step."""
    difference = (logprobs.detach() - tokens.sampled_logprobs).abs()  # (N,)
    current = difference * tokens.current  # (N,)
    return {
        "tokens": len(logprobs),
        "packed": len(packed.token_ids),
        "current_tokens": tokens.current.sum(),
        "difference": current.sum(),
        "off_policy_difference": difference.sum(),
        "ratio": ratios.ratios.sum(),
        "weight": ratios.weights.sum(),
        "weight_squared": ratios.weights.square().sum(),
        "cut": (ratios.cut | cut).sum(),
        "masked": ratios.masked.sum(),
        "difference_max": current.max(),
        "off_policy_difference_max": difference.max(),
        "ratio_max": ratios.ratios.max(),
    }
