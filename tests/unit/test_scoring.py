import json

import pytest

from cluster.evaluation.scoring import Answered, score, without_rows
from cluster.tables import accuracy_rows, evaluation_table, sampled_rows
from data.types import ClipSource, Example


def example(name: str, answer: str = "dog", task: str = "sound", difficulty: str = "") -> Example:
    choices = ("dog", "cat", "drum", "bell")
    return Example(name, ClipSource(f"{name}.wav"), "What is heard?", choices, answer, task=task, difficulty=difficulty)


def answered(name: str, greedy: str | None, sampled: tuple[str, ...] = (), **fields: str) -> Answered:
    return Answered(example(name, **fields), f"recording-{name}", greedy, sampled)


def test_a_prediction_is_the_last_answer_with_case_and_white_space_set_aside() -> None:
    right = answered("a", "<answer>cat</answer> no, <answer> Dog </answer>")
    assert right.correct == 1.0
    assert answered("b", "<answer>dog</answer><answer>cat</answer>").correct == 0.0


def test_a_clip_that_could_not_be_read_counts_as_wrong_in_every_figure() -> None:
    lost = Answered(example("a"), "a", None, (), "clip_missing")
    result = score([lost, answered("b", "<answer>dog</answer>", ("<answer>dog</answer>", "dog"))])
    assert result["questions"] == 2
    for measure in ("accuracy", "accuracy_sampled", "accuracy_mmau", "pass@1", "pass@2", "majority@1", "majority@2"):
        assert result[measure] == 0.5, measure
    assert result["unusable"] == {"clip_missing": 1}


def test_accuracy_over_the_answered_questions_stands_beside_that_over_all_rows() -> None:
    lost = Answered(example("a", task="music"), "a", None, (), "clip_missing")
    result = score([lost, answered("b", "<answer>dog</answer>"), answered("c", "<answer>cat</answer>")])
    assert (result["questions"], result["answered"], result["bad_rows"]) == (3, 2, 0)
    assert result["accuracy"] == result["accuracy_mmau"] == pytest.approx(1 / 3)
    assert result["accuracy_answered"] == result["accuracy_mmau_answered"] == 0.5
    assert result["by_task"]["sound"]["accuracy"] == result["by_task"]["sound"]["accuracy_answered"] == 0.5
    assert (result["by_task"]["music"]["questions"], result["by_task"]["music"]["answered"]) == (1, 0)
    assert result["by_task"]["music"]["accuracy_answered"] is None


def test_a_bad_row_counts_as_wrong_in_all_and_belongs_to_no_task() -> None:
    right = answered("a", "<answer>dog</answer>", ("<answer>dog</answer>",))
    result = score([right], bad_rows=3)
    assert (result["questions"], result["answered"], result["bad_rows"]) == (4, 1, 3)
    assert result["accuracy"] == result["accuracy_sampled"] == result["accuracy_mmau"] == result["pass@1"] == 0.25
    assert result["accuracy_answered"] == 1.0
    assert result["by_task"]["sound"]["questions"] == len(result["rows"]) == 1
    low, high = result["accuracy_interval"]
    assert low < 0.25 < high


def test_figures_are_strict_json_where_nothing_was_answered() -> None:
    lost = Answered(example("a"), "a", None, (), "clip_missing")
    for result in (score([lost], bad_rows=1), score([], bad_rows=2)):
        assert json.loads(json.dumps(result, allow_nan=False)) == result
        assert result["accuracy"] == 0.0
        assert result["accuracy_answered"] is result["format_rate"] is None


def test_a_question_without_an_answer_has_a_row_and_no_part_in_accuracies() -> None:
    result = score([answered("a", "<answer>dog</answer>"), answered("b", "", answer="")])
    assert (result["questions"], result["without_answer"], result["accuracy"]) == (1, 1, 1.0)
    assert [row["correct"] for row in result["rows"]] == [1.0, None]


def test_the_table_tells_rows_bad_rows_and_answers_and_both_accuracies() -> None:
    lost = Answered(example("a", task="music"), "a", None, (), "clip_missing")
    header, (whole, music, sound) = evaluation_table(score([lost, answered("b", "<answer>dog</answer>")], bad_rows=2))
    assert header[1:6] == ("questions", "bad rows", "answered", "greedy", "greedy of answered")
    assert whole[:4] == ("all", "4", "2", "1")
    assert whole[4].startswith("25.0% [")
    assert whole[5].startswith("100.0% [")
    assert (music[:4], sound[:4]) == (("task: music", "1", "", "0"), ("task: sound", "1", "", "1"))
    assert music[5] == "-"


def test_the_table_leaves_out_what_was_not_missed_and_has_each_kind_of_group_that_is_known() -> None:
    header, rows = evaluation_table(score([answered("a", "<answer>dog</answer>", difficulty="hard")]))
    assert header == ("", "questions", "greedy", "MMAU's rule")
    assert [row[0] for row in rows] == ["all", "task: sound", "difficulty: hard"]


