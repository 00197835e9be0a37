"""`python -m data.check`: every bad row is listed with its place, and nothing ends it early."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from data import check

ROW: dict[str, Any] = {
    "id": "good",
    "audio": "good.wav",
    "question": "Which animal?",
    "choices": ["Dog", "Cat"],
    "answer": "Cat",
}


def encoded(seconds: float, form: str = "WAV", subtype: str = "FLOAT", spoil: float = 0.0) -> bytes:
    samples = 0.3 * np.sin(np.arange(round(16_000 * seconds)) / 9)
    samples[len(samples) // 2 :][:1] += spoil
    file = io.BytesIO()
    soundfile.write(file, samples.astype(np.float32), 16_000, format=form, subtype=subtype)
    return file.getvalue()


GOOD = encoded(0.5)
DIGEST = hashlib.sha256(GOOD).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Clips of every kind, good.wav among them."""
    flac = encoded(0.5, "FLAC", "PCM_16")
    clips = {
        "good.wav": GOOD,
        "text.wav": b"no sound\n" * 99,
        "zero.wav": b"",
        "nan.wav": encoded(0.5, spoil=np.nan),
        "infinite.wav": encoded(0.5, spoil=np.inf),
        "short.wav": encoded(0.03),
        "long.wav": encoded(31.0, subtype="PCM_16"),
        "cut.wav": GOOD[: len(GOOD) // 2],
        "cut.flac": flac[: len(flac) // 2],
        "no_samples.wav": encoded(0.0),
    }
    for name, content in clips.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "dangling.wav").symlink_to("nowhere.wav")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    return tmp_path


def write(folder: Path, *rows: object) -> str:
    """A file of good rows with one more after each, so that every bad line has a number of its own."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    (folder / "rows.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return str(folder / "rows.jsonl")


def report(file: str, *options: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit status, and the problems that were written."""
    out = Path(file).with_name("report.jsonl")
    status = check.main([file, "--out", str(out), *options])
    return status, [json.loads(line) for line in out.read_text().splitlines()]


CLIPS = {
    "missing.wav": "missing",
    "dangling.wav": "missing",
    "loop.wav": "unreadable",
    "folder.wav": "unreadable",
    "pipe.wav": "unreadable",
    "text.wav": "unreadable",
    "cut.flac": "unreadable",
    "zero.wav": "empty",
    "no_samples.wav": "empty",
    "nan.wav": "not_finite",
    "infinite.wav": "not_finite",
    "short.wav": "too_short",
    "long.wav": "too_long",
    "cut.wav": "truncated",
}


def test_every_bad_clip_is_listed_with_its_line_id_and_reason(folder: Path) -> None:
    rows = [{**ROW, "id": name, "audio": name} for name in CLIPS]
    status, problems = report(write(folder, ROW, *rows, {**ROW, "id": "last"}))
    assert status == 1
    assert [(one["line"], one["id"], one["reason"]) for one in problems] == [
        (line, name, reason) for line, (name, reason) in enumerate(CLIPS.items(), start=2)
    ]
    assert {one["severity"] for one in problems} == {"bad"}
    assert all(one["detail"].startswith(str(folder / one["id"])) for one in problems)


LINES: list[tuple[object, str]] = [
    ({**ROW, "id": "text", "choices": "Dog, Cat"}, "wrong_type"),
    ({**ROW, "id": "case", "answer": "cat"}, "answer_not_a_choice"),
    ({**ROW, "id": "index", "answer": 1}, "wrong_type"),
    ({**ROW, "id": "nested", "choices": [["Dog", "Cat"]] * 2}, "wrong_type"),
    ({**ROW, "id": None}, "missing_key"),
    ({**ROW, "id": ["a"]}, "wrong_type"),
    (ROW, "duplicate_id"),
    ({**ROW, "id": "twice", "choices": ["Cat", "Cat"]}, "duplicate_choices"),
    ({**ROW, "id": "one", "choices": ["Cat"]}, "too_few_choices"),
    ({**ROW, "id": "up", "audio": "../good.wav"}, "outside_audio_dir"),
    ({**ROW, "id": "web", "audio": "https://example.org/good.wav"}, "remote_audio"),
    ({**ROW, "id": "empty", "question": " "}, "empty_text"),
    ({**ROW, "id": "half \ud800", "question": "\ud800"}, "invalid_utf8"),
    (b'{"id": "\xff"}', "invalid_utf8"),
    (b'{"id": 1,', "invalid_json"),
    (b"[" * 50_000, "invalid_json"),
    (b"\0\0", "invalid_json"),
    (b"null", "not_an_object"),
    (b"[1]", "not_an_object"),
    ({**ROW, "id": "hash", "sha256": "0" * 64}, "hash_mismatch"),
    ({**ROW, "id": "number", "sha256": 7}, "hash_mismatch"),
]


def test_every_bad_line_is_listed_with_its_number_and_reason(folder: Path) -> None:
    status, problems = report(write(folder, ROW, *(row for row, _ in LINES), {**ROW, "id": "last"}))
    assert status == 1
    assert [(one["line"], one["reason"]) for one in problems] == [
        (line, reason) for line, (_, reason) in enumerate(LINES, start=2)
    ]


def test_a_file_without_a_good_row_is_listed_row_by_row(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([write(folder, b"{", b"\xff", b"7")]) == 1
    printed = capsys.readouterr().out
    assert [line.split(":")[0] for line in printed.splitlines()[:3]] == ["line 1", "line 2", "line 3"]
    assert "3 rows, 0 good, 3 bad" in printed


def test_good_rows_are_counted_and_end_well(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(folder, ROW, {**ROW, "id": "hashed", "sha256": DIGEST.upper()}, {**ROW, "id": "none", "sha256": None})
    assert check.main([file]) == 0
    assert capsys.readouterr().out == f"{file}: 3 rows, 3 good, 0 bad\n"


def test_reasons_are_counted_the_most_frequent_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check.main([write(folder, ROW, b"{", {**ROW, "id": "a", "audio": "zero.wav"}, b"[")])
    assert capsys.readouterr().out.splitlines()[-2:] == ["       2 invalid_json", "       1 empty"]


def test_limits_are_those_that_are_given(folder: Path) -> None:
    file = write(folder, ROW, {**ROW, "id": "long", "audio": "long.wav"}, {**ROW, "id": "short", "audio": "short.wav"})
    assert report(file, "--max-seconds", "31", "--min-seconds", "0.03")[0] == 0
    assert [one["reason"] for one in report(file, "--max-seconds", "0.4")[1]] == ["too_long", "too_long", "too_short"]
    with pytest.raises(SystemExit):
        check.main([file, "--max-seconds", "0"])


def test_without_audio_no_clip_is_read(folder: Path) -> None:
    rows = [{**ROW, "id": name, "audio": name} for name in CLIPS]
    status, problems = report(write(folder, *rows, b"{"), "--no-audio")
    assert (status, [one["reason"] for one in problems]) == (1, ["invalid_json"])


MMAU: dict[str, Any] = {
    **{key: value for key, value in ROW.items() if key != "audio"},
    "audio_id": "good.wav",
    "task": "sound",
    "sub-category": "made up",
}


def test_what_mmau_published_so_is_a_note_and_no_failure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [MMAU, {**MMAU, "id": "twice", "choices": ["Dog", "Cat", "Dog"]}, {**MMAU, "id": "test", "answer": ""}]
    status, problems = report(write(folder, *rows))
    assert status == 0
    assert [(one["id"], one["severity"], one["reason"]) for one in problems] == [
        ("twice", "note", "duplicate_choices"),
        ("test", "note", "no_answer"),
    ]
    assert "3 rows, 3 good, 0 bad" in capsys.readouterr().out


def test_choices_that_evaluations_take_for_one_are_noted(folder: Path) -> None:
    status, problems = report(write(folder, {**ROW, "choices": ["Dog", "Cat", "cat "]}))
    assert (status, [(one["severity"], one["reason"]) for one in problems]) == (0, [("note", "similar_choices")])


def test_a_row_with_a_note_and_a_bad_clip_has_both_and_is_bad_once(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {**MMAU, "choices": ["Dog", "Cat", "Dog"], "audio_id": "zero.wav"}
    status, problems = report(write(folder, MMAU | {"id": "first"}, row))
    assert (status, [one["reason"] for one in problems]) == (1, ["duplicate_choices", "empty"])
    assert "2 rows, 1 good, 1 bad" in capsys.readouterr().out


def test_rows_of_parquet_are_told_by_row_and_their_hash_is_checked(folder: Path) -> None:
    path = folder / "rows.parquet"
    clips = [GOOD, GOOD, b"", None, b"junk", GOOD]
    rows = [
        {**ROW, "id": f"{n}", "audio": {"bytes": clip, "path": ""}, "sha256": DIGEST} for n, clip in enumerate(clips)
    ]
    rows[1]["sha256"] = "f" * 64
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    status, problems = report(str(path))
    assert status == 1
    assert [(one["row"], one["line"], one["reason"]) for one in problems] == [
        (1, None, "hash_mismatch"),
        (2, None, "empty"),
        (3, None, "missing"),
        (4, None, "unreadable"),
    ]


def test_an_id_cannot_move_the_cursor_or_break_the_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check.main([write(folder, {**ROW, "id": "a\n\x1b[2Jb [red]", "audio": "zero.wav"})])
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("line 1 (id a\\n\\x1b[2Jb [red]): empty: ")


@pytest.mark.parametrize(
    ("name", "message"),
    [("absent.jsonl", "does not exist"), ("empty.jsonl", "has no rows"), ("folder.wav", "has no state.json")],
)
def test_what_cannot_be_read_at_all_is_one_line_and_another_status(
    folder: Path, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty.jsonl").touch()
    assert check.main([str(folder / name)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_the_report_does_not_replace_what_is_checked(folder: Path) -> None:
    file = write(folder, ROW)
    assert check.main([file, "--out", file]) == 2
    assert json.loads(Path(file).read_text()) == ROW


def test_a_list_that_breaks_is_listed_behind_the_rows_before_it(folder: Path) -> None:
    file = folder / "rows.json"
    rows = [json.dumps({**ROW, "id": str(number)}) for number in range(40)]
    file.write_text(
        "[" + ",\n".join([*rows[:9], rows[9].replace("Dog", "Cat"), *rows[10:20], "stray", *rows[20:]]) + "]"
    )
    status, problems = report(str(file))
    assert status == 1
    assert [(one["row"], one["reason"]) for one in problems] == [(9, "duplicate_choices"), (20, "broken_list")]
    assert "the list breaks at line 21 column 1" in problems[1]["detail"]


def test_a_path_that_is_not_utf8_is_written_to_the_report_as_json(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9")
    path.mkdir()
    status, [problem] = report(write(path, {**ROW, "audio": "gone.wav"}))
    assert (status, problem["reason"]) == (1, "missing")
    assert problem["detail"].startswith(f"{path}/gone.wav ")


def test_a_report_that_is_not_finished_does_not_replace_one_that_is(folder: Path) -> None:
    out = folder / "report.jsonl"
    out.write_text("older\n")
    pq.write_table(pa.table({"id": ["1"], "audio": [[1]]}), folder / "numbers.parquet")
    assert check.main([str(folder / "numbers.parquet"), "--out", str(out)]) == 2
    assert out.read_text() == "older\n"
    assert [path.name for path in folder.glob(".report*")] == []


def test_a_report_may_go_to_a_device(folder: Path) -> None:
    device = os.stat("/dev/null").st_rdev
    assert check.main([write(folder, ROW), "--out", "/dev/null"]) == 0
    assert os.stat("/dev/null").st_rdev == device


def test_a_clip_that_its_channels_silence_is_noted(folder: Path) -> None:
    half = 0.3 * np.sin(np.arange(8_000) / 9)
    soundfile.write(folder / "good.wav", np.stack([half, -half], axis=1), 16_000)
    file = write(folder, ROW)
    status, problems = report(file)
    assert (status, [(one["severity"], one["reason"]) for one in problems]) == (0, [("note", "silent")])
    assert report(file, "--channels", "first") == (0, [])
