"""The learner does what R1-AQA's trainer does, many times faster: the same gradient from the same completions."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from bench import models
from bench.parity import gradient_difference
from configs.schema import Config
from data.formats import load_examples
from tests.integration.models import hearing_model

AGREEMENT = 1e-4
"""Largest relative difference of any parameter's gradient in float32."""


def test_the_learner_has_the_gradient_of_the_published_method(tmp_path: Path) -> None:
    files = [
        models.write_questions(tmp_path / f"{seconds} s", seconds, count) for seconds, count in ((0.7, 2), (1.9, 1))
    ]
    examples = [example for file in files for example in load_examples(str(file)).examples]
    policy, reference = (hearing_model(tmp_path / str(seed), seed) for seed in (0, 1))
    config = Config.model_validate(
        {
            "model": {"path": str(policy)},
            "data": {"train": str(files[0])},
            "learner": {"threads": 1, "micro_batch_tokens": 600},
            "algorithm": {"beta": 0.04, "group_size": 4, "prompts_per_step": 3},
        }
    )
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:  # the learner joins its own process group
        difference, name = fresh.submit(gradient_difference, config, str(reference), examples).result()
    assert difference < AGREEMENT, name
