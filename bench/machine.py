"""How fast this machine multiplies and copies, to compare a benchmark's figures with what is possible, how long it
rests between two timed turns, and its cores for a rollout and a learner.
"""

from __future__ import annotations

import os

from cluster.forecast.rates import copy_gigabytes_per_second, matmul_gflops

PAUSE_SECONDS = 0.3
"""Between two timed turns, in which the threads of the last one go to sleep."""


def machine() -> dict[str, float]:
    """What this machine can do now."""
    return {"matmul_gflops": matmul_gflops(), "copy_gigabytes_per_second": copy_gigabytes_per_second()}


def two_cores() -> tuple[int, int]:
    """One for the rollout and one for the learner."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("this benchmark needs two cores: one for the rollout, one for the learner")
    return cores[0], cores[1]
