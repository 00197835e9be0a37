"""Two evaluations of the same questions, question by question: which model is better, and how sure that is. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.errors import UsageError
from cluster.evaluation.groups import by_group, recording_of
from cluster.evaluation.statistics import estimated

MEASURES = {
    "accuracy": ("correct",),
    "accuracy_mmau": ("correct_mmau", "match"),
    "accuracy_sampled": ("correct_sampled",),
}
"""Keys of a row with what a question counts in a measure; `match` is of `cluster.evaluate --score`."""

PAIRED = ("accuracy", "accuracy_mmau")
"""Measures in which an answer is right or wrong: McNemar's test takes these alone."""

SHOWN_IDS = 3


@dataclass(frozen=True, slots=True)
class Pair:
    """What a question counts in one measure, by either model."""

    row: Mapping[str, Any]
    """Of the first evaluation; empty for a row of the file that is no question."""
    recording: str
    a: float
    b: float


def compare(
    a: Mapping[str, Any], b: Mapping[str, Any], names: tuple[str, str] = ("the first file", "the second file")
) -> dict[str, Any]:
    """The figures of two evaluations side by side, by measure: `difference` is that of `b` less `a`.

    Rows of the file that are no questions count as wrong by both; questions without an answer are left out.

    Args:
        a: what `cluster.evaluate --out` wrote of one model.
        b: of another one, or of the same one asked otherwise.
        names: what errors call them.

    Raises:
        UsageError: they are not of the same questions, or have no measure in common.
    """
    rows_a, rows_b = _by_id(a, names[0]), _by_id(b, names[1])
    _check_same(rows_a, rows_b, names)
    bad, bad_b = int(a.get("bad_rows", 0)), int(b.get("bad_rows", 0))
    if bad != bad_b:
        raise UsageError(f"{names[0]} counts {bad} bad rows and {names[1]} {bad_b}: ask the same file")
    rows_a = {name: row for name, row in rows_a.items() if row.get("answer") not in (None, "")}
    measures = {}
    for measure, keys in MEASURES.items():
        values_a, values_b = _values(rows_a, keys), _values(rows_b, keys)
        if rows_a.keys() <= values_a.keys() & values_b.keys():
            pairs = [Pair(row, recording_of(row, name), values_a[name], values_b[name]) for name, row in rows_a.items()]
            measures[measure] = _measured(pairs, bad, measure in PAIRED)
    if not measures or not rows_a:
        raise UsageError(f"{names[0]} and {names[1]} have none of {', '.join(MEASURES)} in common for every question")
    return {"questions": len(rows_a) + bad, "bad_rows": bad, "measures": measures}


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value of McNemar's test: were both equally good, the questions that one of them alone is right
    about would fall to either like a fair coin."""
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def _measured(pairs: Sequence[Pair], bad: int, paired: bool) -> dict[str, Any]:
    """Figures of one measure, in all and by group."""
    unread = [Pair({}, f"bad row {number}", 0.0, 0.0) for number in range(bad)]
    return _figures([*pairs, *unread], paired) | by_group(
        pairs, lambda pair, key: str(pair.row.get(key) or ""), lambda part: _figures(part, paired)
    )


def _figures(pairs: Sequence[Pair], paired: bool) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "questions": len(pairs),
        "a": sum(pair.a for pair in pairs) / len(pairs),
        "b": sum(pair.b for pair in pairs) / len(pairs),
        **estimated({"difference": [pair.b - pair.a for pair in pairs]}, [pair.recording for pair in pairs]),
    }
    if paired:
        only_a, only_b = (sum(pair.a > pair.b for pair in pairs), sum(pair.b > pair.a for pair in pairs))
        figures |= {"only_a": only_a, "only_b": only_b, "p_value": mcnemar(only_a, only_b)}
    return figures


def _by_id(evaluation: Mapping[str, Any], name: str) -> dict[str, Mapping[str, Any]]:
    """The rows of an evaluation by id."""
    rows = evaluation.get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows) or not rows:
        raise UsageError(f"{name} has no rows: give what `cluster.evaluate --out` wrote")
    without = sum(row.get("id") is None for row in rows)
    if without:
        raise UsageError(f"{name}: {without} rows have no id, by which questions are paired")
    twice = [one for one, count in Counter(str(row["id"]) for row in rows).items() if count > 1]
    if twice:
        raise UsageError(
            f"{name}: {len(twice)} ids stand more than once ({_some(twice)}), and questions are paired by id"
        )
    return {str(row["id"]): row for row in rows}


def _check_same(a: Mapping[str, Mapping[str, Any]], b: Mapping[str, Mapping[str, Any]], names: tuple[str, str]) -> None:
    """Raise unless the rows are of the same questions, whatever the order of their choices."""
    only = ([one for one in a if one not in b], [one for one in b if one not in a])
    if any(only):
        parts = [
            f"{len(ids)} ids are only in {name}" + (f" ({_some(ids)})" if ids else "")
            for name, ids in zip(names, only, strict=True)
        ]
        raise UsageError(f"these are not the same questions: {', '.join(parts)}")
    changed = [one for one in a if _question(a[one]) != _question(b[one])]
    if changed:
        raise UsageError(
            f"{len(changed)} ids have another question, answer or choices in {names[1]} than in {names[0]} "
            f"({_some(changed)}): scores on two versions of a data set are not comparable"
        )


def _question(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What is asked, in whatever order the choices stand."""
    choices = row.get("choices")
    return row.get("question"), row.get("answer"), sorted(map(str, choices)) if isinstance(choices, list) else choices


def _values(rows: Mapping[str, Mapping[str, Any]], keys: Iterable[str]) -> dict[str, float]:
    """What each question counts, where it has one of the keys."""
    found = {}
    for name, row in rows.items():
        value = next((row[key] for key in keys if row.get(key) is not None), None)
        if isinstance(value, bool | int | float):
            found[name] = float(value)
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN_IDS]) + (", ..." if len(names) > SHOWN_IDS else "")
