"""What of a forecast does not fit, each with the settings that mend it and what they would come to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from cluster.forecast.estimate import disk, store
from cluster.forecast.forecast import GIGABYTE, Forecast, gb
from configs.load import merged
from configs.schema import Config
from learner.figure import total
from learner.memory import rank_memory
from learner.work import work_of


def warnings(told: Forecast) -> Iterator[str]:
    """What does not fit, each with its mends."""
    config = told.config
    if told.on_gpu and told.rank.peak > told.room:
        yield (
            f"a learner rank needs {gb(told.rank.peak)} and a device has {gb(told.room)} beside what is reserved: "
            f"{_rank_mends(told)}"
        )
    if told.on_gpu and told.engines:
        yield from _engine_warnings(told)
    if not told.on_gpu and told.machine > told.hardware.memory_gigabytes * GIGABYTE:
        yield (
            f"learner, engines and object store need {gb(told.machine)} and the machine has "
            f"{told.hardware.memory_gigabytes:,.1f} GB: lower rollout.engines, learner.ranks, rollout.kv_cache_gib or "
            f"data.cache_bytes, or {_rank_mends(told)}"
        )
    if told.on_gpu and told.host > told.hardware.host_memory_gigabytes * GIGABYTE:
        yield (
            f"a machine that holds all learner ranks needs {gb(told.host)} of memory beside its devices, and has "
            f"{told.hardware.host_memory_gigabytes:,.1f} GB: {_host_mends(told)}"
        )
    needed = disk(config, told.parts)[-1].value
    if told.free is not None and needed > told.free[1]:
        yield (
            f"checkpoints take {gb(needed)} of disk, and {told.free[0]} has {gb(told.free[1])} free on this machine: "
            f"set run.dir to a larger disk, or lower checkpoint.keep ({config.checkpoint.keep})"
        )
    embedded = config.cluster.object_store_bytes
    in_store = total(store(config, told.parts)[:-1])
    if in_store > embedded:
        yield (
            f"weights of two versions take {gb(in_store)} of Ray's object store, and cluster.object_store_bytes "
            f"leaves an embedded cluster {gb(embedded)}: the rest goes to disk. Raise it, or start Ray with "
            f"--object-store-memory"
        )
    if config.learner.micro_batch_tokens < told.work.group_tokens:
        yield (
            f"a group has up to {told.work.group_tokens:,} packed tokens, more than learner.micro_batch_tokens "
            f"({config.learner.micro_batch_tokens:,}): it is taken whole, alone"
        )
    longest = told.work.lengths.prompt_tokens + told.work.lengths.completion_tokens
    if longest > config.rollout.max_model_tokens:
        yield (
            f"a prompt with its completion has up to {longest:,} tokens, more than rollout.max_model_tokens "
            f"({config.rollout.max_model_tokens:,}): longer questions are dropped and counted; raise it"
        )


def _host_mends(told: Forecast) -> str:
    """What lowers the machine's memory beside its devices."""
    config = told.config
    mends = [
        "checkpoint.in_background: false (a step waits for it)" if config.checkpoint.in_background else "",
        "algorithm.beta: 0 (no reference)" if total(told.rank.host_reference) else "",
        "learner.offload: none, where the devices have room" if config.learner.offload != "none" else "",
        "fewer learner.ranks on a machine, by more nodes",
    ]
    return "; ".join(filter(None, mends))


def _engine_warnings(told: Forecast) -> Iterator[str]:
    config, engine = told.config, told.engine
    cheaper = "raise rollout.tensor_parallel, or rollout.gpu_memory_utilization"
    if engine.cache_tokens < config.rollout.max_model_tokens:
        yield (
            f"an engine's process has room for the keys and values of {engine.cache_tokens:,.0f} tokens, less than "
            f"rollout.max_model_tokens ({config.rollout.max_model_tokens:,}), and would not start: {cheaper}, or lower "
            f"rollout.max_model_tokens"
        )
    elif engine.needed.value > engine.cache.value:
        yield (
            f"what an engine samples at once needs {gb(engine.needed.value)} of keys and values, and "
            f"{gb(engine.cache.value)} are left: it waits and computes again; lower rollout.max_running, or {cheaper}"
        )
    device = told.hardware.memory_gigabytes * GIGABYTE
    if engine.all > device:
        yield (
            f"vLLM's share and the rollout actor's own weights take {gb(engine.all)} of a device of {gb(device)}: "
            f"lower rollout.gpu_memory_utilization"
        )


def _rank_mends(told: Forecast) -> str:
    """Settings that lower a rank's peak, each with what it comes to; those that suffice first."""
    found: list[tuple[float, str]] = []
    changed: dict[str, dict[str, Any]] = {}
    for text, changes in _candidates(told):
        peak = _peak(told, changes)
        if peak is not None and peak < 0.97 * told.rank.peak:
            found.append((peak, text))
            if changes.keys() <= {"learner"}:
                changed.setdefault("learner", {}).update(changes["learner"])
    told_mends = [f"{text} comes to {gb(peak)}" for peak, text in sorted(found)]
    together = _peak(told, changed)
    if len(found) > 1 and together is not None and min(found)[0] > told.room:
        told_mends.append(f"all of learner's together to {gb(together)}")
    return "; ".join(told_mends) or "more learner.ranks do not help; take a larger device"


def _candidates(told: Forecast) -> Iterator[tuple[str, dict[str, Any]]]:
    learner, work = told.config.learner, told.work
    yield "learner.activation_checkpointing: true", {"learner": {"activation_checkpointing": True}}
    if learner.zero_stage < 3 and learner.ranks > 1:
        yield "learner.zero_stage: 3", {"learner": {"zero_stage": 3}}
    if learner.offload == "none":
        stage = max(learner.zero_stage, 2)
        yield (
            f"learner.zero_stage: {stage} with learner.offload: optimizer",
            {"learner": {"zero_stage": stage, "offload": "optimizer"}},
        )
    if learner.offload != "all":
        yield "learner.zero_stage: 3 with learner.offload: all", {"learner": {"zero_stage": 3, "offload": "all"}}
    if work.groups_of_a_micro_batch > 1:
        tokens = work.group_tokens
        yield f"learner.micro_batch_tokens: {tokens} (a group at a time)", {"learner": {"micro_batch_tokens": tokens}}
    if told.config.model.dtype == "float32":
        yield "model.dtype: bfloat16", {"model": {"dtype": "bfloat16"}}
    if told.config.model.lora is None:
        adapters = {"model": {"lora": {"rank": 16}, "audio_tower": "frozen"}}
        yield "model.lora: {rank: 16} with model.audio_tower: frozen", adapters
        if told.config.algorithm.beta:
            yield "algorithm.beta: 0 (no reference)", {"algorithm": {"beta": 0.0}}


def _peak(told: Forecast, changes: dict[str, Any]) -> float | None:
    """Most bytes of a rank with these settings changed; None where they do not go together."""
    try:
        config = Config.model_validate(merged(told.config.model_dump(), changes))
    except ValidationError:
        return None
    return rank_memory(config, told.sizes, work_of(config, told.work.lengths), told.on_gpu).peak
