"""`python -m cluster.compare A.json B.json`: whether one model answers better than another, on the same questions.

Takes two files that `python -m cluster.evaluate --out` wrote of the same questions: two models, two checkpoints, or one
model asked with its clips and with silence. A run's eval/base.json and eval/trained.json are such files too.

Prints, in all and by task, difficulty and sub-category, the difference of B less A with its 95% interval, which
resamples recordings, and the exact two-sided p-value of McNemar's test on the questions that one of them alone is right
about. docs/evaluation.md defines both.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.errors import UsageError, report_errors
from cluster.evaluation.comparison import compare
from cluster.outputs import replacing, write_json
from cluster.progress import Reporter
from cluster.tables import comparison_rows
from data.command import command

EXAMPLES = """examples:
  python -m cluster.compare before.json after.json
  python -m cluster.compare runs/my/eval/base.json runs/my/eval/trained.json --out gain.json
  python -m cluster.compare silence.json accuracy.json                    what hearing is worth
"""

TITLES = {
    "accuracy": "accuracy, greedy",
    "accuracy_mmau": "accuracy by MMAU's rule, greedy",
    "accuracy_sampled": "accuracy, sampled",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = command("cluster.compare", __doc__, EXAMPLES)
    arguments.add_argument("a", metavar="A.json", help="one evaluation")
    arguments.add_argument("b", metavar="B.json", help="the other one, of the same questions")
    arguments.add_argument("--out", metavar="FILE", help="JSON file to write")
    return arguments


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(argv)
    reporter = Reporter()
    a, b = _evaluation(options.a), _evaluation(options.b)
    result = {"a": options.a, "b": options.b, **compare(a, b, (options.a, options.b))}
    for measure, figures in result["measures"].items():
        tested = ("A alone right", "B alone right", "McNemar p") if "p_value" in figures else ()
        header = ("", "questions", "A", "B", "B less A, points", *tested)
        reporter.table(f"{TITLES[measure]} (95% interval)", comparison_rows(figures), header)
    for name in ("a", "b"):
        reporter.say(f"{name.upper()}: {result[name]}{_described(a if name == 'a' else b)}")
    if options.out is not None:
        with replacing(Path(options.out), "--out") as partial:
            write_json(partial, result)
        reporter.say(f"figures: {options.out}")
    return 0


def _evaluation(path: str) -> dict[str, Any]:
    try:
        value = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON ({error}): give what `cluster.evaluate --out` wrote") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path} is no evaluation: give what `cluster.evaluate --out` wrote")
    return value


def _described(evaluation: Mapping[str, Any]) -> str:
    """Which model it is of, and how it was asked."""
    controls = [key.replace("_", " ") for key in ("silent", "shuffled", "shuffle_choices") if evaluation.get(key)]
    known = [*([str(evaluation["model"])] if "model" in evaluation else []), *controls]
    return f" ({', '.join(known)})" if known else ""


if __name__ == "__main__":
    sys.exit(main())
