"""An evaluation's rows as the page shows them: which predictions are taken for which answers, and what has changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from rewards.answers import normalise

Row = Mapping[str, Any]
Kind = Literal["all", "wrong", "right", "outside", "unusable"]

MOST_ANSWERS = 14
"""Answers that the confusion is told of."""
OTHER, OUTSIDE = "another choice", "no choice"

_CHOSEN: Mapping[Kind, Callable[[Row], bool]] = {
    "all": lambda row: True,
    "wrong": lambda row: row.get("correct") is not None and not row["correct"],
    "right": lambda row: bool(row.get("correct")),
    "outside": lambda row: predicted(row) == OUTSIDE,
    "unusable": lambda row: bool(row.get("problem")),
}


def predicted(row: Row) -> str:
    """The choice that a row's prediction names, or that it names none."""
    prediction = normalise(str(row.get("model_prediction") or ""))
    return next((str(choice) for choice in row.get("choices") or () if normalise(str(choice)) == prediction), OUTSIDE)


def confusion(rows: Sequence[Row]) -> dict[str, Any]:
    """How often questions with each answer were answered with each, for the most frequent answers.

    Gives `answers`, `predictions` (the answers, and two for all others) and `counts`, a row an answer.
    """
    asked = Counter(str(row["answer"]) for row in rows if row.get("answer"))
    frequent = [answer for answer, _ in asked.most_common(MOST_ANSWERS)]
    columns = [*frequent, OTHER, OUTSIDE]
    places = {normalise(name): place for place, name in enumerate(columns)}
    counts = [[0] * len(columns) for _ in frequent]
    for row in rows:
        if str(row.get("answer")) in frequent:
            place = places.get(normalise(predicted(row)), len(frequent))
            counts[frequent.index(str(row["answer"]))][place] += 1
    return {"answers": frequent, "predictions": columns, "counts": counts}


def page(rows: Sequence[Row], kind: Kind, search: str, task: str, offset: int, count: int) -> dict[str, Any]:
    """The rows of a kind that hold what is searched for, whatever the case, from `offset` on."""
    wanted = normalise(search)
    chosen = [
        row
        for row in rows
        if _CHOSEN[kind](row)
        and (not task or row.get("task") == task)
        and (not wanted or wanted in normalise(" ".join(str(row.get(key, "")) for key in ("id", "question", "answer"))))
    ]
    return {"total": len(chosen), "rows": [shown(row) for row in chosen[offset : offset + count]]}


def flips(first: Sequence[Row], second: Sequence[Row]) -> dict[str, list[dict[str, Any]]]:
    """Questions that one evaluation is right about and the other is not: `gained` and `lost` by the second."""
    before = {str(row["id"]): row for row in first}
    pairs = [(before[str(row["id"])], row) for row in second if str(row["id"]) in before]
    changed = {
        "gained": [pair for pair in pairs if not pair[0].get("correct") and pair[1].get("correct")],
        "lost": [pair for pair in pairs if pair[0].get("correct") and not pair[1].get("correct")],
    }
    return {
        name: [shown(after) | {"before": was.get("completion")} for was, after in some]
        for name, some in changed.items()
    }


def shown(row: Row) -> dict[str, Any]:
    """What the page needs of a row."""
    keys = ("id", "question", "choices", "answer", "task", "difficulty", "recording", "completion", "correct",
            "problem")  # fmt: skip
    return {key: row.get(key) for key in keys} | {"predicted": predicted(row)}
