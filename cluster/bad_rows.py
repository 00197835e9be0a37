"""Rows of a question file that are no examples: told to the user, and as they are kept with the figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.progress import Reporter
from data.formats import BadRow

TOLD = 5
"""Bad rows of a file that are printed; all of them are kept."""


def report(path: str, bad: Sequence[BadRow], reporter: Reporter) -> list[dict[str, Any]]:
    """Print the first few and how many there are; gives all of them as JSON objects."""
    for row in bad[:TOLD]:
        reporter.say(f"{path}: {row.place} left out: {row.reason}: {row.detail}")
    if len(bad) > TOLD:
        reporter.say(f"{path}: {len(bad)} bad rows in all, the first {TOLD} are above")
    return [
        {"file": path, "line": row.line, "row": row.row, "id": row.id, "reason": row.reason, "detail": row.detail}
        for row in bad
    ]
