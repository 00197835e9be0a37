"""The device that a learner rank or an engine computes on."""

from __future__ import annotations

from typing import Literal

import torch

from configs.schema import Device


class DeviceError(RuntimeError):
    """There is a GPU, or there has to be one, and CUDA does not start."""


def device_of(wanted: Device) -> Literal["cuda", "cpu"]:
    """Where this process computes: on the GPUs that it may see, if there are any.

    Args:
        wanted: `cluster.device`.

    Raises:
        DeviceError: CUDA does not start on the GPUs that are there; or none is, and `gpu` is wanted.
    """
    if wanted == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if found := torch.cuda.device_count():
        raise DeviceError(
            f"CUDA {torch.version.cuda} does not start on the {found} GPU(s) here: nvidia-smi tells the driver, which "
            f"may be older than these packages need"
        )
    if wanted == "gpu":
        raise DeviceError(
            "cluster.device is gpu, and torch finds none here: AURICLE_DEVICE=gpu make setup, or take auto"
        )
    return "cpu"
