"""Read the rows of a file one by one, so that a broken one costs itself alone.

A row comes with its position, as the object that stands there or as the `RowError` that reading it gave.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, Literal

RowFault = Literal[
    "invalid_json",
    "invalid_utf8",
    "not_an_object",
    "missing_key",
    "wrong_type",
    "empty_text",
    "too_few_choices",
    "duplicate_choices",
    "answer_not_a_choice",
    "duplicate_id",
    "outside_audio_dir",
    "remote_audio",
    "no_answer",
    "row_too_large",
    "damaged",
    "broken_list",
    "plug_in",
]
"""Why a row is no example, as it is counted."""

MAX_ROW_BYTES = 16 * 2**20
"""Longest line that is read: a question with its choices takes a thousandth of it."""

_LIST_OF_OBJECTS = re.compile(r"\s*\[\s*\{")
_SPACE = re.compile(r"\s*")


class RowError(ValueError):
    """A row that is no example."""

    def __init__(self, reason: RowFault, detail: str) -> None:
        self.reason: RowFault = reason
        self.detail = detail
        super().__init__(detail)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a row stands: on a line from 1, or as a row from 0."""

    line: int | None = None
    row: int | None = None

    def __str__(self) -> str:
        return f"line {self.line}" if self.line is not None else f"row {self.row}"

    def of(self, row_id: str) -> str:
        """The place with the id of its row, if that has one."""
        return f"{self} (id {row_id})" if row_id else str(self)


def read_json_rows(path: str) -> Iterator[tuple[Position, object]]:
    """The items of a file that is one JSON list, else the JSON of each line; blank lines are passed over.

    Of a list of objects that breaks, the items before the break are given, and then a `RowError` that is a
    `broken_list`: what follows cannot be told apart, so who trains or converts refuses the whole file.
    """
    with open(path, "rb") as file:
        start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
        file.seek(0)
        if start.startswith(b"["):
            # What is not UTF-8 becomes half a surrogate pair, which costs the row that has it.
            rows = _list_items(file.read().decode("utf-8-sig", "surrogateescape"))
            if rows is not None:
                yield from rows
                return
            file.seek(0)
        for line, encoded in enumerate(_lines(file), start=1):
            if encoded is None:
                mend = "write one object a line, and clips into files or Parquet"
                yield Position(line=line), RowError("row_too_large", f"takes {MAX_ROW_BYTES} bytes or more; {mend}")
                continue
            if line == 1:
                encoded = encoded.removeprefix(b"\xef\xbb\xbf")
            if encoded.strip():
                yield Position(line=line), _json_line(encoded)


def first_row(path: str) -> Mapping[str, Any] | None:
    """The first row of a JSON file that is an object."""
    return next((row for _, row in read_json_rows(path) if isinstance(row, dict)), None)


def wrapping_key(path: str) -> str | None:
    """The key of the list of objects in a file that is one object with such a list and no row; None for any other."""
    with open(path, "rb") as file:
        first = file.readline(MAX_ROW_BYTES).removeprefix(b"\xef\xbb\xbf").strip()
        if not first.startswith(b"{"):
            return None
        value = _json_line(first)
        if isinstance(value, RowError):  # an object over many lines, it may be
            file.seek(0)
            value = _json_line(file.read().removeprefix(b"\xef\xbb\xbf"))
        elif any(line is None or line.strip() for line in _lines(file)):
            return None  # lines, of which this is the first
    if not isinstance(value, dict) or "id" in value:
        return None
    lists = (key for key, item in value.items() if isinstance(item, list) and item)
    return next((key for key in lists if all(isinstance(row, dict) for row in value[key])), None)


def count_lines(path: str) -> int | None:
    """Lines of a file; None for one that may be a list."""
    with open(path, "rb") as file:
        if file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
            return None
        file.seek(0)
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(2**20), b""))


def _list_items(text: str) -> Iterator[tuple[Position, object]] | None:
    """The items of the list that the whole text is; None where it is something else, lines among it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return _items_before_the_break(text) if _LIST_OF_OBJECTS.match(text) else None
    return ((Position(row=row), item) for row, item in enumerate(value)) if isinstance(value, list) else None


def _items_before_the_break(text: str) -> Iterator[tuple[Position, object]]:
    decoder, place, row = json.JSONDecoder(), text.index("[") + 1, 0
    problem = "neither a comma nor the end of the list follows"
    while True:
        try:
            item, place = decoder.raw_decode(text, _beyond_space(text, place))
        except json.JSONDecodeError as error:
            problem, place = error.msg, error.pos
            break
        except (ValueError, RecursionError) as error:
            problem = str(error)
            break
        yield Position(row=row), item
        row += 1
        place = _beyond_space(text, place)
        if not text.startswith(",", place):
            break
        place += 1
    line, column = text.count("\n", 0, place) + 1, place - text.rfind("\n", 0, place)
    detail = f"the list breaks at line {line} column {column} ({problem}), and what follows is not read; mend it there"
    yield Position(row=row), RowError("broken_list", detail)


def _beyond_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place


def _lines(file: IO[bytes]) -> Iterator[bytes | None]:
    """The lines; None for one that is too long to be held."""
    while line := file.readline(MAX_ROW_BYTES):
        part = line
        while len(part) == MAX_ROW_BYTES and not part.endswith(b"\n"):
            part = file.readline(MAX_ROW_BYTES)  # passed over
        yield line if part is line else None


def _json_line(encoded: bytes) -> object:
    try:
        return json.loads(encoded.decode("utf-8"))
    except UnicodeDecodeError as error:
        return RowError("invalid_utf8", f"is not UTF-8 at byte {error.start}; save the file as UTF-8")
    except json.JSONDecodeError as error:
        return RowError("invalid_json", f"is not JSON at column {error.colno} ({error.msg}); write one object a line")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
        return RowError("invalid_json", f"is JSON beyond what can be read ({error})")
