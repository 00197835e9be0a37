"""`python -m bench.demo --seeds 0 1 2`: what GRPO adds to the demo's warm start, over seeds, on held-out questions.

Each seed has its own initialisation, warm-up, data order and sampling. Beside GRPO stands supervised fine-tuning
continued from the same warm start on as many questions. Intervals are 95%, paired (the same question before and
after) and resample recordings, pooled over seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster import demo
from cluster.environment import describe
from cluster.evaluate import evaluate, inference_config
from cluster.launch import train
from cluster.progress import Reporter
from cluster.runs import Run, load
from cluster.statistics import cluster_bootstrap
from configs.load import dump_config, load_config
from configs.schema import Config
from data.formats import load_examples

MEASURES = {"greedy": "correct", "sampled": "correct_sampled"}
LEAST_GAIN = {"greedy": 0.05, "sampled": 0.10}
"""What GRPO has to add on the mean of the seeds."""
LEAST_WARM_START = 0.35
"""Greedy accuracy of every seed's warm start: GRPO sharpens what is there."""
TASKS = ("sound", "music", "speech")
LEAST_QUESTIONS, LEAST_FORMAT_RATE, MOST_LOGPROB_DIFFERENCE = 800, 0.99, 1e-3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit status 1 where the demo does not hold what it promises."""
    arguments = argparse.ArgumentParser(prog="python -m bench.demo", description=__doc__)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--out", type=Path, default=Path("runs/bench"), help="directory of the runs (runs/bench)")
    arguments.add_argument("--json", type=Path, help="file for the figures, one flat object")
    arguments.add_argument("--figure", type=Path, help="PNG file for the curves")
    arguments.add_argument("--no-sft", action="store_true", help="leave continued supervised fine-tuning out")
    arguments.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="configuration keys of the runs")
    options = arguments.parse_intermixed_args(argv)
    reporter = Reporter()
    runs = [grpo(seed, options.out, options.overrides, reporter) for seed in options.seeds]
    tuned = [] if options.no_sft else [continued(run, reporter) for run in runs]
    figures = compare(runs, tuned)
    show(figures, options.seeds, reporter)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if options.figure:
        plot(runs, tuned, options.figure)
    broken = broken_promises(figures, options.seeds)
    for promise in broken:
        reporter.say(f"not held: {promise}")
    return 1 if broken else 0


def grpo(seed: int, out: Path, overrides: Sequence[str], reporter: Reporter) -> Run:
    """The demo with this seed; a finished run in `out` of the same configuration and commit is taken as it is."""
    path = out / f"seed{seed}"
    keys = [f"run.seed={seed}", f"run.dir={out}", f"run.name=seed{seed}", *overrides]
    config = demo.resolved(load_config("tiny", keys), reporter.say)
    if not _finished(path, config):
        train(config, reporter, fresh=path.exists())
    return load(path)


def _finished(path: Path, config: Config) -> bool:
    """Whether the run at `path` has ended, was configured so, and ran this commit."""
    if not (path / "summary.json").exists():
        return False
    ran = json.loads((path / "environment.json").read_text())
    return (path / "config.yaml").read_text() == dump_config(config) and ran["git"] == describe()["git"]


def continued(run: Run, reporter: Reporter) -> dict[str, Any]:
    """Supervised fine-tuning from the run's warm start, on as many questions; its held-out evaluation."""
    kept = run.path / "continued_sft.json"
    if not kept.exists():
        config = run.config
        model = run.path / "continued_sft"
        steps = config["run"]["max_steps"] * config["algorithm"]["prompts_per_step"] // 32
        seed = config["run"]["seed"]
        data = Path(config["data"]["train"]).parent
        demo.continue_fine_tuning(Path(config["model"]["path"]), model.absolute(), data, steps, seed)
        questions = load_examples(config["data"]["test"]).examples
        settings = inference_config(str(model), seed=seed, max_tokens=24)
        kept.write_text(json.dumps(evaluate(settings, questions, reporter, samples=config["evaluate"]["samples"])))
    return json.loads(kept.read_text())  # type: ignore[no-any-return]


