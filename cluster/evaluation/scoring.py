"""What an evaluation says of a model, from answers that were given: docs/evaluation.md defines each figure. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.evaluation.at_k import majority_at_k, pass_at_k, powers_of_two
from cluster.evaluation.groups import by_group
from cluster.evaluation.positions import place, position_figures
from cluster.evaluation.statistics import estimated
from configs.schema import Form
from data.types import Example
from rewards.answers import extract_answer, is_correct, normalise
from rewards.format import format_reward
from rewards.mmau import mmau_correct

GREEDY = ("accuracy", "accuracy_mmau")
"""Measures of the greedy completion."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One question with what the model said. A clip that could not be read has no completions, and is wrong."""

    example: Example
    recording: str
    """What the question is about: intervals resample this."""
    greedy: str | None
    sampled: tuple[str, ...]
    problem: str = ""
    heard: str = ""
    """The recording that was played instead, where clips were shuffled."""

    @property
    def prediction(self) -> str | None:
        """What the greedy completion answers."""
        return None if self.greedy is None else extract_answer(self.greedy)

    @property
    def correct(self) -> float:
        """1.0 where the greedy completion is right."""
        return float(self.greedy is not None and is_correct(self.greedy, self.example.answer))

    @property
    def correct_sampled(self) -> float:
        """Share of the sampled completions that are right."""
        return self._right / max(len(self.sampled), 1)

    @property
    def correct_mmau(self) -> float:
        """1.0 where MMAU's rule takes the prediction."""
        prediction = self.prediction
        return float(
            prediction is not None and mmau_correct(prediction, self.example.answer, list(self.example.choices))
        )

    @property
    def in_choices(self) -> float:
        """1.0 where the prediction is one of the choices, right or wrong."""
        choices = {normalise(choice) for choice in self.example.choices}
        return float(self.prediction is not None and normalise(self.prediction) in choices)

    def pass_at(self, k: int) -> float:
        """Probability that one of k sampled completions is right."""
        return pass_at_k(len(self.sampled), self._right, k) if self.sampled else 0.0

    def majority_at(self, k: int) -> float:
        """Probability that the majority of k sampled completions is right."""
        if not self.sampled:
            return 0.0
        predictions = [normalise(extract_answer(text)) for text in self.sampled]
        return majority_at_k(predictions, normalise(self.example.answer), k)

    @property
    def _right(self) -> int:
        return sum(is_correct(text, self.example.answer) for text in self.sampled)

    def row(self) -> dict[str, Any]:
        """As `eval/*.json` and the file of `cluster.evaluate --out` keep it; `cluster.compare` reads it."""
        example, scored = self.example, bool(self.example.answer)
        row = {
            "id": example.id,
            "question": example.question,
            "choices": list(example.choices),
            "answer": example.answer,
            "task": example.task,
            "sub-category": example.sub_category,
            "difficulty": example.difficulty,
            "recording": self.recording,
            "completion": self.greedy,
            "model_output": self.prediction,
            "model_prediction": self.prediction,
            "sampled": list(self.sampled),
            "correct": self.correct if scored else None,
            "correct_mmau": self.correct_mmau if scored else None,
            "correct_sampled": self.correct_sampled if scored and (self.sampled or self.greedy is None) else None,
            "problem": self.problem,
        }
        return row | ({"heard": self.heard} if self.heard else {})


def score(answers: Sequence[Answered], form: Form = "answer", bad_rows: int = 0) -> dict[str, Any]:
    """The figures of an evaluation, those of its groups and the rows included.

    A figure that is a share of nothing is None. Questions without an answer have rows and no part in accuracies.

    Args:
        answers: of every question that the file holds; those whose example has no answer count in no accuracy.
        form: the form that the prompt asked for.
        bad_rows: rows of the file that are no questions. They count as wrong, in all and in no group, since nobody
            can tell theirs.
    """
    scored = [answer for answer in answers if answer.example.answer]
    places = [
        place(answer.recording, answer.example.choices, answer.example.answer, answer.prediction)
        for answer in scored
        if answer.prediction is not None
    ]
    ks = powers_of_two(min((len(answer.sampled) for answer in scored if answer.sampled), default=0))
    worth = [(answer, _worth(answer, ks)) for answer in scored]
    result: dict[str, Any] = {
        "bad_rows": bad_rows,
        "without_answer": len(answers) - len(scored),
        "recordings": len({answer.recording for answer in answers}),
        "samples": max((len(answer.sampled) for answer in answers), default=0),
        **_accuracies(worth, bad_rows),
        "format_rate": _mean([value for answer in answers for value in _formatted(answer, form)]),
        "in_choices": _mean([answer.in_choices for answer in answers]),
        "unusable": dict(Counter(answer.problem for answer in answers if answer.problem)),
        "positions": position_figures([one for one in places if one is not None]),
    }
    result |= by_group(worth, lambda pair, key: str(getattr(pair[0].example, key.replace("-", "_"))), _accuracies)
    result["rows"] = [answer.row() for answer in answers]
    return result


def without_rows(result: dict[str, Any]) -> dict[str, Any]:
    """The figures alone, as `summary.json` holds them."""
    return {key: value for key, value in result.items() if key != "rows"}


def _accuracies(scored: Sequence[tuple[Answered, dict[str, float]]], bad_rows: int = 0) -> dict[str, Any]:
    """Over all rows, and greedily over the questions that were answered.

    Args:
        scored: questions with what each counts, by measure.
        bad_rows: further rows that count as wrong.
    """
    answered = [(answer, worth) for answer, worth in scored if answer.greedy is not None]
    measures = list(scored[0][1]) if scored else GREEDY
    columns = {name: [*(worth[name] for _, worth in scored), *[0.0] * bad_rows] for name in measures}
    recordings = [*(answer.recording for answer, _ in scored), *(f"bad row {number}" for number in range(bad_rows))]
    of_answered = {f"{name}_answered": [worth[name] for _, worth in answered] for name in GREEDY}
    return {
        "questions": len(scored) + bad_rows,
        "answered": len(answered),
        "chance": _mean([1 / len(answer.example.choices) for answer, _ in scored if answer.example.choices]),
        **estimated(columns, recordings),
        **estimated(of_answered, [answer.recording for answer, _ in answered]),
    }


def _worth(answer: Answered, ks: Sequence[int]) -> dict[str, float]:
    """What a question counts in each measure, pass@k and majority@k for these k."""
    worth = {"accuracy": answer.correct, "accuracy_mmau": answer.correct_mmau}
    if ks:
        worth["accuracy_sampled"] = answer.correct_sampled
    worth |= {f"pass@{k}": answer.pass_at(k) for k in ks}
    return worth | {f"majority@{k}": answer.majority_at(k) for k in ks}


def _formatted(answer: Answered, form: Form) -> list[float]:
    """1.0 for each completion in the form that the prompt asked for."""
    texts = [text for text in (answer.greedy, *answer.sampled) if text is not None]
    return [value or 0.0 for value in format_reward(texts, answer.example, form=form)]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
