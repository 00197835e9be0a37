"""What a run will take, before anything is started: memory, disk and time, each with its arithmetic.

All of it is computed from a config.json, the configuration and assumed hardware: nothing is loaded or asked. What does
not fit is told with the settings that mend it and what each of them would come to.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cluster import bill
from cluster.errors import UsageError
from cluster.estimate import EngineMemory, StepTime, disk, engine_memory, step_time, store
from cluster.hardware import Hardware, hardware
from cluster.placement import Role
from cluster.run_directory import model_directory
from configs.schema import Config
from data.remote import is_url
from learner.figure import Figure, total
from learner.memory import Parts, RankMemory, checkpoint_memory, parts_of, rank_memory
from learner.sizes import Sizes, find_sizes
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


def tell(
    config: Config, roles: Sequence[Role], named: str | None, assumed: str | None, say: Callable[[str], None]
) -> None:
    """Say the forecast of a run with these actors on the hardware that is named, or why there is none."""
    from cluster.recommendation import recommendation  # which is of forecasts

    path = model_directory(config.run.init_from or config.model.path)
    sizes = find_sizes(path)
    if sizes is None:
        say(f"no forecast of memory and time: this machine does not know the sizes of {path}")
        return
    on_gpu = any(role.gpus for role in roles if role.name == "learner")
    device, lengths = hardware(named, on_gpu), lengths_of(config, assumed)
    free = None if is_url(config.run.dir) else free_at(config.run.dir)
    told = forecast(config, sizes, device, lengths, roles, free)
    for line in (*report(told), *recommendation(told, roles)):
        say(line)


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


def report(told: Forecast) -> Iterator[str]:
    """The forecast as lines of text."""
    config, sizes, parts = told.config, told.sizes, told.parts
    language, tower = sizes.language, sizes.tower
    yield (
        f"model: {parts.parameters:,} parameters, {parts.trained:,} trained; language model {language.layers} x "
        f"{language.hidden}, vocabulary {language.vocabulary:,}, tower {tower.layers} x {tower.width} ({sizes.source})"
    )
    yield f"assumed: {_hardware(told)}"
    yield f"assumed: {_lengths(told)}"
    yield from _rank(told)
    if told.engines:
        yield from _engine(told)
    yield from _machine(told)
    yield ""
    yield "disk of run.dir for checkpoints"
    yield from _lines(disk(config, parts))
    yield from _time(told)
    yield from _whole_run(told)
    yield ""
    problems = list(warnings(told))
    yield from (f"warning: {problem}" for problem in problems)
    if not problems:
        places = [told.hardware.name, *(["its machine"] if told.on_gpu else [])]
        looked = ", and on the disk of run.dir" if told.free is not None else "; the disk of run.dir was not looked at"
        yield f"by this arithmetic everything fits on {' and '.join(places)}{looked}"


def warnings(told: Forecast) -> Iterator[str]:
    """What does not fit, each with its mends."""
    config = told.config
    if told.on_gpu and told.rank.peak > told.room:
        yield (
            f"a learner rank needs {_gb(told.rank.peak)} and a device has {_gb(told.room)} beside what is reserved: "
            f"{_rank_mends(told)}"
        )
    if told.on_gpu and told.engines:
        yield from _engine_warnings(told)
    if not told.on_gpu and told.machine > told.hardware.memory_gigabytes * GIGABYTE:
        yield (
            f"learner, engines and object store need {_gb(told.machine)} and the machine has "
            f"{told.hardware.memory_gigabytes:,.1f} GB: lower rollout.engines, learner.ranks, rollout.kv_cache_gib or "
            f"data.cache_bytes, or {_rank_mends(told)}"
        )
    if told.on_gpu and told.host > told.hardware.host_memory_gigabytes * GIGABYTE:
        yield (
            f"a machine that holds all learner ranks needs {_gb(told.host)} of memory beside its devices, and has "
            f"{told.hardware.host_memory_gigabytes:,.1f} GB: {_host_mends(told)}"
        )
    needed = disk(config, told.parts)[-1].value
    if told.free is not None and needed > told.free[1]:
        yield (
            f"checkpoints take {_gb(needed)} of disk, and {told.free[0]} has {_gb(told.free[1])} free on this machine: "
            f"set run.dir to a larger disk, or lower checkpoint.keep ({config.checkpoint.keep})"
        )
    embedded = config.cluster.object_store_bytes
    in_store = total(store(config, told.parts)[:-1])
    if in_store > embedded:
        yield (
            f"weights of two versions take {_gb(in_store)} of Ray's object store, and cluster.object_store_bytes "
            f"leaves an embedded cluster {_gb(embedded)}: the rest goes to disk. Raise it, or start Ray with "
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
            f"what an engine samples at once needs {_gb(engine.needed.value)} of keys and values, and "
            f"{_gb(engine.cache.value)} are left: it waits and computes again; lower rollout.max_running, or {cheaper}"
        )
    device = told.hardware.memory_gigabytes * GIGABYTE
    if engine.all > device:
        yield (
            f"vLLM's share and the rollout actor's own weights take {_gb(engine.all)} of a device of {_gb(device)}: "
            f"lower rollout.gpu_memory_utilization"
        )


def _rank(told: Forecast) -> Iterator[str]:
    config, rank = told.config, told.rank
    where = "the device" if told.on_gpu else "the machine"
    yield ""
    yield (
        f"a learner rank ({config.learner.ranks} of them, ZeRO {config.learner.zero_stage}, offload "
        f"{config.learner.offload}), on {where}: {told.work.micro_batches} micro-batch(es) of "
        f"{told.work.groups_of_a_micro_batch} group(s), {told.work.tokens:,} packed tokens"
    )
    yield from _lines(rank.starting, "while it starts")
    yield from _lines(rank.held, "held")
    yield from _lines(rank.backward, "at the end of a forward and in its backward")
    yield from _lines(rank.sending, "after the backward")
    yield from _lines(rank.step, "in the optimizer's step")
    moments = {"backward": rank.backward, "sending": rank.sending, "step": rank.step}
    largest = max(moments, key=lambda name: total(moments[name]))
    yield f"  {_gb(rank.peak):>9}  at most: held {_gb(total(rank.held))}, and {largest} {_gb(total(moments[largest]))}"


def _engine(told: Forecast) -> Iterator[str]:
    rollout, engine = told.config.rollout, told.engine
    yield ""
    yield f"a process of an engine ({told.engines} engine(s) of {rollout.tensor_parallel} process(es))"
    if engine.budget is not None:
        yield from _lines((engine.budget,))
    yield from _lines((*engine.held, engine.cache))
    yield from _lines((engine.needed,))
    yield (
        f"  {engine.cache_tokens:>9,.0f}  tokens whose keys and values fit, of "
        f"{engine.of_a_token.value:,.0f} bytes = {engine.of_a_token.formula} = {engine.of_a_token.numbers}"
    )
    yield from _lines(engine.beside, "beside vLLM, in the rollout actor")


def _machine(told: Forecast) -> Iterator[str]:
    yield ""
    if told.on_gpu:
        yield "memory of a machine that holds all learner ranks, beside its devices"
    else:
        yield "memory of this machine"
    if told.on_gpu:
        yield from _lines(told.rank.host_starting, "of each rank, while it starts")
    yield from _lines(told.rank.host, "of each rank, from then on")
    if told.on_gpu:
        yield from _lines(told.rank.host_reference, "of each rank beside that, while it starts")
    yield from _lines(checkpoint_memory(told.parts, told.config), "of rank 0")
    yield from _lines(store(told.config, told.parts), "Ray's object store")
    if told.on_gpu:
        moments = told.host_moments(told.config.learner.ranks)
        yield f"  {_gb(told.host):>9}  in all at most, when {max(moments, key=lambda moment: moments[moment])}"
    else:
        yield f"  {_gb(told.machine):>9}  in all"


def _time(told: Forecast) -> Iterator[str]:
    time, run = told.time, told.config.run
    yield ""
    yield "seconds of a step, at the assumed rates"
    for title, lines in (
        ("sampling", time.sampling),
        ("passes of the learner", time.passes),
        ("between its ranks meanwhile", time.traffic),
        ("optimizer", time.optimizer),
        ("engines", time.sync),
    ):
        yield from _lines(lines, title, unit=_seconds)
    rule = "the longer of sampling and learning" if time.overlapped else "one after the other"
    hours = run.max_steps * time.seconds / 3600
    yield f"  {_seconds(time.seconds):>9}  a step, {rule}: {hours:,.1f} h for {run.max_steps:,} steps"


def _whole_run(told: Forecast) -> Iterator[str]:
    config, work = told.config, told.work
    yield ""
    yield f"the whole run of {config.run.max_steps:,} steps"
    yield from _lines((*bill.sampled(config, work), bill.trained(config, work)), unit=_count)
    yield from _lines(bill.rollout_log(config, work))
    if told.on_gpu:
        gpus = config.learner.ranks + told.engines * config.rollout.tensor_parallel
        hours = bill.gpu_hours(config, gpus, told.time.seconds)
        yield from _lines((hours,), unit=_hours)
        yield from _lines(bill.money(config, hours), unit=_money)


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
    told_mends = [f"{text} comes to {_gb(peak)}" for peak, text in sorted(found)]
    together = _peak(told, changed)
    if len(found) > 1 and together is not None and min(found)[0] > told.room:
        told_mends.append(f"all of learner's together to {_gb(together)}")
    return "; ".join(told_mends) or "more learner.ranks do not help; take a larger device"


def _candidates(told: Forecast) -> Iterator[tuple[str, Mapping[str, Mapping[str, Any]]]]:
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


def _peak(told: Forecast, changes: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Most bytes of a rank with these settings changed; None where they do not go together."""
    values = told.config.model_dump()
    for section, keys in changes.items():
        values[section] = {**values[section], **keys}
    try:
        config = Config.model_validate(values)
    except ValidationError:
        return None
    return rank_memory(config, told.sizes, work_of(config, told.work.lengths), told.on_gpu).peak


