"""What an update tells of itself. Imports nothing heavy: the control loop reads it."""

from __future__ import annotations

from dataclasses import dataclass

Advantages = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """What one update did; means are over the trained tokens or completions of all ranks."""

    advantages: tuple[Advantages, ...]
    """One tuple a group, in the order given; None for a dropped completion."""
    loss: float
    kl: float
    """Mean k3 estimate against the reference, in nats; 0 where beta is 0."""
    entropy: float
    """Mean token entropy, in nats."""
    grad_norm: float
    learning_rate: float
    logprob_difference_max: float
    """Largest |log-prob(engine) - log-prob(learner)| of a token."""
    logprob_difference_mean: float
    zero_variance_groups: int
    completions: int
    """Completions that count in the mean."""
    packed_tokens: int
    """Positions that went through the policy."""
    seconds: dict[str, float]
    """By phase: pack, forward, backward, optimizer."""
