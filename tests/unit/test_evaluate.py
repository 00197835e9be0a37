"""What `python -m cluster.evaluate` and `python -m cluster.ask` refuse before anything is started."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cluster import ask, bad_rows, evaluate
from cluster.errors import UsageError
from cluster.outputs import replacing
from cluster.progress import Reporter
from data.formats import load_examples

ROW = {"id": "a", "audio": "a.wav", "question": "Which animal?", "choices": ["Dog", "Cat"], "answer": "Dog"}


@pytest.fixture(autouse=True)
def nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("cluster.nodes.connected", started)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ({"id": "bad"}, ROW)))
    return path


def command(questions: Path, out: Path, *more: str) -> list[str]:
    return ["--model", "absent", "--data", str(questions), "--out", str(out), *more]


@pytest.mark.parametrize(
    ("option", "value"), [("--limit", "0"), ("--limit", "-1"), ("--samples", "-1"), ("--max-tokens", "0")]
)
def test_a_count_that_makes_no_sense_is_refused_by_name(
    option: str, value: str, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        evaluate.main(command(questions, tmp_path / "out.json", option, value))
    assert ended.value.code == 2
    assert f"argument {option}: '{value}' is not an integer of at least" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--silent", "--shuffled"], "argument --shuffled: not allowed with argument --silent"),
        (["--predictions", "out.json"], "--predictions and --out name one file"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    options: list[str], message: str, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        evaluate.main(command(questions, Path("out.json"), *options))
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_limit_that_leaves_no_question_is_refused(
    questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(command(questions, tmp_path / "out.json", "--limit", "1")) == 2
    printed = capsys.readouterr()
    assert "error: --limit 1: none of the first rows of" in printed.err
    assert "line 1 (id bad) left out: missing_key" in printed.out


@pytest.mark.parametrize("out", ["questions.jsonl/out.json", "folder"])
def test_a_place_that_cannot_be_written_is_refused_before_the_evaluation(
    out: str, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    assert evaluate.main(command(questions, tmp_path / out)) == 2
    assert f"error: --out {tmp_path / out} cannot be written: " in capsys.readouterr().err


def fail_half_way(out: Path) -> None:
    with replacing(out, "--out") as partial:
        partial.write_text("half")
        raise UsageError("bad model")


def test_a_result_takes_its_name_when_it_is_whole_and_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.json"
    with replacing(out, "--out") as partial:
        partial.write_text("first")
        assert not out.exists()
    assert out.read_text() == "first"
    with pytest.raises(UsageError, match="bad model"):
        fail_half_way(out)
    assert out.read_text() == "first"
    assert [path.name for path in out.parent.iterdir()] == ["out.json"]


def test_a_device_is_written_to_and_a_link_stays_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with replacing(tmp_path / "pipe", "--out") as partial:
        assert partial == tmp_path / "pipe"
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with replacing(tmp_path / "link", "--out") as partial:
        partial.write_text("whole")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "whole"


def test_the_first_bad_rows_are_told_with_their_place_and_all_are_kept(
    questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (questions.parent / "list.json").write_text(json.dumps([ROW, *({"id": f"bad {number}"} for number in range(7))]))
    bad = load_examples(questions.parent / "list.json").bad
    kept = bad_rows.report("list.json", bad, Reporter())
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "list.json: row 1 (id bad 0) left out: missing_key: has no audio; give it one"
    assert len(said) == 6
    assert "7 bad rows in all" in said[-1]
    assert [(row["row"], row["id"], row["reason"]) for row in kept] == [
        (number + 1, f"bad {number}", "missing_key") for number in range(7)
    ]


@pytest.mark.parametrize(
    ("clip", "reason"), [("absent.wav", "there is no such file"), ("bad.wav", "cannot be decoded")]
)
def test_a_clip_that_cannot_be_used_is_refused_before_anything_is_started(
    clip: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.wav").write_bytes(b"RIFF, but no more of it")
    assert ask.main(["--model", "absent", str(tmp_path / clip), "Which animal?"]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {tmp_path / clip}: ")
    assert reason in message
