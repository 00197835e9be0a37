"""The tables of figures that commands print: each cell a share with its 95% interval, or `-` where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cluster.evaluation.groups import GROUPS
from cluster.progress import Reporter

Row = tuple[str, ...]


def accuracy_rows(base: Mapping[str, Any] | None, trained: Mapping[str, Any]) -> list[Row]:
    """Before and after, in all and by task; what was before may be unknown."""
    rows = []
    for name, before, after in [
        ("all", base, trained),
        *((task, base and base["by_task"][task], part) for task, part in trained["by_task"].items()),
    ]:
        cells = [name, str(after["questions"])]
        for measure in ("accuracy", "accuracy_sampled"):
            if measure in after:
                cells += [with_interval(before, measure) if before else "unknown", with_interval(after, measure)]
        rows.append(tuple(cells))
    return rows


def show_evaluation(result: Mapping[str, Any], reporter: Reporter) -> None:
    """Print the figures of an evaluation: accuracy by group, the worth of several samples, positions of the choices."""
    header, rows = evaluation_table(result)
    reporter.table(f"accuracy of {result['model']} (95% interval)", rows, header)
    if sampled := sampled_rows(result):
        title = f"k of {result['samples']} sampled completions (95% interval)"
        reporter.table(title, sampled, ("k", "pass@k", "majority@k"))
    if places := result["positions"]["by_position"]:
        reporter.table(
            f"positions of the choices, {result['positions']['questions']} answered questions (95% interval)",
            position_rows(places),
            ("position", "gold", "predicted", "predicted less gold", "accuracy where it is gold"),
        )


def evaluation_table(result: Mapping[str, Any]) -> tuple[Row, list[Row]]:
    """Header and rows of one evaluation, in all and by group: over all rows of the file, and where not all of them
    were answered, over those that were."""
    partly = result["answered"] < result["questions"]
    measures = {
        "accuracy": "greedy",
        **({"accuracy_answered": "greedy of answered"} if partly else {}),
        "accuracy_mmau": "MMAU's rule",
        **({"accuracy_sampled": "sampled"} if "accuracy_sampled" in result else {}),
    }
    header = ("", "questions", *(("bad rows", "answered") if partly else ()), *measures.values())
    rows = []
    for name, part in named_groups(result):
        missing = (str(part.get("bad_rows", "")), str(part["answered"])) if partly else ()
        figures = [with_interval(part, measure) for measure in measures]
        rows.append((name, str(part["questions"]), *missing, *figures))
    return header, rows


def sampled_rows(result: Mapping[str, Any]) -> list[Row]:
    """pass@k and majority@k, a row each k."""
    ks = [key.removeprefix("pass@") for key in result if key.startswith("pass@") and not key.endswith("_interval")]
    return [(k, with_interval(result, f"pass@{k}"), with_interval(result, f"majority@{k}")) for k in ks]


def position_rows(places: Sequence[Mapping[str, Any]]) -> list[Row]:
    """How often each position is gold and predicted, and how well the model does by it."""
    return [
        (
            str(one["position"]),
            share(one["gold"]),
            share(one["predicted"]),
            points(one, "excess"),
            with_interval(one, "accuracy"),
        )
        for one in places
    ]


def prediction_rows(figures: Mapping[str, Any]) -> list[Row]:
    """Scored predictions, in all and by group: over all rows, and over those with a prediction."""
    return [
        (
            name,
            str(part["questions"]),
            str(part["predicted"]),
            *(with_interval(part, measure) for measure in ("accuracy", "accuracy_official")),
        )
        for name, part in named_groups(figures)
    ]


def comparison_rows(figures: Mapping[str, Any]) -> list[Row]:
    """Two models in one measure, in all and by group; those that are right alone only where right is yes or no."""
    rows = []
    for name, part in named_groups(figures):
        cells = [name, str(part["questions"]), share(part["a"]), share(part["b"]), points(part, "difference")]
        if "p_value" in part:
            cells += [str(part["only_a"]), str(part["only_b"]), f"{part['p_value']:.2g}"]
        rows.append(tuple(cells))
    return rows


def named_groups(figures: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name and figures of the whole, then of each group; a grouping that nothing is known of is passed over."""
    yield "all", figures
    for key, kind in GROUPS.items():
        if any(figures[key]):
            for name, part in figures[key].items():
                yield f"{kind}: {name or 'unknown'}", part


def with_interval(figures: Mapping[str, Any], measure: str) -> str:
    """A share with its interval."""
    if figures[measure] is None:
        return "-"
    low, high = figures[f"{measure}_interval"]
    return f"{figures[measure]:.1%} [{low:.1%}, {high:.1%}]"


def points(figures: Mapping[str, Any], difference: str) -> str:
    """A difference of shares in percentage points, with its sign and interval."""
    low, high = figures[f"{difference}_interval"]
    return f"{100 * figures[difference]:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def share(value: float | None) -> str:
    """A share without an interval."""
    return "-" if value is None else f"{value:.1%}"
