"""The curves of `bench.scale`: throughput, staleness, idle shares and the best split, in one picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.forecast.simulation import Outcome
from cluster.forecast.splits import Split

Outcomes = Mapping[tuple[int, int, int], Outcome]
"""By engines, ranks and the bound of staleness."""


def plot(outcomes: Outcomes, splits: Mapping[int, Split | None], path: Path) -> None:
    """Draw a sweep.

    Args:
        outcomes: of the sweep.
        splits: the best of each number of devices.
        path: PNG file.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(16, 3.8), layout="constrained")
    first = min(staleness for _, _, staleness in outcomes)
    _throughput(axes[0], outcomes, first)
    _staleness(axes[1], outcomes)
    _idle(axes[2], outcomes, first)
    _splits(axes[3], splits)
    for axis in axes:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _lines(outcomes: Outcomes, staleness: int) -> dict[int, list[tuple[int, Outcome]]]:
    """Outcomes over engines, by ranks."""
    found: dict[int, list[tuple[int, Outcome]]] = {}
    for (engines, ranks, own), outcome in sorted(outcomes.items()):
        if own == staleness:
            found.setdefault(ranks, []).append((engines, outcome))
    return dict(sorted(found.items()))


def _ranks(ranks: int) -> str:
    return f"{ranks} rank{'s' * (ranks > 1)}"


def _throughput(axis: Any, outcomes: Outcomes, staleness: int) -> None:
    """By ranks with the first bound, and with the others where they were simulated."""
    for bound in sorted({bound for _, _, bound in outcomes}):
        for ranks, line in _lines(outcomes, bound).items():
            points = ((engines, one.completions_per_second) for engines, one in line)
            further = f", max_staleness {bound}" if bound != staleness else ""
            axis.plot(*zip(*points, strict=True), ":" if further else "o-", ms=3, label=f"{_ranks(ranks)}{further}")
    axis.set_yscale("log")
    axis.set_title(f"completions a second, max_staleness {staleness}", fontsize=9)
    axis.set_xlabel("engines")


def _staleness(axis: Any, outcomes: Outcomes) -> None:
    """Of the largest number of ranks that every bound was simulated with."""
    bounds = sorted({staleness for _, _, staleness in outcomes})
    ranks = max(set.intersection(*({own for _, own, one in outcomes if one == bound} for bound in bounds)))
    for bound in bounds:
        line = _lines(outcomes, bound)[ranks]
        axis.plot(*zip(*((engines, one.mean_staleness) for engines, one in line), strict=True), "o-", ms=3,
                  label=f"max_staleness {bound}")  # fmt: skip
    axis.set_title(f"mean staleness of trained groups, {_ranks(ranks)}", fontsize=9)
    axis.set_xlabel("engines")


def _idle(axis: Any, outcomes: Outcomes, staleness: int) -> None:
    lines = _lines(outcomes, staleness)
    for number, ranks in enumerate((min(lines), max(lines))):
        of = _ranks(ranks)
        for share, style in (("engine_idle", "o-"), ("learner_idle", "o--")):
            points = ((engines, getattr(one, share)) for engines, one in lines[ranks])
            who = "engines" if share == "engine_idle" else "learner"
            axis.plot(*zip(*points, strict=True), style, ms=3, color=f"C{number}", label=f"{who}, {of}")
    axis.set_ylim(0, 1)
    axis.set_title("idle share of their time", fontsize=9)
    axis.set_xlabel("engines")


def _splits(axis: Any, splits: Mapping[int, Split | None]) -> None:
    found = {devices: split for devices, split in splits.items() if split is not None}
    axis.plot(list(found), [split.engines for split in found.values()], "o-", ms=3, label="engines")
    axis.plot(list(found), [split.ranks for split in found.values()], "o-", ms=3, label="ranks")
    axis.set_yscale("log", base=2)
    axis.yaxis.set_major_formatter("{x:.0f}")
    axis.set_title("the best split", fontsize=9)
    axis.set_xlabel("devices")
