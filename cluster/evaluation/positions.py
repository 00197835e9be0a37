"""Whether a model leans to a position of the choices: how often it picks each, and how well it does by it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.evaluation.statistics import estimated
from rewards.answers import normalise


@dataclass(frozen=True, slots=True)
class Placed:
    """One answered question by the positions of its choices, from 0."""

    recording: str
    choices: int
    gold: int
    predicted: int | None
    """None where the prediction is none of the choices."""


def place(recording: str, choices: Sequence[str], answer: str, prediction: str) -> Placed | None:
    """Where answer and prediction stand among the choices, white space and case aside.

    None where two choices read alike, so that nobody can tell which was picked, or the answer is none of them.
    """
    texts = [normalise(choice) for choice in choices]
    if len(set(texts)) < len(texts) or normalise(answer) not in texts:
        return None
    picked = normalise(prediction)
    return Placed(
        recording, len(texts), texts.index(normalise(answer)), texts.index(picked) if picked in texts else None
    )


def position_figures(placed: Sequence[Placed]) -> dict[str, Any]:
    """How often each position is predicted beside how often it is gold, and the accuracy where it is.

    `gold`, `predicted`, and `uniform` (a model that picks at random) are shares of all these questions, so that
    `predicted` and `outside` add up to 1. `excess` is `predicted` less `gold`: 0 at every position for a model that
    leans to none, however the gold answers are spread.
    """
    count = len(placed)
    figures: dict[str, Any] = {
        "questions": count,
        "outside": sum(one.predicted is None for one in placed) / count if count else None,
        "by_position": [],
    }
    for position in range(max((one.choices for one in placed), default=0)):
        gold = [one for one in placed if one.gold == position]
        excess = [float(one.predicted == position) - float(one.gold == position) for one in placed]
        right = [float(one.predicted == position) for one in gold]
        figures["by_position"].append(
            {
                "position": position + 1,
                "questions": len(gold),
                "gold": len(gold) / count,
                "predicted": sum(one.predicted == position for one in placed) / count,
                "uniform": sum(1 / one.choices for one in placed if position < one.choices) / count,
                **estimated({"excess": excess}, [one.recording for one in placed]),
                **estimated({"accuracy": right}, [one.recording for one in gold]),
            }
        )
    return figures
