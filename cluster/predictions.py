"""Predictions that somebody has already, in MMAU's format, scored by MMAU's rule. Pure: no model, no Ray.

The rule is applied to the string as it stands: no tag is parsed and nothing is trimmed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.statistics import cluster_bootstrap
from data.rows import Position, RowError
from rewards.mmau import mmau_correct

KEYS = ("model_output", "model_prediction")
"""Where a row has its prediction; the first that is there counts."""
GROUPS = {"by_task": "task", "by_difficulty": "difficulty", "by_sub_category": "sub-category"}
"""Figures of the rows that have the same value under a key."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A row of the file with what became of it."""

    row: dict[str, Any]
    """As it stands in the file; empty where it is no object."""
    recording: str
    """What it is about: intervals resample this."""
    match: bool
    predicted: bool
    """Whether it has a prediction, an empty one too; MMAU's script passes over one that has none."""
    problem: str = ""
    """Why it could not be scored."""


def score_rows(rows: Iterable[tuple[Position, object]]) -> dict[str, Any]:
    """The figures of a predictions file, and its rows with `match`.

    `accuracy` is over all rows, and one without a prediction or that cannot be scored is wrong; `accuracy_official` is
    over the rows with a prediction, as MMAU's own script has it.

    Args:
        rows: as `data.rows.read_json_rows` gives them.
    """
    scored = [_score(position, value) for position, value in rows]
    figures: dict[str, Any] = _figures(scored)
    for name, key in GROUPS.items():
        values = sorted({str(one.row[key]) for one in scored if key in one.row})
        figures[name] = {value: _figures([one for one in scored if str(one.row.get(key)) == value]) for value in values}
    figures["rows"] = [
        one.row | {"match": one.match} | ({"problem": one.problem} if one.problem else {}) for one in scored
    ]
    return figures


def _score(position: Position, value: object) -> Scored:
    place = str(position)
    if not isinstance(value, dict):
        problem = value.detail if isinstance(value, RowError) else "is not an object"
        return Scored({}, place, False, False, f"{place} {problem}")
    recording = str(value.get("audio_id") or value.get("id") or place)
    answer, choices = value.get("answer"), value.get("choices")
    if not isinstance(answer, str):
        return Scored(value, recording, False, False, f"{place}: answer is {answer!r}, and not a text")
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        return Scored(value, recording, False, False, f"{place}: choices is {choices!r}, and not a list of texts")
    key = next((key for key in KEYS if value.get(key) is not None), None)
    if key is None:
        return Scored(value, recording, False, False)
    if not isinstance(value[key], str):
        return Scored(value, recording, False, False, f"{place}: {key} is {value[key]!r}, and not a text")
    return Scored(value, recording, mmau_correct(value[key], answer, choices), True)


def _figures(scored: Sequence[Scored]) -> dict[str, Any]:
    predicted = [one for one in scored if one.predicted]
    figures: dict[str, Any] = {"questions": len(scored), "predicted": len(predicted)}
    figures["problems"] = sum(bool(one.problem) for one in scored)
    for name, part in (("accuracy", scored), ("accuracy_official", predicted)):
        low, high = cluster_bootstrap([float(one.match) for one in part], [one.recording for one in part])
        figures[name] = sum(one.match for one in part) / len(part) if part else None
        figures[f"{name}_interval"] = [low, high] if part else None
    return figures
