"""Read a file of questions as examples: Auricle Parquet, JSONL, AVQA, MMAU, and datasets on disk.

A row that cannot be used becomes a `BadRow` with a reason to count it by; only a file as a whole raises. Whether a
clip exists is found out when it is read, not here; a path that leaves the folder of the clips is a bad row at once.

A plug-in makes a row with Auricle's own keys of a row as it was read:

    def my_row(row: dict[str, Any]) -> dict[str, Any]
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from configs.plugins import Function, PlugInError, is_plug_in, load_plug_in
from configs.schema import FORMATS
from data.errors import DataError
from data.examples import CLIPS, COLUMNS, Converted, Schema, convert, kind_of, schema_of
from data.parquet import is_parquet
from data.rows import Position, RowError, RowFault, count_lines, first_row, read_json_rows, wrapping_key
from data.tables import dataset_columns, parquet_columns, parquet_rows, read_dataset_rows, read_parquet_rows
from data.types import Example

Container = Literal["parquet", "dataset", "json"]

SHOWN_CHARACTERS = 400
"""Of an id or a detail of a bad row; the row itself may be of any size."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no example, and why."""

    at: Position
    id: str
    """Empty where the row has no readable one."""
    reason: RowFault
    detail: str
    above: int = 0
    """Examples that stand above it in the file."""

    @property
    def line(self) -> int | None:
        """Line of the file, from 1; None where rows have no lines."""
        return self.at.line

    @property
    def row(self) -> int | None:
        """Row of a table or of a JSON list, from 0; None where rows are lines."""
        return self.at.row

    @property
    def place(self) -> str:
        """Where it stands, and its id if it has one."""
        return self.at.of(self.id)

    def __str__(self) -> str:
        return f"{self.place}: {self.detail}"


