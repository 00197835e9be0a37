import math

import numpy as np
import pytest

from cluster.statistics import cluster_bootstrap


def test_the_interval_of_independent_answers_is_the_binomials() -> None:
    values = [1.0] * 300 + [0.0] * 700
    low, high = cluster_bootstrap(values, [str(i) for i in range(1000)])
    half = 1.96 * math.sqrt(0.3 * 0.7 / 1000)
    assert (low, high) == pytest.approx((0.3 - half, 0.3 + half), abs=0.004)


def test_questions_about_one_recording_widen_the_interval() -> None:
    values = np.random.default_rng(0).integers(0, 2, 100).repeat(10).astype(float).tolist()
    alone = cluster_bootstrap(values, [str(i) for i in range(1000)])
    together = cluster_bootstrap(values, [str(i // 10) for i in range(1000)])
    assert (together[1] - together[0]) > 2.5 * (alone[1] - alone[0])


def test_no_answers_have_no_interval() -> None:
    assert all(math.isnan(end) for end in cluster_bootstrap([], []))
