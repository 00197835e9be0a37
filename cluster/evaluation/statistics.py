"""Means with intervals. Resampling is by recording: questions about one are not independent (docs/decisions/0006)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2_000
ENDS = (0.025, 0.975)
"""Of a 95% interval."""
CHANCE_SEED = 0

MOST_DRAWS = 4_000_000
"""Recordings that are drawn at a time, over several resamples: bounds the memory, and changes no interval."""


def estimated(columns: Mapping[str, Sequence[float]], clusters: Sequence[str]) -> dict[str, Any]:
    """The mean of each column as `NAME`, and its 95% interval as `NAME_interval`; both None where there is no value.

    The intervals are percentiles of a bootstrap that resamples whole clusters with replacement.

    Args:
        columns: by name, one value a question, for example 1.0 where the answer was right, or a paired difference.
        clusters: the recording that each question is about.
    """
    if not clusters:
        return {key: None for name in columns for key in (name, f"{name}_interval")}
    values = np.column_stack([np.asarray(column, float) for column in columns.values()])  # (questions, columns)
    bounds = _intervals(values, clusters)
    return {
        key: value
        for name, mean, (low, high) in zip(columns, values.mean(0), bounds, strict=True)
        for key, value in ((name, float(mean)), (f"{name}_interval", [float(low), float(high)]))
    }


def _intervals(values: NDArray[np.float64], clusters: Sequence[str]) -> NDArray[np.float64]:
    """Percentile intervals, (columns, 2), of the means of values (questions, columns) from the same resamples."""
    numbers = {name: number for number, name in enumerate(sorted(set(clusters)))}
    member = np.array([numbers[name] for name in clusters])
    counts = np.bincount(member)
    sums = np.column_stack([np.bincount(member, weights=column) for column in values.T] + [counts])
    generator = np.random.default_rng(CHANCE_SEED)
    at_once = max(MOST_DRAWS // len(counts), 1)
    parts = [
        _times_drawn(generator, min(at_once, RESAMPLES - start), len(counts)) @ sums
        for start in range(0, RESAMPLES, at_once)
    ]
    totals = np.concatenate(parts)  # (resamples, columns + 1), the number of questions last
    bounds: NDArray[np.float64] = np.quantile(totals[:, :-1] / totals[:, -1:], ENDS, axis=0)
    return bounds.T


def _times_drawn(generator: np.random.Generator, resamples: int, clusters: int) -> NDArray[np.float64]:
    """How often each cluster comes up in as many draws with replacement as there are clusters.

    Gives (resamples, clusters).
    """
    draws = generator.integers(0, clusters, (resamples, clusters))
    flat = (draws + np.arange(resamples)[:, None] * clusters).ravel()
    return np.bincount(flat, minlength=resamples * clusters).reshape(resamples, clusters).astype(float)
