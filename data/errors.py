"""Errors of clips and of data files, with what to do about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from data.types import ClipSource

ClipFault = Literal["missing", "unreadable", "empty", "too_short", "not_finite"]
"""Why a clip is dropped, as it is counted."""

StrictFault = Literal[ClipFault, "truncated", "too_long"]
"""Why a check complains of a clip, though training may use what is there."""


class ClipError(ValueError):
    """A clip that cannot be used."""

    def __init__(self, reason: StrictFault, source: ClipSource, detail: str) -> None:
        self.reason: StrictFault = reason
        self.detail = detail
        super().__init__(f"{source}: {detail}")


class DataError(ValueError):
    """A data file that cannot be used."""
