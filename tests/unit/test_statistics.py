import math

import numpy as np
import pytest

from cluster.evaluation import statistics
from cluster.evaluation.statistics import estimated


def interval_of(values: list[float], clusters: list[str]) -> list[float]:
    found: list[float] = estimated({"value": values}, clusters)["value_interval"]
    return found


def test_the_interval_of_independent_answers_is_the_binomials() -> None:
    values = [1.0] * 300 + [0.0] * 700
    low, high = interval_of(values, [str(i) for i in range(1000)])
    half = 1.96 * math.sqrt(0.3 * 0.7 / 1000)
    assert (low, high) == pytest.approx((0.3 - half, 0.3 + half), abs=0.004)


def test_questions_about_one_recording_widen_the_interval() -> None:
    values = np.random.default_rng(0).integers(0, 2, 100).repeat(10).astype(float).tolist()
    alone = interval_of(values, [str(i) for i in range(1000)])
    together = interval_of(values, [str(i // 10) for i in range(1000)])
    assert (together[1] - together[0]) > 2.5 * (alone[1] - alone[0])


def test_recordings_count_by_their_number_of_questions_in_every_resample() -> None:
    parts = [[float(number % 3 == 0)] * (1 + number % 5) for number in range(12)]
    clusters = [str(number).zfill(2) for number, part in enumerate(parts) for _ in part]
    drawn = np.random.default_rng(statistics.CHANCE_SEED).integers(0, 12, (statistics.RESAMPLES, 12))
    means = [np.mean([value for cluster in draw for value in parts[cluster]]) for draw in drawn]
    interval = interval_of([value for part in parts for value in part], clusters)
    assert interval == pytest.approx(np.quantile(means, [0.025, 0.975]))


def test_measures_that_are_estimated_together_have_the_intervals_of_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    columns = {name: generator.random(90).tolist() for name in "ab"}
    clusters = [str(number) for number in generator.integers(0, 40, 90)]
    monkeypatch.setattr(statistics, "MOST_DRAWS", 700)  # in many parts
    figures = estimated(columns, clusters)
    monkeypatch.undo()
    for name, values in columns.items():
        assert figures[name] == pytest.approx(np.mean(values))
        assert figures[f"{name}_interval"] == pytest.approx(interval_of(values, clusters))


def test_what_is_a_share_of_nothing_is_none() -> None:
    assert estimated({"accuracy": [], "gain": []}, []) == dict.fromkeys(
        ("accuracy", "accuracy_interval", "gain", "gain_interval")
    )
