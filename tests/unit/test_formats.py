"""Files of questions: the formats, broken rows, and files that hold nothing."""

import dataclasses
import datetime
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import DataError
from data.examples import COLUMNS
from data.formats import BadRow, find_questions, load_examples, read_questions
from data.rows import MAX_ROW_BYTES
from data.types import ClipSource, Example
from tests.disk_datasets import save_to_disk

JSONL: dict[str, Any] = {
    "id": "a1",
    "audio": "clips/a1.wav",
    "question": "Which animal is it?",
    "choices": ["Dog", "Cat"],
    "answer": "Cat",
}
AVQA: dict[str, Any] = {
    "id": 17,
    "video_name": "-xYz_000030",
    "video_id": 4,
    "question_text": "What is heard in the video?",
    "multi_choice": ["Rain", "Wind", "Bells", "Birds"],
    "answer": 2,
    "question_relation": "Sound",
    "question_type": "Come From",
}
MMAU: dict[str, Any] = {
    "id": "m1",
    "audio_id": "./test-mini-audios/m1.wav",
    "question": "Which instrument leads?",
    "choices": ["Oboe", "Harp", "Oboe"],
    "answer": "Oboe",
    "dataset": "made up",
    "task": "music",
    "split": "test-mini",
    "category": ["Reasoning", "Counting"],
    "sub-category": "Instruments",
    "difficulty": "easy",
}


def write_lines(folder: Path, *rows: object, name: str = "rows.jsonl") -> str:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    (folder / name).write_bytes(b"\n".join(lines) + b"\n")
    return str(folder / name)


def write_list(folder: Path, *rows: object) -> str:
    (folder / "rows.json").write_text(json.dumps(rows, indent=1))
    return str(folder / "rows.json")


def write_parquet(folder: Path, rows: list[dict[str, Any]]) -> str:
    path = folder / "rows.parquet"
    kinds = {"choices": pa.list_(pa.string()), "audio": pa.struct([("bytes", pa.binary()), ("path", pa.string())])}
    names = ["id", "question", "choices", "answer", "task", "audio"]
    columns = {name: pa.array([row.get(name) for row in rows], kinds.get(name, pa.string())) for name in names}
    pq.write_table(pa.table(columns), path)
    return str(path)


def only_bad(path: str, **options: Any) -> BadRow:
    (bad,) = load_examples(path, **options).bad
    return bad


def test_a_row_of_jsonl_becomes_an_example(tmp_path: Path) -> None:
    optional = {"task": "sound", "sub_category": "animals", "difficulty": "easy", "source": "made up"}
    (example,) = load_examples(write_lines(tmp_path, {**JSONL, **optional})).examples
    assert example.id == "a1"
    assert example.clip == ClipSource(str(tmp_path / "clips/a1.wav"))
    assert (example.question, example.choices, example.answer) == ("Which animal is it?", ("Dog", "Cat"), "Cat")
    assert (example.task, example.sub_category, example.difficulty, example.source) == tuple(optional.values())


def test_relative_clips_start_from_audio_dir_when_it_is_given(tmp_path: Path) -> None:
    (example,) = load_examples(write_lines(tmp_path, JSONL), audio_dir=str(tmp_path / "sounds")).examples
    assert example.clip.path == str(tmp_path / "sounds/clips/a1.wav")


def test_avqa_takes_the_choice_at_the_index_and_asks_about_the_audio(tmp_path: Path) -> None:
    (example,) = load_examples(write_lines(tmp_path, AVQA)).examples
    assert (example.id, example.answer, example.source) == ("17", "Bells", "AVQA")
    assert example.question == "What is heard in the audio?"


@pytest.mark.parametrize("found", [".wav", ".flac", ".mp3", None])
def test_avqa_finds_the_sound_of_a_video_by_its_name(tmp_path: Path, found: str | None) -> None:
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    if found:
        (sounds / f"-xYz_000030{found}").touch()
    (example,) = load_examples(write_lines(tmp_path, AVQA), audio_dir=str(sounds)).examples
    assert example.clip.path == str(sounds / f"-xYz_000030{found or '.wav'}")


