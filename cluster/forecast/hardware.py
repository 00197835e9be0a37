"""What a forecast of a step's time and memory assumes of the hardware: known GPUs, this machine, or a file.

Rates of GPUs are their makers' figures for dense products; the shares of them that are reached, and the seconds of a
decoding step, are assumptions, and said to be. Those of `cpu` were measured (bench/baselines/step.json, step_10s.json
and sync.json).
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, PositiveFloat, ValidationError

from configs.schema import Section


class HardwareError(ValueError):
    """Hardware that cannot be made out; the message names the key or the file, and the mend."""


class Hardware(Section):
    """A device that a learner rank or an engine's process computes on, and its surroundings."""

    name: str
    """What it is called in the plan."""
    memory_gigabytes: PositiveFloat
    """Of the device, in 1e9 bytes; of the whole machine where it computes on CPUs."""
    bfloat16_teraflops: PositiveFloat
    """Matrix products in bfloat16, in 1e12 operations a second."""
    float32_teraflops: PositiveFloat
    """Matrix products in float32."""
    memory_gigabytes_per_second: PositiveFloat
    """The device's memory."""
    link_gigabytes_per_second: PositiveFloat
    """Between two devices of a machine, each way."""
    host_gigabytes_per_second: PositiveFloat
    """Between a device and its machine's memory."""
    host_memory_gigabytes: PositiveFloat = 1000.0
    """The machine's memory beside its devices, for all ranks on it: assumed, since machines with eight such devices
    have 1,000 to 2,000. Where it computes on CPUs `memory_gigabytes` counts."""
    host_memory_gigabytes_per_second: PositiveFloat = 200.0
    """The machine's memory, for all ranks on it."""
    store_gigabytes_per_second: PositiveFloat = 1.6
    """From the learner through Ray's object store into an engine (`transport` in bench/baselines/sync.json)."""
    compute_share: float = Field(default=0.4, gt=0, le=1)
    """Of the rate of products that forward and backward reach."""
    memory_share: float = Field(default=0.6, gt=0, le=1)
    """Of the memory's rate that decoding and the optimizer reach."""
    decode_seconds: PositiveFloat = 0.005
    """Of an engine's step beside its arithmetic: scheduling, launches, sampling."""
    reserved_gigabytes: float = Field(default=3.0, ge=0)
    """Of a device for contexts, NCCL, workspaces and fragmentation, in a learner rank."""
    engine_gigabytes: float = Field(default=2.0, ge=0)
    """The same beside what vLLM may take, and its CUDA graphs."""

    def operations_per_second(self, dtype: str) -> float:
        """Products that are reached in this type."""
        peak = self.bfloat16_teraflops if dtype == "bfloat16" else self.float32_teraflops
        return peak * 1e12 * self.compute_share

    @property
    def memory_bytes_per_second(self) -> float:
        """What is reached of the device's memory."""
        return self.memory_gigabytes_per_second * 1e9 * self.memory_share


A100: dict[str, Any] = {
    "memory_gigabytes": 80, "bfloat16_teraflops": 312, "float32_teraflops": 19.5,
    "memory_gigabytes_per_second": 2039, "link_gigabytes_per_second": 300, "host_gigabytes_per_second": 25,
}  # fmt: skip
H100: dict[str, Any] = {
    "memory_gigabytes": 80, "bfloat16_teraflops": 989, "float32_teraflops": 67,
    "memory_gigabytes_per_second": 3350, "link_gigabytes_per_second": 450, "host_gigabytes_per_second": 50,
}  # fmt: skip
KNOWN = {
    "a100": A100,
    "h100": H100,
    "h800": H100 | {"link_gigabytes_per_second": 200},
    "h200": H100 | {"memory_gigabytes": 141, "memory_gigabytes_per_second": 4800},
}
"""SXM modules; the paper's H800 is an H100 with slower links."""

CPU: dict[str, Any] = {
    "bfloat16_teraflops": 0.12,
    "float32_teraflops": 0.32,
    "memory_gigabytes_per_second": 20,
    "link_gigabytes_per_second": 10,
    "host_gigabytes_per_second": 20,
    "host_memory_gigabytes_per_second": 20,
    "memory_share": 0.5,
    "decode_seconds": 0.03,
    "reserved_gigabytes": 1.0,
    "engine_gigabytes": 1.5,
}
"""Two cores with AVX-512: what the benchmarks' model reached on them. The gigabytes are Python with its packages."""

DEFAULT_GPU = "h100"
MEASURED = "measured"


def hardware(named: str | None, on_gpu: bool) -> Hardware:
    """The hardware of `NAME_OR_FILE,KEY=VALUE,...`; default an H100, or this machine where it computes on CPUs.

    A file is YAML with the keys of `Hardware`, and `base`, which names what it starts from.
    """
    default = DEFAULT_GPU if on_gpu else "cpu"
    first, *changes = (named or default).split(",")
    if "=" in first:
        first, changes = default, [first, *changes]
    values = _read(Path(first)) if Path(first).is_file() else _known(first)
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise HardwareError(f"--hardware: {change!r} is not KEY=VALUE, for example memory_gigabytes=40")
        try:
            values[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise HardwareError(f"--hardware: {text!r}, the value of {key.strip()}, is not YAML") from error
    try:
        return Hardware.model_validate(values)
    except ValidationError as error:
        raise HardwareError("\n".join(_explained(details, first) for details in error.errors())) from error


def physical_memory_bytes() -> int:
    """Memory of this machine, or what a container leaves of it."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return whole if text == "max" else min(whole, int(text))


def _known(name: str) -> dict[str, Any]:
    if name in KNOWN:
        return {"name": f"{name.upper()} (maker's figures)"} | KNOWN[name]
    here = {"memory_gigabytes": physical_memory_bytes() / 1e9}
    if name == "cpu":
        return {"name": "this machine, at the rates of bench/baselines"} | here | CPU
    if name == MEASURED:
        return {"name": "this machine, measured now"} | here | CPU | _measured()
    names = (*KNOWN, "cpu", MEASURED)
    near = get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
    raise HardwareError(f"--hardware: {name!r} is neither a file nor known hardware; {hint}")


def _measured() -> dict[str, Any]:
    import torch

    from cluster.forecast.rates import copy_gigabytes_per_second, matmul_gflops

    copied = copy_gigabytes_per_second()
    return {
        "float32_teraflops": matmul_gflops() / 1e3,
        "bfloat16_teraflops": matmul_gflops(2, torch.bfloat16) / 1e3,
        "memory_gigabytes_per_second": copied,
        "host_memory_gigabytes_per_second": copied,
    }


def _read(file: Path) -> dict[str, Any]:
    try:
        read = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise HardwareError(f"--hardware: {file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(read, dict):
        raise HardwareError(f"--hardware: {file} holds no keys such as memory_gigabytes: 40")
    base = read.pop("base", None)
    return (_known(str(base)) if base is not None else {}) | {"name": file.name} | read


def _explained(details: Any, first: str) -> str:
    key = ".".join(map(str, details["loc"]))
    if details["type"] == "extra_forbidden":
        near = get_close_matches(key, Hardware.model_fields, n=1)
        return f"--hardware: unknown key {key!r}; " + (
            f"did you mean {near[0]}?" if near else f"there are {', '.join(Hardware.model_fields)}"
        )
    if details["type"] == "missing":
        return f"--hardware: {first} has no {key}; set it, or start from known hardware with base: {DEFAULT_GPU}"
    return f"--hardware: {key} is {details['input']!r}: {details['msg'].lower()}"
