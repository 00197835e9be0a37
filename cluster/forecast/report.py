"""A forecast as text: each figure with its arithmetic, what does not fit, and a better split of the machines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from cluster.forecast import bill
from cluster.forecast.estimate import disk, store
from cluster.forecast.fits import warnings
from cluster.forecast.forecast import Forecast, forecast, free_at, gb, lengths_of
from cluster.forecast.hardware import hardware
from cluster.forecast.recommendation import recommendation
from cluster.placement import Role
from configs.schema import Config
from data.remote import is_url
from learner.figure import Figure, total
from learner.hf_files import model_directory
from learner.memory import checkpoint_memory
from learner.sizes import find_sizes

_SECONDS = "{:,.2f} s".format


def tell(
    config: Config, roles: Sequence[Role], named: str | None, assumed: str | None, say: Callable[[str], None]
) -> None:
    """Say the forecast of a run with these actors on the hardware that is named, or why there is none."""
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
    yield f"  {gb(rank.peak):>9}  at most: held {gb(total(rank.held))}, and {largest} {gb(total(moments[largest]))}"


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
        yield f"  {gb(told.host):>9}  in all at most, when {max(moments, key=lambda moment: moments[moment])}"
    else:
        yield f"  {gb(told.machine):>9}  in all"


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
        yield from _lines(lines, title, unit=_SECONDS)
    rule = "the longer of sampling and learning" if time.overlapped else "one after the other"
    hours = run.max_steps * time.seconds / 3600
    yield f"  {_SECONDS(time.seconds):>9}  a step, {rule}: {hours:,.1f} h for {run.max_steps:,} steps"


def _whole_run(told: Forecast) -> Iterator[str]:
    config, work = told.config, told.work
    yield ""
    yield f"the whole run of {config.run.max_steps:,} steps"
    yield from _lines((*bill.sampled(config, work), bill.trained(config, work)), unit="{:,.0f}".format)
    yield from _lines(bill.rollout_log(config, work))
    if told.on_gpu:
        gpus = config.learner.ranks + told.engines * config.rollout.tensor_parallel
        hours = bill.gpu_hours(config, gpus, told.time.seconds)
        yield from _lines((hours,), unit="{:,.1f} h".format)
        yield from _lines(bill.money(config, hours), unit="{:,.2f}".format)


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
    figures, unit = tuple(figures), unit or gb
    if title and figures:
        yield f" {title}"
    for one in figures:
        arithmetic = f" = {one.formula} = {one.numbers}" if one.expression not in dict(one.terms) else ""
        yield f"  {unit(one.value):>9}  {one.what}{arithmetic}"
