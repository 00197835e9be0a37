"""Turn a file of questions into examples: Auricle Parquet, JSONL, AVQA and MMAU.

A row that cannot be used becomes a `BadRow` with a reason to count it by; only a file as a whole raises. Whether a
clip exists is found out when it is read, not here; a path that leaves the folder of the clips is a bad row at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from data.errors import DataError
from data.rows import Position, RowError, RowFault, first_row, read_json_rows, read_parquet_rows
from data.types import ClipSource, Example

Format = Literal["auto", "auricle", "jsonl", "avqa", "mmau"]

AUDIO_EXTENSIONS = (".wav", ".flac", ".mp3", ".ogg", ".opus")
"""Looked for beside an AVQA video's name, in this order."""

SHOWN_CHARACTERS = 400
"""Of an id or a detail of a bad row; the row itself may be of any size."""

_PARQUET_MAGIC = b"PAR1"


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no example, and why."""

    line: int | None
    """Line of the file, from 1; None where rows have no lines."""
    row: int | None
    """Row of a Parquet file or of a JSON list, from 0; None where rows are lines."""
    id: str
    """Empty where the row has no readable one."""
    reason: RowFault
    detail: str
    above: int = 0
    """Examples that stand above it in the file."""

    @property
    def place(self) -> str:
        """Where it stands, and its id if it has one."""
        at = Position(self.line, self.row)
        return f"{at} (id {self.id})" if self.id else str(at)

    def __str__(self) -> str:
        return f"{self.place}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a file holds: at least one example, and the rows that are none."""

    examples: tuple[Example, ...]
    bad: tuple[BadRow, ...]

    def first(self, rows: int) -> Loaded:
        """What the first rows of the file hold, bad ones counted among them."""
        bad = tuple(one for place, one in enumerate(self.bad) if place + one.above < rows)
        return Loaded(self.examples[: rows - len(bad)], bad)


def load_examples(path: str | os.PathLike[str], audio_dir: str | None = None, format: str = "auto") -> Loaded:
    """Read a file of questions.

    Relative clips start from `audio_dir`, else from the folder of the file. MMAU's rows with a choice that stands
    twice (27 of the 1,000 of test-mini) are kept: its questions are answered by text, and a published score counts
    them. In the other formats such a row is bad, since a wrong choice would be rewarded.

    Raises `DataError` for a file that is missing, of no known format or without one good row.
    """
    path = os.fspath(path)
    if format not in get_args(Format):
        raise DataError(f"data.format: {format!r} is not known; use one of {', '.join(get_args(Format))}")
    if not os.path.isfile(path):
        what = "is not a regular file" if os.path.exists(path) else "does not exist"
        raise DataError(f"{path} {what}; name a file of questions in data.train, data.validation or data.test")
    if format == "auto":
        format = _detect(path)
    root = os.path.abspath(audio_dir if audio_dir is not None else os.path.dirname(os.path.abspath(path)))
    if format == "auricle":
        absolute = os.path.abspath(path)  # the actor that reads the clip starts in another directory
        loaded = _collect(read_parquet_rows(path), lambda row, at: _from_auricle(row, at, absolute))
    else:
        convert = {"jsonl": _from_jsonl, "avqa": _from_avqa, "mmau": _from_mmau}[format]
        loaded = _collect(read_json_rows(path), lambda row, at: convert(row, root))
    if not loaded.examples:
        found = f"the first: {loaded.bad[0]}" if loaded.bad else "it is empty"
        raise DataError(f"{path} has no good row as {format}; {found}. Mend the file or set data.format")
    return loaded


def _detect(path: str) -> str:
    """The format, from the first bytes and the keys of the first row that has any."""
    with open(path, "rb") as file:
        if file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC:
            return "auricle"
    if path.endswith(".parquet"):
        raise DataError(f"{path} is named .parquet but is not Parquet; write it again")
    row = first_row(path)
    if row is None:
        raise DataError(f"{path} has no row with keys; set data.format to one of {', '.join(get_args(Format)[1:])}")
    if "multi_choice" in row:
        return "avqa"
    return "mmau" if "audio_id" in row else "jsonl"


def _collect(
    rows: Iterable[tuple[Position, object]], convert: Callable[[Mapping[str, Any], Position], Example]
) -> Loaded:
    examples: list[Example] = []
    bad: list[BadRow] = []
    seen: set[str] = set()
    for at, row in rows:
        row_id = ""
        try:
            if isinstance(row, RowError):
                raise row
            if not isinstance(row, dict):
                raise RowError("not_an_object", f"is {_kind(row)}, not an object with keys; write {{...}}")
            row_id = str(row.get("id", ""))[:SHOWN_CHARACTERS]
            example = convert(row, at)
            if example.id in seen:
                raise RowError("duplicate_id", f"id {example.id!r} stands above already; give each row its own")
        except RowError as error:
            detail = error.detail[:SHOWN_CHARACTERS]
            bad.append(BadRow(at.line, at.row, row_id, error.reason, detail, len(examples)))
        else:
            seen.add(example.id)
            examples.append(example)
    return Loaded(tuple(examples), tuple(bad))


