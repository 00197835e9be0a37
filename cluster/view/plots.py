"""The curves of a run as pictures, for a report and for a paper."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.view.curves import curves
from cluster.view.run import ViewedRun

Axis = Any
"""Of matplotlib."""

CURVES = {
    "reward": ("Reward", ("reward_mean",), "linear"),
    "accuracy": ("Accuracy of what is sampled", ("accuracy",), "linear"),
    "kl": ("KL to the reference, nats a token", ("kl",), "linear"),
    "entropy": ("Entropy, nats a token", ("entropy",), "linear"),
    "length": ("Length of completions, tokens", ("completion_tokens_mean",), "linear"),
    "staleness": ("Staleness of the oldest token, versions", ("staleness_max",), "linear"),
    "mismatch": ("Log-prob mismatch, nats", ("logprob_difference_max", "logprob_difference_mean"), "log"),
    "speed": ("Tokens a second", ("tokens_per_second",), "linear"),
    "loss": ("Loss", ("loss",), "linear"),
}
"""By the name of the picture: its title, the keys of `metrics.jsonl`, and the scale of its values."""

SIZE_INCHES, DOTS_PER_INCH = (5.2, 2.7), 150
WINDOW_SHARE = 20
"""The line in front is the mean over this part of the steps, the one behind it what each step gave."""


def plots(run: ViewedRun) -> dict[str, tuple[str, Callable[[Axis], None]]]:
    """Title and drawing of every picture that there is something to draw for, by name."""
    lines = run.lines()
    found: dict[str, tuple[str, Callable[[Axis], None]]] = {}
    for name, (title, keys, scale) in CURVES.items():
        told = curves(lines, keys)
        drawn = {key: values for key, values in told["values"].items() if any(value is not None for value in values)}
        if drawn:
            found[name] = title, _lines(told["step"], drawn, scale)
    phases = curves(lines, ["seconds."])
    if phases["values"]:
        found["phases"] = "Seconds of a step, by phase", _stacked(phases)
    evaluations = run.evaluations()
    if evaluations:
        found["held_out"] = "Held-out accuracy", _held_out(evaluations)
    return found


def as_svg(draw: Callable[[Axis], None]) -> str:
    """The picture as an element of a page."""
    buffer = io.StringIO()
    _save(draw, buffer, "svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def write_png(draw: Callable[[Axis], None], path: Path) -> None:
    """The picture as a file."""
    _save(draw, path, "png")


def _save(draw: Callable[[Axis], None], target: Any, kind: str) -> None:
    import matplotlib.pyplot as plt

    with plt.rc_context({"svg.hashsalt": "auricle", "svg.fonttype": "none"}):
        figure, axis = plt.subplots(figsize=SIZE_INCHES, layout="constrained")
        try:
            draw(axis)
            axis.set_xlabel("step")
            axis.grid(alpha=0.3)
            if axis.get_legend_handles_labels()[0]:
                axis.legend(fontsize=7)
            figure.savefig(target, format=kind, dpi=DOTS_PER_INCH, metadata={"Date": None} if kind == "svg" else None)
        finally:
            plt.close(figure)


def _lines(steps: Sequence[float], values: Mapping[str, Sequence[float | None]], scale: str) -> Callable[[Axis], None]:
    import pandas as pd

    def draw(axis: Axis) -> None:
        for name, column in values.items():
            series = pd.Series(list(column), index=list(steps), dtype="float64")
            smoothed = series.rolling(max(len(series) // WINDOW_SHARE, 1), min_periods=1).mean()
            [line] = axis.plot(smoothed, "." if len(series) == 1 else "-", label=name if len(values) > 1 else None)
            axis.plot(series, color=line.get_color(), alpha=0.25, linewidth=0.8)
        axis.set_yscale(scale)

    return draw


def _stacked(told: Mapping[str, Any]) -> Callable[[Axis], None]:
    def draw(axis: Axis) -> None:
        names = [*told["values"]]
        columns = [[value or 0.0 for value in told["values"][name]] for name in names]
        axis.stackplot(told["step"], *columns, labels=[name.removeprefix("seconds.") for name in names])

    return draw


def _held_out(evaluations: Mapping[str, Mapping[str, Any]]) -> Callable[[Axis], None]:
    def draw(axis: Axis) -> None:
        validations = [one for name, one in evaluations.items() if name.startswith("validation_step_")]
        tests = [one for name, one in evaluations.items() if name in ("base", "trained")]
        if validations:
            accuracies = [one["accuracy"] for one in validations]
            axis.plot([one["step"] for one in validations], accuracies, "o-", markersize=3, label="validation")
        if tests:
            accuracies = [one["accuracy"] for one in tests]
            ends = [one["accuracy_interval"] for one in tests]
            below = [mean - low for mean, (low, _) in zip(accuracies, ends, strict=True)]
            above = [high - mean for mean, (_, high) in zip(accuracies, ends, strict=True)]
            steps = [one["step"] for one in tests]
            axis.errorbar(steps, accuracies, yerr=[below, above], fmt="D", capsize=3, label="held out, 95% interval")

    return draw
