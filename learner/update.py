"""The GRPO updates of the policy from the groups of a step: one, or several from the same groups.

Every rank sees all groups (without audio they are small), so each computes the same advantages, counts and plan, and
nothing has to be agreed on before the first backward.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from configs.schema import Config
from data.types import ClipFeatures, Group
from learner import advantage, losses
from learner.engine import Engine, finite
from learner.head import Entropy
from learner.off_policy import Importance, importance, older_policy, policy_loss
from learner.packing import Packed, Sequences, pack, plan_micro_batches
from learner.policy import MicroBatch
from learner.result import Advantages, UpdateResult
from learner.schedule import learning_rate

Reference = Callable[[MicroBatch, Entropy], tuple[Tensor, Tensor]]
"""What the KL is measured against, called as a policy is: a frozen copy, or the policy with its adapters off."""


class Update:
    """Applies GRPO updates to an engine; holds the reference policy."""

    def __init__(self, config: Config, engine: Engine, reference: Reference | None) -> None:
        self.config = config
        self.engine = engine
        self.reference = reference

    def __call__(self, groups: Sequence[Group], fetch: Callable[[Group], ClipFeatures], step: int) -> UpdateResult:
        """Update from `groups`; `fetch` gives the features of a group's clip, and is called on the owning rank only."""
        algorithm, settings = self.config.algorithm, self.config.learner
        clock = _Clock(self.engine.device)
        advantages = tuple(advantage.grpo(group.total) for group in groups)
        counted = sum(value is not None for values in advantages for value in values)
        idle = [all(not value for value in values) for values in advantages]
        skip = self.reference is None and not algorithm.entropy_coefficient
        useful = [
            index
            for index, values in enumerate(advantages)
            if any(value is not None for value in values) and not (skip and idle[index])
        ]
        used = useful or [0]  # nothing to learn from: one group of weight 0, so that the step is still a step
        sequences = {index: _sequences(groups[index], advantages[index], self._audio_token_id) for index in used}
        plan = plan_micro_batches(
            [sequences[index].packed_tokens for index in used], self.engine.world_size, settings.micro_batch_tokens
        )
        # a rank without work still takes part in the collectives of the forward, with the least that there is
        idle_index = min(used, key=lambda index: sequences[index].targets)
        predicted = [
            max(sum(sequences[used[member]].targets for member in members) for members in parts)
            for parts in zip(*plan, strict=True)
        ]
        clock("pack")

        def parts() -> Iterator[_Part]:
            for members, most_targets in zip(plan[dist.get_rank()], predicted, strict=True):
                indices = [used[member] for member in members] or [idle_index]
                packed = pack([sequences[index] for index in indices])
                names = [groups[index].prompt.clip.sha256 for index in indices]
                clips = {name: fetch(groups[index]) for name, index in dict(zip(names, indices, strict=True)).items()}
                tokens = _TokenData.of(
                    [groups[i] for i in indices], [advantages[i] for i in indices], packed, counted, step
                )
                batch = MicroBatch(packed, [clips[name] for name in names], most_targets)
                yield _Part(batch, tokens.to(self.engine.device), bool(members), bool(members and useful))

        rate = learning_rate(step, self.config.run.max_steps, settings)
        sums, norms = _Sums(self.engine.device), []
        work = parts() if algorithm.updates_per_step == 1 else list(parts())
        for _ in range(algorithm.updates_per_step):
            for part in work:
                clock("pack")
                loss = self._loss(part, sums, clock)
                finite(loss.detach(), f"the loss of step {step + 1}")
                self.engine.backward(loss)
                part.batch.forget_masks()
                clock("backward")
            norms.append(self.engine.step(rate))
            clock("optimizer")
        totals = sums.over_ranks()
        tokens_seen = max(totals["tokens"], 1.0)
        current = totals["current_tokens"]
        return UpdateResult(
            advantages=advantages,
            loss=totals["loss"],
            kl=totals["kl"] / tokens_seen,
            entropy=totals["entropy"] / tokens_seen,
            grad_norm=max(norms),
            learning_rate=rate,
            logprob_difference_max=totals["difference_max"] if current else None,
            logprob_difference_mean=totals["difference"] / current if current else None,
            off_policy={
                "ratio_mean": totals["ratio"] / tokens_seen,
                "ratio_max": totals["ratio_max"],
                "clipped": totals["cut"] / tokens_seen,
                "further_clipped": totals["further_cut"] / max(totals["further_tokens"], 1.0),
                "masked": totals["masked"] / tokens_seen,
                "effective_sample_size": totals["weight"] ** 2 / max(totals["weight_squared"] * tokens_seen, 1e-12),
                "logprob_difference_mean": totals["off_policy_difference"] / tokens_seen,
                "logprob_difference_max": totals["off_policy_difference_max"],
            },
            zero_variance_groups=sum(idle),
            completions=counted,
            packed_tokens=int(totals["packed"]),
            seconds=clock.seconds,
        )

    @property
    def _audio_token_id(self) -> int:
        return self.engine.policy.audio_token_id

    def _loss(self, part: _Part, sums: _Sums, clock: _Clock) -> Tensor:
        """This part's share of the objective; the first time it keeps what the further updates need of the first."""
        algorithm, tokens, first = self.config.algorithm, part.tokens, part.first
        reference = self._reference_logprobs(part.batch) if first is None else first.reference
        clock("reference")
        logprobs, entropy = self.engine.forward(part.batch, "gradient" if algorithm.entropy_coefficient else "value")
        if first is None:
            found = importance(logprobs, tokens.sampled_logprobs, tokens.advantages, tokens.owners, algorithm)
            part.first = _First(logprobs.detach(), reference, found)
        else:
            found = first.importance
        older = older_policy(tokens.sampled_logprobs, None if first is None else first.logprobs, algorithm)
        loss = losses.grpo(
            policy_loss(logprobs, older, tokens.advantages, found, algorithm),
            logprobs,
            entropy,
            tokens.weights * part.weighted,
            reference,
            algorithm.beta,
            algorithm.entropy_coefficient,
        )
        if part.planned and len(logprobs):
            if older is None or first is None:
                sums.add(loss, logprobs, entropy, reference, tokens, found, part.batch.packed)
            else:
                sums.add_further(losses.gains_nothing(torch.exp(logprobs - older), tokens.advantages, algorithm.clip))
        clock("forward")
        return loss

    def _reference_logprobs(self, batch: MicroBatch) -> Tensor | None:
        if self.reference is None:
            return None
        with torch.no_grad():
            return self.reference(batch, "none")[0]


