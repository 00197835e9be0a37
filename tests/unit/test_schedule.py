import pytest

from configs.schema import Learner
from learner.schedule import learning_rate


def rates(schedule: str, warmup_steps: int = 0) -> list[float]:
    settings = Learner(learning_rate=1.0, schedule=schedule, warmup_steps=warmup_steps)  # type: ignore[arg-type]
    return [learning_rate(step, 4, settings) for step in range(5)]


def test_linear_decay_ends_at_zero() -> None:
    assert rates("linear") == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])


def test_cosine_is_half_way_down_in_the_middle() -> None:
    assert rates("cosine") == pytest.approx([1.0, 0.853553, 0.5, 0.146447, 0.0], abs=1e-6)


def test_constant_stays() -> None:
    assert rates("constant") == [1.0] * 5


def test_warm_up_rises_to_the_peak_and_decay_starts_there() -> None:
    assert rates("linear", warmup_steps=2) == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.0])
