"""What a study found: accuracies pooled over seeds, what each arm saw and took, and arms against each other. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from cluster.evaluation.comparison import compare
from cluster.evaluation.groups import by_group
from cluster.evaluation.statistics import estimated
from configs.study import BASE

Evaluation = Mapping[str, Any]
"""Figures of an evaluation, with its `rows`."""

COMPARED = ("accuracy", "accuracy_sampled")
OF_A_SEED = ("p_value", "only_a", "only_b")
"""What McNemar's test says of one seed. Of several it is not valid: their answers to a question are not independent."""


@dataclass(frozen=True, slots=True)
class Trained:
    """One finished run."""

    origin: str
    """Which model before training it is held against."""
    evaluation: Evaluation
    """Of the held-out questions."""
    silent: Evaluation | None
    """Of these about silence, where they were asked."""
    summary: Mapping[str, Any]
    """Its `summary.json`."""
    validations: Sequence[tuple[int, float]]
    """Questions seen, and greedy accuracy on the validation questions."""
    commit: str | None
    """Of the code that it began with."""


@dataclass(slots=True)
class Findings:
    """Evaluations before and after training, by seed."""

    titles: Mapping[str, str]
    """Of the arms, in order."""
    compared: Sequence[tuple[str, str]]
    before: dict[tuple[str, int], Evaluation] = field(default_factory=dict)
    """By origin and seed."""
    trained: dict[tuple[str, int], Trained] = field(default_factory=dict)
    """By arm and seed."""
    untestable: list[tuple[str, int]] = field(default_factory=list)
    """Arms and seeds that were not trained, since the model before training does not give the form."""

    def figures(self) -> dict[str, Any]:
        """Everything, as `study.json` holds it."""
        origins = sorted({name for name, _ in self.before})
        return {
            "before": {name: self._before(name) for name in origins},
            "arms": {name: self._arm(name) for name in self.titles if self._seeds(name)},
            "untestable": {
                title: sorted(seed for arm, seed in self.untestable if arm == name)
                for name, title in self.titles.items()
                if any(arm == name for arm, _ in self.untestable)
            },
            "comparisons": [self._compared(*pair) for pair in self.compared if self._both(*pair)],
            "commits": sorted({str(run.commit) for run in self.trained.values()}),
        }

    def _seeds(self, arm: str) -> list[int]:
        return sorted(seed for name, seed in self.trained if name == arm)

    def _both(self, first: str, second: str) -> list[int]:
        """The seeds that both were trained with."""
        return [seed for seed in self._seeds(first) if second == BASE or (second, seed) in self.trained]

    def _before(self, name: str) -> dict[str, Any]:
        return pooled({seed: value for (own, seed), value in sorted(self.before.items()) if own == name})

    def _arm(self, name: str) -> dict[str, Any]:
        runs = {seed: self.trained[name, seed] for seed in self._seeds(name)}
        summaries = [run.summary for run in runs.values()]
        silences = {seed: run.silent for seed, run in runs.items() if run.silent is not None}
        about_silence = pooled(silences) if silences else {}
        return {
            "title": self.titles[name],
            "origin": next(iter(runs.values())).origin,
            **pooled({seed: run.evaluation for seed, run in runs.items()}),
            **{f"silent_{key}": about_silence.get(key) for key in ("accuracy", "accuracy_interval")},
            "steps": summaries[0]["steps"],
            "questions_drawn": fmean([summary["ledger"]["admitted"] for summary in summaries]),
            "questions_trained": fmean([summary["questions_trained"] for summary in summaries]),
            "completions": fmean([summary["completions"] for summary in summaries]),
            "tokens": fmean([summary["tokens"] for summary in summaries]),
            "train_seconds": fmean([summary["train_seconds"] for summary in summaries]),
            "validation": {seed: list(run.validations) for seed, run in runs.items()},
        }

    def _compared(self, first: str, second: str) -> dict[str, Any]:
        """What the first has over the second, on the seeds that both have."""
        ours = {seed: self.trained[first, seed].evaluation for seed in self._both(first, second)}
        theirs = {
            seed: self.before[self.trained[first, seed].origin, seed]
            if second == BASE
            else self.trained[second, seed].evaluation
            for seed in ours
        }
        measures = compare(_together(theirs), _together(ours), (second, first))["measures"]
        alone = {seed: compare(theirs[seed], ours[seed], (second, first))["measures"] for seed in ours}
        return {
            "first": first,
            "second": second,
            "measures": {
                name: {key: value for key, value in measures[name].items() if key not in OF_A_SEED}
                for name in COMPARED
                if name in measures
            },
            "by_seed": {seed: {name: own[name] for name in COMPARED if name in own} for seed, own in alone.items()},
        }


def pooled(by_seed: Mapping[int, Evaluation]) -> dict[str, Any]:
    """Accuracies over all seeds and each seed's own, with intervals that resample recordings, in all and by group.

    Bad rows of the file count as wrong, in all and in no group.
    """
    whole = _together(by_seed)
    rates = [evaluation["format_rate"] for evaluation in by_seed.values() if evaluation["format_rate"] is not None]
    groups = by_group(whole["rows"], lambda row, key: str(row.get(key) or ""), _accuracies)
    first = next(iter(by_seed.values()))
    return {
        "seeds": {seed: _accuracies(one["rows"], one["bad_rows"])["accuracy"] for seed, one in by_seed.items()},
        "questions": len(first["rows"]) + first["bad_rows"],
        "recordings": len({row["recording"] for row in whole["rows"]}),
        "format_rate": fmean(rates) if rates else None,
        "format_rates": {seed: evaluation["format_rate"] for seed, evaluation in by_seed.items()},
        **_accuracies(whole["rows"], whole["bad_rows"]),
        **groups,
    }


def _accuracies(rows: Sequence[Mapping[str, Any]], bad_rows: int = 0) -> dict[str, Any]:
    """Greedy and, where there are samples, sampled accuracy."""
    measures = {"accuracy": "correct", "accuracy_sampled": "correct_sampled"}
    columns = {
        name: [*(float(row[key]) for row in rows), *[0.0] * bad_rows]
        for name, key in measures.items()
        if all(row[key] is not None for row in rows)
    }
    return estimated(columns, [*(row["recording"] for row in rows), *(f"bad row {one}" for one in range(bad_rows))])


def _together(by_seed: Mapping[int, Evaluation]) -> dict[str, Any]:
    """All seeds as one evaluation; a question is another one in each, about the same recording."""
    rows = [{**row, "id": f"{row['id']}, seed {seed}"} for seed, one in by_seed.items() for row in one["rows"]]
    return {"rows": rows, "bad_rows": sum(one["bad_rows"] for one in by_seed.values())}
