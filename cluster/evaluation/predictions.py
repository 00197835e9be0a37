"""Predictions that somebody has already, in MMAU's format, scored by MMAU's rule. Pure: no model, no Ray.

The rule is applied to the string as it stands: no tag is parsed and nothing is trimmed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from reprlib import repr
from typing import Any

from cluster.evaluation.groups import by_group, recording_of
from cluster.evaluation.prediction_file import KEYS
from cluster.evaluation.statistics import estimated
from data.rows import Position, RowError
from rewards.mmau import mmau_correct


@dataclass(frozen=True, slots=True)
class Scored:
    """A row of the file with what became of it."""

    row: dict[str, Any]
    """As it stands in the file; empty where it is no object."""
    recording: str
    """What it is about: intervals resample this."""
    match: bool
    predicted: bool
    """Whether it has a prediction that can be scored, an empty one too; MMAU's script passes over a row without."""
    problem: str = ""
    """Why it could not be scored."""


def score_rows(rows: Iterable[tuple[Position, object]]) -> dict[str, Any]:
    """The figures of a predictions file, and its rows with `match`.

    `accuracy` is over all rows, and one without a prediction or that cannot be scored is wrong; `accuracy_official` is
    over the rows with a prediction, as MMAU's own script has it. A row whose id stands above already counts again.

    Args:
        rows: as `cluster.evaluation.prediction_file.read` gives them.
    """
    scored = [_score(position, value) for position, value in rows]
    ids = Counter(str(one.row["id"]) for one in scored if one.row.get("id") is not None)
    figures = {
        **_figures(scored),
        "repeated_ids": sum(count - 1 for count in ids.values()),
        **by_group(scored, _text_at, _figures),
    }
    figures["rows"] = [
        one.row | {"match": one.match} | ({"problem": one.problem} if one.problem else {}) for one in scored
    ]
    return figures


def _score(position: Position, value: object) -> Scored:
    place = str(position)
    if not isinstance(value, dict):
        problem = value.detail if isinstance(value, RowError) else "is not an object"
        return Scored({}, place, False, False, f"{place} {problem}")
    recording = recording_of(value, place)
    answer, choices = value.get("answer"), value.get("choices")
    if not isinstance(answer, str):
        return Scored(value, recording, False, False, f"{place}: answer is {repr(answer)}, and not a text")
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        return Scored(value, recording, False, False, f"{place}: choices is {repr(choices)}, and not a list of texts")
    key = next((key for key in KEYS if not _is_missing(value.get(key))), None)
    if key is None:
        return Scored(value, recording, False, False)
    if not isinstance(value[key], str):
        return Scored(value, recording, False, False, f"{place}: {key} is {repr(value[key])}, and not a text")
    return Scored(value, recording, mmau_correct(value[key], answer, choices), True)


def _is_missing(prediction: object) -> bool:
    """Whether there is no prediction: null, or what pandas writes in place of one."""
    return prediction is None or (isinstance(prediction, float) and math.isnan(prediction))


def _text_at(scored: Scored, key: str) -> str | None:
    """What makes a row's group; a list of texts, as some of MMAU's rows have it, is joined."""
    value = scored.row.get(key)
    if value is None:
        return None
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _figures(scored: Sequence[Scored]) -> dict[str, Any]:
    predicted = [one for one in scored if one.predicted]
    figures: dict[str, Any] = {"questions": len(scored), "predicted": len(predicted)}
    figures["problems"] = sum(bool(one.problem) for one in scored)
    for name, part in (("accuracy", scored), ("accuracy_official", predicted)):
        figures |= estimated({name: [float(one.match) for one in part]}, [one.recording for one in part])
    return figures
