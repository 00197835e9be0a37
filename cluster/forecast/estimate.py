"""What engines, storage and a step's phases take, line by line, from sizes, settings and hardware alone.

The learner's memory is `learner.memory`. Seconds are upper bounds where lengths are: every group is as long as is
assumed, and nothing overlaps but what is said to.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from actors.limits import BATCHED_TOKENS
from cluster.forecast.hardware import Hardware
from configs.schema import Config
from learner.figure import Figure, figure, total
from learner.memory import BYTES, Parts, checkpoint_parts
from learner.sizes import Sizes
from learner.work import Work, forward_operations, layer_weights, tower_operations

PASSES_OF_ADAMW = 7
"""Weight, gradient and both moments are read, weight and moments are written."""


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """Lines of one of an engine's processes."""

    budget: Figure | None
    """What vLLM may take of a GPU; none on a CPU."""
    held: tuple[Figure, ...]
    cache: Figure
    """For keys and values: what is left of the budget, or what is configured."""
    of_a_token: Figure
    needed: Figure
    """Bytes of the keys and values of all that the engine samples at once."""
    beside: tuple[Figure, ...]
    """What the rollout actor holds itself."""

    @property
    def cache_tokens(self) -> float:
        """Tokens whose keys and values there is room for."""
        return max(self.cache.value, 0.0) / self.of_a_token.value

    @property
    def all(self) -> float:
        """Bytes of the device that the process takes."""
        vllm = total(self.held) + self.cache.value if self.budget is None else self.budget.value
        return vllm + total(self.beside)


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a step's phases; `passes` and `traffic` go on at one time."""

    sampling: tuple[Figure, ...]
    passes: tuple[Figure, ...]
    """Forward and backward of policy and reference."""
    traffic: tuple[Figure, ...]
    """Shards of weights and gradients between ranks meanwhile."""
    optimizer: tuple[Figure, ...]
    sync: tuple[Figure, ...]
    overlapped: bool
    """Whether engines sample while the learner trains."""

    @property
    def learning(self) -> float:
        """Seconds of the learner."""
        return max(total(self.passes), total(self.traffic)) + total(self.optimizer)

    @property
    def seconds(self) -> float:
        """Of the whole step."""
        sampling = total(self.sampling)
        both = max(sampling, self.learning) if self.overlapped else sampling + self.learning
        return both + total(self.sync)


