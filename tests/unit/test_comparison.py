"""Two evaluations side by side: McNemar's test, paired intervals, and what is not comparable."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binom, binomtest

from cluster import compare as command
from cluster.errors import UsageError
from cluster.evaluation.comparison import compare, mcnemar
from cluster.evaluation.predictions import score_rows
from cluster.evaluation.scoring import Answered, score
from data.rows import Position
from data.types import ClipSource, Example

RIGHT, WRONG = "<answer>dog</answer>", "<answer>cat</answer>"


def evaluation(
    right: Sequence[bool], each: int = 1, sampled: Sequence[int] = (), choices: tuple[str, ...] = ("dog", "cat")
) -> dict[str, Any]:
    """Questions of which so many are about each recording; of four samples of a question so many are right."""
    answers = []
    for number, is_right in enumerate(right):
        task = "music" if number % 2 else "sound"
        example = Example(f"q{number}", ClipSource("clip"), "What is heard?", choices, "dog", task=task)
        drawn = (RIGHT,) * sampled[number] + (WRONG,) * (4 - sampled[number]) if sampled else ()
        answers.append(Answered(example, f"recording {number // each}", RIGHT if is_right else WRONG, drawn))
    return score(answers)


def table(both: int, only_a: int, only_b: int, neither: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two evaluations with so many questions in each cell."""
    a = [True] * both + [True] * only_a + [False] * only_b + [False] * neither
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return evaluation(a), evaluation(b)


@pytest.mark.parametrize("cells", [(10, 3, 12, 5), (0, 1, 0, 1), (4, 7, 7, 0), (0, 0, 9, 0), (3, 30, 11, 8)])
def test_the_p_value_is_that_of_the_binomial_on_the_questions_that_one_alone_gets_right(
    cells: tuple[int, int, int, int],
) -> None:
    figures = compare(*table(*cells))["measures"]["accuracy"]
    _, only_a, only_b, _ = cells
    assert (figures["only_a"], figures["only_b"]) == (only_a, only_b)
    fewer = min(only_a, only_b)
    by_hand = min(1.0, 2 * binom.cdf(fewer, only_a + only_b, 0.5))
    assert figures["p_value"] == pytest.approx(by_hand)
    assert figures["p_value"] == pytest.approx(binomtest(only_b, only_a + only_b, 0.5).pvalue)
    assert figures["difference"] == pytest.approx((only_b - only_a) / sum(cells))


def test_two_models_that_answer_alike_are_not_told_apart() -> None:
    figures = compare(*table(5, 0, 0, 5))["measures"]["accuracy"]
    assert (figures["p_value"], figures["difference"], figures["difference_interval"]) == (1.0, 0.0, [0.0, 0.0])
    assert mcnemar(0, 0) == 1.0


@pytest.mark.heavy
def test_a_paired_difference_is_surer_than_the_two_accuracies() -> None:
    a, b = table(both=200, only_a=3, only_b=23, neither=174)
    figures = compare(a, b)["measures"]["accuracy"]
    low, high = figures["difference_interval"]
    assert 0 < low < 0.05 < high
    assert high - low < a["accuracy_interval"][1] - a["accuracy_interval"][0]


