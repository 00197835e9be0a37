"""Files of questions: the four formats, broken rows, and files that hold nothing."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.formats import BadRow, load_examples
from data.types import ClipSource

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
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*JSONL, *AVQA, *MMAU]), inner),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    base=st.sampled_from([JSONL, AVQA, MMAU]),
    change=st.dictionaries(st.sampled_from([*JSONL, *AVQA, *MMAU]), json_values, max_size=3),
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
    with pytest.raises(DataError, match=r"has no column audio\.bytes"):
        load_examples(tmp_path / "rows.parquet")
