"""`python -m data.check`: every bad row of a file of questions, with its place, its id and what to mend.

Rows are judged as training reads them, and clips are decoded on all cores. Beyond what training drops, a clip is bad
that is longer than --max-seconds (training cuts it), that ends before its header says, or whose bytes are not those
of the row's `sha256`. What MMAU published so is a note and does not count as bad: a choice that stands twice (27 of
the 1,000 rows of test-mini), or no answer (its test split).

Exit status: 0 without a bad row, 1 with any, 2 where the file as a whole cannot be read.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial

from data.audio import check_clip
from data.errors import ClipError, DataError
from data.formats import BadRow, GoodRow, Questions, count_rows, find_questions, read_questions
from data.ordered import cpus, ordered
from data.telling import DEFAULTS, Problem, Teller, about, add_reading, of_clip, of_row, seconds

EXAMPLES = """examples:
  python -m data.check questions.jsonl
  python -m data.check mmau-test-mini.json --audio-dir MMAU --out problems.jsonl
  python -m data.check train.parquet --no-audio
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="python -m data.check",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_reading(arguments)
    arguments.add_argument(
        "--max-seconds",
        type=seconds,
        default=DEFAULTS.max_seconds,
        metavar="S",
        help=f"longer clips are bad (default {DEFAULTS.max_seconds:g})",
    )
    arguments.add_argument("--no-audio", action="store_true", help="judge the rows alone; read no clip")
    arguments.add_argument("--out", metavar="FILE", help="also write the problems as JSON, one object a line")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(argv)
    limits = None if options.no_audio else (options.max_seconds, options.min_seconds)
    try:
        questions = find_questions(options.file, options.audio_dir, options.format, guess=True)
        if options.out and os.path.exists(options.out) and os.path.samefile(options.out, questions.path):
            raise DataError(f"--out {options.out} is the file that is checked; name another")
        with ExitStack() as stack:
            report = stack.enter_context(open(options.out, "w", encoding="utf-8")) if options.out else None
            teller = stack.enter_context(Teller("rows", count_rows(questions)))
            for problems in check(questions, limits):
                teller.row(*problems)
                if report is not None:
                    report.writelines(json.dumps(asdict(problem), ensure_ascii=False) + "\n" for problem in problems)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if teller.rows == 0:
        print(f"error: {options.file} has no rows", file=sys.stderr)
        return 2
    teller.conclude(options.file)
    return 1 if teller.bad else 0


def check(questions: Questions, limits: tuple[float, float] | None) -> Iterator[tuple[Problem, ...]]:
    """The problems of each row, in order; most rows have none.

    Args:
        questions: the file.
        limits: longest and shortest clip in seconds; None reads no clip.
    """
    return ordered(partial(_problems, limits), read_questions(questions, unanswered=True), cpus())


def _problems(limits: tuple[float, float] | None, row: GoodRow | BadRow) -> tuple[Problem, ...]:
    if isinstance(row, BadRow):
        return (of_row(row),)
    found = list(_notes(row))
    if limits is not None:
        try:
            found += _of_hash(row, check_clip(row.found.example.clip, *limits))
        except ClipError as error:
            found.append(of_clip(row, error))
    return tuple(found)


def _notes(row: GoodRow) -> Iterator[Problem]:
    """What only MMAU's rows get through with."""
    choices = row.found.example.choices
    if twice := sorted({choice for choice in choices if choices.count(choice) > 1}):
        detail = f"choices has {twice} more than once; kept, since published scores count the row"
        yield about(row, "note", "duplicate_choices", detail)
    if not row.found.example.answer:
        detail = "has no answer: nothing can be trained or scored by it, and cluster.evaluate writes predictions for it"
        yield about(row, "note", "no_answer", detail)


def _of_hash(row: GoodRow, digest: str) -> list[Problem]:
    claimed = row.found.sha256
    if claimed is None or claimed == "" or (isinstance(claimed, str) and claimed.lower() == digest):
        return []
    told = repr(claimed) if isinstance(claimed, str) else "no text"
    detail = f"sha256 is {told}, and the clip's bytes have {digest}; fetch the clip again, or write its hash anew"
    return [about(row, "bad", "hash_mismatch", detail)]


if __name__ == "__main__":
    sys.exit(main())
