"""What changes over the steps of a run, as the page draws it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MOST_POINTS = 1_500
"""Of a curve; of a longer run each point is the mean of as many steps as it takes."""

SECONDS_PER_HOUR = 3600.0


def curves(lines: Sequence[Mapping[str, Any]], keys: Sequence[str], most: int = MOST_POINTS) -> dict[str, Any]:
    """Columns of steps, of hours since the run began, and of the values of each key.

    Args:
        lines: of `metrics.jsonl`, flat.
        keys: names with dots; one that ends with a dot stands for all that begin so.
        most: points of each column.
    """
    names = [name for key in keys for name in _names(lines, key)]
    if not lines:
        return {"step": [], "hours": [], "values": {}}
    began = lines[0]["time"] - lines[0]["step_seconds"]
    step = thin([line["step"] for line in lines], most)
    hours = thin([(line["time"] - began) / SECONDS_PER_HOUR for line in lines], most)
    return {
        "step": step,
        "hours": hours,
        "values": {name: thin([line.get(name) for line in lines], most) for name in dict.fromkeys(names)},
    }


def thin(values: Sequence[float | None], most: int) -> list[float | None]:
    """The values, or where there are more than `most` the means of blocks of equal length; None where there is none."""
    each = -(-len(values) // most)
    if each <= 1:
        return list(values)
    column = np.array([np.nan if value is None else value for value in values], float)
    padded = np.append(column, np.full(-len(column) % each, np.nan)).reshape(-1, each)
    there = ~np.isnan(padded)
    counts = there.sum(1)
    means = np.where(there, padded, 0.0).sum(1) / np.maximum(counts, 1)
    return [float(mean) if count else None for mean, count in zip(means, counts, strict=True)]


def _names(lines: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """The keys of any line that a name stands for."""
    if not key.endswith("."):
        return [key] if any(key in line for line in lines) else []
    return sorted({name for line in lines for name in line if name.startswith(key)})
