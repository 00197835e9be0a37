"""What a run says while it goes on: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

PLAIN_EVERY_STEPS = 10
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
        with Progress(
            TextColumn("[bold]train"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        ) as progress:
            task = progress.add_task("train", total=total, completed=first, figures="")
            yield StepLines(self, progress, task, total)

    @contextmanager
    def questions(self, name: str, total: int) -> Iterator[Any]:
        """Show an evaluation; yields what is called once a question."""
        with Progress(
            TextColumn(f"[bold]{name}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        ) as progress:
            task = progress.add_task(name, total=total)
            yield lambda: progress.advance(task)

    def table(self, title: str, rows: list[tuple[str, ...]], header: tuple[str, ...]) -> None:
        """A table; columns after the first are figures."""
        table = Table(title=title, title_justify="left")
        for number, name in enumerate(header):
            table.add_column(name, justify="left" if number == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)


class StepLines:
    """One line a step."""

    def __init__(self, reporter: Reporter, progress: Progress, task: Any, total: int) -> None:
        self._reporter, self._progress, self._task, self._total = reporter, progress, task, total

    def show(self, line: Mapping[str, Any]) -> None:
        """Show a line of `metrics.jsonl`."""
        figures = f"{_learned(line)}  {line['tokens_per_second']:.0f} tokens/s"
        self._progress.update(self._task, completed=line["step"], figures=figures)
        step = line["step"]
        if not self._reporter.console.is_terminal and (step % PLAIN_EVERY_STEPS == 0 or step in (1, self._total)):
            left = line["step_seconds"] * (self._total - step)
            self._reporter.say(f"step {step}/{self._total}  {figures}  {line['step_seconds']:.1f} s  left {left:.0f} s")


def _learned(line: Mapping[str, Any]) -> str:
    """What a line tells of the step's success."""
    if "reward_mean" not in line:
        return f"loss {line['loss']:.3f}"
    accuracy = "" if line["accuracy"] is None else f"accuracy {line['accuracy']:.1%}  "
    return (
        f"reward {line['reward_mean']:.3f}  {accuracy}kl {line['kl']:.3f}  length {line['completion_tokens_mean']:.1f}"
    )