def _sequences(group: Group, advantages: Advantages, audio_token_id: int) -> Sequences:
    """The group's token ids, with the clip expanded and dropped completions empty."""
    completions = [
        completion.token_ids if value is not None else ()
        for completion, value in zip(group.completions, advantages, strict=True)
    ]
    return Sequences(expand_audio(group.prompt.token_ids, audio_token_id, group.prompt.clip.audio_tokens), completions)


def expand_audio(token_ids: Sequence[int], audio_token_id: int, audio_tokens: int) -> list[int]:
    """The prompt as the language model sees it: the placeholder repeated once for each audio position.

    >>> expand_audio([5, 9, 6], 9, 3)
    [5, 9, 9, 9, 6]
    """
    place = list(token_ids).index(audio_token_id)
    return [*token_ids[:place], *[audio_token_id] * audio_tokens, *token_ids[place + 1 :]]


@dataclass(frozen=True, slots=True)
class _TokenData:
    """What the loss needs beside the forward, one value a predicted token, (N,)."""

    advantages: Tensor
    weights: Tensor
    sampled_logprobs: Tensor
    owners: Tensor
    current: Tensor
    """Whether the version that learns made all of the token's group."""

    @classmethod
    def of(
        cls, groups: Sequence[Group], advantages: Sequence[Advantages], packed: Packed, completions: int, version: int
    ) -> _TokenData:
        flat = [
            (completion, value)
            for group, values in zip(groups, advantages, strict=True)
            for completion, value in zip(group.completions, values, strict=True)
        ]
        by_completion = torch.tensor([value or 0.0 for _, value in flat])  # (C,)
        weight = torch.tensor(
            [losses.sequence_mean_weight(max(len(completion.token_ids), 1), completions) for completion, _ in flat]
        )  # (C,)
        owners = torch.from_numpy(packed.owners)
        sampled = [logprob for completion, value in flat if value is not None for logprob in completion.logprobs]
        current = torch.tensor([group.is_of(version) for group in groups for _ in group.completions])  # (C,)
        return cls(by_completion[owners], weight[owners], torch.tensor(sampled), owners, current[owners])

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

    batch: MicroBatch
    tokens: _TokenData
    planned: bool
    """Whether it is of the plan; a rank without work computes the least that there is."""
    weighted: bool
    """Whether its loss counts."""
    first: _First | None = None


class _Sums:
    """Sums over micro-batches, reduced over ranks once a step."""

    SUMS = (
        "loss", "kl", "entropy", "tokens", "packed", "current_tokens", "difference", "off_policy_difference",
        "ratio", "weight", "weight_squared", "cut", "masked", "further_cut", "further_tokens",
    )  # fmt: skip
    LARGEST = ("difference_max", "off_policy_difference_max", "ratio_max")

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(len(self.SUMS), dtype=torch.float64, device=device)
        self.largest = torch.zeros(len(self.LARGEST), dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(
        self,
        loss: Tensor,
        logprobs: Tensor,
        entropy: Tensor,
        reference: Tensor | None,
        tokens: _TokenData,
        ratios: Importance,
        packed: Packed,
    ) -> None:
        difference = (logprobs - tokens.sampled_logprobs).abs()  # (N,)
        current = difference * tokens.current  # (N,)
        kl = losses.kl_k3(logprobs, reference).sum() if reference is not None else 0.0
        values: dict[str, Tensor | float] = {
            "loss": loss,
            "kl": kl,
            "entropy": entropy.sum(),
            "tokens": len(logprobs),
            "packed": len(packed.token_ids),
            "current_tokens": tokens.current.sum(),
            "difference": current.sum(),
            "off_policy_difference": difference.sum(),
            "ratio": ratios.ratios.sum(),
            "weight": ratios.weights.sum(),
            "weight_squared": ratios.weights.square().sum(),
            "cut": ratios.cut.sum(),
            "masked": ratios.masked.sum(),
        }
        largest = torch.stack([current.max(), difference.max(), ratios.ratios.max()]).double()
        self._add(values)
        self.largest = torch.maximum(self.largest, largest)

    def add_further(self, cut: Tensor) -> None:
        """Of a further update: whether each token's gain is clipped, (N,)."""
        self._add({"further_cut": cut.sum(), "further_tokens": len(cut)})

    def _add(self, values: Mapping[str, Tensor | float]) -> None:
        self.sums += torch.stack([torch.as_tensor(values.get(name, 0.0)).to(self.sums) for name in self.SUMS])

    def over_ranks(self) -> Mapping[str, float]:
        dist.all_reduce(self.sums)
        dist.all_reduce(self.largest, op=dist.ReduceOp.MAX)
        return dict(zip(self.SUMS + self.LARGEST, [*self.sums.tolist(), *self.largest.tolist()], strict=True))


class _Clock:
    """Adds the time since the last call to a phase, once what was started on the device is done."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def __call__(self, phase: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self.last
        self.last = now
