"""The runs that a page shows, of which more may begin, and some go, while it does."""

from __future__ import annotations

import sys
from collections.abc import Callable

from cluster.view.run import Library
from cluster.view.shown import Shown
from rewards.logged import LogError


class Shelf:
    """What is shown, by name; runs that begin later are put to it, and those that are deleted are taken from it."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self.runs: dict[str, Shown] = {}
        self._refused: dict[str, str] = {}
        """Why a directory that looks like a run's is not shown."""
        self._put()

    def refresh(self, stop: Callable[[], bool]) -> None:
        """Look for new runs, and for new groups of all."""
        self._library.refresh()
        self._put()
        for shown in self.runs.values():
            if not stop():
                shown.groups.refresh(stop)

    def _put(self) -> None:
        there = self._library.runs
        self.runs = {name: shown for name, shown in self.runs.items() if there.get(name) is shown.run}
        for name, run in there.items():
            if name in self.runs:
                continue
            try:
                self.runs = self.runs | {name: Shown(run)}
            except LogError as error:  # its configuration may be on its way, or somebody else's
                if self._refused.get(name) != str(error):
                    self._refused[name] = str(error)
                    print(f"{name} is not shown: {error}", file=sys.stderr, flush=True)