def test_format_rate_counts_greedy_and_sampled_completions() -> None:
    result = score([answered("a", "<answer>dog</answer>", ("dog", "<answer>dog</answer>", "x"))])
    assert result["format_rate"] == 0.5


def test_figures_by_group_add_up_to_the_whole() -> None:
    answers = [
        answered("a", "<answer>dog</answer>", difficulty="easy"),
        answered("b", "<answer>cat</answer>", difficulty="hard"),
        answered("c", "<answer>dog</answer>", task="music", difficulty="hard"),
    ]
    result = score(answers)
    assert {task: part["accuracy"] for task, part in result["by_task"].items()} == {"music": 1.0, "sound": 0.5}
    assert {name: part["accuracy"] for name, part in result["by_difficulty"].items()} == {"easy": 1.0, "hard": 0.5}
    assert result["accuracy"] == pytest.approx(2 / 3)


def test_samples_are_worth_what_k_of_them_are_by_powers_of_two() -> None:
    right, wrong = "<answer>dog</answer>", "<answer>cat</answer>"
    result = score([answered("a", wrong, (right, wrong, "CAT", "x", right)), answered("b", right, (wrong,) * 5)])
    assert result["accuracy_sampled"] == result["pass@1"] == result["majority@1"] == pytest.approx(0.2)
    assert result["pass@2"] == pytest.approx((1 - (3 / 5) * (2 / 4)) / 2)
    assert result["pass@4"] == 0.5
    # of four votes one is left out: a dog (then cat wins), a cat (then dog does) or x (then they tie)
    assert result["majority@4"] == pytest.approx((2 / 5 + (1 / 5) / 2) / 2)
    assert [row[0] for row in sampled_rows(result)] == ["1", "2", "4"]
    assert "pass@8" not in result
    assert result["by_task"]["sound"]["majority@4"] == result["majority@4"]


def test_a_wrong_choice_is_among_the_choices_and_an_invention_is_not() -> None:
    assert answered("a", "<answer>CAT</answer>").in_choices == 1.0
    assert answered("a", "<answer>whale</answer>").in_choices == 0.0


def test_the_positions_are_of_the_choices_as_they_were_asked() -> None:
    first = [
        answered(str(number), "<answer>dog</answer>", answer="cat" if number % 2 else "dog") for number in range(8)
    ]
    places = score([*first, answered("lost", None)])["positions"]
    assert places["questions"] == 8
    assert [one["predicted"] for one in places["by_position"]] == [1.0, 0.0, 0.0, 0.0]
    assert [one["gold"] for one in places["by_position"]] == [0.5, 0.5, 0.0, 0.0]


def test_rows_carry_the_completion_and_the_prediction_and_the_summary_leaves_them_out() -> None:
    result = score([answered("a", "I think <answer>dog</answer>"), answered("b", None)])
    assert result["rows"][0]["completion"] == "I think <answer>dog</answer>"
    assert result["rows"][0]["model_output"] == result["rows"][0]["model_prediction"] == "dog"
    assert result["rows"][1]["model_output"] is result["rows"][1]["completion"] is None
    assert "rows" not in without_rows(result)


def test_a_question_without_an_answer_is_kept_with_its_prediction_and_counts_in_no_accuracy() -> None:
    right = answered("a", "<answer>dog</answer>", ("<answer>dog</answer>",))
    unknown = answered("b", "<answer>cat</answer>", ("<answer>cat</answer>",), answer="", task="music")
    result = score([right, unknown])
    assert (result["questions"], result["answered"], result["without_answer"]) == (1, 1, 1)
    assert result["accuracy"] == result["accuracy_sampled"] == result["accuracy_mmau"] == 1.0
    assert list(result["by_task"]) == ["sound"]
    assert [(row["model_prediction"], row["correct"]) for row in result["rows"]] == [("dog", 1.0), ("cat", None)]


def test_a_file_without_any_answer_has_predictions_and_no_accuracy() -> None:
    result = score([answered("a", "<answer>dog</answer>", answer="")])
    assert (result["questions"], result["without_answer"], result["by_task"]) == (0, 1, {})
    assert result["format_rate"] == 1.0
    assert [row["model_prediction"] for row in result["rows"]] == ["dog"]


def test_before_and_after_stand_side_by_side_and_what_was_before_may_be_unknown() -> None:
    before = score([answered("a", "<answer>cat</answer>")])
    after = score([answered("a", "<answer>dog</answer>")])
    assert accuracy_rows(before, after)[0] == ("all", "1", "0.0% [0.0%, 0.0%]", "100.0% [100.0%, 100.0%]")
    assert accuracy_rows(None, after)[1][:3] == ("sound", "1", "unknown")