@dataclass(frozen=True, slots=True)
class GoodRow:
    """A row that is an example."""

    at: Position
    found: Converted


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a file holds: at least one example, and the rows that are none."""

    examples: tuple[Example, ...]
    bad: tuple[BadRow, ...]

    def first(self, rows: int) -> Loaded:
        """What the first rows of the file hold, bad ones counted among them."""
        bad = tuple(one for place, one in enumerate(self.bad) if place + one.above < rows)
        return Loaded(self.examples[: rows - len(bad)], bad)


@dataclass(frozen=True, slots=True)
class Questions:
    """A file of questions that is known to be there, and whose keys are known."""

    path: str
    """Absolute: who reads a clip may start in another directory."""
    container: Container
    schema: Schema
    root: str
    """Directory that relative clips start from, absolute."""
    plug_in: str | None = None
    """What makes rows of that schema of those that are read, where they have other keys."""


def load_examples(
    path: str | os.PathLike[str], audio_dir: str | None = None, format: str = "auto", unanswered: bool = False
) -> Loaded:
    """Read a file of questions.

    Relative clips start from `audio_dir`, else from the folder of the file. MMAU's rows with a choice that stands
    twice (27 of the 1,000 of test-mini) are kept: its questions are answered by text, and a published score counts
    them. In the other formats such a row is bad, since a wrong choice would be rewarded. MMAU's test split has no
    answers: with `unanswered` its rows are examples with an empty answer, else they are bad.

    Raises `DataError` for a file that is missing, of no known format or without one good row, and for a list of JSON
    that breaks, of which the rest would be missing.
    """
    questions = find_questions(path, audio_dir, format)
    examples: list[Example] = []
    bad: list[BadRow] = []
    for row in read_whole(questions, unanswered):
        if isinstance(row, BadRow):
            bad.append(row)
        else:
            examples.append(row.found.example)
    if not examples:
        found = f"the first: {bad[0]}" if bad else "it is empty"
        shown = _shown_schema(questions)
        raise DataError(f"{questions.path} has no good row as {shown}; {found}. Mend the file or set data.format")
    return Loaded(tuple(examples), tuple(bad))


def find_questions(
    path: str | os.PathLike[str], audio_dir: str | None = None, format: str = "auto", guess: bool = False
) -> Questions:
    """What the file is, by its first bytes and the keys of its first row that has any.

    A file without such a row is refused, or with `guess` taken for lines of Auricle's own keys.
    """
    path = os.fspath(path)
    plug_in = format if is_plug_in(format) else None
    if format not in FORMATS and plug_in is None:
        raise DataError(
            f"data.format: {format!r} is not known; use one of {', '.join(FORMATS)}, or a plug-in module:function"
        )
    if not os.path.exists(path):
        raise DataError(f"{path} does not exist; name a file of questions in data.train, data.validation or data.test")
    if plug_in is not None:
        _row_function(plug_in)  # refused at once
    container, keys = _container(path, format)
    schema: Schema = "own"
    if format in ("avqa", "mmau"):
        schema = "avqa" if format == "avqa" else "mmau"
    elif format in ("auto", "huggingface"):
        if keys is None and not guess:
            raise DataError(f"{path} has no row with keys; set data.format to one of {', '.join(FORMATS[1:])}")
        schema = schema_of(keys or ())
    here = os.path.abspath(path)
    beside = here if container == "dataset" else os.path.dirname(here)
    return Questions(here, container, schema, os.path.abspath(audio_dir) if audio_dir is not None else beside, plug_in)


def read_questions(questions: Questions, unanswered: bool = False) -> Iterator[GoodRow | BadRow]:
    """The rows one after the other, each judged; all of them are held nowhere."""
    match questions.container:
        case "parquet":
            rows = read_parquet_rows(questions.path, COLUMNS, CLIPS)
        case "dataset":
            rows = read_dataset_rows(questions.path, COLUMNS, CLIPS)
        case "json":
            rows = read_json_rows(questions.path)
    return _judged(rows, questions, unanswered)


def read_whole(questions: Questions, unanswered: bool = False) -> Iterator[GoodRow | BadRow]:
    """What `read_questions` gives; raises `DataError` where the rows from there on are not read."""
    for row in read_questions(questions, unanswered):
        if isinstance(row, BadRow) and row.reason == "broken_list":
            raise DataError(f"{questions.path}: {row.detail}, or list every row before it with python -m data.check")
        yield row


def count_rows(questions: Questions) -> int | None:
    """About how many rows there are, where that is quickly told."""
    match questions.container:
        case "parquet":
            return parquet_rows(questions.path)
        case "json":
            return count_lines(questions.path)
        case "dataset":
            return None


def _container(path: str, format: str) -> tuple[Container, Collection[str] | None]:
    """How the rows are stored, and keys of the file where the format does not name them."""
    if os.path.isdir(path):
        if format in ("auricle", "jsonl"):
            raise DataError(f"{path} is not a regular file, and data.format is {format}; use huggingface or auto")
        return "dataset", dataset_columns(path)
    if not os.path.isfile(path):
        raise DataError(f"{path} is not a regular file; name a file of questions")
    if format == "huggingface":
        raise DataError(f"{path} is a file, and data.format: huggingface reads directories; use auto")
    if format == "auricle" or is_parquet(path):
        if format == "jsonl":
            raise DataError(f"{path} is Parquet, and data.format is jsonl; use auricle or auto")
        return "parquet", parquet_columns(path)
    if path.endswith(".parquet") and format != "jsonl":
        raise DataError(f"{path} is named .parquet but is not Parquet; write it again")
    if (key := wrapping_key(path)) is not None:
        raise DataError(f"{path} is an object that holds its rows under {key!r}; write the list alone")
    return "json", first_row(path) if format == "auto" else None


def _shown_schema(questions: Questions) -> str:
    own = {"parquet": "auricle", "dataset": "huggingface", "json": "jsonl"}[questions.container]
    if questions.plug_in is not None:
        return questions.plug_in
    return own if questions.schema == "own" else questions.schema


def _judged(
    rows: Iterable[tuple[Position, object]], questions: Questions, unanswered: bool
) -> Iterator[GoodRow | BadRow]:
    above = 0
    seen: set[str] = set()
    for at, row in rows:
        row_id = ""
        try:
            if isinstance(row, RowError):
                raise row
            if not isinstance(row, dict):
                raise RowError("not_an_object", f"is {kind_of(row)}, not an object with keys; write {{...}}")
            if questions.plug_in is not None:
                row = _own_row(questions.plug_in, row)
            row_id = _shown_id(row.get("id"))
            found = convert(row, questions.schema, questions.root, unanswered)
            row_id = _shown_id(found.example.id)
            if found.example.id in seen:
                raise RowError("duplicate_id", f"id {found.example.id!r} stands above already; give each row its own")
        except RowError as error:
            yield BadRow(at, row_id, error.reason, error.detail[:SHOWN_CHARACTERS], above)
        else:
            seen.add(found.example.id)
            above += 1
            yield GoodRow(at, found)


@cache
def _row_function(name: str) -> Function:
    contract = "def my_row(row: dict[str, Any]) -> dict[str, Any]"
    try:
        return load_plug_in("data.format", name, contract, ({},))
    except PlugInError as error:
        raise DataError(str(error)) from error


def _own_row(plug_in: str, row: dict[str, Any]) -> dict[str, Any]:
    """What a plug-in makes of a row."""
    try:
        made = _row_function(plug_in)(row)
    except Exception as error:  # whatever it is, the row is told of and the others are read
        raise RowError("plug_in", f"{plug_in} raised {error!r}; mend it, or the row") from error
    if not isinstance(made, dict):
        raise RowError("plug_in", f"{plug_in} gave {kind_of(made)}, not an object with keys; return a dict")
    return made


def _shown_id(value: object) -> str:
    """An id as it can be printed, whatever it is."""
    if not isinstance(value, str | int | float):
        return ""
    return str(value)[:SHOWN_CHARACTERS].encode(errors="backslashreplace").decode()
