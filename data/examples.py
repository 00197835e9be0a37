"""Turn one row into an example: Auricle's own keys, AVQA's and MMAU's.

A row may come from JSON or from a table; a clip in it is the text of a path or a `StoredClip`. What cannot be used
raises `RowError` with a reason to count it by.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from data.remote import is_url
from data.rows import RowError
from data.tables import StoredClip
from data.types import ClipSource, Example

Schema = Literal["own", "avqa", "mmau"]

OWN = ("id", "audio", "question", "choices", "answer", "task", "sub_category", "difficulty", "source")
FURTHER = ("licence", "license", "sha256")
AVQA = ("multi_choice", "question_text", "question_type", "video_name", "audio_path", "dataset_name")
MMAU = ("audio_id", "audio_url", "context", "instruction", "other_attributes", "dataset", "sub-category")
COLUMNS = frozenset((*OWN, *FURTHER, *AVQA, *MMAU))
"""Keys that mean something to one of the schemas; what else a row holds is `Example.extra`."""

REQUIRED = frozenset(("id", "audio", "question", "choices", "answer"))
"""A row that has all of these is Auricle's own, whatever else it has."""

AUDIO_EXTENSIONS = (".wav", ".flac", ".mp3", ".ogg", ".opus")
"""Looked for beside an AVQA video's name, in this order."""

MMAU_KEYS = frozenset({"audio_id", "sub-category", "other_attributes"})
"""Any of them tells a row of MMAU."""

OWN_CLIPS = ("audio", "audio_path")
"""Where a row of Auricle's own has its clip; the first that is there counts."""

MMAU_CLIPS = ("audio_id", "audio", "context", "audio_url", "audio_path")
"""Where a row of MMAU or of a copy has its clip; the first that is there counts."""

CLIPS = frozenset(MMAU_CLIPS)
"""Columns that have clips or their paths in one of the schemas."""

_LETTERED = re.compile(r"\(([A-Z])\)\s*(?=\S)")


@dataclass(frozen=True, slots=True)
class Converted:
    """An example, and what only a checker or a converter looks at."""

    example: Example
    clip_name: str
    """What the row calls its clip."""
    licence: str
    sha256: object
    """Of the clip's encoded bytes, as the row claims; None where it claims nothing."""


def schema_of(keys: Collection[str]) -> Schema:
    """Whose keys they are."""
    if REQUIRED.issubset(keys):
        return "own"
    if "multi_choice" in keys:
        return "avqa"
    return "mmau" if MMAU_KEYS.intersection(keys) else "own"


def convert(row: Mapping[str, Any], schema: Schema, root: str, unanswered: bool) -> Converted:
    """The example that a row is; raises `RowError`.

    Args:
        row: as it was read.
        schema: whose keys it has.
        root: directory that its clip must lie in, absolute.
        unanswered: take a row of MMAU without an answer for an example whose answer is empty.
    """
    match schema:
        case "avqa":
            example, name = _from_avqa(row, root)
        case "mmau":
            example, name = _from_mmau(row, root, unanswered)
        case "own":
            clip, name = _clip(row, _first_given(row, OWN_CLIPS), root)
            example = _example(row, clip, _choices(row, "choices"), _text(row, "answer", _number_for_a_choice))
    licence = _words(row, "licence" if row.get("licence") else "license")
    return Converted(example, name, licence, row.get("sha256"))


def repeated(texts: Sequence[str]) -> list[str]:
    """The texts that stand more than once."""
    return sorted(text for text, times in Counter(texts).items() if times > 1)


