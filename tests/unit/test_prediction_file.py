"""The file that MMAU's script reads: it and our own scoring come to the accuracy of the evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.evaluation import prediction_file
from cluster.evaluation.predictions import score_rows
from cluster.evaluation.scoring import Answered, score
from cluster.outputs import write_json
from data.formats import Loaded, find_questions, load_examples
from data.order import shuffle_choices
from data.rows import Position
from tests.disk_datasets import save_to_disk
from tests.unit.mmau_script import counted

CHOICES = ["a dog", "a cat", "a drum", "a bell"]
GREEDY = [
    "<think>not a cat</think><answer>a dog</answer>",  # right, though what was thought names a wrong choice
    "<answer>a cat</answer>",
    None,
    "",
    "It is a dog, I think",  # right by MMAU's rule alone
    "<answer>a dog</answer>",
]


def mmau(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"q{number}", "audio_id": f"./clips/{number}.wav", "question": "What is heard?", "choices": CHOICES,
        "answer": "a dog", "dataset": "AudioSet", "task": "sound", "split": "test-mini",
        "category": ["Reasoning"] if number % 2 else "Reasoning", "sub-category": "Events", "difficulty": "hard",
        **fields,
    }  # fmt: skip


ROWS = [
    *(mmau(number) for number in range(2)),
    mmau(2, model_output="of an older file"),
    {"id": "bad", "answer": 3, "model_output": "of an older file"},
    mmau(3, model_output="of an older file", model_prediction="a dog"),
    "no object",
    *(mmau(number) for number in range(4, 6)),
]


def answers(loaded: Loaded, greedy: Sequence[str | None] = GREEDY) -> list[Answered]:
    given = zip(loaded.examples, greedy, strict=False)
    return [Answered(example, f"hash of {example.id}", text, ()) for example, text in given]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "mmau.json"
    path.write_text(json.dumps(ROWS))
    return path


def test_mmaus_script_and_our_scoring_come_to_the_accuracy_of_the_evaluation(questions: Path, tmp_path: Path) -> None:
    loaded = load_examples(questions)
    figures = score(answers(loaded), bad_rows=len(loaded.bad))
    write_json(
        tmp_path / "predictions.json",
        prediction_file.written(find_questions(questions), None, loaded.bad, answers(loaded)),
    )
    rows = json.loads((tmp_path / "predictions.json").read_text())
    assert (figures["accuracy_mmau"], figures["accuracy_mmau_answered"]) == (3 / 8, 3 / 5)
    for key in ("model_output", "model_prediction"):
        official = counted(rows, key)
        assert (sum(official), len(official)) == (3, 5)
    scores = score_rows(prediction_file.read(str(tmp_path / "predictions.json")))
    assert scores["questions"] == figures["questions"] == 8
    assert scores["accuracy"] == figures["accuracy_mmau"]
    assert scores["accuracy_official"] == figures["accuracy_mmau_answered"]
    assert scores["accuracy_official_interval"] == figures["accuracy_mmau_answered_interval"]
    assert scores["by_task"]["sound"]["accuracy"] == figures["by_task"]["sound"]["accuracy_mmau"]


def test_every_row_keeps_what_it_has_and_gets_the_prediction_without_tags(questions: Path) -> None:
    loaded = load_examples(questions)
    rows = prediction_file.written(find_questions(questions), None, loaded.bad, answers(loaded))
    assert [row.get("id") for row in rows] == ["q0", "q1", "q2", "bad", "q3", None, "q4", "q5"]
    assert rows[0] == mmau(0) | {"recording": "hash of q0", "model_output": "a dog", "model_prediction": "a dog"}
    assert rows[2] == mmau(2) | {"recording": "hash of q2"}
    assert rows[3] == {"id": "bad", "answer": 3}
    assert rows[4] == mmau(3) | {"recording": "hash of q3", "model_output": "", "model_prediction": ""}
    assert rows[5] == {"problem": "row 5: is text, not an object with keys; write {...}"}


def test_the_first_rows_are_written_where_only_they_were_asked(questions: Path) -> None:
    loaded = load_examples(questions).first(5)
    rows = prediction_file.written(find_questions(questions), 5, loaded.bad, answers(loaded))
    assert [row["id"] for row in rows] == ["q0", "q1", "q2", "bad", "q3"]


def test_choices_that_were_shuffled_are_written_as_the_file_has_them(questions: Path) -> None:
    loaded = load_examples(questions)
    asked = Loaded(tuple(shuffle_choices(example, seed) for seed, example in enumerate(loaded.examples)), loaded.bad)
    assert {example.choices for example in asked.examples} != {tuple(CHOICES)}
    rows = prediction_file.written(find_questions(questions), None, asked.bad, answers(asked))
    assert all(row["choices"] == CHOICES for row in rows if "choices" in row)


def test_rows_of_avqa_get_the_text_of_their_answer(tmp_path: Path) -> None:
    row = {
        "id": 7, "video_name": "clip", "question_text": "Which animal is in the video?", "multi_choice": CHOICES,
        "answer": 0, "question_type": "Which",
    }  # fmt: skip
    (tmp_path / "avqa.jsonl").write_text(json.dumps(row))
    loaded = load_examples(tmp_path / "avqa.jsonl")
    [written] = prediction_file.written(find_questions(tmp_path / "avqa.jsonl"), None, (), answers(loaded, ["a dog"]))
    assert (written["id"], written["answer"], written["choices"]) == (7, "a dog", CHOICES)
    assert (written["question"], written["task"]) == ("Which animal is in the audio?", "Which")
    assert written["multi_choice"] == CHOICES
    assert counted([written]) == [True]


@pytest.mark.parametrize("container", ["parquet", "dataset"])
def test_a_table_whose_clips_are_paths_is_written_like_one_that_holds_them(container: str, tmp_path: Path) -> None:
    columns = ("id", "question", "choices", "answer")
    rows = [{key: mmau(number)[key] for key in columns} | {"audio": "clip.wav"} for number in range(2)]
    path = tmp_path / "questions"
    if container == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        save_to_disk(path, pa.Table.from_pylist(rows))
    loaded = load_examples(path)
    written = prediction_file.written(find_questions(path), None, loaded.bad, answers(loaded))
    assert [(row["id"], row["model_output"]) for row in written] == [("q0", "a dog"), ("q1", "a cat")]


def test_a_question_without_an_answer_is_written_without_one_and_not_counted_as_right(tmp_path: Path) -> None:
    path = tmp_path / "mmau.json"
    path.write_text(json.dumps([mmau(0), {key: value for key, value in mmau(1).items() if key != "answer"}]))
    loaded = load_examples(path, unanswered=True)
    written = prediction_file.written(find_questions(path), None, loaded.bad, answers(loaded))
    assert ["answer" in row for row in written] == [True, False]
    assert score_rows((Position(row=number), row) for number, row in enumerate(written))["accuracy"] == 1 / 2


def test_choices_are_written_as_the_answer_is(tmp_path: Path) -> None:
    path = tmp_path / "mmau.json"
    lettered = mmau(0, choices=[f"({letter}) {choice}" for letter, choice in zip("ABCD", CHOICES, strict=True)])
    path.write_text(json.dumps([lettered | {"answer": "(A) a dog"}]))
    loaded = load_examples(path)
    [row] = prediction_file.written(find_questions(path), None, loaded.bad, answers(loaded, ["It is a dog"]))
    assert row["answer"] in row["choices"]
    figures = score(answers(loaded, ["It is a dog"]))
    assert counted([row]) == [bool(figures["rows"][0]["correct_mmau"])]


def test_rows_of_a_table_get_what_an_example_has_and_no_audio(tmp_path: Path) -> None:
    columns = ("id", "question", "choices", "answer", "task", "difficulty")
    rows = [{key: mmau(number)[key] for key in columns} | {"audio": {"bytes": b"RIFF"}} for number in range(2)]
    rows.append(rows[0] | {"answer": "a whale", "id": "bad"})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "questions.parquet")
    loaded = load_examples(tmp_path / "questions.parquet")
    written = prediction_file.written(find_questions(tmp_path / "questions.parquet"), None, loaded.bad, answers(loaded))
    assert [row["id"] for row in written] == ["q0", "q1", "bad"]
    assert counted(written) == [True, False]
    assert "audio" not in written[0]
    assert "model_output" not in written[2]
