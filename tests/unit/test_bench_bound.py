"""The least work of a benchmarked step is counted as it is by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear, scaled_dot_product_attention

from bench import bound

HEADS, ROWS, COLUMNS, WIDTH = 2, 5, 9, 16


def states(length: int) -> torch.Tensor:
    return torch.randn(1, HEADS, length, WIDTH, requires_grad=True)


def forward_and_backward(query: torch.Tensor, key: torch.Tensor, **options: object) -> tuple[float, float]:
    outputs: list[torch.Tensor] = []
    value = states(key.shape[2])
    forward = bound.counted(lambda: outputs.append(scaled_dot_product_attention(query, key, value, **options)))
    return forward, bound.counted(lambda: outputs[0].sum().backward())


def test_a_matrix_product_is_two_operations_an_element() -> None:
    assert bound.counted(lambda: linear(torch.randn(3, 4), torch.randn(5, 4))) == 2 * 3 * 4 * 5


def test_causal_attention_counts_what_is_not_later() -> None:
    pairs = HEADS * ROWS * (ROWS + 1) / 2
    counts = forward_and_backward(states(ROWS), states(ROWS), is_causal=True)
    assert counts == (2 * 2 * WIDTH * pairs, 4 * 2 * WIDTH * pairs)


def test_masked_attention_counts_what_is_seen() -> None:
    mask = torch.zeros(ROWS, COLUMNS, dtype=torch.bool)
    mask[:, :3] = True
    counts = forward_and_backward(states(ROWS), states(COLUMNS), attn_mask=mask)
    assert counts == (2 * 2 * WIDTH * HEADS * ROWS * 3, 4 * 2 * WIDTH * HEADS * ROWS * 3)


def test_attention_without_a_mask_counts_every_pair() -> None:
    forward, _ = forward_and_backward(states(ROWS), states(COLUMNS))
    assert forward == 2 * 2 * WIDTH * HEADS * ROWS * COLUMNS


def test_seconds_are_the_work_at_the_measured_rates() -> None:
    figures = {f"operations_{phase}": 4e9 for phase in bound.COMPUTED} | {
        f"bytes_{phase}": 6e9 for phase in bound.MOVED
    }
    rates = {"matmul_gflops": 2.0, "copy_gigabytes_per_second": 3.0, "bytes_of_something_else": 1.0}
    assert bound.seconds(figures | rates) == pytest.approx(dict.fromkeys((*bound.COMPUTED, *bound.MOVED), 2.0))