def kind_of(value: object) -> str:
    """What a value is, in words of JSON."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _from_avqa(row: Mapping[str, Any], root: str) -> tuple[Example, str]:
    choices = _choices(row, "multi_choice")
    index = _required(row, "answer")
    if isinstance(index, bool) or not isinstance(index, int):
        raise RowError("wrong_type", f"answer is {kind_of(index)}, not the index of a choice from 0")
    if not 0 <= index < len(choices):
        raise RowError("answer_not_a_choice", f"answer {index} is the index of none of {len(choices)} choices, from 0")
    question = _text(row, "question_text").replace("video", "audio")
    row = {"source": row.get("dataset_name") or "AVQA", "task": row.get("question_type"), **row, "question": question}
    clip, name = _avqa_clip(row, root)
    return _example(row, clip, choices, choices[index]), name


def _avqa_clip(row: Mapping[str, Any], root: str) -> tuple[ClipSource, str]:
    """`audio_path`, else the first file in the folder named after the video; `.wav` when there is none."""
    for key in ("audio_path", "audio"):
        if row.get(key) is not None:
            return _clip(row, key, root)
    name = _text(row, "video_name")
    stem = _inside(root, name, "video_name")
    if stem.endswith(AUDIO_EXTENSIONS):
        return ClipSource(stem), name
    end = next((end for end in AUDIO_EXTENSIONS if os.path.exists(stem + end)), AUDIO_EXTENSIONS[0])
    return ClipSource(stem + end), name + end


def _from_mmau(row: Mapping[str, Any], root: str, unanswered: bool) -> tuple[Example, str]:
    """Rows of the JSON files, and of the Parquet files since v05.15.25.

    Those keep what is not question, choices or answer as JSON in `other_attributes`, and have `(A) ` before a choice.
    """
    row = {**_attributes(row), **{key: value for key, value in row.items() if value is not None}}
    clip, name = _clip(row, _first_given(row, MMAU_CLIPS), root)
    lettered = _choices(row, "choices", allow_twice=True)
    choices = _without_letters(lettered)
    answer = row.get("answer")
    if answer is None or (isinstance(answer, str) and not answer.strip()):
        if not unanswered:
            detail = "has no answer, as in MMAU's test split: nothing can be trained or scored by it, and"
            raise RowError("no_answer", f"{detail} cluster.evaluate writes predictions for it")
        answer = ""
    elif answer in lettered:
        answer = choices[lettered.index(answer)]
    else:
        answer = _text(row, "answer", _number_for_a_choice)
    row = {
        **row,
        "question": row["question"] if row.get("question") is not None else row.get("instruction"),
        "sub_category": row.get("sub-category") or row.get("sub_category"),
        "source": row.get("dataset") or row.get("source"),
    }
    return _example(row, clip, choices, answer), name


def _first_given(row: Mapping[str, Any], keys: Sequence[str]) -> str:
    """The first of the keys that the row has a value for, else the first of all."""
    return next((key for key in keys if row.get(key) is not None), keys[0])


def _attributes(row: Mapping[str, Any]) -> Mapping[str, Any]:
    attributes = row.get("other_attributes")
    if isinstance(attributes, str):
        try:
            attributes = json.loads(attributes)
        except (ValueError, RecursionError) as error:
            raise RowError("invalid_json", f"other_attributes is not JSON ({error}); write an object") from error
    return attributes if isinstance(attributes, dict) else {}


def _without_letters(choices: Sequence[str]) -> tuple[str, ...]:
    """The choices without the `(A) `, `(B) ` ... that stand before them, where they stand before all in order."""
    found = [_LETTERED.match(choice) for choice in choices]
    letters = [match[1] for match in found if match is not None]
    if letters != [chr(ord("A") + number) for number in range(len(choices))]:
        return tuple(choices)
    return tuple(choice[match.end() :] for choice, match in zip(choices, found, strict=True) if match is not None)


def _example(row: Mapping[str, Any], clip: ClipSource, choices: tuple[str, ...], answer: str) -> Example:
    if answer and answer not in choices:
        mend = _nearest(answer, choices)
        raise RowError("answer_not_a_choice", f"answer {answer!r} is none of the choices {list(choices)}{mend}")
    row_id = _required(row, "id")
    if isinstance(row_id, int) and not isinstance(row_id, bool):
        row_id = str(row_id)
    return Example(
        id=_checked_text(row_id, "id"),
        clip=clip,
        question=_text(row, "question"),
        choices=choices,
        answer=answer,
        task=_words(row, "task"),
        sub_category=_words(row, "sub_category"),
        difficulty=_words(row, "difficulty"),
        source=_words(row, "source"),
        extra={key: value for key, value in row.items() if key not in COLUMNS},
    )


def _nearest(answer: str, choices: Sequence[str]) -> str:
    """What to write instead, where the answer is a choice but for case and white space, or is its letter."""
    plain = [" ".join(choice.split()).casefold() for choice in choices]
    if (meant := " ".join(answer.split()).casefold()) in plain:
        return f"; write it as it stands there, {choices[plain.index(meant)]!r}"
    letter = answer.strip().strip("().").upper()
    if len(letter) == 1 and 0 <= (number := ord(letter) - ord("A")) < len(choices):
        return f"; write the choice and not its letter, {choices[number]!r}"
    return "; write one of them"


def _number_for_a_choice(value: object) -> str:
    return "write the text of the choice, not its index" if isinstance(value, int) else "write it in quotes"


def _clip(row: Mapping[str, Any], key: str, root: str) -> tuple[ClipSource, str]:
    """Where the clip lies, and what the row calls it."""
    value = _required(row, key)
    if isinstance(value, StoredClip):
        return value.source, value.name
    if isinstance(value, dict):  # as `datasets` writes a clip to JSON
        value = value.get("path")
        if not isinstance(value, str):
            raise RowError("wrong_type", f"{key} is an object without a path; give the path of the clip's file")
    name = _checked_text(value, key)
    if is_url(name):
        raise RowError("remote_audio", f"{key} {name!r} is an address; fetch the clip and give the path of its file")
    return ClipSource(_inside(root, name, key)), name


def _required(row: Mapping[str, Any], key: str) -> Any:
    if row.get(key) is None:
        raise RowError("missing_key", f"has no {key}; give it one")
    return row[key]


def _text(row: Mapping[str, Any], key: str, mend: Callable[[object], str] | None = None) -> str:
    """The text at a required key; `mend` says of a value that is none what to do."""
    return _checked_text(_required(row, key), key, mend)


def _words(row: Mapping[str, Any], key: str) -> str:
    """The text at an optional key; a list of texts is joined, as some of MMAU's categories are lists."""
    value = row.get(key)
    if value is None or value == "":
        return ""
    if isinstance(value, list):
        return ", ".join(_checked_text(item, key) for item in value)
    return _checked_text(value, key)


def _checked_text(value: object, key: str, mend: Callable[[object], str] | None = None) -> str:
    if not isinstance(value, str):
        how = mend(value) if mend is not None else "write it in quotes"
        raise RowError("wrong_type", f"{key} is {kind_of(value)}, not text; {how}")
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
        raise RowError("wrong_type", f"{key} is {kind_of(values)}, not a list of texts; write [...]")
    if len(values) < 2:
        raise RowError("too_few_choices", f"{key} has {len(values)} of at least 2 choices")
    choices = tuple(_checked_text(value, f"{key}[{number}]") for number, value in enumerate(values))
    if not allow_twice and (twice := repeated(choices)):
        raise RowError("duplicate_choices", f"{key} has {twice} more than once; remove or reword one")
    return choices


def _inside(root: str, relative: str, key: str) -> str:
    """The absolute path, which must not leave `root` by its own text; links that stand inside are followed."""
    path = os.path.normpath(os.path.join(root, relative))
    if "\0" in relative or os.path.commonpath([root, path]) != root or path == root:
        raise RowError("outside_audio_dir", f"{key} {relative!r} is no file inside {root}; set data.audio_dir above it")
    return path
