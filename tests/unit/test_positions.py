"""Whether a model that leans to a position of the choices is found out."""

from __future__ import annotations

import pytest

from cluster.evaluation.positions import Placed, place, position_figures

CHOICES = ("dog", "cat", "drum", "bell")


def test_a_model_that_always_answers_the_first_choice_is_seen_as_such() -> None:
    gold = [0] * 4 + [1] * 3 + [2] * 2 + [3]  # of MMAU's kind: the first is gold most often
    figures = position_figures([Placed(str(number), 4, where, 0) for number, where in enumerate(gold)])
    places = figures["by_position"]
    assert [one["position"] for one in places] == [1, 2, 3, 4]
    assert [one["gold"] for one in places] == [0.4, 0.3, 0.2, 0.1]
    assert [one["predicted"] for one in places] == [1.0, 0.0, 0.0, 0.0]
    assert [one["uniform"] for one in places] == [0.25] * 4
    assert [one["excess"] for one in places] == pytest.approx([0.6, -0.3, -0.2, -0.1])
    assert [one["accuracy"] for one in places] == [1.0, 0.0, 0.0, 0.0]
    assert [one["questions"] for one in places] == [4, 3, 2, 1]
    low, high = places[0]["excess_interval"]
    assert 0 < low < 0.6 < high


def test_a_model_that_is_always_right_leans_nowhere_however_the_gold_answers_are_spread() -> None:
    figures = position_figures([Placed(str(number), 4, where, where) for number, where in enumerate([0, 0, 0, 2])])
    assert [one["excess"] for one in figures["by_position"]] == [0.0] * 4
    assert [one["accuracy"] for one in figures["by_position"]] == [1.0, None, 1.0, None]


def test_shares_and_predictions_outside_the_choices_add_up_to_one() -> None:
    placed = [Placed("a", 2, 0, 1), Placed("b", 4, 3, None), Placed("c", 4, 1, 3), Placed("d", 2, 1, None)]
    figures = position_figures(placed)
    for key, missing in (("gold", 0.0), ("uniform", 0.0), ("predicted", figures["outside"])):
        assert sum(one[key] for one in figures["by_position"]) + missing == pytest.approx(1.0)
    assert figures["outside"] == 0.5
    assert figures["by_position"][2]["uniform"] == 0.125


def test_questions_about_one_recording_are_resampled_together() -> None:
    alone = position_figures([Placed(str(number), 4, number % 4, 0) for number in range(40)])
    together = position_figures([Placed(str(number % 4), 4, number % 4, 0) for number in range(40)])
    widths = [
        figures["by_position"][0]["excess_interval"][1] - figures["by_position"][0]["excess_interval"][0]
        for figures in (alone, together)
    ]
    assert widths[1] > 2 * widths[0]


def test_a_prediction_stands_where_a_choice_reads_like_it() -> None:
    assert place("a", CHOICES, "cat", " Drum ") == Placed("a", 4, 1, 2)
    assert place("a", CHOICES, "cat", "a drum") == Placed("a", 4, 1, None)


def test_a_question_whose_choices_read_alike_or_lack_the_answer_has_no_positions() -> None:
    assert place("a", ("dog", "cat", "DOG"), "cat", "cat") is None
    assert place("a", CHOICES, "whale", "cat") is None
    assert position_figures([]) == {"questions": 0, "outside": None, "by_position": []}
