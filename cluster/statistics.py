"""Accuracy with intervals. Resampling is by clip: questions about one recording are not independent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2_000
CHANCE_SEED = 0


def cluster_bootstrap(
    values: Sequence[float], clusters: Sequence[str], level: float = 0.95, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Percentile interval of the mean of `values`, resampling whole clusters with replacement.

    Args:
        values: one a question, for example 1.0 where the answer was right, or a paired difference.
        clusters: the recording that each question is about.
        level: coverage.
        resamples: bootstrap draws, from a fixed seed.
    """
    if not values:
        return (float("nan"), float("nan"))
    _, member = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(member, weights=np.asarray(values, float))  # (clusters,)
    counts = np.bincount(member).astype(float)
    draws: NDArray[np.int64] = np.random.default_rng(CHANCE_SEED).integers(0, len(sums), (resamples, len(sums)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
