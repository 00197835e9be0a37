"""Predictions of a file, scored by MMAU's rule as they stand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import evaluate
from cluster.errors import UsageError
from cluster.evaluation import prediction_file
from cluster.evaluation.predictions import score_rows
from data.rows import Position
from tests.unit.mmau_script import counted, is_right

DOGS = {"choices": ["Dog barking", "Cat", "A bird", "dog BARKING!"], "answer": "Dog barking", "task": "sound"}

WORDS = st.sampled_from(
    ["dog", "Dog", "DOG!", "a", "cat", "CAT", "barking", "7", "seven_7", "naïve", "İ", "ß", "犬", "—", ""]
)
TEXTS = st.lists(WORDS, max_size=4).map(" ".join) | st.text(max_size=12)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("id", "answer", "choices", "model_output", "model_prediction", "task", "difficulty", "audio_id")


def scored(*rows: Any) -> dict[str, Any]:
    return score_rows((Position(row=number), row) for number, row in enumerate(rows))


def matches(*rows: Any) -> list[bool]:
    return [row["match"] for row in scored(*rows)["rows"]]


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
    figures = scored(*rows)
    assert (figures["questions"], figures["predicted"], figures["problems"]) == (4, 3, 0)
    assert (figures["accuracy"], figures["accuracy_official"]) == (0.5, pytest.approx(2 / 3))
    assert figures["by_task"]["music"]["accuracy"] == 0.5
    assert figures["by_task"]["music"]["accuracy_official"] == 1.0
    assert [row["id"] for row in figures["rows"]] == ["1", "2", "3", "4"]


@given(TEXTS, TEXTS, st.lists(TEXTS, max_size=4))
def test_any_text_is_matched_as_by_the_published_rule(prediction: str, answer: str, wrong: list[str]) -> None:
    row = {"answer": answer, "choices": [*wrong, answer], "model_output": prediction}
    assert matches(row) == [is_right(prediction, answer, row["choices"])]


@pytest.mark.heavy
@given(st.lists(st.tuples(TEXTS, TEXTS, st.lists(TEXTS, max_size=3), st.booleans()), min_size=1, max_size=8))
def test_a_file_is_counted_as_by_the_published_script(drawn: list[tuple[str, str, list[str], bool]]) -> None:
    rows = [
        {"answer": answer, "choices": [answer, *wrong], **({"model_output": prediction} if given else {})}
        for prediction, answer, wrong, given in drawn
    ]
    official, figures = counted(rows), scored(*rows)
    assert figures["predicted"] == len(official)
    assert figures["accuracy"] == pytest.approx(sum(official) / len(rows))
    assert figures["accuracy_official"] == (pytest.approx(sum(official) / len(official)) if official else None)


@given(st.lists(ANYTHING | st.dictionaries(st.sampled_from(FIELDS), ANYTHING | TEXTS), max_size=6))
def test_no_row_whatever_it_is_breaks_the_scoring(rows: list[Any]) -> None:
    figures = scored(*rows)
    assert len(figures["rows"]) == figures["questions"] == len(rows)
    assert all(isinstance(row["match"], bool) for row in figures["rows"])
    assert figures["predicted"] + figures["problems"] <= len(rows)


@pytest.mark.parametrize("choice", ["dog barking", "DOG, barking", "barking dog", "dog dog barking"])
def test_a_wrong_choice_with_the_words_of_the_answer_does_not_count_against_it(choice: str) -> None:
    assert matches({"answer": "Dog barking", "choices": [choice, "Cat"], "model_output": "the dog is barking"}) == [
        True
    ]


def test_a_prediction_that_pandas_writes_as_nan_is_missing_and_not_wrong_text() -> None:
    rows = [DOGS | {"model_output": float("nan")}, DOGS | {"model_output": float("nan"), "model_prediction": "Cat"}]
    figures = scored(*rows)
    assert (figures["predicted"], figures["problems"]) == (1, 0)


def test_rows_with_one_id_count_each_and_are_told() -> None:
    row = DOGS | {"id": "1", "model_output": "Dog barking"}
    figures = scored(row, row | {"model_output": "Cat"}, row | {"id": 2})
    assert (figures["accuracy"], figures["repeated_ids"]) == (pytest.approx(2 / 3), 1)


def test_questions_about_one_recording_are_resampled_together() -> None:
    rows = [DOGS | {"model_output": "Dog barking" if number < 20 else "Cat"} for number in range(40)]
    alone = scored(*(row | {"audio_id": f"{number}.wav"} for number, row in enumerate(rows)))
    together = scored(*(row | {"audio_id": f"{number // 10}.wav"} for number, row in enumerate(rows)))
    widths = [figures["accuracy_interval"][1] - figures["accuracy_interval"][0] for figures in (alone, together)]
    assert widths[1] > 2 * widths[0]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([DOGS | {"id": "1"}, DOGS | {"id": "2"}], indent=2),
        "\ufeff" + "\n\n".join(json.dumps(DOGS | {"id": name}) for name in "12"),
        json.dumps({"1": DOGS, "2": DOGS}, indent=1),
        json.dumps({"accuracy": 0.5, "rows": [DOGS | {"id": "1"}, DOGS | {"id": "2"}]}),
    ],
    ids=["a list", "lines", "an object by id", "what --out writes"],
)
def test_rows_are_read_from_every_shape_of_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "predictions.json").write_text(text, encoding="utf-8")
    rows = [row for _, row in prediction_file.read(str(tmp_path / "predictions.json"))]
    assert rows == [{"id": "1", **DOGS}, {"id": "2", **DOGS}]


def test_an_object_that_holds_an_id_twice_has_two_rows(tmp_path: Path) -> None:
    (tmp_path / "predictions.json").write_text(f'{{"1": {json.dumps(DOGS)}, "1": {json.dumps(DOGS)}}}')
    figures = score_rows(prediction_file.read(str(tmp_path / "predictions.json")))
    assert (figures["questions"], figures["repeated_ids"]) == (2, 1)


@pytest.mark.parametrize(
    "content", [b"id,answer\n1,Dog\n", b"\x89PNG\r\n\x1a\n\x00\xff\n", '{"id": 1}'.encode("utf-16")]
)
def test_a_file_that_is_not_json_is_refused_by_name_and_place(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "predictions.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"predictions\.json is no file of predictions: line 1 is not "):
        prediction_file.read(str(tmp_path / "predictions.json"))


def test_what_is_written_is_json_for_every_reader(tmp_path: Path) -> None:
    file, out = tmp_path / "predictions.json", tmp_path / "scores.json"
    row = DOGS | {
        "model_output": "Dog barking",
        "seconds": float("inf"),
        "note": "\ud83d half a pair",
        "clip": [float("nan")],
    }
    file.write_text(json.dumps([row]))
    assert evaluate.main(["--score", str(file), "--out", str(out)]) == 0

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    [kept] = json.loads(out.read_bytes(), parse_constant=refuse)["rows"]
    assert (kept["seconds"], kept["clip"], kept["match"]) == (None, [None], True)


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
        (["--score", "nothing.json"], "nothing.json: no row has an answer, choices and a prediction"),
        (["--score", "test.json"], "in model_output or model_prediction; the first: row 0: answer is None"),
        (["--score", "."], "--score . cannot be read: Is a directory"),
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
    Path("nothing.json").write_text("")
    Path("test.json").write_text(json.dumps([{"id": "1", "choices": ["a", "b"], "model_output": "a"}]))
    assert evaluate.main([*arguments, "--out", "scores.json"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("scores.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--score", "a", "--model", "b"],
        ["--score", "a", "--predictions", "b"],
        ["--score", "a", "--limit", "1"],
        ["--score", "a", "--silent"],
        ["--model", "b"],
        [],
    ],
)
def test_either_a_model_is_asked_or_predictions_are_scored(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        evaluate.main([*arguments, "--out", "scores.json"])
    assert ended.value.code == 2
