"""What a run will take, before anything is started: memory, disk and time.

All of it is computed from a config.json, the configuration and assumed hardware: nothing is loaded or asked.
`cluster.forecast.report` tells it with its arithmetic, `cluster.forecast.fits` what does not fit.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import UsageError
from cluster.forecast.estimate import EngineMemory, StepTime, engine_memory, step_time, store
from cluster.forecast.hardware import Hardware
from cluster.placement import Role
from configs.schema import Config
from learner.figure import total
from learner.memory import Parts, RankMemory, checkpoint_memory, parts_of, rank_memory
from learner.sizes import Sizes
from learner.work import Lengths, Work, work_of

TEXT_TOKENS = 100
"""Of a prompt, unless others are assumed: system line, question, four choices and the template take about 80."""
ANSWER_TOKENS = 32
"""Of a gold answer in supervised fine-tuning, unless others are assumed."""
ASSUMED = ("clip_seconds", "text_tokens", "completion_tokens")
GIGABYTE = 1e9


@dataclass(frozen=True, slots=True)
class Forecast:
    """Everything that is told of a run."""

    config: Config
    sizes: Sizes
    hardware: Hardware
    on_gpu: bool
    engines: int
    parts: Parts
    work: Work
    rank: RankMemory
    engine: EngineMemory
    time: StepTime
    free: tuple[str, float] | None
    """Where run.dir will lie, as this machine sees it, and the bytes that are free there; None is not looked at."""

    @property
    def room(self) -> float:
        """Bytes of a GPU that a rank may fill."""
        return (self.hardware.memory_gigabytes - self.hardware.reserved_gigabytes) * GIGABYTE

    @property
    def host(self) -> float:
        """Most bytes of a machine that holds all ranks, besides what their devices hold, and of Ray's store on it."""
        return self.host_of(self.config.learner.ranks)

    def host_of(self, ranks: int) -> float:
        """`host` of one that holds so many of the ranks."""
        return max(self.host_moments(ranks).values()) + total(store(self.config, self.parts))

    def host_moments(self, ranks: int) -> dict[str, float]:
        """What so many ranks hold on one machine besides their devices, by moment."""
        rank = self.rank
        held = ranks * total(rank.host)
        return {
            "all ranks start": ranks * total(rank.host_starting),
            "all ranks read the reference": held + ranks * total(rank.host_reference),
            "a checkpoint is written": held + total(checkpoint_memory(self.parts, self.config)),
        }

    @property
    def machine(self) -> float:
        """Bytes of a machine that computes everything on its CPUs."""
        reserved = (self.config.learner.ranks * self.hardware.reserved_gigabytes) * GIGABYTE
        ranks = self.config.learner.ranks * (self.rank.peak + total(self.rank.host))
        processes = self.engines * self.config.rollout.tensor_parallel
        return reserved + ranks + processes * self.engine.all + total(store(self.config, self.parts))


def free_at(directory: str) -> tuple[str, float]:
    """The nearest directory above that exists on this machine, or the directory itself, and the bytes free there."""
    path = Path(directory).absolute()
    there = next(place for place in (path, *path.parents) if place.is_dir())
    return str(there), float(shutil.disk_usage(there).free)


def forecast(
    config: Config,
    sizes: Sizes,
    device: Hardware,
    lengths: Lengths,
    roles: Sequence[Role],
    free: tuple[str, float] | None = None,
) -> Forecast:
    """The forecast of a run with these actors; `free` is of `free_at`, where the disk is to be looked at."""
    counts = {role.name: role.count for role in roles}
    on_gpu = any(role.gpus for role in roles if role.name == "learner")
    engines, work = counts.get("engine", 0), work_of(config, lengths)
    parts = parts_of(sizes, config.model)
    return Forecast(
        config,
        sizes,
        device,
        on_gpu,
        engines,
        parts,
        work,
        rank_memory(config, sizes, work, on_gpu),
        engine_memory(config, sizes, parts, work, device, max(engines, 1), on_gpu),
        step_time(config, sizes, parts, work, device, engines, on_gpu),
        free,
    )


def lengths_of(config: Config, assumed: str | None) -> Lengths:
    """The lengths of `KEY=VALUE,...`; default the longest that the configuration allows."""
    supervised = config.algorithm.name == "sft"
    values: dict[str, float] = {
        "clip_seconds": config.data.max_seconds,
        "text_tokens": TEXT_TOKENS,
        "completion_tokens": ANSWER_TOKENS if supervised else config.rollout.max_completion_tokens,
    }
    for change in assumed.split(",") if assumed else ():
        key, _, text = change.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if key.strip() not in ASSUMED or value <= 0:
            raise UsageError(f"--assume: {change!r} is not KEY=NUMBER with one of {', '.join(ASSUMED)}")
        values[key.strip()] = value
    return Lengths(values["clip_seconds"], int(values["text_tokens"]), int(values["completion_tokens"]))


def gb(value: float) -> str:
    """Bytes as they are told, in gigabytes or megabytes."""
    gigabytes = value / GIGABYTE
    return f"{gigabytes:,.1f} GB" if abs(gigabytes) >= 1 else f"{gigabytes * 1e3:,.1f} MB"