def test_avqa_takes_the_audio_path_of_a_row_that_has_one(tmp_path: Path) -> None:
    row = {**AVQA, "audio_path": str(tmp_path / "x.flac"), "dataset_name": "AVQA-v2"}
    (example,) = load_examples(write_lines(tmp_path, row)).examples
    assert (example.clip.path, example.source) == (str(tmp_path / "x.flac"), "AVQA-v2")


def test_a_row_without_audio_may_have_an_audio_path(tmp_path: Path) -> None:
    row = {**{key: value for key, value in JSONL.items() if key != "audio"}, "audio_path": "clips/x.flac"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    for path in (write_lines(tmp_path, row), str(tmp_path / "rows.parquet")):
        (example,) = load_examples(path).examples
        assert example.clip.path == str(tmp_path / "clips" / "x.flac")


def test_mmau_keeps_a_choice_that_stands_twice(tmp_path: Path) -> None:
    (example,) = load_examples(write_list(tmp_path, MMAU)).examples
    assert example.choices == ("Oboe", "Harp", "Oboe")
    assert example.clip.path == str(tmp_path / "test-mini-audios/m1.wav")
    assert (example.task, example.sub_category, example.source) == ("music", "Instruments", "made up")


def test_a_parquet_row_names_its_place_instead_of_holding_its_audio(tmp_path: Path) -> None:
    audio = {"bytes": b"RIFF", "path": "a1.wav"}
    path = write_parquet(tmp_path, [{**JSONL, "audio": audio}, {**JSONL, "id": "a2", "audio": audio, "task": "sound"}])
    first, second = load_examples(path).examples
    assert (first.clip, second.clip) == (ClipSource(path, 0), ClipSource(path, 1))
    assert (first.task, second.task) == ("", "sound")


def test_a_relative_parquet_path_is_absolute_in_its_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path, [{**JSONL, "audio": {"bytes": b"RIFF", "path": "a1.wav"}}])
    (file,) = tmp_path.iterdir()
    monkeypatch.chdir(tmp_path)
    (example,) = load_examples(file.name).examples
    assert example.clip == ClipSource(str(file), 0)


def test_bad_rows_of_parquet_are_told_by_row(tmp_path: Path) -> None:
    rows = [
        JSONL,
        {**JSONL, "id": None},
        {**JSONL, "id": "a3", "choices": None},
        {**JSONL, "id": "a4", "answer": "Cow"},
    ]
    loaded = load_examples(write_parquet(tmp_path, [{**row, "audio": None} for row in rows]))
    assert [example.clip.row for example in loaded.examples] == [0]
    assert [(bad.row, bad.line, bad.reason) for bad in loaded.bad] == [
        (1, None, "missing_key"),
        (2, None, "missing_key"),
        (3, None, "answer_not_a_choice"),
    ]


def test_text_in_parquet_that_is_not_utf8_is_a_bad_row(tmp_path: Path) -> None:
    path = write_parquet(tmp_path, [{**JSONL, "audio": None}, {**JSONL, "id": "zzzz", "audio": None}])
    content = Path(path).read_bytes()
    Path(path).write_bytes(content.replace(b"zzzz", b"z\xff\xfez"))
    assert [bad.reason for bad in load_examples(path).bad] == ["invalid_utf8"]


@pytest.mark.parametrize("rows", [JSONL, AVQA, MMAU], ids=["jsonl", "avqa", "mmau"])
@pytest.mark.parametrize("write", [write_lines, write_list])
def test_the_format_is_told_from_the_first_row_of_lines_and_of_lists(tmp_path: Path, rows: Any, write: Any) -> None:
    (example,) = load_examples(write(tmp_path, rows)).examples
    assert example.id == str(rows["id"])


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_are_passed_over(tmp_path: Path) -> None:
    second = {**JSONL, "id": "a2"}
    content = b"\xef\xbb\xbf" + json.dumps(JSONL).encode() + b"\r\n\r\n" + json.dumps(second).encode()
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    loaded = load_examples(path)
    assert [example.id for example in loaded.examples] == ["a1", "a2"]
    assert loaded.bad == ()


