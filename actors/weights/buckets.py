"""Weights as a few flat buffers, and a manifest that says where each tensor lies in them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Bucket = NDArray[np.uint8]

ALIGNMENT_BYTES = 64
"""Every tensor starts at a multiple of this, so that a view of any dtype is aligned."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor's place."""

    name: str
    """Released checkpoint name."""
    dtype: str
    shape: tuple[int, ...]
    bucket: int
    offset_bytes: int


@dataclass(frozen=True, slots=True)
class WeightUpdate:
    """A policy version on its way to the engines: references, no weights."""

    version: int
    manifest: tuple[Slot, ...]
    buckets: tuple[Any, ...]
    """One object reference a bucket."""
    size_bytes: int


def pack_buckets(tensors: Iterable[tuple[str, Tensor]], bucket_bytes: int) -> Iterator[tuple[tuple[Slot, ...], Bucket]]:
    """Copy the tensors into buckets of about `bucket_bytes`; a larger tensor gets a bucket of its own.

    Yields each bucket as soon as it is full, so that it can be sent while the next is gathered.
    """
    members: list[tuple[str, Tensor]] = []
    used = 0
    number = 0
    for name, tensor in tensors:
        size = _padded(tensor.nbytes)
        if members and used + size > bucket_bytes:
            yield _fill(members, used, number)
            members, used, number = [], 0, number + 1
        members.append((name, tensor.detach().to("cpu", copy=True)))
        used += size
    if members:
        yield _fill(members, used, number)


def unpack(manifest: Sequence[Slot], buckets: Sequence[Bucket]) -> Iterator[tuple[str, Tensor]]:
    """Views of the tensors in the buckets, in the manifest's order; nothing is copied."""
    for slot in manifest:
        dtype: torch.dtype = getattr(torch, slot.dtype)
        size = int(np.prod(slot.shape, dtype=np.int64)) * dtype.itemsize
        flat = _tensor(buckets[slot.bucket])[slot.offset_bytes : slot.offset_bytes + size]
        yield slot.name, flat.view(dtype).reshape(slot.shape) if size else torch.empty(slot.shape, dtype=dtype)


def _fill(members: Sequence[tuple[str, Tensor]], size: int, number: int) -> tuple[tuple[Slot, ...], Bucket]:
    bucket = np.empty(size, np.uint8)
    slots = []
    offset = 0
    for name, tensor in members:
        flat = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        bucket[offset : offset + flat.nbytes] = flat
        slots.append(Slot(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), number, offset))
        offset += _padded(flat.nbytes)
    return tuple(slots), bucket


def _tensor(bucket: Bucket) -> Tensor:
    """A view; buckets from the object store are read-only, which torch warns of and we only read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(bucket)


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
