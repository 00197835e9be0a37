"""What a study's findings come to, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster import study_report
from cluster.study_results import Findings, Trained, family, pooled
from configs.load import load_config

QUESTIONS = 40
TASKS = ("music", "speech")


def rows(right: int, sampled: float = 0.5) -> list[dict[str, Any]]:
    """Held-out rows of which the first `right` are right."""
    return [
        {
            "id": f"q{number}",
            "question": "?",
            "choices": ["a", "b"],
            "answer": "a",
            "task": TASKS[number % 2],
            "sub-category": "",
            "difficulty": "",
            "recording": f"clip-{number}",
            "correct": float(number < right),
            "correct_mmau": float(number < right),
            "correct_sampled": sampled,
        }
        for number in range(QUESTIONS)
    ]


def trained(right: int, sampled: float = 0.5, completions: int = 0) -> Trained:
    evaluation = {"format_rate": 1.0}
    summary = {
        "trained": evaluation,
        "silent": {"accuracy": 0.25},
        "steps": 10,
        "questions_trained": 320,
        "completions": completions,
        "tokens": 1000,
        "train_seconds": 60.0,
    }
    return Trained("m-answer", rows(right, sampled), summary, [(160, 0.3), (320, right / QUESTIONS)])


@pytest.fixture
def findings() -> Findings:
    found = Findings({"sft": "SFT", "grpo": "GRPO"}, [("grpo", "base"), ("sft", "base"), ("grpo", "sft")])
    for seed in (0, 1):
        found.before["m-answer", seed] = {"rows": rows(10 + seed), "format_rate": 0.5}
        found.trained["sft", seed] = trained(30 + seed)
        found.trained["grpo", seed] = trained(20 + seed, sampled=0.9, completions=2560)
    return found


def test_accuracies_are_means_over_seeds_whose_intervals_resample_recordings(findings: Findings) -> None:
    arm = findings.figures()["arms"]["sft"]
    assert arm["accuracy"] == pytest.approx((30 + 31) / 2 / QUESTIONS)
    assert arm["seeds"] == {0: 30 / QUESTIONS, 1: pytest.approx(31 / QUESTIONS)}
    assert (arm["questions"], arm["recordings"]) == (QUESTIONS, QUESTIONS)
    low, high = arm["accuracy_interval"]
    assert low < arm["accuracy"] < high
    assert high - low > 0.2  # of 40 recordings; as 80 questions it would be narrower
    assert arm["by_task"].keys() == set(TASKS)


def test_an_arm_is_held_against_the_model_that_it_started_from_seed_by_seed(findings: Findings) -> None:
    [over_base, _, over_sft] = findings.figures()["comparisons"]
    assert over_base["measures"]["accuracy"]["difference"] == pytest.approx(10 / QUESTIONS)
    assert over_sft["measures"]["accuracy"]["difference"] == pytest.approx(-10 / QUESTIONS)
    alone = [part["accuracy"] for part in over_sft["by_seed"].values()]
    assert [part["difference"] for part in alone] == pytest.approx([-10 / QUESTIONS] * 2)
    assert alone[0]["p_value"] == pytest.approx(2 / 2**10)


def test_what_is_said_follows_from_the_interval(findings: Findings) -> None:
    page = study_report.markdown({"title": "Mine", **findings.figures()})
    assert "Greedily, GRPO answers worse than SFT: -25.0 points" in page
    assert "Sampled, GRPO answers better than SFT: +40.0 points" in page
    assert "Greedily, GRPO answers better than the model before training: +25.0 points" in page
    findings.trained = {(arm, seed): trained(20) for arm, seed in findings.trained}
    page = study_report.markdown({"title": "Mine", **findings.figures()})
    assert "Greedily, no difference between GRPO and SFT is shown: +0.0 points [+0.0, +0.0]" in page


def test_questions_completions_tokens_and_seconds_stand_side_by_side(findings: Findings) -> None:
    page = study_report.markdown({"title": "Mine", **findings.figures()})
    assert "| GRPO | 10 | 320 | 2,560 | 1,000 | 60 |" in page
    assert "Each run saw 320 questions, repetitions counted" in page


def test_an_arm_that_could_not_be_tested_is_told_and_left_out(findings: Findings) -> None:
    for seed in (0, 1):
        del findings.trained["grpo", seed]
    findings.untestable["grpo"] = "it never gives the form"
    found = findings.figures()
    assert list(found["arms"]) == ["sft"]
    assert [(pair["first"], pair["second"]) for pair in found["comparisons"]] == [("sft", "base")]
    assert "`grpo` is not in the tables: it never gives the form." in study_report.markdown({"title": "Mine", **found})


def test_seeds_that_only_one_of_two_arms_has_are_not_compared(findings: Findings) -> None:
    del findings.trained["sft", 1]
    [_, _, pair] = findings.figures()["comparisons"]
    assert list(pair["by_seed"]) == [0]
    assert pair["measures"]["accuracy"]["questions"] == QUESTIONS


def test_figures_are_json_and_drawn(findings: Findings, tmp_path: Path) -> None:
    found = json.loads(json.dumps(findings.figures(), allow_nan=False))
    study_report.plot_learning(found, tmp_path / "learning.png")
    study_report.plot_tasks(found, tmp_path / "tasks.png")
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("learning.png", "tasks.png"))


def test_pooling_keeps_a_question_of_two_seeds_apart_and_its_recording_together() -> None:
    once, twice = pooled({0: rows(20)}), pooled({0: rows(20), 1: rows(20)})
    assert once["accuracy_interval"] == pytest.approx(twice["accuracy_interval"])


def test_runs_that_start_from_one_model_and_ask_alike_are_of_one_family() -> None:
    names = {
        family(load_config("tiny", keys))
        for keys in (["run.seed=0"], ["run.seed=1", "algorithm.name=sft"], ["model.lora={rank: 4}"])
    }
    assert names == {"demo_model-answer"}
    assert family(load_config("tiny", ["data.prompt=think"])) == "demo_model-think"


def test_arms_that_saw_other_numbers_of_questions_are_named(findings: Findings) -> None:
    figures = findings.figures()
    figures["arms"]["grpo"]["questions_trained"] = 1600.0
    page = study_report.markdown({"title": "Mine", **figures})
    assert "Each run saw 320 questions (SFT); 1,600 questions (GRPO), repetitions counted." in page
