import pytest

from cluster.progress import evaluation_rows
from cluster.scoring import Answered, score, without_rows
from data.types import ClipSource, Example


def example(name: str, answer: str = "dog", task: str = "sound") -> Example:
    return Example(name, ClipSource(f"{name}.wav"), "What is heard?", ("dog", "cat", "drum", "bell"), answer, task=task)


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
    assert result["accuracy"] == 0.5
    assert result["accuracy_sampled"] == 0.5
    assert result["accuracy_mmau"] == 0.5
    assert result["unusable"] == {"clip_missing": 1}


def test_accuracy_over_the_answered_questions_stands_beside_that_over_all_rows() -> None:
    lost = Answered(example("a", task="music"), "a", None, (), "clip_missing")
    result = score([lost, answered("b", "<answer>dog</answer>"), answered("c", "<answer>cat</answer>")])
    assert (result["questions"], result["answered"], result["bad_rows"]) == (3, 2, 0)
    assert result["accuracy"] == result["accuracy_mmau"] == pytest.approx(1 / 3)
    assert result["accuracy_answered"] == result["accuracy_mmau_answered"] == 0.5
    assert result["by_task"]["sound"]["accuracy"] == result["by_task"]["sound"]["accuracy_answered"] == 0.5
    assert (result["by_task"]["music"]["questions"], result["by_task"]["music"]["answered"]) == (1, 0)


def test_a_bad_row_counts_as_wrong_in_all_and_belongs_to_no_task() -> None:
    right = answered("a", "<answer>dog</answer>", ("<answer>dog</answer>",))
    result = score([right], bad_rows=3)
    assert (result["questions"], result["answered"], result["bad_rows"]) == (4, 1, 3)
    assert result["accuracy"] == result["accuracy_sampled"] == result["accuracy_mmau"] == 0.25
    assert result["accuracy_answered"] == 1.0
    assert result["by_task"]["sound"]["questions"] == len(result["rows"]) == 1
    low, high = result["accuracy_interval"]
    assert low < 0.25 < high


def test_the_table_tells_rows_bad_rows_and_answers_and_both_accuracies() -> None:
    lost = Answered(example("a", task="music"), "a", None, (), "clip_missing")
    whole, music, sound = evaluation_rows(score([lost, answered("b", "<answer>dog</answer>")], bad_rows=2))
    assert whole[:4] == ("all", "4", "2", "1")
    assert whole[4].startswith("25.0% [")
    assert whole[5].startswith("100.0% [")
    assert (music[:4], sound[:4]) == (("music", "1", "", "0"), ("sound", "1", "", "1"))


def test_format_rate_counts_greedy_and_sampled_completions() -> None:
    result = score([answered("a", "<answer>dog</answer>", ("dog", "<answer>dog</answer>", "x"))])
    assert result["format_rate"] == 0.5


def test_figures_by_task_add_up_to_the_whole() -> None:
    answers = [
        answered("a", "<answer>dog</answer>"),
        answered("b", "<answer>cat</answer>"),
        answered("c", "<answer>dog</answer>", task="music"),
    ]
    result = score(answers)
    assert {task: part["accuracy"] for task, part in result["by_task"].items()} == {"music": 1.0, "sound": 0.5}
    assert result["accuracy"] == pytest.approx(2 / 3)


def test_a_wrong_choice_is_among_the_choices_and_an_invention_is_not() -> None:
    assert answered("a", "<answer>CAT</answer>").in_choices == 1.0
    assert answered("a", "<answer>whale</answer>").in_choices == 0.0


def test_rows_carry_what_mmaus_script_reads_and_the_summary_leaves_them_out() -> None:
    result = score([answered("a", "I think <answer>dog</answer>")])
    assert result["rows"][0]["model_prediction"] == "dog"
    assert result["rows"][0]["model_output"] == "I think <answer>dog</answer>"
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
