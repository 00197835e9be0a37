"""How fast this machine multiplies and copies, to compare a benchmark's figures with what is possible, and how long it
rests between two timed turns.
"""

from __future__ import annotations

from cluster.rates import copy_gigabytes_per_second, matmul_gflops

PAUSE_SECONDS = 0.3
"""Between two timed turns, in which the threads of the last one go to sleep."""


def machine() -> dict[str, float]:
    """What this machine can do now."""
    return {"matmul_gflops": matmul_gflops(), "copy_gigabytes_per_second": copy_gigabytes_per_second()}
