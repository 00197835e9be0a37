"""Files of predictions in MMAU's format: the rows of the benchmark, each with what a model predicted.

MMAU's script matches the string at `model_output`; its first version, and its leaderboard, that at
`model_prediction`. What is written here has the same string at both: the prediction, without tags.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

from cluster.errors import UsageError
from cluster.evaluation.scoring import Answered
from data.formats import BadRow, Questions
from data.rows import Position, RowError, read_json_rows

KEYS = ("model_output", "model_prediction")
"""Where a row has its prediction; the first that is there counts."""

NEEDED = ("id", "question", "choices", "answer", "task", "difficulty", "sub-category")
"""What MMAU's script reads of a row, and who reads its output."""


def read(path: str) -> list[tuple[Position, object]]:
    """The rows of a file: of a JSON list, of JSON lines, of an object with rows by id, or of one with a list `rows`.

    Raises:
        UsageError: the file holds no JSON.
    """
    rows = _of_an_object(path)
    if rows is None:
        rows = list(read_json_rows(path))
    broken = [(position, value) for position, value in rows if isinstance(value, RowError)]
    if broken and len(broken) == len(rows):
        position, error = broken[0]
        raise UsageError(f"{path} is no file of predictions: {position} {error}")
    return rows


def _of_an_object(path: str) -> list[tuple[Position, object]] | None:
    """The rows, where the whole file is one object that holds them; the keys of rows by id are the ids of those that
    have none."""
    with open(path, "rb") as file:
        if not file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
            return None
        file.seek(0)
        try:
            whole = json.loads(file.read().decode("utf-8-sig"), object_pairs_hook=_Object)
        except (ValueError, RecursionError):
            return None  # lines, it may be
    if isinstance(whole.get("rows"), list):
        found = whole["rows"]
    elif whole and all(isinstance(row, dict) for row in whole.values()):
        found = [{"id": name, **row} for name, row in whole.pairs]
    else:
        return None
    return [(Position(row=number), row) for number, row in enumerate(found)]


class _Object(dict[str, Any]):
    """An object of JSON that knows what it holds twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def written(
    questions: Questions, limit: int | None, bad: Sequence[BadRow], answers: Sequence[Answered]
) -> list[dict[str, Any]]:
    """Every row of a question file with the prediction, where the question was answered.

    A row of JSON keeps what it has; where its format names or writes something otherwise than MMAU, what MMAU's script
    reads is put in. A row of a table, which may hold the clips too, has what an example has. A row without a prediction
    has neither key, as the script wants it, one without an answer has none, and a bad row that is no object is written
    as what ails it.

    Args:
        questions: the file that was asked.
        limit: only that many rows of it were.
        bad: those that are no questions.
        answers: to the others, in the order of the file.
    """
    if questions.container != "json":
        return [
            *(_with_answer({}, answer) for answer in answers),
            *({"id": one.id, "problem": str(one)} for one in bad),
        ]
    bad_places = {(one.line, one.row): one for one in bad}
    left = iter(answers)
    rows = itertools.islice(read_json_rows(questions.path), limit)
    found = ((value, bad_places.get((position.line, position.row))) for position, value in rows)
    return [_with_answer(value, next(left)) if one is None else _without_answer(value, one) for value, one in found]


def _with_answer(value: object, answer: Answered) -> dict[str, Any]:
    assert isinstance(value, dict), "a row that is no object is a bad one"
    kept = {key: item for key, item in value.items() if key not in KEYS}
    needed = {key: item for key, item in answer.row().items() if key in NEEDED}
    if not answer.example.answer:
        del needed["answer"]
        kept.pop("answer", None)
    elif kept.get("answer") not in needed["choices"]:  # AVQA's is an index, others write letters before their choices
        kept = {key: item for key, item in kept.items() if key not in ("answer", "choices")}
    predicted = {} if answer.prediction is None else dict.fromkeys(KEYS, answer.prediction)
    return needed | kept | {"recording": answer.recording} | predicted


def _without_answer(value: object, bad: BadRow) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {"problem": str(bad)}
    return {key: item for key, item in value.items() if key not in KEYS}
