"""What a run says while it goes on: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from data.teller import table

PLAIN_EVERY_STEPS = 10
TABLE_STEPS = 8
REFRESHES_PER_SECOND = 4.0
WIDEST = 1_000
"""Characters of a line in a file or a pipe: a table is as wide there as it needs to be."""


class Reporter:
    """Prints steps, phases and tables."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        if console is None and not self.console.is_terminal:
            self.console.width = WIDEST

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def steps(self, first: int, total: int) -> Iterator[StepLines]:
        """Show the steps from `first` to `total`."""
        bar = self._bar("train")
        bar.add_task("train", total=total, completed=first)
        if not self.console.is_terminal:
            yield StepLines(self, bar, total)
            return
        with Live(bar, console=self.console, refresh_per_second=REFRESHES_PER_SECOND) as live:
            yield StepLines(self, bar, total, live)

    @contextmanager
    def questions(self, name: str, total: int) -> Iterator[Any]:
        """Show an evaluation; yields what is called once a question."""
        with self._bar(name) as progress:
            task = progress.add_task(name, total=total)
            yield lambda: progress.advance(task)

    def table(self, title: str, rows: Sequence[tuple[str, ...]], header: tuple[str, ...]) -> None:
        """A table; columns after the first are figures."""
        self.console.print(table(title, rows, header))

    def _bar(self, name: str) -> Progress:
        columns = (TextColumn(f"[bold]{name}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn())
        return Progress(*columns, console=self.console, disable=not self.console.is_terminal)


class StepLines:
    """The newest steps as a table above the bar; outside of a terminal, one line for many steps."""

    def __init__(self, reporter: Reporter, bar: Progress, total: int, live: Live | None = None) -> None:
        self._reporter, self._bar, self._total, self._live = reporter, bar, total, live
        self._lines: deque[Mapping[str, Any]] = deque(maxlen=TABLE_STEPS)

    def show(self, line: Mapping[str, Any]) -> None:
        """Show a line of `metrics.jsonl`."""
        self._lines.append(line)
        step = line["step"]
        self._bar.update(self._bar.task_ids[0], completed=step)
        if self._live is not None:
            self._live.update(Group(self._table(), self._bar))
        elif step % PLAIN_EVERY_STEPS == 0 or step in (1, self._total):
            figures = "  ".join(f"{name} {text}" for name, text in _figures(line).items())
            self._reporter.say(f"step {step}/{self._total}  {figures}  left {_time(self._left)}")

    @property
    def _left(self) -> float:
        """Seconds to the last step, at the pace of the newest ones."""
        pace = sum(line["step_seconds"] for line in self._lines) / len(self._lines)
        return float(pace * (self._total - self._lines[-1]["step"]))

    def _table(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, caption=f"left {_time(self._left)}", caption_justify="left")
        for name in ("step", *_figures(self._lines[-1])):
            table.add_column(name, justify="right", no_wrap=True)
        for line in self._lines:
            table.add_row(str(line["step"]), *_figures(line).values())
        return table


def _figures(line: Mapping[str, Any]) -> dict[str, str]:
    """What a line tells of its step, by name; the same names for every step of a run."""
    pace = {"tokens/s": f"{line['tokens_per_second']:.0f}", "seconds": f"{line['step_seconds']:.1f}"}
    if "reward_mean" not in line:
        return {"loss": f"{line['loss']:.3f}", "rate": f"{line['learning_rate']:.1e}", **pace}
    return {
        "reward": f"{line['reward_mean']:.3f}",
        **({} if line["accuracy"] is None else {"accuracy": f"{line['accuracy']:.1%}"}),
        "kl": f"{line['kl']:.3f}",
        "length": f"{line['completion_tokens_mean']:.1f}",
        "stale": str(line["staleness_max"]),
        **pace,
    }


def _time(seconds: float) -> str:
    """As hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))
