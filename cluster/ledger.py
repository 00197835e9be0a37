"""Every admitted group is trained once, dropped for a counted reason, or in flight. Pure: no Ray, no clock.

    admitted = trained + dropped + in flight

holds after every call. A group that is lost before it was trained is issued again: it stays in flight and is admitted
once.

    admit ---> in flight ---> trained
                 |  ^ |
           reissue--+ +-----> dropped(reason)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any


class LedgerError(AssertionError):
    """A group was admitted, trained or dropped twice, or never admitted: a defect of the control loop."""


class Ledger:
    """Counts groups; remembers the ids only of those in flight, so it does not grow with the run.

    >>> ledger = Ledger()
    >>> ledger.admit("a"); ledger.admit("b")
    >>> ledger.train(["a"]); ledger.drop("b", "clip_missing")
    >>> ledger.counts()
    {'admitted': 2, 'trained': 1, 'dropped': 1, 'in_flight': 0}
    """

    def __init__(self) -> None:
        self.admitted = 0
        self.trained = 0
        self.dropped: Counter[str] = Counter()
        self._issues: dict[str, int] = {}

    def admit(self, group_id: str) -> None:
        """A new group starts."""
        if group_id in self._issues:
            raise LedgerError(f"group {group_id} was admitted twice")
        self._issues[group_id] = 0
        self.admitted += 1

    def reissue(self, group_id: str) -> int:
        """The group was lost and is asked for again; returns its issue count."""
        self._expect(group_id)
        self._issues[group_id] += 1
        return self._issues[group_id]

    def train(self, group_ids: Iterable[str]) -> None:
        """These groups went into a step."""
        for group_id in group_ids:
            self._expect(group_id)
            del self._issues[group_id]
            self.trained += 1

    def drop(self, group_id: str, reason: str) -> None:
        """The group will not be trained."""
        self._expect(group_id)
        del self._issues[group_id]
        self.dropped[reason] += 1

    def counts(self) -> dict[str, int]:
        """The four terms of the balance."""
        return {
            "admitted": self.admitted,
            "trained": self.trained,
            "dropped": self.dropped.total(),
            "in_flight": len(self._issues),
        }

    def check(self) -> None:
        """Raise unless the balance holds."""
        counts = self.counts()
        if counts["admitted"] != counts["trained"] + counts["dropped"] + counts["in_flight"]:
            raise LedgerError(f"the ledger does not balance: {counts}")

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps. Groups in flight are not part of it: a resume draws their prompts again."""
        lost = len(self._issues)
        return {"admitted": self.admitted - lost, "trained": self.trained, "dropped": dict(self.dropped)}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Ledger:
        """The ledger of a checkpoint."""
        ledger = cls()
        ledger.admitted = int(stored["admitted"])
        ledger.trained = int(stored["trained"])
        ledger.dropped = Counter({str(reason): int(count) for reason, count in stored["dropped"].items()})
        ledger.check()
        return ledger

    def _expect(self, group_id: str) -> None:
        if group_id not in self._issues:
            raise LedgerError(f"group {group_id} is not in flight: trained or dropped before, or never admitted")
