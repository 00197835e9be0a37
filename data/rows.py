"""Read the rows of a file one by one, so that a broken one costs itself alone.

A row comes with its position, as the object that stands there or as the `RowError` that reading it gave.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from data.errors import DataError

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
]
"""Why a row is no example, as it is counted."""


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


def read_json_rows(path: str) -> Iterator[tuple[Position, object]]:
    """The items of a file that is one JSON list, else the JSON of each line; blank lines are passed over."""
    rows = _json_list(path)
    if rows is not None:
        for row, value in enumerate(rows):
            yield Position(row=row), value
        return
    with open(path, "rb") as file:
        for line, encoded in enumerate(file, start=1):
            if line == 1:
                encoded = encoded.removeprefix(b"\xef\xbb\xbf")
            if encoded.strip():
                yield Position(line=line), _json_line(encoded)


def first_row(path: str) -> Mapping[str, Any] | None:
    """The first row of a JSON file that is an object."""
    return next((row for _, row in read_json_rows(path) if isinstance(row, dict)), None)


def read_parquet_rows(path: str) -> Iterator[tuple[Position, object]]:
    """The rows of a Parquet file without their audio, which must be there as `audio: {bytes, path}`."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if name != "audio"]
            paths = {file.schema.column(column).path for column in range(len(file.schema))}
            if "audio.bytes" not in paths:
                raise DataError(f"{path} has no column audio.bytes; store clips as audio: {{bytes, path}}")
            table = file.read(columns=names).combine_chunks()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}; write it again or set data.format") from error
    columns = {name: table.column(name) for name in names}
    for row in range(table.num_rows):
        try:
            yield Position(row=row), {name: column[row].as_py() for name, column in columns.items()}
        except UnicodeDecodeError as error:
            yield (
                Position(row=row),
                RowError("invalid_utf8", f"has text that is not UTF-8 ({error.reason}); write UTF-8"),
            )


def _json_list(path: str) -> list[Any] | None:
    """The list that the whole file is; None for anything else, lines among it."""
    with open(path, "rb") as file:
        start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
        if not start.startswith(b"["):
            return None
        file.seek(0)
        try:
            value = json.loads(file.read().decode("utf-8-sig"))
        except (ValueError, RecursionError):
            return None  # read as lines, each of which then tells what is wrong with it
    return value if isinstance(value, list) else None


def _json_line(encoded: bytes) -> object:
    try:
        return json.loads(encoded.decode("utf-8"))
    except UnicodeDecodeError as error:
        return RowError("invalid_utf8", f"is not UTF-8 at byte {error.start}; save the file as UTF-8")
    except json.JSONDecodeError as error:
        return RowError("invalid_json", f"is not JSON at column {error.colno} ({error.msg}); write one object a line")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
        return RowError("invalid_json", f"is JSON beyond what can be read ({error})")