def engine_memory(
    config: Config, sizes: Sizes, parts: Parts, work: Work, hardware: Hardware, engines: int, on_gpu: bool
) -> EngineMemory:
    """The lines of an engine's process."""
    rollout, language, width = config.rollout, sizes.language, BYTES[config.model.dtype]
    shared = rollout.tensor_parallel
    hears = parts.tower + parts.projector
    per_process = {"processes": shared} if shared > 1 else {}
    over = " / processes" if shared > 1 else ""
    held = [
        figure("weights of the language model", f"parameters * bytes{over}", parameters=parts.stored - hears,
               bytes=width, **per_process),
        figure("the longest step", f"tokens * (3 * hidden + 3 * intermediate{over}) * bytes",
               tokens=max(rollout.max_model_tokens, BATCHED_TOKENS), hidden=language.hidden,
               intermediate=language.intermediate, bytes=width, **per_process),
        figure("logits and what is sampled from", "running * vocabulary * 16", running=rollout.max_running,
               vocabulary=language.vocabulary),
        figure("contexts and CUDA graphs" if on_gpu else "packages", "assumed",
               assumed=hardware.engine_gigabytes * 1e9),
    ]  # fmt: skip
    own_path = rollout.audio == "waveform"
    heard = figure("tower and projector" if config.model.audio_tower == "trained" or own_path else "projector",
                   "parameters * bytes",
                   parameters=hears if config.model.audio_tower == "trained" or own_path else parts.projector,
                   bytes=width)  # fmt: skip
    if own_path:
        held.append(heard)
    budget: Figure | None = None
    cache = figure("cache of keys and values", "gibibytes * bytes", gibibytes=rollout.kv_cache_gib, bytes=2**30)
    if on_gpu:
        budget = figure("vLLM's share of the GPU", "memory * share", memory=hardware.memory_gigabytes * 1e9,
                        share=rollout.gpu_memory_utilization)  # fmt: skip
        cache = figure("left for keys and values", "budget - held", budget=budget.value, held=total(held))
    heads = max(language.key_value_heads // shared, 1)
    running, prompts = _running(config, work, engines)
    per_token = figure("keys and values of a token", "2 * layers * keys * bytes", layers=language.layers,
                       keys=heads * language.head_size, bytes=width)  # fmt: skip
    once = rollout.prefix_cache
    return EngineMemory(
        budget,
        tuple(held),
        cache,
        per_token,
        figure("needed by what runs at once", "(prompts * prompt_tokens + running * completion_tokens) * token",
               prompts=prompts if once else running, prompt_tokens=work.lengths.prompt_tokens, running=running,
               completion_tokens=work.lengths.completion_tokens, token=per_token.value),
        () if own_path else (heard,),
    )  # fmt: skip


def store(config: Config, parts: Parts) -> tuple[Figure, ...]:
    """Ray's object store on the learner's node: weights of two versions while they are replaced, and clips."""
    lines = [figure("features of clips, at most", "bytes", bytes=config.data.cache_bytes)]
    if config.rollout.weight_transfer == "object_store":
        weights = figure(
            "weights of two versions", "2 * sent * bytes", sent=parts.sent, bytes=BYTES[config.model.dtype]
        )
        lines.insert(0, weights)
    return tuple(lines)


def disk(config: Config, parts: Parts) -> tuple[Figure, ...]:
    """Of a checkpoint, and of all that are there while the next is written."""
    one = checkpoint_parts(parts, config)
    kept = figure("those that are kept, and the next", "(keep + 1) * checkpoint", keep=config.checkpoint.keep,
                  checkpoint=total(one))  # fmt: skip
    return (*one, kept)


def step_time(
    config: Config, sizes: Sizes, parts: Parts, work: Work, hardware: Hardware, engines: int, on_gpu: bool
) -> StepTime:
    """Seconds of a step's phases."""
    trained_tower = config.model.audio_tower == "trained"
    rate = hardware.operations_per_second(config.model.dtype)
    operations = forward_operations(sizes, work.lengths, work.group_size, trained_tower)
    of_a_rank = {"groups": work.groups_of_a_rank, "operations": operations, "rate": rate}
    updates = config.algorithm.updates_per_step
    again = 3 if config.learner.activation_checkpointing else 2
    passes = [figure("forward and backward", "updates * (1 + backward) * groups * operations / rate", updates=updates,
                     backward=again, **of_a_rank)]  # fmt: skip
    if config.algorithm.beta:
        passes.insert(0, figure("reference", "groups * operations / rate", **of_a_rank))
    return StepTime(
        sampling=_sampling(config, sizes, parts, work, hardware, engines) if engines else (),
        passes=tuple(passes),
        traffic=_traffic(config, parts, work, hardware),
        optimizer=_optimizer(config, parts, work, hardware, on_gpu),
        sync=_sync(config, parts, hardware) if engines else (),
        overlapped=config.algorithm.max_staleness > 0,
    )


def _sampling(
    config: Config, sizes: Sizes, parts: Parts, work: Work, hardware: Hardware, engines: int
) -> tuple[Figure, ...]:
    rollout, language, lengths, width = config.rollout, sizes.language, work.lengths, BYTES[config.model.dtype]
    shared = rollout.tensor_parallel
    rate = shared * hardware.operations_per_second(config.model.dtype)
    prompts = ceil(work.groups / engines)
    running, _ = _running(config, work, engines)
    hears = parts.tower + parts.projector
    keys = 2 * language.layers * language.key_value_heads * language.head_size * width
    mean_tokens = lengths.prompt_tokens + lengths.completion_tokens / 2
    of_a_token = 2 * (language.layers * layer_weights(sizes) + language.vocabulary * language.hidden)
    lines = [
        figure("prompts", "prompts * tokens * operations / rate", prompts=prompts, tokens=lengths.prompt_tokens,
               operations=2 * language.layers * layer_weights(sizes), rate=rate),
        figure(
            "decoding",
            "waves * steps * (max((weights + cache) / memory, running * operations / rate) + overhead)",
            waves=ceil(prompts * work.group_size / running), steps=max(lengths.completion_tokens - 1, 0),
            weights=(parts.stored - hears) * width / shared, cache=running * mean_tokens * keys / shared,
            memory=hardware.memory_bytes_per_second, running=running, operations=of_a_token, rate=rate,
            overhead=hardware.decode_seconds,
        ),
    ]  # fmt: skip
    if config.model.audio_tower == "trained" or rollout.audio == "waveform":
        frames = 2 * sizes.tower.positions if rollout.audio == "waveform" else lengths.frames
        lines.insert(0, figure("clips through the tower", "prompts * operations / rate", prompts=prompts,
                               operations=tower_operations(sizes, frames), rate=rate / shared))  # fmt: skip
    return tuple(lines)


def _traffic(config: Config, parts: Parts, work: Work, hardware: Hardware) -> tuple[Figure, ...]:
    """Between ranks of one machine, in one update's micro-batches."""
    learner, width = config.learner, BYTES[config.model.dtype]
    if learner.ranks == 1:
        return ()
    link = hardware.link_gigabytes_per_second * 1e9
    terms = {"updates": config.algorithm.updates_per_step, "ranks": learner.ranks, "link": link}
    sums = {"trained": parts.trained, **terms}
    if learner.zero_stage == 3:
        gathered = figure("gathering weights",
                          "updates * 2 * batches * parameters * bytes * (ranks - 1) / ranks / link",
                          batches=work.micro_batches, parameters=parts.parameters, bytes=width, **terms)  # fmt: skip
        return gathered, figure("sending gradients", "updates * batches * trained * 4 * (ranks - 1) / ranks / link",
                                batches=work.micro_batches, **sums)  # fmt: skip
    each = width if learner.zero_stage == 0 else 4
    return (figure("sending gradients", "updates * 2 * trained * bytes * (ranks - 1) / ranks / link", bytes=each,
                   **sums),)  # fmt: skip


def _optimizer(config: Config, parts: Parts, work: Work, hardware: Hardware, on_gpu: bool) -> tuple[Figure, ...]:
    learner, width, updates = config.learner, BYTES[config.model.dtype], config.algorithm.updates_per_step
    ranks = learner.ranks if learner.zero_stage else 1
    moved = 4 * PASSES_OF_ADAMW
    if learner.offload == "none" or not on_gpu:
        # on a CPU all ranks share one memory
        return (figure("AdamW", "updates * trained * moved / ranks / memory", updates=updates,
                       trained=parts.trained, moved=moved, ranks=ranks if on_gpu else 1,
                       memory=hardware.memory_bytes_per_second),)  # fmt: skip
    return (
        figure("AdamW on the host, all ranks on one machine", "updates * trained * moved / memory", updates=updates,
               trained=parts.trained, moved=moved,
               memory=hardware.host_memory_gigabytes_per_second * 1e9 * hardware.memory_share),
        figure("gradients to the host and weights back",
               "updates * trained * (8 * batches + bytes) / ranks / host", updates=updates, trained=parts.trained,
               batches=work.micro_batches, bytes=width, ranks=ranks, host=hardware.host_gigabytes_per_second * 1e9),
    )  # fmt: skip


def _sync(config: Config, parts: Parts, hardware: Hardware) -> tuple[Figure, ...]:
    by_store = config.rollout.weight_transfer == "object_store"
    rate = hardware.store_gigabytes_per_second if by_store else hardware.link_gigabytes_per_second
    return (figure("new weights to the engines", "sent * bytes / rate", sent=parts.sent,
                   bytes=BYTES[config.model.dtype], rate=rate * 1e9),)  # fmt: skip


def _running(config: Config, work: Work, engines: int) -> tuple[int, int]:
    """Completions that an engine decodes at once, and the prompts that they are of."""
    ahead = config.algorithm.max_staleness + 1
    prompts = ceil(work.groups * ahead / engines)
    running = min(prompts * work.group_size, config.rollout.max_running)
    return running, ceil(running / work.group_size)
