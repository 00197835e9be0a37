import pytest
import torch

from actors.weights.buckets import ALIGNMENT_BYTES, pack_buckets, unpack

TENSORS = [
    ("a", torch.arange(6, dtype=torch.float32).reshape(2, 3)),
    ("b", torch.tensor([1.5, -2.0], dtype=torch.bfloat16)),
    ("scalar", torch.tensor(7, dtype=torch.int64)),
    ("empty", torch.zeros(0, 4)),
    ("large", torch.randn(1000)),
]


@pytest.mark.parametrize("bucket_bytes", [1, 128, 10**6])
def test_what_is_unpacked_is_bitwise_what_was_packed(bucket_bytes: int) -> None:
    packed = list(pack_buckets(TENSORS, bucket_bytes))
    manifest = [slot for slots, _ in packed for slot in slots]
    restored = dict(unpack(manifest, [bucket for _, bucket in packed]))
    assert list(restored) == [name for name, _ in TENSORS]
    for name, tensor in TENSORS:
        assert restored[name].dtype == tensor.dtype
        assert restored[name].shape == tensor.shape
        assert torch.equal(restored[name], tensor)


def test_a_bucket_is_closed_before_it_exceeds_its_size() -> None:
    sizes = [bucket.nbytes for _, bucket in pack_buckets(TENSORS, 256)]
    assert len(sizes) == 2
    assert sizes[0] <= 256


def test_every_tensor_starts_at_an_aligned_offset() -> None:
    slots = [slot for part, _ in pack_buckets(TENSORS, 10**6) for slot in part]
    assert all(slot.offset_bytes % ALIGNMENT_BYTES == 0 for slot in slots)


def test_packing_copies_so_that_a_later_step_does_not_change_what_was_sent() -> None:
    tensor = torch.zeros(3)
    ((slots, bucket),) = pack_buckets([("t", tensor)], 100)
    tensor += 1
    assert dict(unpack(slots, [bucket]))["t"].tolist() == [0, 0, 0]
