"""`python -m data.convert`: any file of questions as Auricle's Parquet, with the clips inside.

Clips keep the bytes that they are encoded in, and `sha256` of a row is the SHA-256 of these. Rows and clips that
training would drop are listed and left out; a clip beyond data.max_seconds stays whole. A row of MMAU with a choice
that stands twice is left out too, since in Auricle's own format it would be bad: evaluate MMAU's file itself.

Exit status: 0, 1 where a row was left out (0 with --skip-bad), 2 where nothing was written.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from data.arguments import DEFAULTS, reading_parser
from data.audio import decode, read_encoded
from data.errors import ClipError, DataError
from data.examples import repeated
from data.formats import BadRow, GoodRow, count_rows, find_questions, read_whole
from data.ordered import cpus, ordered
from data.problems import Problem, about, of_clip, of_hash, of_row
from data.teller import Teller
from data.writing import write_questions

EXAMPLES = """examples:
  python -m data.convert questions.jsonl --out questions.parquet
  python -m data.convert AVQA/train_qa.json --audio-dir AVQA/audios --out avqa.parquet --licence unknown --skip-bad
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = reading_parser("data.convert", __doc__, EXAMPLES)
    arguments.add_argument(
        "--out", required=True, metavar="FILE", help="Parquet file to write; replaced if it is there"
    )
    arguments.add_argument("--licence", default="", metavar="TEXT", help="of rows that name none")
    arguments.add_argument("--skip-bad", action="store_true", help="exit with 0 though rows were left out")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(argv)
    out = Path(options.out)
    try:
        questions = find_questions(options.file, options.audio_dir, options.format, guess=True)
        if out.is_dir() or (out.exists() and os.path.samefile(out, questions.path)):
            raise DataError(
                f"--out {out} is {'a directory' if out.is_dir() else 'the file that is read'}; name another"
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        prepare = partial(_prepared, options.min_seconds, options.licence)
        with write_questions(out) as file, Teller("rows", count_rows(questions)) as teller:
            for made in ordered(prepare, read_whole(questions), cpus()):
                if isinstance(made, Problem):
                    teller.row(made)
                else:
                    file.add(made)
                    teller.row()
            if teller.rows == teller.bad:
                raise DataError(f"{options.file} has no good row, so nothing is written")
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    teller.conclude(options.file)
    teller.say(f"{teller.rows - teller.bad} rows in {out}")
    return 1 if teller.bad and not options.skip_bad else 0


def _prepared(min_seconds: float, licence: str, row: GoodRow | BadRow) -> dict[str, Any] | Problem:
    """The row as it is written, or why it is not."""
    if isinstance(row, BadRow):
        return of_row(row)
    found, example = row.found, row.found.example
    if twice := repeated(example.choices):
        detail = f"choices has {twice} more than once; remove or reword one, or evaluate MMAU's file itself"
        return about(row, "bad", "duplicate_choices", detail)
    try:
        encoded = read_encoded(example.clip)
        decode(io.BytesIO(encoded), example.clip, DEFAULTS.max_seconds, min_seconds)
    except ClipError as error:
        return of_clip(row, error)
    digest = hashlib.sha256(encoded).hexdigest()
    if other := of_hash(row, digest):
        return other[0]
    return {
        "id": example.id,
        "audio": {"bytes": encoded, "path": found.clip_name},
        **example.columns(),
        "licence": found.licence or licence,
        "sha256": digest,
    }


if __name__ == "__main__":
    sys.exit(main())