@pytest.mark.heavy
def test_questions_about_one_recording_are_resampled_together() -> None:
    a, b = [False] * 200, [number // 10 % 2 == 0 for number in range(200)]
    alone = compare(evaluation(a), evaluation(b))["measures"]["accuracy"]["difference_interval"]
    together = compare(evaluation(a, each=10), evaluation(b, each=10))["measures"]["accuracy"]["difference_interval"]
    assert together[1] - together[0] > 2.5 * (alone[1] - alone[0])


def test_each_task_is_compared_by_itself() -> None:
    a, b = evaluation([False] * 6), evaluation([True, False] * 3)
    figures = compare(a, b)["measures"]["accuracy"]
    assert {name: part["difference"] for name, part in figures["by_task"].items()} == {"sound": 1.0, "music": 0.0}
    assert figures["by_task"]["sound"]["p_value"] == 0.25


def test_sampled_accuracy_has_a_difference_and_no_test_of_right_and_wrong() -> None:
    a, b = (evaluation([True] * 3, sampled=sampled) for sampled in ([0, 1, 4], [2, 1, 4]))
    figures = compare(a, b)["measures"]["accuracy_sampled"]
    assert (figures["a"], figures["b"]) == (pytest.approx(5 / 12), pytest.approx(7 / 12))
    assert "p_value" not in figures
    assert list(compare(a, evaluation([True] * 3))["measures"]) == ["accuracy", "accuracy_mmau"]


def test_bad_rows_are_wrong_by_both_and_the_accuracies_those_of_the_files() -> None:
    a, b = table(1, 0, 2, 0)
    a, b = a | {"bad_rows": 3}, b | {"bad_rows": 3}
    figures = compare(a, b)["measures"]["accuracy"]
    assert (figures["questions"], figures["a"], figures["b"]) == (6, pytest.approx(1 / 6), 0.5)
    with pytest.raises(UsageError, match="counts 3 bad rows and the second file 1"):
        compare(a, b | {"bad_rows": 1})


def test_scored_predictions_are_compared_by_mmaus_rule() -> None:
    def scored(*outputs: str) -> dict[str, Any]:
        rows = [
            {"id": n, "choices": ["dog", "cat"], "answer": "dog", "model_output": text}
            for n, text in enumerate(outputs)
        ]
        return score_rows((Position(row=number), row) for number, row in enumerate(rows))

    measures = compare(scored("dog", "cat", "cat"), scored("dog", "a dog", "dog"))["measures"]
    assert list(measures) == ["accuracy_mmau"]
    assert (measures["accuracy_mmau"]["only_b"], measures["accuracy_mmau"]["p_value"]) == (2, 0.5)


def test_other_questions_are_refused_with_how_many_are_in_one_file_alone() -> None:
    with pytest.raises(UsageError, match=r"5 ids are only in b\.json \(q3, q4, q5, \.\.\.\)") as refused:
        compare(evaluation([True] * 3), evaluation([True] * 8), ("a.json", "b.json"))
    assert "0 ids are only in a.json," in str(refused.value)


def test_another_version_of_a_question_is_refused_and_another_order_of_its_choices_is_not() -> None:
    a = evaluation([True] * 4)
    with pytest.raises(UsageError, match="4 ids have another question, answer or choices"):
        compare(a, evaluation([True] * 4, choices=("dog", "whale")))
    assert compare(a, evaluation([True] * 4, choices=("cat", "dog")))["questions"] == 4


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has no rows"),
        ([{"answer": "a"}], "1 rows have no id"),
        ([{"id": "a"}, {"id": "a"}], r"1 ids stand more than once \(a\)"),
        ([{"id": "a", "answer": "dog"}], "have none of accuracy, accuracy_mmau, accuracy_sampled in common"),
    ],
)
def test_files_that_cannot_be_paired_are_refused(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compare({"rows": rows}, {"rows": rows})


def test_the_command_prints_tables_and_writes_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = table(2, 1, 4, 1)
    paths = [str(tmp_path / name) for name in ("a.json", "b.json")]
    for path, figures, model in zip(paths, (a, b), ("old", "new"), strict=True):
        Path(path).write_text(json.dumps(figures | {"model": model, "silent": model == "old"}))
    assert command.main([*paths, "--out", str(tmp_path / "out" / "compared.json")]) == 0
    printed = capsys.readouterr().out
    assert "accuracy, greedy (95% interval)" in printed
    assert f"A: {paths[0]} (old, silent)" in printed
    assert f"B: {paths[1]} (new)" in printed
    row = next(line for line in printed.splitlines() if "task: sound" in line)
    cells = [cell.strip() for cell in row.split("│")[1:-1]]
    assert (cells[:4], cells[5:]) == (["task: sound", "4", "50.0%", "75.0%"], ["1", "2", "1"])
    assert cells[4].startswith("+25.0 [")
    written = json.loads((tmp_path / "out" / "compared.json").read_text())
    assert written["measures"]["accuracy"]["p_value"] == 0.375
    assert (written["a"], written["b"]) == tuple(paths)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "b.json cannot be read: No such file"),
        ("{", "b.json is not JSON"),
        ("[]", "b.json is no evaluation"),
        ("{}", "b.json has no rows"),
    ],
)
def test_a_file_that_is_no_evaluation_is_refused_by_name(
    content: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(evaluation([True])))
    if content is not None:
        (tmp_path / "b.json").write_text(content)
    assert command.main([str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 2
    assert message in capsys.readouterr().err
