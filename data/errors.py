"""Errors of clips and of data files, with what to do about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from data.types import ClipSource

ClipFault = Literal["missing", "unreadable", "empty", "too_short", "not_finite", "truncated", "too_long"]
"""Why a clip is dropped, as it is counted; `truncated` and `too_long` only where a check is strict, since training may
use what is there."""


class ClipError(ValueError):
    """A clip that cannot be used."""

    def __init__(self, reason: ClipFault, source: ClipSource, detail: str) -> None:
        self.reason: ClipFault = reason
        self.detail = detail
        super().__init__(f"{source}: {detail}")


class DataError(ValueError):
    """A data file that cannot be used."""


def last_line(error: BaseException) -> str:
    """What an error says at the end of its text, before which there may be the traceback of another process."""
    return (str(error).strip() or repr(error)).splitlines()[-1]