def _hardware(told: Forecast) -> str:
    device, dtype = told.hardware, told.config.model.dtype
    rate = device.bfloat16_teraflops if dtype == "bfloat16" else device.float32_teraflops
    return (
        f"{device.name}, {device.memory_gigabytes:,.1f} GB, {rate:g} TFLOP/s in {dtype} of which "
        f"{device.compute_share:.0%} is reached, memory {device.memory_gigabytes_per_second:,g} GB/s of which "
        f"{device.memory_share:.0%}, {device.decode_seconds * 1e3:g} ms of an engine's step beside its arithmetic; "
        f"--hardware changes these"
    )


def _lengths(told: Forecast) -> str:
    lengths = told.work.lengths
    return (
        f"clips of {lengths.clip_seconds:g} s, prompts of {lengths.text_tokens} tokens of text "
        f"({lengths.prompt_tokens:,} with the clip), completions of {lengths.completion_tokens} tokens; --assume "
        f"changes these"
    )


def _lines(
    figures: Iterable[Figure], title: str | None = None, unit: Callable[[float], str] | None = None
) -> Iterator[str]:
    figures, unit = tuple(figures), unit or _gb
    if title and figures:
        yield f" {title}"
    for one in figures:
        arithmetic = f" = {one.formula} = {one.numbers}" if one.expression not in dict(one.terms) else ""
        yield f"  {unit(one.value):>9}  {one.what}{arithmetic}"


def _gb(value: float) -> str:
    gigabytes = value / GIGABYTE
    return f"{gigabytes:,.1f} GB" if abs(gigabytes) >= 1 else f"{gigabytes * 1e3:,.1f} MB"


def _seconds(value: float) -> str:
    return f"{value:,.2f} s"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _hours(value: float) -> str:
    return f"{value:,.1f} h"


def _money(value: float) -> str:
    return f"{value:,.2f}"