def _from_auricle(row: Mapping[str, Any], at: Position, path: str) -> Example:
    return _example(row, ClipSource(path, at.row), _choices(row, "choices"), _text(row, "answer"))


def _from_jsonl(row: Mapping[str, Any], root: str) -> Example:
    clip = ClipSource(_inside(root, _text(row, "audio"), "audio"))
    return _example(row, clip, _choices(row, "choices"), _text(row, "answer"))


def _from_avqa(row: Mapping[str, Any], root: str) -> Example:
    choices = _choices(row, "multi_choice")
    index = _required(row, "answer")
    if isinstance(index, bool) or not isinstance(index, int):
        raise RowError("wrong_type", f"answer is {_kind(index)}, not the index of a choice from 0")
    if not 0 <= index < len(choices):
        raise RowError("answer_not_a_choice", f"answer {index} is the index of none of {len(choices)} choices, from 0")
    question = _text(row, "question_text").replace("video", "audio")
    row = {"source": row.get("dataset_name") or "AVQA", "task": row.get("question_type"), **row, "question": question}
    return _example(row, ClipSource(_avqa_clip(row, root)), choices, choices[index])


def _avqa_clip(row: Mapping[str, Any], root: str) -> str:
    """`audio_path`, else the first file in the folder named after the video; `.wav` when there is none."""
    if row.get("audio_path") is not None:
        return _inside(root, _text(row, "audio_path"), "audio_path")
    stem = _inside(root, _text(row, "video_name"), "video_name")
    if stem.endswith(AUDIO_EXTENSIONS):
        return stem
    return next((stem + end for end in AUDIO_EXTENSIONS if os.path.exists(stem + end)), stem + AUDIO_EXTENSIONS[0])


def _from_mmau(row: Mapping[str, Any], root: str) -> Example:
    clip = ClipSource(_inside(root, _text(row, "audio_id"), "audio_id"))
    row = {**row, "sub_category": row.get("sub-category"), "source": row.get("dataset")}
    return _example(row, clip, _choices(row, "choices", allow_twice=True), _text(row, "answer"))


def _example(row: Mapping[str, Any], clip: ClipSource, choices: tuple[str, ...], answer: str) -> Example:
    if answer not in choices:
        raise RowError("answer_not_a_choice", f"answer {answer!r} is none of the choices {list(choices)}")
    row_id = _required(row, "id")
    if isinstance(row_id, int) and not isinstance(row_id, bool):
        row_id = str(row_id)
    return Example(
        id=_text({"id": row_id}, "id"),
        clip=clip,
        question=_text(row, "question"),
        choices=choices,
        answer=answer,
        task=_words(row, "task"),
        sub_category=_words(row, "sub_category"),
        difficulty=_words(row, "difficulty"),
        source=_words(row, "source"),
    )


def _required(row: Mapping[str, Any], key: str) -> Any:
    if row.get(key) is None:
        raise RowError("missing_key", f"has no {key}; give it one")
    return row[key]


def _text(row: Mapping[str, Any], key: str) -> str:
    """The text at a required key."""
    return _checked_text(_required(row, key), key)


def _words(row: Mapping[str, Any], key: str) -> str:
    """The text at an optional key; a list of texts is joined, as some of MMAU's categories are lists."""
    value = row.get(key)
    if value is None or value == "":
        return ""
    if isinstance(value, list):
        return ", ".join(_checked_text(item, key) for item in value)
    return _checked_text(value, key)


def _checked_text(value: object, key: str) -> str:
    if not isinstance(value, str):
        raise RowError("wrong_type", f"{key} is {_kind(value)}, not text; write it in quotes")
    if not value.strip():
        raise RowError("empty_text", f"{key} is empty; fill it in")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            detail = f"{key} has half a surrogate pair at character {error.start}; write UTF-8"
            raise RowError("invalid_utf8", detail) from error
    return value


def _choices(row: Mapping[str, Any], key: str, allow_twice: bool = False) -> tuple[str, ...]:
    values = _required(row, key)
    if not isinstance(values, list):
        raise RowError("wrong_type", f"{key} is {_kind(values)}, not a list of texts")
    if len(values) < 2:
        raise RowError("too_few_choices", f"{key} has {len(values)} of at least 2 choices")
    choices = tuple(_checked_text(value, key) for value in values)
    if not allow_twice and len(set(choices)) < len(choices):
        twice = sorted({choice for choice in choices if choices.count(choice) > 1})
        raise RowError("duplicate_choices", f"{key} has {twice} more than once; remove or reword one")
    return choices


def _inside(root: str, relative: str, key: str) -> str:
    """The absolute path, which must not leave `root` by its own text; links that stand inside are followed."""
    path = os.path.normpath(os.path.join(root, relative))
    if "\0" in relative or os.path.commonpath([root, path]) != root or path == root:
        raise RowError("outside_audio_dir", f"{key} {relative!r} is no file inside {root}; set data.audio_dir above it")
    return path


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