def without(row: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != key}


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        (b"{not json", "invalid_json", "is not JSON at column 2"),
        (b'{"id": "' + b"\xff" + b'"}', "invalid_utf8", "is not UTF-8 at byte 8"),
        (b"[" * 100_000, "invalid_json", "beyond what can be read"),
        (b'{"id": ' + b"1" * 5_000 + b"}", "invalid_json", "beyond what can be read"),
        (["a", "list"], "not_an_object", "is a list, not an object"),
        (7, "not_an_object", "is a number, not an object"),
        (None, "not_an_object", "is null, not an object"),
        (without(JSONL, "id"), "missing_key", "has no id"),
        (without(JSONL, "audio"), "missing_key", "has no audio"),
        (without(JSONL, "question"), "missing_key", "has no question"),
        (without(JSONL, "choices"), "missing_key", "has no choices"),
        (without(JSONL, "answer"), "missing_key", "has no answer"),
        ({**JSONL, "answer": 1}, "wrong_type", "answer is a number, not text"),
        ({**JSONL, "id": True}, "wrong_type", "id is true or false, not text"),
        ({**JSONL, "choices": "Dog, Cat"}, "wrong_type", "choices is text, not a list"),
        ({**JSONL, "choices": ["Dog", 3]}, "wrong_type", "choices[1] is a number, not text"),
        ({**JSONL, "task": {}}, "wrong_type", "task is an object, not text"),
        ({**JSONL, "question": "  "}, "empty_text", "question is empty"),
        ({**JSONL, "choices": ["", "Cat"]}, "empty_text", "choices[0] is empty"),
        ({**JSONL, "question": "half \ud800"}, "invalid_utf8", "question has half a surrogate pair at character 5"),
        ({**JSONL, "choices": []}, "too_few_choices", "choices has 0 of at least 2"),
        ({**JSONL, "choices": ["Cat"]}, "too_few_choices", "choices has 1 of at least 2"),
        ({**JSONL, "choices": ["Cat", "Cat"]}, "duplicate_choices", "choices has ['Cat'] more than once"),
        ({**JSONL, "answer": "cat"}, "answer_not_a_choice", "answer 'cat' is none of the choices ['Dog', 'Cat']"),
        ({**JSONL, "id": "good"}, "duplicate_id", "id 'good' stands above already"),
        ({**JSONL, "audio": "../a.wav"}, "outside_audio_dir", "audio '../a.wav' is no file inside"),
        ({**JSONL, "audio": "/etc/passwd"}, "outside_audio_dir", "audio '/etc/passwd' is no file inside"),
        ({**JSONL, "audio": "a/../.."}, "outside_audio_dir", "is no file inside"),
        ({**JSONL, "audio": "."}, "outside_audio_dir", "is no file inside"),
        ({**JSONL, "audio": "a\0b"}, "outside_audio_dir", "is no file inside"),
    ],
    ids=str,
)  # fmt: skip
def test_a_bad_row_costs_itself_alone_and_says_why(tmp_path: Path, row: object, reason: str, detail: str) -> None:
    good = {**JSONL, "id": "good"}
    path = write_lines(tmp_path, good, row, {**JSONL, "id": "after"})
    loaded = load_examples(path)
    assert [example.id for example in loaded.examples] == ["good", "after"]
    (bad,) = loaded.bad
    assert (bad.line, bad.row, bad.reason) == (2, None, reason)
    assert detail in bad.detail
    assert str(bad).startswith("line 2")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": 4}, "answer_not_a_choice"),
        ({"answer": -1}, "answer_not_a_choice"),
        ({"answer": "Bells"}, "wrong_type"),
        ({"answer": True}, "wrong_type"),
        ({"multi_choice": ["Rain", "Rain", "Bells", "Birds"]}, "duplicate_choices"),
        ({"video_name": "../x"}, "outside_audio_dir"),
        ({"video_name": None}, "missing_key"),
    ],
    ids=str,
)
def test_bad_rows_of_avqa_say_why(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    bad = only_bad(write_lines(tmp_path, AVQA, {**AVQA, "id": 18, **change}))
    assert (bad.id, bad.reason) == ("18", reason)


def test_bad_rows_of_a_list_are_told_by_row(tmp_path: Path) -> None:
    bad = only_bad(write_list(tmp_path, MMAU, {**MMAU, "id": "m2", "answer": "Drum"}))
    assert (bad.line, bad.row, bad.id, bad.reason) == (None, 1, "m2", "answer_not_a_choice")
    assert bad.place == "row 1 (id m2)"


@pytest.mark.parametrize("category", [7, {"a": 1}, [None], None], ids=str)
def test_what_is_not_used_of_a_row_of_mmau_does_not_cost_the_row(tmp_path: Path, category: object) -> None:
    assert len(load_examples(write_list(tmp_path, {**MMAU, "category": category})).examples) == 1


def test_the_first_rows_of_a_file_are_good_and_bad_ones(tmp_path: Path) -> None:
    def row(name: str) -> dict[str, Any]:
        return {**JSONL, "id": name}

    loaded = load_examples(write_lines(tmp_path, row("a"), {}, row("b"), {}, {}, row("c")))
    held = []
    for rows in range(8):
        first = loaded.first(rows)
        held.append(("".join(example.id for example in first.examples), len(first.bad)))
    assert held == [("", 0), ("a", 0), ("a", 1), ("ab", 1), ("ab", 2), ("ab", 3), ("abc", 3), ("abc", 3)]


def test_the_detail_of_a_huge_row_is_short(tmp_path: Path) -> None:
    assert (
        len(str(only_bad(write_lines(tmp_path, JSONL, {**JSONL, "id": "x" * 10_000, "answer": "y" * 10_000})))) < 1_000
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(COLUMNS)), inner),
    max_leaves=8,
)


