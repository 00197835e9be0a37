"""Tell of rows as a command goes through them: problems as lines, a bar meanwhile, counts at the end; and tables."""

from __future__ import annotations

import io
import sys
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from data.problems import Problem


def bar(title: str, console: Console) -> Progress:
    """A bar that goes when it is done; none where the output is no terminal."""
    return Progress(
        TextColumn(f"[bold]{title}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


def table(title: str, rows: Sequence[Sequence[str]], header: Sequence[str]) -> Table:
    """A table; columns after the first are figures. An empty header is not shown."""
    made = Table(title=title, title_justify="left", show_header=any(header))
    for number, name in enumerate(header):
        made.add_column(name, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


class Teller:
    """Prints what becomes of rows, and counts it; shows a bar where the output is a terminal."""

    def __init__(self, title: str, total: int | None) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        self._console = Console(highlight=False)
        self._progress = bar(title, self._console)
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
