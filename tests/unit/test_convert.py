"""`python -m data.convert`: what is written, what is left out, and that nobody reads half of it."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from data import check, convert, writing
from data.formats import load_examples
from data.writing import SCHEMA, write_questions


def clip(seconds: float, form: str = "FLAC") -> bytes:
    file = io.BytesIO()
    samples = 0.3 * np.sin(np.arange(round(16_000 * seconds)) / 9)
    soundfile.write(file, samples.astype(np.float32), 16_000, format=form, subtype="PCM_16")
    return file.getvalue()


def question(number: int, **change: Any) -> dict[str, Any]:
    plain = {"question": "Which animal?", "choices": ["Dog", "Cat"], "answer": "Cat", "task": "sound"}
    return {"id": f"q{number}", "audio": f"clips/{number}.flac", **plain, **change}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clips").mkdir()
    for number in range(25):
        (tmp_path / f"clips/{number}.flac").write_bytes(clip(0.1 + number / 100))
    return tmp_path


def write(folder: Path, *rows: dict[str, Any]) -> str:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "rows.jsonl")


def run(file: str, *options: str) -> tuple[int, Path]:
    out = Path(file).with_name("out.parquet")
    return convert.main([file, "--out", str(out), *options]), out


def test_rows_keep_their_order_their_text_and_the_bytes_of_their_clips(folder: Path) -> None:
    rows = [question(number, difficulty="easy", source="made up", licence="CC0-1.0") for number in range(25)]
    status, out = run(write(folder, *rows))
    assert status == 0
    table = pq.read_table(out)
    assert table.schema.equals(SCHEMA)
    for row, written in zip(rows, table.to_pylist(), strict=True):
        encoded = (folder / row["audio"]).read_bytes()
        assert written["audio"] == {"bytes": encoded, "path": row["audio"]}
        assert written["sha256"] == hashlib.sha256(encoded).hexdigest()
        assert {key: written[key] for key in row if key != "audio"} == {k: v for k, v in row.items() if k != "audio"}
    assert check.main([str(out)]) == 0
    assert [example.id for example in load_examples(out).examples] == [row["id"] for row in rows]


def test_a_row_group_has_ten_rows(folder: Path) -> None:
    _, out = run(write(folder, *map(question, range(25))))
    metadata = pq.ParquetFile(out).metadata
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [10, 10, 5]


def test_a_row_group_is_closed_before_its_clips_are_too_many_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "ROW_GROUP_BYTES", 100)
    with write_questions(tmp_path / "out.parquet") as file:
        for size in (40, 40, 40, 500, 10):
            file.add({"id": str(size), "audio": {"bytes": b"x" * size, "path": ""}})
    metadata = pq.ParquetFile(tmp_path / "out.parquet").metadata
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [2, 1, 1, 1]


def test_bad_rows_are_listed_and_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "clips/1.flac").write_bytes(b"")
    file = write(folder, question(0), question(1), question(2, answer="Cow"), question(3), question(4, sha256="0" * 64))
    status, out = run(file)
    printed = capsys.readouterr().out
    assert status == 1
    assert [line.split(": ")[:2] for line in printed.splitlines()[:3]] == [
        ["line 2 (id q1)", "empty"],
        ["line 3 (id q2)", "answer_not_a_choice"],
        ["line 5 (id q4)", "hash_mismatch"],
    ]
    assert f"2 rows in {out}" in printed
    assert pq.read_table(out)["id"].to_pylist() == ["q0", "q3"]
    assert run(file, "--skip-bad")[0] == 0


def test_a_clip_that_training_cuts_stays_whole(folder: Path) -> None:
    (folder / "clips/0.flac").write_bytes(encoded := clip(31.0))
    status, out = run(write(folder, question(0)))
    assert (status, pq.read_table(out)["audio"].to_pylist()[0]["bytes"]) == (0, encoded)


def test_a_licence_is_given_to_rows_that_name_none(folder: Path) -> None:
    _, out = run(write(folder, question(0), question(1, licence="MIT")), "--licence", "CC-BY-4.0")
    assert pq.read_table(out)["licence"].to_pylist() == ["CC-BY-4.0", "MIT"]


def test_what_was_converted_converts_to_the_same_again(folder: Path) -> None:
    _, out = run(write(folder, *map(question, range(12))))
    assert convert.main([str(out), "--out", str(folder / "again.parquet")]) == 0
    assert (folder / "again.parquet").read_bytes() == out.read_bytes()


def test_a_row_of_mmau_with_a_choice_twice_is_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mmau = {"audio_id": "clips/0.flac", "sub-category": "made up", "dataset": "AudioSet"}
    rows = [question(0, **mmau), question(1, **mmau, choices=["Dog", "Cat", "Dog"])]
    for row in rows:
        del row["audio"]
    status, out = run(write(folder, *rows))
    assert (status, pq.read_table(out)["source"].to_pylist()) == (1, ["AudioSet"])
    assert "line 2 (id q1): duplicate_choices" in capsys.readouterr().out


def test_without_a_good_row_nothing_is_written_and_what_stood_there_stays(folder: Path) -> None:
    (folder / "out.parquet").write_text("as before")
    status, out = run(write(folder, question(0, answer="Cow")))
    assert (status, out.read_text()) == (2, "as before")
    assert sorted(path.name for path in folder.iterdir()) == ["clips", "out.parquet", "rows.jsonl"]


def test_a_file_that_is_being_written_has_another_name(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    with write_questions(out) as file:
        file.add({"audio": {"bytes": b"x", "path": ""}})
        file.flush()
        assert not out.exists()
    assert list(tmp_path.iterdir()) == [out]


def test_of_a_file_whose_writing_fails_nothing_is_left(tmp_path: Path) -> None:
    def fail() -> None:
        with write_questions(tmp_path / "out.parquet") as file:
            file.add({"audio": {"bytes": b"x", "path": ""}})
            file.flush()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_the_output_is_not_the_input_nor_a_directory(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(folder, question(0))
    for out in (file, str(folder)):
        assert convert.main([file, "--out", out]) == 2
    assert capsys.readouterr().err.count("error: --out") == 2
    assert json.loads(Path(file).read_text()) == question(0)


def test_of_a_list_that_breaks_nothing_is_written_though_bad_rows_may_be_skipped(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "rows.json"
    file.write_text(f"[{json.dumps(question(0))}, stray, {json.dumps(question(1))}]")
    status, out = run(str(file), "--skip-bad")
    assert (status, out.exists()) == (2, False)
    assert "the list breaks at line 1 column " in capsys.readouterr().err