@given(
    base=st.sampled_from([JSONL, AVQA, MMAU]),
    change=st.dictionaries(st.sampled_from(sorted(COLUMNS)), json_values, max_size=3),
)
def test_whatever_a_row_holds_it_is_an_example_or_a_bad_row(
    base: dict[str, Any], change: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write_lines(tmp_path_factory.mktemp("rows"), {**base, "id": "first"}, {**base, **change})
    loaded = load_examples(path)
    assert len(loaded.examples) + len(loaded.bad) == 2


@pytest.mark.parametrize(
    ("name", "content", "format", "message"),
    [
        ("absent.jsonl", None, "auto", "does not exist; name a file"),
        ("rows.jsonl", b"", "auto", "has no row with keys; set data.format to one of auricle, jsonl, avqa, mmau"),
        ("rows.jsonl", b"", "jsonl", "has no good row as jsonl; it is empty"),
        ("rows.jsonl", b"{}\n", "auto", "has no good row as jsonl; the first: line 1: has no audio"),
        ("rows.jsonl", b"[1, 2", "jsonl", "the first: line 1: is not JSON"),
        ("rows.jsonl", b"[1, 2]", "jsonl", "the first: row 0: is a number, not an object"),
        ("rows.parquet", b"junk", "auto", "is named .parquet but is not Parquet"),
        ("rows.parquet", b"PAR1junk", "auto", "cannot be read as Parquet"),
        ("rows.jsonl", b"{}\n", "auricle", "cannot be read as Parquet"),
        ("rows.jsonl", b"{}\n", "jsnl", "'jsnl' is not known; use one of auto, auricle, jsonl, avqa, mmau"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_refused_with_the_mend(
    tmp_path: Path, name: str, content: bytes | None, format: str, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_examples(path, format=format)
    assert message in str(caught.value)


def test_a_directory_and_parquet_without_audio_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a regular file"):
        load_examples(tmp_path)
    pq.write_table(pa.table({"id": ["1"]}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"has no good row as auricle; the first: row 0 \(id 1\): has no audio"):
        load_examples(tmp_path / "rows.parquet")


@pytest.mark.heavy
def test_a_line_that_is_too_long_is_a_bad_row_and_the_next_is_read(tmp_path: Path) -> None:
    huge = b'{"id": "' + b"x" * (2 * MAX_ROW_BYTES) + b'"}'
    loaded = load_examples(write_lines(tmp_path, JSONL, huge, {**JSONL, "id": "after"}))
    assert [example.id for example in loaded.examples] == ["a1", "after"]
    assert [(bad.line, bad.reason) for bad in loaded.bad] == [(2, "row_too_large")]


def test_a_list_that_breaks_is_refused_with_its_place_and_not_read_in_part(tmp_path: Path) -> None:
    path = write_list(tmp_path, *({**MMAU, "id": str(number)} for number in range(200)))
    text = Path(path).read_text()
    at = text.index('"id": "52"')
    for broken in (text[:at], text[: at - 6] + "," + text[at - 6 :]):
        Path(path).write_text(broken)
        with pytest.raises(
            DataError, match=r"the list breaks at line \d+ column \d+ \(.*\), and what follows is not read"
        ):
            load_examples(path)


@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_in_an_object_is_refused_with_the_mend(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"version": 2, "data": [JSONL]}, indent=indent))
    with pytest.raises(DataError, match="is an object that holds its rows under 'data'; write the list alone"):
        load_examples(path)


def test_a_list_in_a_row_among_others_is_not_taken_for_the_rows(tmp_path: Path) -> None:
    talk = without(JSONL, "id") | {"messages": [{"role": "user"}]}
    assert only_bad(write_lines(tmp_path, talk, JSONL)).reason == "missing_key"


def test_a_complete_row_is_auricles_own_whatever_else_it_has(tmp_path: Path) -> None:
    path = write_lines(tmp_path, {**JSONL, "audio_id": "b.wav"}, {**JSONL, "id": "a2", "choices": ["Cat", "Cat"]})
    loaded = load_examples(path)
    assert loaded.examples[0].clip.path == str(tmp_path / "clips/a1.wav")
    assert [bad.reason for bad in loaded.bad] == ["duplicate_choices"]


def test_further_columns_of_a_row_are_kept_for_rewards(tmp_path: Path) -> None:
    (own,) = load_examples(
        write_lines(tmp_path, {**JSONL, "sha256": "0", "noise": [0.5], "speaker": {"age": 7}})
    ).examples
    assert own.extra == {"noise": [0.5], "speaker": {"age": 7}}
    (mmau,) = load_examples(write_list(tmp_path, MMAU)).examples
    assert mmau.extra == {"split": "test-mini", "category": ["Reasoning", "Counting"]}
    (hub,) = load_examples(write_hub(tmp_path, hub_row(0))).examples
    assert hub.extra == {"category": ["Reasoning"]}
    assert hash(own) == hash(dataclasses.replace(own, extra={}))


def test_further_columns_of_a_table_are_kept_where_they_are_text_or_numbers(tmp_path: Path) -> None:
    audio = {"bytes": b"RIFF", "path": None}
    rows = [
        {
            **JSONL,
            "audio": audio,
            "level": 3,
            "tags": ["a"],
            "heard": [0.5],
            "mel": b"x",
            "made": datetime.date(2026, 1, 1),
        }
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (example,) = load_examples(tmp_path / "rows.parquet").examples
    assert example.extra == {"level": 3, "tags": ["a"]}


@pytest.mark.parametrize(
    ("audio", "column"),
    [
        (pa.array([{"bytes": [82, 73]}], pa.struct([("bytes", pa.list_(pa.uint8()))])), r"audio\.bytes is list"),
        (pa.array([[82, 73]], pa.list_(pa.uint8())), "audio is list"),
        (pa.array([b"RIFF"]).dictionary_encode(), "audio is dictionary"),
        (
            pa.StructArray.from_arrays([pa.array([b"RIFF"]).dictionary_encode()], ["bytes"]),
            r"audio\.bytes is dictionary",
        ),
    ],
)
@pytest.mark.parametrize("stored", ["parquet", "dataset"])
def test_clips_that_are_stored_as_something_else_than_bytes_are_refused_with_column_and_type(
    tmp_path: Path, audio: pa.Array, column: str, stored: str
) -> None:
    columns = {key: [JSONL[key]] for key in ("id", "question", "choices", "answer")} | {"audio": audio}
    path = tmp_path / "rows.parquet"
    if stored == "parquet":
        pq.write_table(pa.table(columns), path)
    else:
        path = Path(save_to_disk(tmp_path / "set", pa.table(columns), 1))
    with pytest.raises(
        DataError, match=rf"the column {column}.*, not binary; cast it to binary and write the file again"
    ):
        load_examples(path)


@pytest.mark.heavy
@pytest.mark.parametrize("every", [1, 2])
def test_memory_does_not_grow_with_a_row_group(tmp_path: Path, every: int) -> None:
    rows, clip = 4_000, os.urandom(8_000)
    path = tmp_path / "rows.parquet"
    audio = [{"bytes": clip if row % every == 0 else None, "path": f"{row}.wav"} for row in range(rows)]
    columns = {key: [JSONL[key]] * rows for key in ("choices", "answer")}
    texts = [f"{row}{'which animal is it? ' * 200}" for row in range(rows)]
    table = pa.table({"id": list(map(str, range(rows))), "question": texts, "audio": audio, **columns})
    pq.write_table(table, path, row_group_size=rows, use_dictionary=False)
    del table, audio, texts
    before = pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() for _ in read_questions(find_questions(path)))
    assert most - before < 12e6


def test_bytes_in_a_list_that_are_not_utf8_cost_their_row_alone(tmp_path: Path) -> None:
    path = write_list(tmp_path, MMAU, {**MMAU, "id": "m2", "question": "zzzz"})
    Path(path).write_bytes(Path(path).read_bytes().replace(b"zzzz", b"z\xffz"))
    loaded = load_examples(path)
    assert ([example.id for example in loaded.examples], [bad.reason for bad in loaded.bad]) == (
        ["m1"],
        ["invalid_utf8"],
    )


@pytest.mark.parametrize(
    ("answer", "mend"),
    [
        ("cat", "write it as it stands there, 'Cat'"),
        (" Cat ", "write it as it stands there, 'Cat'"),
        ("B", "write the choice and not its letter, 'Cat'"),
        ("(b)", "write the choice and not its letter, 'Cat'"),
        ("Cow", "write one of them"),
        (1, "write the text of the choice, not its index"),
    ],
)
def test_an_answer_that_is_no_choice_is_told_what_to_write(tmp_path: Path, answer: object, mend: str) -> None:
    assert only_bad(write_lines(tmp_path, JSONL, {**JSONL, "id": "a2", "answer": answer})).detail.endswith(mend)


@pytest.mark.parametrize("address", ["https://example.org/a.wav", "s3://bucket/a.wav"])
def test_an_address_is_no_path_of_a_clip(tmp_path: Path, address: str) -> None:
    bad = only_bad(write_lines(tmp_path, JSONL, {**JSONL, "id": "a2", "audio": address}))
    assert (bad.reason, "fetch the clip" in bad.detail) == ("remote_audio", True)


CLIP = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table(audio: pa.Array, **columns: pa.Array) -> pa.Table:
    rows = len(audio)
    plain = {key: pa.array([JSONL[key]] * rows) for key in ("question", "choices", "answer")}
    return pa.table({"id": [f"t{row}" for row in range(rows)], **plain, "audio": audio, **columns})


def read_table(folder: Path, content: pa.Table, **options: Any) -> tuple[Example, ...]:
    pq.write_table(content, folder / "rows.parquet", **options)
    return load_examples(folder / "rows.parquet", audio_dir=str(folder / "sounds")).examples


@pytest.mark.parametrize("statistics", [True, False])
def test_a_parquet_row_without_bytes_names_the_file_of_its_clip(tmp_path: Path, statistics: bool) -> None:
    cells = [
        {"bytes": b"RIFF", "path": "a.wav"},
        {"bytes": None, "path": "b.wav"},
        None,
        {"bytes": None, "path": None},
        {"bytes": None, "path": "c.wav"},
        {"bytes": None, "path": "d.wav"},
    ]
    examples = read_table(tmp_path, table(pa.array(cells, CLIP)), row_group_size=2, write_statistics=statistics)
    path, sounds = str(tmp_path / "rows.parquet"), tmp_path / "sounds"
    assert [example.clip for example in examples] == [
        ClipSource(path, 0),
        ClipSource(str(sounds / "b.wav")),
        ClipSource(path, 2),  # reading it says that nothing is there
        ClipSource(path, 3),
        ClipSource(str(sounds / "c.wav")),
        ClipSource(str(sounds / "d.wav")),
    ]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.struct([("path", pa.string())])], ids=str)
def test_a_parquet_column_of_paths_names_files(tmp_path: Path, kind: pa.DataType) -> None:
    cell: Any = {"path": "a.wav"} if pa.types.is_struct(kind) else "a.wav"
    (example,) = read_table(tmp_path, table(pa.array([cell], kind)))
    assert example.clip == ClipSource(str(tmp_path / "sounds/a.wav"))


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.struct([("bytes", pa.large_binary())])], ids=str)
def test_a_parquet_column_of_bytes_holds_the_clips(tmp_path: Path, kind: pa.DataType) -> None:
    cell: Any = {"bytes": b"RIFF"} if pa.types.is_struct(kind) else b"RIFF"
    (example,) = read_table(tmp_path, table(pa.array([cell], kind)))
    assert example.clip == ClipSource(str(tmp_path / "rows.parquet"), 0)


