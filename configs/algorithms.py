"""The algorithms by name: what a configuration's `algorithm` holds where it does not say otherwise.

An algorithm is made of the same parts as any other: an advantage, a surrogate, the mean that weighs tokens, a KL and
what becomes of groups without a signal. `learner.advantage`, `learner.losses` and `rewards.overlong` have the formulas.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Name = Literal["grpo", "dr_grpo", "dapo", "rloo", "reinforce_plus_plus", "gspo", "cispo", "sft"]
Advantage = Literal["standardised", "centred", "leave_one_out", "batch_standardised"]
Surrogate = Literal["clipped", "sequence", "completion", "weighted"]
Mean = Literal["sequence", "token", "constant", "sum"]
KlEstimator = Literal["k1", "k2", "k3"]

ONE_RATIO: tuple[Surrogate, ...] = ("sequence", "completion")
"""Surrogates that have one ratio for all tokens of a completion."""

OVERLONG = "overlong"
"""Among rewards, what `overlong_share` takes off."""

GRPO: dict[str, Any] = {
    "beta": 0.04,
    "kl": "k3",
    "kl_in": "loss",
    "advantage": "standardised",
    "surrogate": "clipped",
    "clip": (0.2, 0.2),
    "mean": "sequence",
    "dynamic_sampling": False,
    "overlong_share": 0.0,
}
"""As in R1-AQA (arXiv 2503.11197): DeepSeekMath's GRPO with its mean over a completion's tokens."""

ALGORITHMS: Mapping[str, dict[str, Any]] = {
    "grpo": GRPO,
    "dr_grpo": GRPO | {"beta": 0.0, "advantage": "centred", "mean": "constant"},
    "dapo": GRPO | {"beta": 0.0, "clip": (0.2, 0.28), "mean": "token", "dynamic_sampling": True, "overlong_share": 0.2},
    "rloo": GRPO
    | {
        "beta": 0.03,
        "kl": "k1",
        "kl_in": "reward",
        "advantage": "leave_one_out",
        "surrogate": "completion",
        "mean": "sum",
    },
    "reinforce_plus_plus": GRPO | {"beta": 0.01, "kl": "k2", "advantage": "batch_standardised"},
    "gspo": GRPO | {"beta": 0.0, "surrogate": "sequence", "clip": (3e-4, 4e-4)},
    "cispo": GRPO | {"beta": 0.0, "surrogate": "weighted", "clip": (1.0, 4.0), "mean": "token"},
    "sft": GRPO | {"beta": 0.0},
}
"""By `algorithm.name`: the values of these keys. Where a paper leaves one open, docs/algorithms.md says so."""

SOURCES: Mapping[str, str] = {
    "grpo": "arXiv 2402.03300, as in 2503.11197",
    "dr_grpo": "arXiv 2503.20783",
    "dapo": "arXiv 2503.14476",
    "rloo": "arXiv 2402.14740",
    "reinforce_plus_plus": "arXiv 2501.03262, with baseline",
    "gspo": "arXiv 2507.18071",
    "cispo": "arXiv 2506.13585",
    "sft": "supervised fine-tuning; no part of the table counts",
}
"""Where each is from."""
