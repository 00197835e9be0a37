"""What engines and learner ranks show at `/metrics` of their own. Imports nothing heavy: docs/metrics.md lists it.

Which run, and which engine or rank, is said by the labels that `cluster.targets` gives the process.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping

from prometheus_client import REGISTRY, CollectorRegistry, Counter, ProcessCollector

from actors.exporter import Endpoint, Live, serve_actor
from configs.schema import Metrics

ENGINE_GAUGES = {
    "version": ("auricle_engine_weight_version", "Policy version of the weights that the engine samples from"),
    "running": ("auricle_engine_running_requests", "Requests, each of a group, that vLLM has and has not finished"),
    "queued": (
        "auricle_engine_queued_requests",
        "Requests that wait for the engine's thread, or for new weights before they start",
    ),
}
"""Key of `EngineThread.figures`: name and help of its gauge."""

ENGINE_COUNTERS = {
    "busy_seconds": ("auricle_engine_busy_seconds", "Seconds that the engine sampled or loaded weights"),
    "load_seconds": (
        "auricle_engine_load_seconds",
        "Seconds that the engine loaded weights, without those in which it waited for them",
    ),
    "loads": ("auricle_engine_loads", "Versions of the weights that the engine has loaded since it started"),
    "tokens": ("auricle_engine_completion_tokens", "Tokens of the completions that the engine has finished"),
}
"""The same of its counters; Prometheus sees each name with `_total`."""

RANK_GAUGES = {
    "process_bytes": ("auricle_rank_process_peak_bytes", "Most memory that the rank's process has held"),
    "device_bytes": ("auricle_rank_device_peak_bytes", "Most memory of its GPU that the rank's tensors have held"),
}
"""Key of what a rank tells of its memory: name and help of its gauge."""

RANK_STEPS = ("auricle_rank_steps", "Steps that the rank has taken since it started")
RANK_TOKENS = ("auricle_rank_packed_tokens", "Positions that went through the policy on this rank, in steps")
RANK_PHASES = ("auricle_rank_phase_seconds", "Seconds of the rank's steps by phase")
"""Name and help of a rank's counters; the last has a label `phase`."""


def serve_engine(settings: Metrics, figures: Callable[[], Mapping[str, float]], node: str) -> Endpoint | None:
    """Serve an engine's metrics, and with them vLLM's, which this process keeps in prometheus_client's own registry.

    Args:
        settings: of the run.
        figures: tells `ENGINE_GAUGES` and `ENGINE_COUNTERS`.
        node: address of the actor's Ray node.
    """
    REGISTRY.register(Live(ENGINE_GAUGES, ENGINE_COUNTERS, figures))
    return serve_actor(settings, REGISTRY, node)


class RankMetrics:
    """A learner rank's registry.

    Args:
        memory: tells `RANK_GAUGES`.
    """

    def __init__(self, memory: Callable[[], Mapping[str, float]]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(Live(RANK_GAUGES, {}, memory))
        self._steps = Counter(*RANK_STEPS, registry=self.registry)
        self._tokens = Counter(*RANK_TOKENS, registry=self.registry)
        self._phases = Counter(*RANK_PHASES, ["phase"], registry=self.registry)

    def stepped(self, seconds: Mapping[str, float], tokens: int) -> None:
        """A step was taken.

        Args:
            seconds: by phase.
            tokens: positions that went through the policy on this rank.
        """
        self._steps.inc()
        self._tokens.inc(tokens)
        for phase, spent in seconds.items():
            self._phases.labels(phase).inc(spent)


def peak_bytes() -> dict[str, float]:
    """The most memory that this process has held, and its tensors on a GPU where they lie on one; for `RankMetrics`."""
    import torch

    found = {"process_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0}
    if torch.cuda.is_initialized():
        found["device_bytes"] = float(torch.cuda.max_memory_allocated())
    return found