def test_a_damaged_row_group_costs_its_own_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    marks = pa.array(["zzzzzzzz" * 20 if row == 2 else f"mark {row}" for row in range(6)])
    content = table(pa.array([{"bytes": b"RIFF", "path": ""}] * 6, CLIP), source=marks)
    pq.write_table(content, path, row_group_size=2, compression="zstd", use_dictionary=False)
    group = pq.ParquetFile(path).metadata.row_group(1)
    column = next(group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == "source")
    encoded = bytearray(path.read_bytes())
    start = column.data_page_offset
    encoded[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(encoded)
    loaded = load_examples(path)
    assert [example.id for example in loaded.examples] == ["t0", "t1", "t4", "t5"]
    assert [(bad.row, bad.reason) for bad in loaded.bad] == [(2, "damaged"), (3, "damaged")]


def test_a_dataset_on_disk_is_read_shard_after_shard(tmp_path: Path) -> None:
    cells = [{"bytes": b"RIFF", "path": None}, None, {"bytes": None, "path": "b.wav"}, {"bytes": b"x", "path": "c.wav"}]
    folder = save_to_disk(tmp_path / "set", table(pa.array([*cells, cells[0]], CLIP)))
    examples = load_examples(folder).examples
    first, second = (str(folder / f"data-0000{number}-of-00002.arrow") for number in range(2))
    assert [example.id for example in examples] == ["t0", "t1", "t2", "t3", "t4"]
    assert [example.clip for example in examples] == [
        ClipSource(first, 0),
        ClipSource(first, 1),
        ClipSource(str(folder / "b.wav")),
        ClipSource(second, 0),
        ClipSource(second, 1),
    ]


def test_bad_rows_of_a_dataset_on_disk_are_counted_over_its_shards(tmp_path: Path) -> None:
    content = table(pa.array([{"bytes": b"RIFF", "path": None}] * 5, CLIP))
    answers = pa.array(["Cat", "Cat", "Cat", "Cow", "Cat"])
    content = content.set_column(content.schema.get_field_index("answer"), "answer", answers)
    bad = only_bad(str(save_to_disk(tmp_path / "set", content)))
    assert (bad.row, bad.id, bad.reason) == (3, "t3", "answer_not_a_choice")


def test_a_dataset_of_several_splits_is_refused_with_their_names(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "train", table(pa.array(["a.wav"])), 1)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(DataError, match="holds the splits train, test; name the directory of one of them"):
        load_examples(tmp_path)
    assert len(load_examples(tmp_path / "train", format="huggingface").examples) == 1


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "data-00001-of-00002.arrow").unlink(), "data-00001-of-00002.arrow is missing"),
        (lambda folder: cut(folder / "data-00001-of-00002.arrow"), "is damaged after"),
        (lambda folder: (folder / "data-00000-of-00002.arrow").write_bytes(b"junk" * 9), "cannot be read as Arrow"),
        (lambda folder: (folder / "state.json").write_text("{"), "state.json cannot be read"),
        (lambda folder: (folder / "state.json").write_text("{}"), "does not list _data_files"),
        (
            lambda folder: (folder / "state.json").write_text('{"_indices_data_files": [{}]}'),
            r"save flatten_indices\(\) of it",
        ),
    ],
)
def test_a_dataset_that_lacks_a_part_is_refused_with_the_mend(tmp_path: Path, damage: Any, message: str) -> None:
    folder = save_to_disk(tmp_path / "set", table(pa.array([{"bytes": b"RIFF", "path": None}] * 5, CLIP)))
    damage(folder)
    with pytest.raises(DataError, match=message):
        load_examples(folder)


