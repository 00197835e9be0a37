import pytest

from data.types import Clip, ClipSource, Completion, Example, Group, Prompt
from rewards.overlong import overlong, shaped


@pytest.mark.parametrize(
    ("tokens", "expected"), [(0, 0.0), (16384, 0.0), (16385, -1 / 4096), (18432, -0.5), (20480, -1.0), (20500, -1.0)]
)
def test_the_punishment_is_dapos_with_the_papers_lengths(tokens: int, expected: float) -> None:
    assert overlong(tokens, 20480, 4096 / 20480) == pytest.approx(expected)


def group(*lengths: int) -> Group:
    example = Example("q", ClipSource("q.wav"), "?", ("a", "b"), "a")
    completions = [Completion((1,) * length, "", (0.0,) * length, (0,) * length, "stop") for length in lengths]
    prompt = Prompt("g", example, (1,), Clip("c", 1.0, 1), seed=0)
    return Group(prompt, tuple(completions), rewards={"accuracy": (1.0, None)}, total=(1.0, None))


def test_a_group_is_punished_in_its_totals_and_the_reward_is_kept_by_its_name() -> None:
    found = shaped(group(95, 100), 100, 0.1)
    assert found.total == pytest.approx((0.5, None))
    assert found.rewards == {"accuracy": (1.0, None), "overlong": pytest.approx((-0.5, -1.0))}


def test_a_share_of_zero_punishes_nothing() -> None:
    assert shaped(group(100, 100), 100, 0.0) == group(100, 100)
