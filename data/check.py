"""`python -m data.check`: every bad row of a file of questions, with its place, its id and what to mend.

Rows are judged as training reads them, and clips are decoded on all cores. Beyond what training drops, a clip is bad
that is longer than --max-seconds (training cuts it), that ends before its header says, or whose bytes are not those
of the row's `sha256`. A note does not count as bad: what MMAU published so, which is a choice that stands twice (27 of
the 1,000 rows of test-mini) or no answer (its test split), choices that differ in case and white space alone, and a
clip that becomes silent when its channels become one.

Exit status: 0 without a bad row, 1 with any, 2 where the file as a whole cannot be read.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import get_args

from configs.schema import Channels
from data.arguments import DEFAULTS, add_seconds, reading_parser
from data.audio import check_clip
from data.errors import ClipError, DataError
from data.examples import repeated
from data.formats import BadRow, GoodRow, Questions, count_rows, find_questions, read_questions
from data.ordered import cpus, ordered
from data.problems import Problem, about, of_clip, of_hash, of_row
from data.teller import Teller
from data.whole_file import whole_file

EXAMPLES = """examples:
  python -m data.check questions.jsonl
  python -m data.check mmau-test-mini.json --audio-dir MMAU --out problems.jsonl
  python -m data.check train.parquet --no-audio
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = reading_parser("data.check", __doc__, EXAMPLES)
    add_seconds(arguments, "--max-seconds", DEFAULTS.max_seconds, "longer clips are bad")
    arguments.add_argument(
        "--channels",
        default=DEFAULTS.channels,
        choices=get_args(Channels),
        help=f"data.channels of the run (default {DEFAULTS.channels})",
    )
    arguments.add_argument("--no-audio", action="store_true", help="judge the rows alone; read no clip")
    arguments.add_argument("--out", metavar="FILE", help="also write the problems as JSON, one object a line")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(argv)
    reading = None if options.no_audio else (options.max_seconds, options.min_seconds, options.channels)
    try:
        questions = find_questions(options.file, options.audio_dir, options.format, guess=True)
        if options.out and os.path.exists(options.out) and os.path.samefile(options.out, questions.path):
            raise DataError(f"--out {options.out} is the file that is checked; name another")
        with ExitStack() as stack:
            report = None
            if options.out:
                part = stack.enter_context(whole_file(Path(options.out)))
                # what is not UTF-8 in the name of a clip becomes an escape, which is one of JSON too
                report = stack.enter_context(part.open("w", encoding="utf-8", errors="backslashreplace"))
            teller = stack.enter_context(Teller("rows", count_rows(questions)))
            for problems in check(questions, reading):
                teller.row(*problems)
                if report is not None:
                    lines = (json.dumps(problem.to_json(), ensure_ascii=False) for problem in problems)
                    report.writelines(f"{line}\n" for line in lines)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if teller.rows == 0:
        print(f"error: {options.file} has no rows", file=sys.stderr)
        return 2
    teller.conclude(options.file)
    return 1 if teller.bad else 0


Reading = tuple[float, float, Channels]
"""Longest and shortest clip in seconds, and what becomes of its channels."""


def check(questions: Questions, reading: Reading | None) -> Iterator[tuple[Problem, ...]]:
    """The problems of each row, in order; most rows have none.

    Args:
        questions: the file.
        reading: how clips are read; None reads none.
    """
    return ordered(partial(_problems, reading), read_questions(questions, unanswered=True), cpus())


def _problems(reading: Reading | None, row: GoodRow | BadRow) -> tuple[Problem, ...]:
    if isinstance(row, BadRow):
        return (of_row(row),)
    found = list(_notes(row))
    if reading is not None:
        try:
            clip = check_clip(row.found.example.clip, *reading)
            found += of_hash(row, clip.sha256)
            if clip.silenced:
                found.append(about(row, "note", "silent", clip.silenced))
        except ClipError as error:
            found.append(of_clip(row, error))
    return tuple(found)


def _notes(row: GoodRow) -> Iterator[Problem]:
    """What training puts up with: in MMAU's rows alone, but for choices that look alike."""
    choices = row.found.example.choices
    if twice := repeated(choices):
        detail = f"choices has {twice} more than once; kept, since published scores count the row"
        yield about(row, "note", "duplicate_choices", detail)
    elif alike := repeated([" ".join(choice.split()).lower() for choice in choices]):
        detail = f"choices has {alike} more than once but for case and white space, which evaluations set aside"
        yield about(row, "note", "similar_choices", f"{detail}; reword one")
    if not row.found.example.answer:
        detail = "has no answer: nothing can be trained or scored by it, and cluster.evaluate writes predictions for it"
        yield about(row, "note", "no_answer", detail)


if __name__ == "__main__":
    sys.exit(main())
