"""What an update tells of itself. Imports nothing heavy: the control loop reads it."""

from __future__ import annotations

from dataclasses import dataclass

from learner.advantage import Values


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """What a step did; means are over the trained tokens or completions of all ranks.

    Where a step makes several updates, they tell of the first, but where it is said.
    """

    advantages: tuple[Values, ...]
    """One tuple a group, in the order given; None for a completion that was dropped or is not trained."""
    loss: float
    kl: float
    """Mean of `algorithm.kl`'s estimate of a token's KL against the reference, in nats; 0 where beta is 0."""
    entropy: float
    """Mean token entropy, in nats."""
    grad_norm: float
    """Before clipping; the largest of the step's updates."""
    learning_rate: float
    updates: int
    """Optimizer updates that were made: none where no group had anything to learn from, and the weights are as before.
    """
    skipped: bool
    """Whether nothing was learned, since loss or gradient was NaN or infinite. Where that comes with a later update of
    the step, it ends with the ones that were made."""
    logprob_difference_max: float | None
    """Largest |log-prob(engine) - log-prob(learner)| of a token, of the groups that are wholly of the learner's
    version; None where no group is."""
    logprob_difference_mean: float | None
    zero_variance_groups: int
    """Groups of at least two scored completions that all have the same reward."""
    packed_tokens: int
    """Positions that went through the policy."""
    rank_tokens: int
    """Those of this rank alone."""
    seconds: dict[str, float]
    """By phase: pack, reference, forward, backward, optimizer; of all updates."""
    off_policy: dict[str, float]
    """How far all tokens are from the policy that learns, before the update: `ratio_mean`, `ratio_max`, the shares
    `clipped` and `masked`, `effective_sample_size` as a share of the tokens, and the absolute difference of their
    log-probs, `logprob_difference_mean` and `logprob_difference_max`. Of a step's further updates
    `further_clipped`, the share of tokens whose gain was clipped; 0 where there are none."""


@dataclass(frozen=True, slots=True)
class LessonResult:
    """What a supervised step did."""

    loss: float
    """Mean negative log-prob of an answer's token, in nats."""
    grad_norm: float
    """Before clipping."""
    learning_rate: float
    updates: int
    """1, or 0 where loss or gradient was NaN or infinite, and the weights are as before."""
    answer_tokens: int
    packed_tokens: int
    """Positions that went through the policy."""
    rank_tokens: int
    """Those of this rank alone."""
    seconds: dict[str, float]
    """By phase: pack, forward, backward, optimizer."""

    @property
    def skipped(self) -> bool:
        """Whether nothing was learned, since loss or gradient was not finite."""
        return not self.updates
