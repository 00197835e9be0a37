"""How fast this machine multiplies and copies now, in a second or two."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

SIZE = 1536
"""Rows and columns of the matrices: about the size of the products in the benchmarks' model."""
COPIED_BYTES = 256_000_000
REPETITIONS = 8


def matmul_gflops(repetitions: int = REPETITIONS, dtype: torch.dtype = torch.float32) -> float:
    """Rate of a matrix product in 1e9 floating-point operations a second, with the threads that torch has."""
    left, right = torch.randn(SIZE, SIZE).to(dtype), torch.randn(SIZE, SIZE).to(dtype)
    out = torch.empty(SIZE, SIZE, dtype=dtype)
    return 2 * SIZE**3 / _best_seconds(lambda: torch.mm(left, right, out=out), repetitions) / 1e9


def copy_gigabytes_per_second() -> float:
    """Rate of a copy of memory, bytes read and bytes written both counted."""
    source = torch.ones(COPIED_BYTES // 4)
    target = torch.empty_like(source)
    return 2 * COPIED_BYTES / _best_seconds(lambda: target.copy_(source), REPETITIONS) / 1e9


def _best_seconds(work: Callable[[], object], repetitions: int) -> float:
    seconds = []
    for _ in range(repetitions):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