def hub_row(number: int, **change: Any) -> dict[str, Any]:
    """A row of the Parquet files that MMAU is published in since v05.15.25."""
    more = {"id": f"m{number}", "dataset": "made up", "task": "music", "sub-category": "Instruments"}
    return {
        "context": {"bytes": b"RIFF", "path": None},
        "instruction": "Which instrument leads?",
        "choices": ["(A) Oboe", "(B) A (B) harp"],
        "answer": "(B) A (B) harp",
        "other_attributes": json.dumps({**more, "category": ["Reasoning"], "difficulty": "hard"}),
        **change,
    }


def write_hub(folder: Path, *rows: dict[str, Any]) -> str:
    pq.write_table(pa.Table.from_pylist(list(rows)), folder / "test_mini.parquet")
    return str(folder / "test_mini.parquet")


def test_mmau_as_parquet_is_read_with_its_attributes_and_without_letters_before_choices(tmp_path: Path) -> None:
    path = write_hub(tmp_path, hub_row(0))
    (example,) = load_examples(path).examples
    assert (example.id, example.clip) == ("m0", ClipSource(path, 0, "context"))
    assert (example.question, example.choices, example.answer) == (
        "Which instrument leads?",
        ("Oboe", "A (B) harp"),
        "A (B) harp",
    )
    assert (example.task, example.sub_category, example.difficulty, example.source) == (
        "music",
        "Instruments",
        "hard",
        "made up",
    )


