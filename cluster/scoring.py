"""What an evaluation says of a model: accuracy by task with intervals, from answers that were given. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cluster.statistics import cluster_bootstrap
from data.types import Example
from rewards.answers import extract_answer, is_correct, normalise
from rewards.format import format_reward
from rewards.mmau import mmau_correct


@dataclass(frozen=True, slots=True)
class Answered:
    """One question with what the model said. A clip that could not be read has no completions, and is wrong."""

    example: Example
    recording: str
    """What the question is about: intervals resample this."""
    greedy: str | None
    sampled: tuple[str, ...]
    problem: str = ""

    @property
    def correct(self) -> float:
        """1.0 where the greedy completion is right."""
        return float(self.greedy is not None and is_correct(self.greedy, self.example.answer))

    @property
    def correct_sampled(self) -> float:
        """Share of the sampled completions that are right."""
        return sum(is_correct(text, self.example.answer) for text in self.sampled) / max(len(self.sampled), 1)

    @property
    def correct_mmau(self) -> float:
        """1.0 where MMAU's rule takes the prediction."""
        if self.greedy is None:
            return 0.0
        return float(mmau_correct(extract_answer(self.greedy), self.example.answer, list(self.example.choices)))

    @property
    def in_choices(self) -> float:
        """1.0 where the prediction is one of the choices, right or wrong."""
        if self.greedy is None:
            return 0.0
        return float(normalise(extract_answer(self.greedy)) in {normalise(choice) for choice in self.example.choices})

    def row(self) -> dict[str, Any]:
        """As `eval/*.json` keeps it; MMAU's script reads `model_prediction`."""
        example = self.example
        return {
            "id": example.id,
            "question": example.question,
            "choices": list(example.choices),
            "answer": example.answer,
            "task": example.task,
            "sub-category": example.sub_category,
            "difficulty": example.difficulty,
            "recording": self.recording,
            "model_output": self.greedy,
            "model_prediction": extract_answer(self.greedy) if self.greedy is not None else "",
            "sampled": list(self.sampled),
            "correct": self.correct if example.answer else None,
            "correct_sampled": self.correct_sampled if example.answer else None,
            "problem": self.problem,
        }


def score(
    answers: Sequence[Answered], template: Literal["answer", "think"] = "answer", bad_rows: int = 0
) -> dict[str, Any]:
    """The figures of an evaluation, `by_task` and the rows included.

    Args:
        answers: of every question that the file holds; those whose example has no answer count in no accuracy.
        template: the form that the prompt asked for.
        bad_rows: rows of the file that are no questions. They count as wrong, in all and not by task, since nobody
            can tell theirs.
    """
    scored = [answer for answer in answers if answer.example.answer]
    sampled = any(answer.sampled for answer in answers)
    formatted = [
        value for answer in answers for value in format_reward([*_texts(answer)], answer.example, template=template)
    ]
    result: dict[str, Any] = {
        "bad_rows": bad_rows,
        "without_answer": len(answers) - len(scored),
        "recordings": len({answer.recording for answer in answers}),
        **_accuracies(scored, sampled, bad_rows),
        "accuracy_mmau": _mean([*(answer.correct_mmau for answer in scored), *[0.0] * bad_rows]),
        "accuracy_mmau_answered": _mean([answer.correct_mmau for answer in _answered(scored)]),
        "format_rate": _mean([value or 0.0 for value in formatted]),
        "in_choices": _mean([answer.in_choices for answer in answers]),
        "chance": _mean([1 / max(len(answer.example.choices), 1) for answer in answers]),
        "unusable": dict(Counter(answer.problem for answer in answers if answer.problem)),
        "by_task": {},
        "by_sub_category": {},
    }
    for key, field in (("by_task", "task"), ("by_sub_category", "sub_category")):
        for name in sorted({getattr(answer.example, field) for answer in scored}):
            part = [answer for answer in scored if getattr(answer.example, field) == name]
            result[key][name] = _accuracies(part, sampled)
    result["rows"] = [answer.row() for answer in answers]
    return result


def without_rows(result: dict[str, Any]) -> dict[str, Any]:
    """The figures alone, as `summary.json` holds them."""
    return {key: value for key, value in result.items() if key != "rows"}


def _texts(answer: Answered) -> tuple[str, ...]:
    return answer.sampled if answer.greedy is None else (answer.greedy, *answer.sampled)


def _accuracies(answers: Sequence[Answered], sampled: bool, bad_rows: int = 0) -> dict[str, Any]:
    """Over all rows, and greedily over the questions that were answered."""
    answered = _answered(answers)
    figures = {
        "questions": len(answers) + bad_rows,
        "answered": len(answered),
        **_accuracy(answers, "accuracy", lambda answer: answer.correct, bad_rows),
        **_accuracy(answered, "accuracy_answered", lambda answer: answer.correct),
    }
    if sampled:
        figures |= _accuracy(answers, "accuracy_sampled", lambda answer: answer.correct_sampled, bad_rows)
    return figures


def _accuracy(
    answers: Sequence[Answered], name: str, measure: Callable[[Answered], float], bad_rows: int = 0
) -> dict[str, Any]:
    values = [*(measure(answer) for answer in answers), *[0.0] * bad_rows]
    recordings = [*(answer.recording for answer in answers), *(f"bad row {number}" for number in range(bad_rows))]
    low, high = cluster_bootstrap(values, recordings) if values else (0.0, 0.0)
    return {name: _mean(values), f"{name}_interval": [low, high]}


def _answered(answers: Sequence[Answered]) -> list[Answered]:
    return [answer for answer in answers if answer.greedy is not None]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)
