"""What a study's findings come to, and what is said of them."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster import study, study_report
from cluster.study_results import Evaluation, Findings, Trained, pooled
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


def evaluation(right: int, sampled: float = 0.5, form: float | None = 1.0, bad_rows: int = 0) -> Evaluation:
    return {"rows": rows(right, sampled), "format_rate": form, "bad_rows": bad_rows}


def trained(right: int, sampled: float = 0.5, completions: int = 0, bad_rows: int = 0) -> Trained:
    summary = {
        "steps": 10,
        "ledger": {"admitted": 330},
        "questions_trained": 320,
        "completions": completions,
        "tokens": 1000,
        "train_seconds": 60.0,
    }
    points = [(160, 0.3), (320, right / QUESTIONS)]
    about_silence = {**evaluation(10), "rows": [row | {"correct_sampled": None} for row in rows(10)]}
    return Trained("m, answer", evaluation(right, sampled, bad_rows=bad_rows), about_silence, summary, points, "c0ffee")


def two_arms() -> Findings:
    found = Findings({"sft": "SFT", "grpo": "GRPO"}, [("grpo", "base"), ("sft", "base"), ("grpo", "sft")])
    for seed in (0, 1):
        found.before["m, answer", seed] = evaluation(10 + seed, form=0.5)
        found.trained["sft", seed] = trained(30 + seed)
        found.trained["grpo", seed] = trained(20 + seed, sampled=0.9, completions=2560)
    return found


@pytest.fixture
def findings() -> Findings:
    return two_arms()


@pytest.fixture(scope="module")
def counted() -> dict[str, Any]:
    return two_arms().figures()


@pytest.fixture
def figures(counted: dict[str, Any]) -> dict[str, Any]:
    """What two arms on two seeds come to: counted once, for their intervals take a third of a second."""
    return deepcopy(counted)


def test_accuracies_are_means_over_seeds_whose_intervals_resample_recordings(figures: dict[str, Any]) -> None:
    arm = figures["arms"]["sft"]
    assert arm["accuracy"] == pytest.approx((30 + 31) / 2 / QUESTIONS)
    assert arm["seeds"] == {0: 30 / QUESTIONS, 1: pytest.approx(31 / QUESTIONS)}
    assert (arm["questions"], arm["recordings"]) == (QUESTIONS, QUESTIONS)
    low, high = arm["accuracy_interval"]
    assert low < arm["accuracy"] < high
    assert high - low > 0.2  # of 40 recordings; as 80 questions it would be narrower
    assert arm["by_task"].keys() == set(TASKS)


def test_an_arm_is_held_against_the_model_that_it_started_from_seed_by_seed(figures: dict[str, Any]) -> None:
    [over_base, _, over_sft] = figures["comparisons"]
    assert over_base["measures"]["accuracy"]["difference"] == pytest.approx(10 / QUESTIONS)
    assert over_sft["measures"]["accuracy"]["difference"] == pytest.approx(-10 / QUESTIONS)
    alone = [part["accuracy"] for part in over_sft["by_seed"].values()]
    assert [part["difference"] for part in alone] == pytest.approx([-10 / QUESTIONS] * 2)
    assert alone[0]["p_value"] == pytest.approx(2 / 2**10)


def test_what_is_said_follows_from_the_interval(findings: Findings, figures: dict[str, Any]) -> None:
    page = study_report.markdown({"title": "Mine", **figures})
    assert "Greedily, GRPO answers worse than SFT: -25.0 points" in page
    assert "Sampled, GRPO answers better than SFT: +40.0 points" in page
    assert "Greedily, GRPO answers better than the model before training: +25.0 points" in page
    findings.trained = {(arm, seed): trained(20) for arm, seed in findings.trained}
    page = study_report.markdown({"title": "Mine", **findings.figures()})
    assert "Greedily, no difference between GRPO and SFT is shown: +0.0 points [+0.0, +0.0]" in page


def test_questions_completions_tokens_and_seconds_stand_side_by_side(figures: dict[str, Any]) -> None:
    page = study_report.markdown({"title": "Mine", **figures})
    assert "| GRPO | 10 | 330 | 320 | 2,560 | 1,000 | 60 |" in page
    assert "Each run saw 320 questions, repetitions counted" in page


def test_an_arm_that_could_not_be_tested_is_told_and_left_out(findings: Findings) -> None:
    for seed in (0, 1):
        del findings.trained["grpo", seed]
        findings.untestable.append(("grpo", seed))
    found = findings.figures()
    assert list(found["arms"]) == ["sft"]
    assert [(pair["first"], pair["second"]) for pair in found["comparisons"]] == [("sft", "base")]
    page = study_report.markdown({"title": "Mine", **found})
    assert "GRPO is not testable here: the model before training never gives the form" in page


def test_a_seed_that_could_not_be_tested_is_named_where_another_was(findings: Findings) -> None:
    del findings.trained["grpo", 0]
    findings.untestable.append(("grpo", 0))
    page = study_report.markdown({"title": "Mine", **findings.figures()})
    assert "GRPO is not testable here with seed 0: the model" in page
    assert "| GRPO | 52.5%" in page


@pytest.mark.heavy
def test_a_page_is_written_where_no_arm_could_be_trained(findings: Findings, tmp_path: Path) -> None:
    findings.trained.clear()
    findings.untestable += [(arm, seed) for arm in ("sft", "grpo") for seed in (0, 1)]
    found = {"title": "Mine", **findings.figures()}
    assert "| before training (m, answer) | 26.2%" in study_report.markdown(found)
    study_report.plot_learning(found, tmp_path / "learning.png")
    study_report.plot_tasks(found, tmp_path / "tasks.png")


@pytest.mark.heavy
def test_bad_rows_are_wrong_in_all_that_an_evaluation_is_taken_for(findings: Findings) -> None:
    for seed in (0, 1):
        findings.before["m, answer", seed] = evaluation(10 + seed, bad_rows=QUESTIONS)
        findings.trained["sft", seed] = trained(30 + seed, bad_rows=QUESTIONS)
        findings.trained["grpo", seed] = trained(20 + seed, bad_rows=QUESTIONS)
    found = findings.figures()
    assert found["arms"]["sft"]["accuracy"] == pytest.approx((30 + 31) / 4 / QUESTIONS)
    assert found["arms"]["sft"]["questions"] == 2 * QUESTIONS
    assert found["comparisons"][0]["measures"]["accuracy"]["difference"] == pytest.approx(10 / 2 / QUESTIONS)


def test_p_values_are_of_one_seed_and_none_is_of_several(figures: dict[str, Any]) -> None:
    for pair in figures["comparisons"]:
        assert "p_value" not in pair["measures"]["accuracy"]
        assert all("p_value" in own["accuracy"] for own in pair["by_seed"].values())
    page = study_report.markdown({"title": "Mine", **figures})
    assert "; by seed -25.0 (p = 0.002), -25.0 (p = 0.002)." in page


def test_runs_of_several_commits_are_told(findings: Findings, figures: dict[str, Any]) -> None:
    assert "not of one commit" not in study_report.markdown({"title": "Mine", **figures})
    findings.trained["sft", 0] = replace(findings.trained["sft", 0], commit="decade")
    assert "not of one commit: c0ffee, decade." in study_report.markdown({"title": "Mine", **findings.figures()})


def test_seeds_that_only_one_of_two_arms_has_are_not_compared(findings: Findings) -> None:
    del findings.trained["sft", 1]
    [_, _, pair] = findings.figures()["comparisons"]
    assert list(pair["by_seed"]) == [0]
    assert pair["measures"]["accuracy"]["questions"] == QUESTIONS


@pytest.mark.heavy
def test_figures_are_json_and_drawn(figures: dict[str, Any], tmp_path: Path) -> None:
    found = json.loads(json.dumps(figures, allow_nan=False))
    study_report.plot_learning(found, tmp_path / "learning.png")
    study_report.plot_tasks(found, tmp_path / "tasks.png")
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("learning.png", "tasks.png"))


def test_pooling_keeps_a_question_of_two_seeds_apart_and_its_recording_together() -> None:
    once, twice = pooled({0: evaluation(20)}), pooled({0: evaluation(20), 1: evaluation(20)})
    assert once["accuracy_interval"] == pytest.approx(twice["accuracy_interval"])


def names(*keys: list[str]) -> list[str]:
    configs = [load_config("tiny", [*some, f"run.name={number}"]) for number, some in enumerate(keys)]
    return list(study.named([("arm", config) for config in configs]).values())


def test_runs_that_start_from_one_model_and_are_asked_alike_share_what_was_before() -> None:
    assert (
        names(["run.seed=0"], ["run.seed=1", "algorithm.name=sft"], ["model.lora={rank: 4}"], ["data.silent=true"])
        == ["demo:model, answer"] * 4
    )
    assert names(["data.prompt=think"]) == ["demo:model, think"]
    assert names(["run.init_from=a-b"], ["run.init_from=a_b"]) == ["a-b, answer", "a_b, answer"]


def test_models_that_are_asked_otherwise_are_told_apart() -> None:
    assert names([], ["rollout.max_completion_tokens=30"], ["model.dtype=bfloat16"], []) == [
        "demo:model, answer",
        "demo:model, answer (2)",
        "demo:model, answer (3)",
        "demo:model, answer",
    ]


def test_the_model_before_training_is_asked_as_the_run_asks() -> None:
    config = load_config(
        "tiny",
        [
            *("model.dtype=bfloat16", "model.projector=trained", "rollout.max_model_tokens=900", "data.max_seconds=9"),
            *("model.lora={rank: 4}", "run.init_from=elsewhere", "rollout.tensor_parallel=2", "algorithm.beta=0.1"),
        ],
    )
    settings = study.before_training(config)
    assert (settings.model.path, settings.model.dtype, settings.model.lora) == ("elsewhere", "bfloat16", None)
    assert settings.rollout == config.rollout
    assert settings.data == config.data
    assert (settings.model.projector, settings.algorithm.beta) == ("frozen", 0.0)


def test_arms_that_saw_other_numbers_of_questions_are_named(figures: dict[str, Any]) -> None:
    figures["arms"]["grpo"]["questions_trained"] = 1600.0
    page = study_report.markdown({"title": "Mine", **figures})
    assert "Each run saw 320 questions (SFT); 1,600 questions (GRPO), repetitions counted." in page


def test_arms_that_were_asked_other_numbers_of_held_out_questions_are_named(figures: dict[str, Any]) -> None:
    page = study_report.markdown({"title": "Mine", **figures})
    told = page.partition("Accuracy is on ")[2].partition(", over all seeds")[0]
    assert "(" not in told
    figures["arms"]["grpo"] |= {"questions": 320, "recordings": 248}
    page = study_report.markdown({"title": "Mine", **figures})
    assert f"{told} (before training (" in page
    assert " | SFT); 320 held-out questions about 248 recordings (GRPO), over all seeds" in page
