"""How the commands that go through rows tell of them: problems as lines, a bar meanwhile, counts at the end."""

from __future__ import annotations

import argparse
import io
import sys
from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, get_args

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from configs.schema import Data
from data.errors import ClipError
from data.formats import BadRow, Format, GoodRow
from data.rows import Position

DEFAULTS = Data(train="")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a row."""

    line: int | None
    """Line of the file, from 1; None where rows have no lines."""
    row: int | None
    """Row of a table or of a JSON list, from 0; None where rows are lines."""
    id: str
    severity: Literal["bad", "note"]
    reason: str
    """A short word, counted."""
    detail: str
    """What is wrong, and what to do about it."""

    def __str__(self) -> str:
        at = str(Position(self.line, self.row)) + (f" (id {self.id})" if self.id else "")
        return f"{at}: {'note: ' if self.severity == 'note' else ''}{self.reason}: {self.detail}"


def of_row(bad: BadRow) -> Problem:
    """A row that is no example."""
    return Problem(bad.line, bad.row, bad.id, "bad", bad.reason, bad.detail)


def of_clip(row: GoodRow, error: ClipError) -> Problem:
    """A row whose clip cannot be used."""
    source = row.found.example.clip
    where = "" if source.row is not None else f"{source.path} "
    return about(row, "bad", error.reason, f"{where}{error.detail}")


def of_hash(row: GoodRow, digest: str) -> list[Problem]:
    """A row that claims another SHA-256 of its clip's bytes than they have; none where it claims none."""
    claimed = row.found.sha256
    if claimed is None or claimed == "" or (isinstance(claimed, str) and claimed.lower() == digest):
        return []
    told = repr(claimed) if isinstance(claimed, str) else "no text"
    detail = f"sha256 is {told}, and the clip's bytes have {digest}; fetch the clip again, or write its hash anew"
    return [about(row, "bad", "hash_mismatch", detail)]


def about(row: GoodRow, severity: Literal["bad", "note"], reason: str, detail: str) -> Problem:
    """A row that is an example."""
    return Problem(row.at.line, row.at.row, row.found.example.id, severity, reason, detail)


class Teller:
    """Prints what becomes of rows, and counts it; shows a bar where the output is a terminal."""

    def __init__(self, title: str, total: int | None) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        self._console = Console(highlight=False)
        self._progress = Progress(
            TextColumn(f"[bold]{title}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task(title, total=total)
        self._reasons: Counter[tuple[str, str]] = Counter()
        self.rows = self.bad = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def row(self, *problems: Problem) -> None:
        """A row is done."""
        for problem in problems:
            self.say(str(problem))
        self._reasons.update((problem.severity, problem.reason) for problem in problems)
        self.bad += any(problem.severity == "bad" for problem in problems)
        self.rows += 1
        self._progress.advance(self._task)

    def say(self, text: str) -> None:
        """One line, with what would not be seen or would move the cursor written out."""
        shown = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
        self._console.print(shown, markup=False, soft_wrap=True)

    def conclude(self, file: str) -> None:
        """Say how many rows are good, bad and noted, and for what."""
        self.say(f"{file}: {self.rows} rows, {self.rows - self.bad} good, {self.bad} bad")
        for severity in ("bad", "note"):
            found = Counter({reason: count for (kind, reason), count in self._reasons.items() if kind == severity})
            for reason, count in found.most_common():
                self.say(f"  {count:6} {reason}{' (note)' if severity == 'note' else ''}")


def reading_parser(module: str, description: str | None, examples: str) -> argparse.ArgumentParser:
    """The command line of `python -m MODULE`, which reads rows and clips, as far as such commands are alike."""
    arguments = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument("file", metavar="FILE", help="questions: a file, or a directory that `datasets` saved")
    arguments.add_argument("--audio-dir", metavar="DIR", help="where relative clip paths start (default: beside FILE)")
    arguments.add_argument("--format", default="auto", choices=get_args(Format), help="default: told from FILE")
    arguments.add_argument(
        "--min-seconds",
        type=seconds,
        default=DEFAULTS.min_seconds,
        metavar="S",
        help=f"shorter clips are bad (default {DEFAULTS.min_seconds:g})",
    )
    return arguments


def seconds(text: str) -> float:
    """The type of an argument that is a number of seconds above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0 and at most a day")
    return value
