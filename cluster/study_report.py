"""A study's findings as Markdown and figures. What is said of them follows from the intervals alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster.tables import share, with_interval

Figures = Mapping[str, Any]

LEVEL = "95%"
UNTESTABLE = "the model before training never gives the form that the prompt asks for"


def markdown(found: Figures) -> str:
    """The page: what was trained on what, accuracies, comparisons in words, and where to look on."""
    parts = [_head(found), _accuracy_table(found), _task_table(found), _cost_table(found), _comparisons(found)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(found: Figures) -> str:
    seen = _of_each({arm["title"]: f"{arm['questions_trained']:,.0f} questions" for arm in found["arms"].values()})
    held_out = {
        title: f"{part['questions']} held-out questions about {part['recordings']} recordings"
        for title, part in _parts(found).items()
    }
    lines = [
        f"# {found['title']}",
        "",
        *([f"Each run saw {seen}, repetitions counted."] if seen else []),
        f"Accuracy is on {_of_each(held_out)}, over all seeds; "
        f"intervals are {LEVEL} and resample recordings, so they speak of the questions and not of the luck of a seed. "
        "The accuracy of each seed stands beside.",
    ]
    for title, seeds in found["untestable"].items():
        which = f" with seed {', '.join(map(str, seeds))}" if title in _parts(found) else ""
        lines += ["", f"{title} is not testable here{which}: {UNTESTABLE}."]
    if len(found["commits"]) > 1:
        lines += ["", f"The runs are not of one commit: {', '.join(found['commits'])}."]
    return "\n".join(lines)


def _of_each(told: Mapping[str, str]) -> str:
    """What is told of every title; with the titles where it differs."""
    titles = {what: [title for title in told if told[title] == what] for what in told.values()}
    return "; ".join(f"{what} ({' | '.join(some)})" if len(titles) > 1 else what for what, some in titles.items())


def _parts(found: Figures) -> dict[str, Figures]:
    """What was evaluated, by its title: models before training, then arms."""
    before = {f"before training ({name})": part for name, part in found["before"].items()}
    return before | {arm["title"]: arm for arm in found["arms"].values()}


def _by_task(found: Figures) -> tuple[dict[str, Figures], list[str]]:
    """What was evaluated, and all its tasks."""
    parts = _parts(found)
    return parts, sorted({task for part in parts.values() for task in part["by_task"]})


def _accuracy_table(found: Figures) -> str:
    rows = [[name, *_accuracy_cells(part)] for name, part in _parts(found).items()]
    header = ["", "greedy", "each seed", "sampled", "format", "greedy, about silence"]
    return "## Accuracy\n\n" + _table(header, rows)


def _accuracy_cells(part: Figures) -> list[str]:
    return [
        with_interval(part, "accuracy"),
        ", ".join(share(value) for value in part["seeds"].values()),
        with_interval(part, "accuracy_sampled"),
        share(part["format_rate"]),
        with_interval(part, "silent_accuracy") if part.get("silent_accuracy") is not None else "-",
    ]


def _task_table(found: Figures) -> str:
    parts, tasks = _by_task(found)
    rows = [
        [
            title,
            *(with_interval(part["by_task"][task], "accuracy") if task in part["by_task"] else "-" for task in tasks),
        ]
        for title, part in parts.items()
    ]
    return "## By task, greedy\n\n" + _table(["", *tasks], rows)


def _cost_table(found: Figures) -> str:
    rows = [
        [
            arm["title"],
            f"{arm['steps']:,}",
            f"{arm['questions_drawn']:,.0f}",
            f"{arm['questions_trained']:,.0f}",
            f"{arm['completions']:,.0f}",
            f"{arm['tokens']:,.0f}",
            f"{arm['train_seconds']:,.0f}",
        ]
        for arm in found["arms"].values()
    ]
    if not rows:
        return ""
    drawn = ["questions drawn", "questions trained on"]
    header = ["", "steps", *drawn, "completions trained on", "tokens through the learner", "seconds"]
    return "## What it took, a run\n\n" + _table(header, rows)


def _comparisons(found: Figures) -> str:
    sentences = [f"- {sentence(pair, measure, found)}" for pair in found["comparisons"] for measure in pair["measures"]]
    if not sentences:
        return ""
    head = (
        "The same questions after either, over all seeds. p is of McNemar's exact test, of one seed. Where nothing "
        f"differs, about one interval in twenty leaves zero out all the same; there are {len(sentences)}."
    )
    return "\n".join(["## Side by side", "", head, "", *sentences])


def sentence(pair: Figures, measure: str, found: Figures) -> str:
    """What one comparison shows, in words that its interval supports."""
    figures = pair["measures"][measure]
    low, high = figures["difference_interval"]
    first, second = (title_of(name, found) for name in (pair["first"], pair["second"]))
    points = f"{100 * figures['difference']:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
    how = "Greedily" if measure == "accuracy" else "Sampled"
    if low > 0:
        verdict = f"{first} answers better than {second}"
    elif high < 0:
        verdict = f"{first} answers worse than {second}"
    else:
        verdict = f"no difference between {first} and {second} is shown"
    seeds = [_of_a_seed(own[measure]) for own in pair["by_seed"].values()]
    return f"{how}, {verdict}: {points}; by seed {', '.join(seeds)}."


def _of_a_seed(figures: Figures) -> str:
    tested = f" (p = {figures['p_value']:.2g})" if "p_value" in figures else ""
    return f"{100 * figures['difference']:+.1f}{tested}"


def title_of(name: str, found: Figures) -> str:
    """How an arm is called."""
    return "the model before training" if name == "base" else str(found["arms"][name]["title"])


def plot_learning(found: Figures, path: Path) -> None:
    """Greedy validation accuracy over questions seen: the mean of the seeds, in a band from lowest to highest."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for arm in found["arms"].values():
        curves = [dict(points) for points in arm["validation"].values()]
        shared = sorted(set.intersection(*(set(curve) for curve in curves)))
        if not shared:
            continue
        values = np.array([[curve[seen] for seen in shared] for curve in curves])  # (seeds, points)
        [line] = axis.plot(shared, values.mean(0), "o-", markersize=3, label=arm["title"])
        axis.fill_between(shared, values.min(0), values.max(0), color=line.get_color(), alpha=0.15)
    axis.set(xlabel="questions seen", ylabel="greedy accuracy, validation")
    _finish(figure, axis, path)


def plot_tasks(found: Figures, path: Path) -> None:
    """Greedy held-out accuracy by task, with intervals."""
    import matplotlib.pyplot as plt

    parts, tasks = _by_task(found)
    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    width = 0.8 / len(parts)
    for number, (title, part) in enumerate(parts.items()):
        shown = [(place, part["by_task"][task]) for place, task in enumerate(tasks) if task in part["by_task"]]
        places = [place + width * (number - (len(parts) - 1) / 2) for place, _ in shown]
        means = [one["accuracy"] for _, one in shown]
        ends = np.array([one["accuracy_interval"] for _, one in shown]).T  # (2, tasks)
        errors = np.abs(ends - means)
        axis.bar(places, means, width, yerr=errors, capsize=2, label=title)
    axis.set_xticks(range(len(tasks)), tasks)
    axis.set(ylabel="greedy accuracy, held out")
    _finish(figure, axis, path)


def _finish(figure: Any, axis: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    axis.grid(alpha=0.3, axis="y")
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
