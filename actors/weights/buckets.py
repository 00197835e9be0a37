"""Weights as a few flat buffers. Where each tensor lies in them is agreed on once: the same for every version."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # the control loop holds layouts, and needs no torch
    import torch
    from torch import Tensor

Bucket = NDArray[np.uint8]

ALIGNMENT_BYTES = 64
"""Every tensor starts at a multiple of this, so that a view of any dtype is aligned."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor's place in its bucket."""

    name: str
    """Released checkpoint name."""
    dtype: str
    shape: tuple[int, ...]
    offset_bytes: int

    @property
    def size_bytes(self) -> int:
        """Size of the tensor."""
        return prod(self.shape) * self.torch_dtype.itemsize

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as torch has it."""
        import torch

        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype


@dataclass(frozen=True, slots=True)
class Layout:
    """The buckets of an update, in the order in which they are sent."""

    buckets: tuple[tuple[Slot, ...], ...]

    @property
    def sizes_bytes(self) -> tuple[int, ...]:
        """Size of each bucket."""
        return tuple(_padded(slots[-1].offset_bytes + slots[-1].size_bytes) for slots in self.buckets)


def lay_out(tensors: Iterable[tuple[str, torch.dtype, Sequence[int]]], bucket_bytes: int) -> Layout:
    """Put tensors of these names, types and shapes into buckets of at most `bucket_bytes`, in their order.

    A larger tensor gets a bucket of its own.
    """
    buckets: list[list[Slot]] = []
    used = 0
    for name, dtype, shape in tensors:
        size = _padded(prod(shape) * dtype.itemsize)
        if not buckets or used + size > bucket_bytes:
            buckets.append([])
            used = 0
        buckets[-1].append(Slot(name, str(dtype).removeprefix("torch."), tuple(shape), used))
        used += size
    return Layout(tuple(map(tuple, buckets)))


def pack(layout: Layout, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[Bucket]:
    """Copy the tensors, in the layout's order, into one buffer, and yield it each time that a bucket is full.

    What is yielded is overwritten when the next one is asked for.

    Raises:
        ValueError: the tensors are not those of the layout.
    """
    import torch

    scratch = torch.empty(max(layout.sizes_bytes, default=0), dtype=torch.uint8)
    given = iter(tensors)
    for slots, size in zip(layout.buckets, layout.sizes_bytes, strict=True):
        for slot in slots:
            name, tensor = next(given, ("nothing", torch.empty(0)))
            if (name, tensor.dtype, tuple(tensor.shape)) != (slot.name, slot.torch_dtype, slot.shape):
                raise ValueError(
                    f"the layout of the weights has {slot.name} ({slot.dtype}, {list(slot.shape)}) where there is "
                    f"{name} ({str(tensor.dtype).removeprefix('torch.')}, {list(tensor.shape)})"
                )
            _view(scratch, slot).copy_(tensor.detach())
        yield scratch[:size].numpy()
    if (left := next(given, None)) is not None:
        raise ValueError(f"the layout of the weights has no {left[0]}")


def unpack(slots: Iterable[Slot], bucket: Bucket) -> Iterator[tuple[str, Tensor]]:
    """Views of a bucket's tensors; nothing is copied."""
    import torch

    with warnings.catch_warnings():  # buckets from the object store are read-only, and are only read
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        flat = torch.from_numpy(bucket)
    for slot in slots:
        yield slot.name, _view(flat, slot)


def _view(flat: Tensor, slot: Slot) -> Tensor:
    """The tensor of a slot in its bucket."""
    if not slot.size_bytes:
        return flat.new_empty(slot.shape, dtype=slot.torch_dtype)
    return flat[slot.offset_bytes : slot.offset_bytes + slot.size_bytes].view(slot.torch_dtype).reshape(slot.shape)


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
