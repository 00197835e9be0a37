"""Predictions of a file, scored by MMAU's rule as they stand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster import evaluate
from cluster.predictions import score_rows
from data.rows import Position

DOGS = {"choices": ["Dog barking", "Cat", "A bird", "dog BARKING!"], "answer": "Dog barking", "task": "sound"}


def matches(*rows: Any) -> list[bool]:
    scored = score_rows((Position(row=number), row) for number, row in enumerate(rows))
    return [row["match"] for row in scored["rows"]]


@pytest.mark.parametrize(
    ("prediction", "match"),
    [
        ("Dog barking", True),
        ("  barking: a (dog)", False),  # "a" is a word of a wrong choice alone
        ("barking, the DOG", True),
        ("dog", False),
        ("dogs barking", False),
        ("Dog barking or Cat", False),
        ("<answer>Dog barking</answer>", True),  # "answer" is one more word
        ("<think>no Cat</think><answer>Dog barking</answer>", False),  # and what was thought counts
        ("dog_barking", False),  # one word
        ("", False),
        ("!?", False),
    ],
)
def test_the_rule_is_on_words_of_the_string_as_it_stands(prediction: str, match: bool) -> None:
    assert matches(DOGS | {"model_output": prediction}) == [match]


def test_the_output_counts_before_the_prediction_and_an_empty_one_too() -> None:
    right, wrong = "Dog barking", "Cat"
    assert matches(
        DOGS | {"model_output": wrong, "model_prediction": right},
        DOGS | {"model_output": "", "model_prediction": right},
        DOGS | {"model_output": None, "model_prediction": right},
        DOGS | {"model_prediction": right},
    ) == [False, False, True, True]


def test_rows_without_a_prediction_are_wrong_and_stand_beside_the_official_denominator() -> None:
    rows = [
        DOGS | {"id": "1", "model_output": "Dog barking"},
        DOGS | {"id": "2", "model_output": ""},
        DOGS | {"id": "3", "task": "music"},
        DOGS | {"id": "4", "task": "music", "model_output": "Dog barking"},
    ]
    scored = score_rows((Position(row=number), row) for number, row in enumerate(rows))
    assert (scored["questions"], scored["predicted"], scored["problems"]) == (4, 3, 0)
    assert (scored["accuracy"], scored["accuracy_official"]) == (0.5, pytest.approx(2 / 3))
    assert scored["by_task"]["music"]["accuracy"] == 0.5
    assert scored["by_task"]["music"]["accuracy_official"] == 1.0
    assert [row["id"] for row in scored["rows"]] == ["1", "2", "3", "4"]


def test_the_command_writes_figures_and_rows_and_tells_what_it_could_not_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "predictions.jsonl", tmp_path / "scores.json"
    good = DOGS | {"id": "1", "category": ["Perception", "Reasoning"], "model_output": "Dog barking"}
    broken = [DOGS | {"answer": None, "model_output": "Cat"}, {**DOGS, "choices": "Cat", "model_output": "Cat"}]
    lines = [json.dumps(row) for row in (good, *broken, DOGS | {"model_output": 3}, [1])]
    file.write_text("\n".join([*lines, "{"]))
    assert evaluate.main(["--score", str(file), "--out", str(out)]) == 0
    scores = json.loads(out.read_text())
    assert (scores["accuracy"], scores["accuracy_official"], scores["problems"]) == (pytest.approx(1 / 6), 1.0, 5)
    assert scores["rows"][0] == good | {"match": True}
    assert len(scores["rows"]) == 6
    printed = capsys.readouterr().out
    assert "line 2: answer is None, and not a text" in printed
    assert "line 6 is not JSON at column 2" in printed
    assert "counted as wrong: 5" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--score", "absent.json"], "--score absent.json cannot be read: No such file"),
        (["--score", "empty.json"], "empty.json: no row has an answer, choices and a prediction"),
    ],
)
def test_a_file_that_cannot_be_scored_is_refused(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.json").write_text("[]")
    assert evaluate.main([*arguments, "--out", "scores.json"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("scores.json").exists()


@pytest.mark.parametrize("arguments", [["--score", "a", "--model", "b"], ["--model", "b"], []])
def test_either_a_model_is_asked_or_predictions_are_scored(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        evaluate.main([*arguments, "--out", "scores.json"])
    assert ended.value.code == 2
