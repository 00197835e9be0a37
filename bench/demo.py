"""`python -m bench.demo`: whether the demo holds what it promises, by the arms `grpo` and `sft` of the full study.

What of it this commit has trained already is taken as it is. Intervals are those of the study: 95%, of all seeds,
resampling recordings; a difference is paired, the same question before and after.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.command import finish, parser
from cluster import study
from cluster.progress import Reporter
from cluster.runs import Run, load

ARMS = ("sft", "grpo")
MEASURES = {"greedy": "accuracy", "sampled": "accuracy_sampled"}
LEAST_GAIN = {"greedy": 0.05, "sampled": 0.10}
"""What GRPO has to add on the mean of the seeds."""
LEAST_WARM_START = 0.35
"""Greedy accuracy of every seed's warm start: GRPO sharpens what is there."""
LEAST_QUESTIONS, LEAST_FORMAT_RATE, MOST_LOGPROB_DIFFERENCE = 800, 0.99, 1e-3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit status 1 where the demo does not hold what it promises."""
    arguments = parser("demo", __doc__)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--out", type=Path, default=Path("runs/bench"), help="directory of the runs (runs/bench)")
    arguments.add_argument("--figure", type=Path, help="PNG file for the curves")
    options = arguments.parse_args(argv)
    seeds = list(map(str, options.seeds))
    asked = ["--config", "study", "--full", "--out", str(options.out), "--arms", *ARMS, "--seeds", *seeds, "--fresh"]
    if status := study.main(asked):
        return status
    found = json.loads((options.out / "study.json").read_text())
    runs = [load(options.out / f"grpo-seed{seed}") for seed in seeds]
    figures = summed_up(found, [run.summary or {} for run in runs])
    if options.figure:
        plot(runs, found["arms"]["sft"]["accuracy_sampled"], options.figure)
    return finish(figures, promises(figures, seeds), options, Reporter())


def summed_up(found: Mapping[str, Any], summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of the warm start, of GRPO and of SFT, as one flat object.

    Args:
        found: a study's `study.json`.
        summaries: `summary.json` of its GRPO runs.
    """
    [before] = found["before"].values()
    grpo = found["arms"]["grpo"]
    arms = {"base": before, "trained": grpo, "sft": found["arms"]["sft"]}
    figures: dict[str, Any] = {
        "seeds": len(summaries),
        "questions": before["questions"],
        "recordings": before["recordings"],
        "format_rate": min(grpo["format_rates"].values()),
        "chance": summaries[0]["silent"]["chance"],
        "silent_accuracy": grpo["silent_accuracy"],
        "silent_low": grpo["silent_accuracy_interval"][0],
        "logprob_difference_max": max(summary["logprob_difference_max"] for summary in summaries),
        "train_minutes_max": max(summary["train_seconds"] for summary in summaries) / 60,
        "completions_per_second": sum(summary["completions_per_second"] for summary in summaries) / len(summaries),
    }
    for name, part in arms.items():
        figures |= {f"{name}_{measure}": part[key] for measure, key in MEASURES.items()}
        figures |= {f"{name}_greedy_seed{seed}": accuracy for seed, accuracy in part["seeds"].items()}
        figures |= {f"{name}_greedy_{task}": own["accuracy"] for task, own in part["by_task"].items()}
    figures |= {f"base_greedy_{task}_low": own["accuracy_interval"][0] for task, own in before["by_task"].items()}
    pairs = {(pair["first"], pair["second"]): pair for pair in found["comparisons"]}
    for name, pair in (("gain", pairs["grpo", "base"]), ("grpo_over_sft", pairs["grpo", "sft"])):
        for measure, key in MEASURES.items():
            own = pair["measures"][key]
            figures[f"{name}_{measure}"] = own["difference"]
            figures[f"{name}_{measure}_low"], figures[f"{name}_{measure}_high"] = own["difference_interval"]
            for seed, alone in pair["by_seed"].items():
                figures[f"{name}_{measure}_seed{seed}"] = alone[key]["difference"]
    return figures


def promises(figures: Mapping[str, Any], seeds: Sequence[str]) -> dict[str, bool]:
    """What the demo promises, and whether the figures bear it out."""
    held = {
        f"every seed gains ({name})": all(figures[f"gain_{name}_seed{seed}"] > 0 for seed in seeds) for name in MEASURES
    }
    for name, least in LEAST_GAIN.items():
        held[f"{name} accuracy gains at least {least:.0%}"] = figures[f"gain_{name}"] >= least
        held[f"the interval of the {name} gain is above zero"] = figures[f"gain_{name}_low"] > 0
    warm = min(figures[f"base_greedy_seed{seed}"] for seed in seeds)
    held[f"every warm start is right about at least {LEAST_WARM_START:.0%}"] = warm >= LEAST_WARM_START
    for task in ("sound", "music", "speech"):
        low = figures[f"base_greedy_{task}_low"]
        held[f"warm starts are above chance in {task} by their interval"] = low > figures["chance"]
    held[f"at least {LEAST_QUESTIONS} questions"] = figures["questions"] >= LEAST_QUESTIONS
    held[f"format rate at least {LEAST_FORMAT_RATE:.0%}"] = figures["format_rate"] >= LEAST_FORMAT_RATE
    held["no better than chance about silence"] = figures["silent_low"] <= figures["chance"]
    held[f"log-probs within {MOST_LOGPROB_DIFFERENCE}"] = figures["logprob_difference_max"] <= MOST_LOGPROB_DIFFERENCE
    return held


def plot(runs: Sequence[Run], tuned: float, path: Path) -> None:
    """Curves of each seed: accuracy of the sampled answers in training, validation, entropy.

    Args:
        runs: GRPO runs.
        tuned: sampled accuracy after SFT, held out, mean of the seeds.
        path: PNG file.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    for run in runs:
        metrics, label = run.metrics, f"seed {run.config['run']['seed']}"
        validated = metrics[["step", "validation_accuracy"]].dropna()
        axes[0].plot(metrics["step"], metrics["accuracy"].rolling(10, min_periods=1).mean(), label=label)
        axes[1].plot(validated["step"], validated["validation_accuracy"], "o-", label=label)
        axes[2].plot(metrics["step"], metrics["entropy"], label=label)
    axes[0].axhline(tuned, color="grey", linestyle=":", label="SFT, held out")
    titles = ("sampled accuracy, training", "greedy accuracy, validation", "entropy (nats)")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("optimizer step")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
