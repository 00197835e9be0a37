"""What a study found: accuracies pooled over seeds, what each arm saw and took, and arms against each other. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from cluster.comparison import compare
from cluster.groups import by_group
from cluster.statistics import estimated
from configs.schema import Config
from data.order import hash_seed

BASE = "base"
"""The model before training, in comparisons."""

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Trained:
    """One finished run."""

    family: str
    """Which model before training it is held against."""
    rows: Rows
    """Of its held-out evaluation."""
    summary: Mapping[str, Any]
    """Its `summary.json`."""
    validations: Sequence[tuple[int, float]]
    """Questions seen, and greedy accuracy on the validation questions."""


@dataclass(slots=True)
class Findings:
    """Evaluations before and after training, by seed."""

    titles: Mapping[str, str]
    """Of the arms, in order."""
    compared: Sequence[tuple[str, str]]
    before: dict[tuple[str, int], Mapping[str, Any]] = field(default_factory=dict)
    """By family and seed: the figures of an evaluation, with its rows."""
    trained: dict[tuple[str, int], Trained] = field(default_factory=dict)
    """By arm and seed."""
    untestable: dict[str, str] = field(default_factory=dict)
    """Arms that were not trained, and why."""

    def figures(self) -> dict[str, Any]:
        """Everything, as `study.json` holds it."""
        families = sorted({name for name, _ in self.before})
        return {
            "before": {name: self._before(name) for name in families},
            "arms": {name: self._arm(name) for name in self.titles if self._seeds(name)},
            "untestable": dict(self.untestable),
            "comparisons": [
                self._compared(first, second)
                for first, second in self.compared
                if self._seeds(first) and (second == BASE or self._seeds(second))
            ],
        }

    def _seeds(self, arm: str) -> list[int]:
        return sorted(seed for name, seed in self.trained if name == arm)

    def _before(self, name: str) -> dict[str, Any]:
        parts = {seed: value for (own, seed), value in sorted(self.before.items()) if own == name}
        return pooled({seed: part["rows"] for seed, part in parts.items()}) | {
            "format_rate": fmean([part["format_rate"] for part in parts.values()]),
        }

    def _arm(self, name: str) -> dict[str, Any]:
        runs = {seed: self.trained[name, seed] for seed in self._seeds(name)}
        summaries = [run.summary for run in runs.values()]
        evaluations = [summary["trained"] for summary in summaries]
        silences = [summary["silent"]["accuracy"] for summary in summaries if summary["silent"]]
        return {
            "title": self.titles[name],
            "family": next(iter(runs.values())).family,
            **pooled({seed: run.rows for seed, run in runs.items()}),
            "format_rate": fmean([one["format_rate"] for one in evaluations]),
            "silent_accuracy": fmean(silences) if silences else None,
            "steps": summaries[0]["steps"],
            "questions_trained": fmean([summary["questions_trained"] for summary in summaries]),
            "completions": fmean([summary["completions"] for summary in summaries]),
            "tokens": fmean([summary["tokens"] for summary in summaries]),
            "train_seconds": fmean([summary["train_seconds"] for summary in summaries]),
            "validation": {seed: list(run.validations) for seed, run in runs.items()},
        }

    def _compared(self, first: str, second: str) -> dict[str, Any]:
        """What the first has over the second, on the seeds that both have."""
        seeds = [seed for seed in self._seeds(first) if second == BASE or (second, seed) in self.trained]
        ours = {seed: self.trained[first, seed].rows for seed in seeds}
        theirs = {
            seed: self.before[self.trained[first, seed].family, seed]["rows"]
            if second == BASE
            else self.trained[second, seed].rows
            for seed in seeds
        }
        found = compare({"rows": _by_seed(theirs)}, {"rows": _by_seed(ours)}, (second, first))
        alone = {
            seed: compare({"rows": theirs[seed]}, {"rows": ours[seed]}, (second, first))["measures"] for seed in seeds
        }
        return {
            "first": first,
            "second": second,
            "measures": found["measures"],
            "by_seed": {
                seed: {measure: measures[measure] for measure in ("accuracy", "accuracy_sampled")}
                for seed, measures in alone.items()
            },
        }


def family(config: Config) -> str:
    """A name for the model that a run starts from and the prompt that it is asked with, seeds aside."""
    model = re.sub(r"\W+", "_", config.run.init_from or config.model.path).strip("_")
    prompt = config.data.prompt.model_dump()
    return f"{model}-{prompt if isinstance(prompt, str) else hash_seed(*prompt.values())}"


def pooled(by_seed: Mapping[int, Rows]) -> dict[str, Any]:
    """Accuracies over all seeds and each seed's own, with intervals that resample recordings, in all and by group."""
    rows = _by_seed(by_seed)
    seeds = {seed: _accuracies(some)["accuracy"] for seed, some in by_seed.items()}
    groups = by_group(rows, lambda row, key: str(row.get(key) or ""), _accuracies)
    return {
        "seeds": seeds,
        "questions": len(next(iter(by_seed.values()))),
        "recordings": len({row["recording"] for row in rows}),
        **_accuracies(rows),
        **groups,
    }


def _accuracies(rows: Rows) -> dict[str, Any]:
    columns = {
        name: [float(row[key]) for row in rows]
        for name, key in (("accuracy", "correct"), ("accuracy_sampled", "correct_sampled"))
    }
    return estimated(columns, [row["recording"] for row in rows])


def _by_seed(by_seed: Mapping[int, Rows]) -> list[dict[str, Any]]:
    """The rows of all seeds; a question is another one in each, about the same recording."""
    return [{**row, "id": f"{row['id']}, seed {seed}"} for seed, rows in by_seed.items() for row in rows]
