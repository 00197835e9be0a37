"""Which device a process computes on, and that a GPU on which CUDA does not start is an error."""

from __future__ import annotations

import pytest
import torch

from configs.schema import Device
from learner.device import DeviceError, device_of


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """So many GPUs, on which CUDA starts or does not."""
    count, starts = request.param
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: starts)


@pytest.mark.parametrize(
    ("gpus", "wanted", "device"),
    [((1, True), "auto", "cuda"), ((1, True), "gpu", "cuda"), ((1, True), "cpu", "cpu"), ((0, False), "auto", "cpu")],
    indirect=["gpus"],
)
def test_a_gpu_is_taken_where_there_is_one_unless_cpus_are_wanted(gpus: None, wanted: Device, device: str) -> None:
    assert device_of(wanted) == device


@pytest.mark.parametrize("gpus", [(2, False)], indirect=True)
@pytest.mark.parametrize("wanted", ["auto", "gpu"])
def test_a_gpu_on_which_cuda_does_not_start_is_no_reason_to_take_the_cpu(gpus: None, wanted: Device) -> None:
    with pytest.raises(DeviceError, match=r"does not start on the 2 GPU\(s\) here: nvidia-smi"):
        device_of(wanted)


@pytest.mark.parametrize("gpus", [(0, False)], indirect=True)
def test_a_gpu_that_is_wanted_and_not_there_is_missed(gpus: None) -> None:
    with pytest.raises(DeviceError, match="AURICLE_DEVICE=gpu make setup"):
        device_of("gpu")
