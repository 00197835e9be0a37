"""What is wrong with a row or with its clip, as commands tell it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from data.errors import ClipError
from data.formats import BadRow, GoodRow
from data.rows import Position

Severity = Literal["bad", "note"]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a row."""

    at: Position
    id: str
    severity: Severity
    reason: str
    """A short word, counted."""
    detail: str
    """What is wrong, and what to do about it."""

    def __str__(self) -> str:
        return f"{self.at.of(self.id)}: {'note: ' if self.severity == 'note' else ''}{self.reason}: {self.detail}"

    def to_json(self) -> dict[str, Any]:
        """The problem as an object: `line` from 1 or `row` from 0, whichever its file has, is a number."""
        place = {"line": self.at.line, "row": self.at.row, "id": self.id}
        return place | {"severity": self.severity, "reason": self.reason, "detail": self.detail}


def of_row(bad: BadRow) -> Problem:
    """A row that is no example."""
    return Problem(bad.at, bad.id, "bad", bad.reason, bad.detail)


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


def about(row: GoodRow, severity: Severity, reason: str, detail: str) -> Problem:
    """A row that is an example."""
    return Problem(row.at, row.found.example.id, severity, reason, detail)
