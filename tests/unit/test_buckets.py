from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from actors.weights.buckets import ALIGNMENT_BYTES, Bucket, Layout, lay_out, pack, unpack

TENSORS = [
    ("a", torch.arange(6, dtype=torch.float32).reshape(2, 3)),
    ("b", torch.tensor([1.5, -2.0], dtype=torch.bfloat16)),
    ("scalar", torch.tensor(7, dtype=torch.int64)),
    ("empty", torch.zeros(0, 4)),
    ("large", torch.randn(1000)),
]


def laid_out(bucket_bytes: int) -> Layout:
    return lay_out([(name, tensor.dtype, tensor.shape) for name, tensor in TENSORS], bucket_bytes)


def packed(layout: Layout, tensors: list[tuple[str, Tensor]]) -> list[Bucket]:
    """Buckets as they come to stand in the object store."""
    return [bucket.copy() for bucket in pack(layout, tensors)]


@pytest.mark.parametrize("bucket_bytes", [1, 128, 10**6])
def test_what_is_unpacked_is_bitwise_what_was_packed(bucket_bytes: int) -> None:
    layout = laid_out(bucket_bytes)
    buckets = packed(layout, TENSORS)
    assert [bucket.nbytes for bucket in buckets] == list(layout.sizes_bytes)
    restored = [pair for slots, bucket in zip(layout.buckets, buckets, strict=True) for pair in unpack(slots, bucket)]
    assert [name for name, _ in restored] == [name for name, _ in TENSORS]
    for (_, found), (_, tensor) in zip(restored, TENSORS, strict=True):
        assert found.dtype == tensor.dtype
        assert found.shape == tensor.shape
        assert torch.equal(found, tensor)


def test_a_transposed_tensor_is_packed_as_it_reads() -> None:
    tensor = torch.arange(6.0).reshape(2, 3).T
    layout = lay_out([("t", tensor.dtype, tensor.shape)], 100)
    [bucket] = packed(layout, [("t", tensor)])
    assert torch.equal(dict(unpack(layout.buckets[0], bucket))["t"], tensor)


def test_a_bucket_is_closed_before_it_exceeds_its_size() -> None:
    sizes = laid_out(256).sizes_bytes
    assert len(sizes) == 2
    assert sizes[0] <= 256


def test_every_tensor_starts_at_an_aligned_offset() -> None:
    slots = [slot for part in laid_out(10**6).buckets for slot in part]
    assert all(slot.offset_bytes % ALIGNMENT_BYTES == 0 for slot in slots)


def test_packing_copies_so_that_a_later_step_does_not_change_what_was_sent() -> None:
    tensor = torch.zeros(3)
    layout = lay_out([("t", tensor.dtype, tensor.shape)], 100)
    [bucket] = list(pack(layout, [("t", tensor)]))
    tensor += 1
    assert dict(unpack(layout.buckets[0], bucket))["t"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tensors: tensors[:-1], r"has large \(float32, \[1000\]\) where there is nothing"),
        (lambda tensors: [*tensors, ("more", torch.zeros(1))], "has no more"),
        (lambda tensors: [tensors[1], tensors[0], *tensors[2:]], r"has a .* where there is b \(bfloat16, \[2\]\)"),
        (lambda tensors: [("a", torch.zeros(3, 2)), *tensors[1:]], r"has a .*\[2, 3\]\) where there is a .*\[3, 2\]\)"),
        (lambda tensors: [("a", torch.zeros(2, 3).half()), *tensors[1:]], "where there is a .float16"),
    ],
)
def test_tensors_that_are_not_those_of_the_layout_are_refused(
    change: Callable[[list[tuple[str, Tensor]]], list[tuple[str, Tensor]]], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        packed(laid_out(10**6), change(TENSORS))
