"""What DeepSpeed's ranks allocate is what a dry run forecasts."""

from __future__ import annotations

import pytest

from bench import models
from bench.forecast import CLIP_SECONDS, PROMPTS, Case, fits, forecast_of, measured

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # a busy machine compiles for minutes


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The benchmarks' model and questions."""
    folder = tmp_path_factory.mktemp("forecast")
    questions = models.write_questions(folder / "clips", CLIP_SECONDS, PROMPTS)
    return str(models.build(folder / "model")), str(questions)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(2, 3, "optimizer", "bfloat16", beta=0.04, again=True), marks=pytest.mark.long),
        Case(lora=16, audio_tower="frozen", beta=0.04),
    ],  # `bench.forecast` takes more of them
    ids=lambda case: case.name,
)
def test_a_ranks_memory_is_forecast_within_a_quarter(case: Case, work: tuple[str, str]) -> None:
    config = case.config(*work)
    forecast, found = forecast_of(config), measured(config)
    assert fits(forecast["held"] / found["held"]), (forecast, found)
    assert fits(forecast["peak"] / found["peak"]), (forecast, found)