def test_letters_that_do_not_stand_before_every_choice_in_order_are_text(tmp_path: Path) -> None:
    choices = ["(B) Oboe", "(A) Harp"]
    (example,) = load_examples(write_hub(tmp_path, hub_row(0, choices=choices, answer="(A) Harp"))).examples
    assert (example.choices, example.answer) == (tuple(choices), "(A) Harp")


@pytest.mark.parametrize(
    "change",
    [
        {"audio_id": None, "audio_url": "test-mini-audios/m1.wav"},
        {"audio_id": None, "audio": {"bytes": None, "path": "test-mini-audios/m1.wav"}},
        {"sub-category": None, "sub_category": "Instruments"},
    ],
    ids=["audio_url", "audio", "sub_category"],
)
def test_mmau_is_read_under_the_keys_of_its_copies(tmp_path: Path, change: dict[str, Any]) -> None:
    (example,) = load_examples(write_list(tmp_path, {**MMAU, **change}), format="mmau").examples
    assert example.clip.path == str(tmp_path / "test-mini-audios/m1.wav")
    assert example.sub_category == "Instruments"


@pytest.mark.parametrize("answer", [None, "", " "])
def test_a_row_of_mmaus_test_split_is_an_example_only_where_no_answer_is_needed(tmp_path: Path, answer: Any) -> None:
    path = write_list(tmp_path, MMAU, {**MMAU, "id": "m2", "answer": answer})
    bad = only_bad(path)
    assert (bad.id, bad.reason) == ("m2", "no_answer")
    assert [example.answer for example in load_examples(path, unanswered=True).examples] == ["Oboe", ""]


def test_a_row_of_another_format_needs_an_answer_all_the_same(tmp_path: Path) -> None:
    path = write_lines(tmp_path, JSONL, {**JSONL, "id": "a2", "answer": None})
    assert [bad.reason for bad in load_examples(path, unanswered=True).bad] == ["missing_key"]


@pytest.mark.parametrize(
    ("name", "format", "message"),
    [
        ("rows.parquet", "jsonl", "is Parquet, and data.format is jsonl; use auricle or auto"),
        ("rows.parquet", "huggingface", "is a file, and data.format: huggingface reads directories"),
        ("set", "auricle", "is not a regular file, and data.format is auricle; use huggingface or auto"),
    ],
)
def test_a_format_that_the_file_cannot_have_is_refused(tmp_path: Path, name: str, format: str, message: str) -> None:
    pq.write_table(table(pa.array(["a.wav"])), tmp_path / "rows.parquet")
    save_to_disk(tmp_path / "set", table(pa.array(["a.wav"])), 1)
    with pytest.raises(DataError, match=message):
        load_examples(tmp_path / name, format=format)