def compare(runs: Sequence[Run], tuned: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures: means over seeds, each seed's own, and pooled paired intervals of the gains."""
    summaries = [run.summary or {} for run in runs]
    figures: dict[str, Any] = {
        "seeds": len(runs),
        "questions": summaries[0]["base"]["questions"],
        "recordings": summaries[0]["base"]["recordings"],
        "format_rate": min(summary["trained"]["format_rate"] for summary in summaries),
        "in_choices_before": _mean([summary["base"]["in_choices"] for summary in summaries]),
        "in_choices_after": _mean([summary["trained"]["in_choices"] for summary in summaries]),
        "silent_accuracy": _mean([summary["silent"]["accuracy"] for summary in summaries]),
        "chance": summaries[0]["silent"]["chance"],
        "logprob_difference_max": max(summary["logprob_difference_max"] for summary in summaries),
        "train_minutes_max": max(summary["train_seconds"] for summary in summaries) / 60,
        "completions_per_second": _mean([summary["completions_per_second"] for summary in summaries]),
    }
    silent = [run.evaluations["silent"] for run in runs]
    silent_rows = [
        (row.correct, row.recording.removeprefix("silence-")) for rows in silent for row in rows.itertuples()
    ]
    figures["silent_low"], figures["silent_high"] = cluster_bootstrap(*_columns(silent_rows))
    for name, column in MEASURES.items():
        pairs: list[tuple[float, str]] = []
        against: list[tuple[float, str]] = []
        for index, run in enumerate(runs):
            seed = run.config["run"]["seed"]
            before, after = run.evaluations["base"], run.evaluations["trained"]
            figures[f"base_{name}_seed{seed}"] = float(before[column].mean())
            figures[f"trained_{name}_seed{seed}"] = float(after[column].mean())
            figures[f"gain_{name}_seed{seed}"] = float((after[column] - before[column]).mean())
            pairs += zip(after[column] - before[column], after["recording"], strict=True)
            if tuned:
                other = [row[column] for row in tuned[index]["rows"]]
                figures[f"sft_{name}_seed{seed}"] = _mean(other)
                against += zip(after[column] - np.asarray(other), after["recording"], strict=True)
        for key in ("base", "trained", "gain", *(["sft"] if tuned else [])):
            figures[f"{key}_{name}"] = _mean([figures[f"{key}_{name}_seed{run.config['run']['seed']}"] for run in runs])
        figures[f"gain_{name}_low"], figures[f"gain_{name}_high"] = cluster_bootstrap(*_columns(pairs))
        if tuned:
            figures[f"grpo_over_sft_{name}"] = _mean([value for value, _ in against])
            low, high = cluster_bootstrap(*_columns(against))
            figures[f"grpo_over_sft_{name}_low"], figures[f"grpo_over_sft_{name}_high"] = low, high
    for task in summaries[0]["base"]["by_task"]:
        for moment in ("base", "trained"):
            parts = [summary[moment]["by_task"][task] for summary in summaries]
            figures[f"{moment}_greedy_{task}"] = _mean([part["accuracy"] for part in parts])
            figures[f"{moment}_greedy_{task}_low_min"] = min(part["accuracy_interval"][0] for part in parts)
    return figures


def broken_promises(figures: dict[str, Any], seeds: Sequence[int]) -> list[str]:
    """What of the demo's promises the figures do not bear out."""
    held = {
        f"every seed gains ({name})": all(figures[f"gain_{name}_seed{seed}"] > 0 for seed in seeds) for name in MEASURES
    }
    for name, least in LEAST_GAIN.items():
        held[f"{name} accuracy gains at least {least:.0%}"] = figures[f"gain_{name}"] >= least
        held[f"the interval of the {name} gain is above zero"] = figures[f"gain_{name}_low"] > 0
    warm = min(figures[f"base_greedy_seed{seed}"] for seed in seeds)
    held[f"every warm start is right about at least {LEAST_WARM_START:.0%}"] = warm >= LEAST_WARM_START
    for task in TASKS:
        low = figures[f"base_greedy_{task}_low_min"]
        held[f"every warm start is above chance in {task} by its interval"] = low > figures["chance"]
    held[f"at least {LEAST_QUESTIONS} questions"] = figures["questions"] >= LEAST_QUESTIONS
    held[f"format rate at least {LEAST_FORMAT_RATE:.0%}"] = figures["format_rate"] >= LEAST_FORMAT_RATE
    held["no better than chance about silence"] = figures["silent_low"] <= figures["chance"]
    held[f"log-probs within {MOST_LOGPROB_DIFFERENCE}"] = figures["logprob_difference_max"] <= MOST_LOGPROB_DIFFERENCE
    return [promise for promise, is_held in held.items() if not is_held]


def show(figures: dict[str, Any], seeds: Sequence[int], reporter: Reporter) -> None:
    """Print the table."""
    rows = []
    for name in MEASURES:
        for label, suffix in [*((f"seed {seed}", f"_seed{seed}") for seed in seeds), ("mean", "")]:
            cells = [f"{figures[f'{key}_{name}{suffix}']:.1%}" for key in ("base", "trained", "gain")]
            if not suffix:
                cells[2] += f" [{figures[f'gain_{name}_low']:.1%}, {figures[f'gain_{name}_high']:.1%}]"
            cells.append(f"{figures[f'sft_{name}{suffix}']:.1%}" if f"sft_{name}{suffix}" in figures else "")
            rows.append((f"{name}, {label}", *cells))
    title = f"held-out accuracy on {figures['questions']} questions about {figures['recordings']} recordings"
    reporter.table(title, rows, ("", "warm start", "after GRPO", "gain [95%]", "continued SFT"))
    reporter.say(
        f"format rate at least {figures['format_rate']:.2%}; predictions among the choices "
        f"{figures['in_choices_before']:.1%} -> {figures['in_choices_after']:.1%}; about silence "
        f"{figures['silent_accuracy']:.1%} [{figures['silent_low']:.1%}, {figures['silent_high']:.1%}] "
        f"(chance {figures['chance']:.1%}); largest log-prob difference {figures['logprob_difference_max']:.1e}; "
        f"GRPO part at most {figures['train_minutes_max']:.1f} minutes"
    )


def plot(runs: Sequence[Run], tuned: Sequence[dict[str, Any]], path: Path) -> None:
    """Curves of each seed: accuracy of the sampled answers in training, validation, entropy and length."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    for number, run in enumerate(runs):
        metrics, color = run.metrics, f"C{number}"
        label = f"seed {run.config['run']['seed']}"
        axes[0].plot(metrics["step"], metrics["accuracy"].rolling(10, min_periods=1).mean(), color=color, label=label)
        axes[1].plot(*_validation(run), "o-", color=color, label=label)
        axes[2].plot(metrics["step"], metrics["entropy"], color=color, label=label)
    for index, result in enumerate(tuned):
        steps = runs[index].config["run"]["max_steps"]
        axes[0].plot([steps], [result["accuracy_sampled"]], "x", color=f"C{index}")
    titles = (
        "sampled accuracy, training (x: continued SFT, held-out)",
        "greedy accuracy, validation",
        "entropy (nats)",
    )
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("optimizer step")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _validation(run: Run) -> tuple[list[int], list[float]]:
    names = [name for name in run.evaluations if name.startswith("validation_step_")]
    points = sorted((int(name.rsplit("_", 1)[1]), float(run.evaluations[name]["correct"].mean())) for name in names)
    return [step for step, _ in points], [accuracy for _, accuracy in points]


def _columns(pairs: Sequence[tuple[float, str]]) -> tuple[list[float], list[str]]:
    return [float(value) for value, _ in pairs], [recording for _, recording in pairs]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


if __name__ == "__main__":
    sys.exit(main())
