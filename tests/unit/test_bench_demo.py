"""What the demo's benchmark reads off a study, and what it promises of it."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from bench.demo import promises, summed_up
from cluster.study_results import Evaluation, Findings, Trained

pytestmark = pytest.mark.heavy  # a whole study is summed up

QUESTIONS, RECORDINGS = 960, 480
TASKS = ("sound", "music", "speech")
SUMMARY = {
    "steps": 450,
    "ledger": {"admitted": 14400},
    "questions_trained": 14400,
    "completions": 115200,
    "completions_per_second": 300.0,
    "tokens": 1,
    "train_seconds": 360.0,
    "logprob_difference_max": 3e-5,
    "silent": {"chance": 0.25},
}


def evaluation(right: float, sampled: float, form: float = 1.0) -> Evaluation:
    """Of every hundred questions so many are right, in each task."""
    rows = [
        {
            "id": f"q{number}",
            "question": "?",
            "choices": ["a", "b"],
            "answer": "a",
            "task": TASKS[number % 3],
            "recording": f"clip {number // 2}",
            "correct": float(number // 3 % 100 < right),
            "correct_sampled": sampled,
        }
        for number in range(QUESTIONS)
    ]
    return {"rows": rows, "format_rate": form, "bad_rows": 0}


@cache
def figures(form: float = 1.0, about_silence: float = 10) -> dict[str, Any]:
    """Of a study in which GRPO adds 10 points greedily, and SFT 20."""
    found = Findings({"sft": "SFT", "grpo": "GRPO"}, [("grpo", "base"), ("grpo", "sft")])
    for seed in (0, 1):
        found.before["m", seed] = evaluation(40, 0.2)
        silent = evaluation(about_silence, 0.0)
        grpo = evaluation(50, 0.4, form if seed else 1.0)
        found.trained["grpo", seed] = Trained("m", grpo, silent, SUMMARY, [(10, 0.4)], "c")
        found.trained["sft", seed] = Trained("m", evaluation(60, 0.45), None, SUMMARY, [(10, 0.4)], "c")
    return summed_up(json.loads(json.dumps({**found.figures()})), [SUMMARY, SUMMARY])


def test_gains_are_paired_and_of_every_seed() -> None:
    made = figures()
    assert made["gain_greedy"] == made["gain_greedy_seed1"] == pytest.approx(0.1, abs=0.01)
    assert made["grpo_over_sft_greedy"] == pytest.approx(-0.1, abs=0.01)
    assert made["gain_sampled"] == pytest.approx(0.2)
    assert made["gain_greedy_low"] < made["gain_greedy"] < made["gain_greedy_high"]
    assert (made["questions"], made["recordings"], made["seeds"]) == (QUESTIONS, RECORDINGS, 2)


def test_every_promise_is_held_by_a_demo_that_keeps_them() -> None:
    assert all(promises(figures(), ["0", "1"]).values())


@pytest.mark.parametrize(
    ("changed", "promise"),
    [
        ({"gain_greedy_seed1": -0.01}, "every seed gains (greedy)"),
        ({"gain_sampled": 0.09}, "sampled accuracy gains at least 10%"),
        ({"gain_greedy_low": -0.01}, "the interval of the greedy gain is above zero"),
        ({"base_greedy_seed0": 0.34}, "every warm start is right about at least 35%"),
        ({"base_greedy_sound_low": 0.24}, "warm starts are above chance in sound by their interval"),
        ({"questions": 700}, "at least 800 questions"),
        ({"logprob_difference_max": 2e-3}, "log-probs within 0.001"),
    ],
)
def test_a_promise_that_is_broken_is_named(changed: dict[str, Any], promise: str) -> None:
    held = promises(figures() | changed, ["0", "1"])
    assert [name for name, is_held in held.items() if not is_held] == [promise]


def test_one_seed_that_loses_the_form_and_a_model_that_guesses_about_silence_are_seen() -> None:
    held = promises(figures(form=0.97, about_silence=60), ["0", "1"])
    assert [name for name, is_held in held.items() if not is_held] == [
        "format rate at least 99%",
        "no better than chance about silence",
    ]
