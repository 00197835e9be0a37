"""What a dry run says of the split of its devices into engines and learner ranks: simulated at the forecast's rates.

Assumed is what the forecast assumes: every prompt and completion is of one length, clips are prepared ahead, and the
rates of the hardware are its own. Splits whose ranks or engines do not fit their devices are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from cluster.forecast.forecast import GIGABYTE, Forecast, forecast
from cluster.forecast.simulation import Setting, simulate
from cluster.forecast.splits import TRIES, Case, Split, best_splits
from cluster.forecast.timings import CONTROL_SECONDS, Timings
from cluster.placement import Role
from learner.figure import total
from learner.memory import BYTES

MACHINE_DEVICES = 8
"""Of a machine, where there are more devices than that."""
MOST_COMPLETIONS = 4000
"""Of a simulated run, unless it has the fewest steps that tell something."""
STEPS = (4, 20)
MOST_GROUPS = 1500
"""Prompts of a step times the splits that are tried, which are two at least: a dry run is not to wait for them."""
WORTH = 0.02
"""By how much a split has to be faster to be told."""


def recommendation(told: Forecast, roles: Sequence[Role]) -> Iterator[str]:
    """A line on the best split of the devices, and nothing where there is only one or none of their own."""
    config = told.config
    engine_devices = config.rollout.tensor_parallel
    devices = told.engines * engine_devices + config.learner.ranks
    if not told.on_gpu or not told.engines:
        return

    def case(engines: int, ranks: int) -> Case | None:
        return case_of(with_split(told, roles, engines, ranks))

    prompts = config.algorithm.prompts_per_step
    tries = min(max(MOST_GROUPS // prompts, 2), TRIES)
    found = best_splits(devices, engine_devices, prompts, case, tries)
    own = simulate(forecast_timings(told), setting_of(told)).seconds_per_step
    here = _words(told.engines, config.learner.ranks)
    yield ""
    if not found:
        yield f"no split of {devices} devices into engines and ranks fits them by this arithmetic"
        return
    best = found[0]
    if best.outcome.seconds_per_step > (1 - WORTH) * own:
        yield f"split of {devices} devices: in simulation none is much faster than {here}, {own:,.2f} s a step"
        return
    yield (
        f"split of {devices} devices: {_words(best.engines, best.ranks)} are the fastest in simulation, "
        f"{best.outcome.seconds_per_step:,.2f} s a step{_idle(best)}; {here} as configured take {own:,.2f} s"
    )


def case_of(told: Forecast) -> Case | None:
    """What a forecast is simulated with; None where it does not fit its devices."""
    return (forecast_timings(told), setting_of(told)) if fits(told) else None


def with_split(told: Forecast, roles: Sequence[Role], engines: int, ranks: int) -> Forecast:
    """The forecast of another split."""
    config = told.config.model_copy(update={"learner": told.config.learner.model_copy(update={"ranks": ranks})})
    counts = {"engine": engines, "learner": ranks}
    changed = [replace(role, count=counts.get(role.name, role.count)) for role in roles]
    return forecast(config, told.sizes, told.hardware, told.work.lengths, changed)


def fits(told: Forecast) -> bool:
    """Whether ranks and engines fit their devices, and as many ranks as a machine has the machine."""
    return (
        told.rank.peak <= told.room
        and told.engine.cache_tokens >= told.config.rollout.max_model_tokens
        and told.engine.all <= told.hardware.memory_gigabytes * GIGABYTE
        and told.host_of(min(told.config.learner.ranks, MACHINE_DEVICES))
        <= told.hardware.host_memory_gigabytes * GIGABYTE
    )


def forecast_timings(told: Forecast) -> Timings:
    """What the forecast says of an engine and of a rank, as the simulation takes it; the assumptions are its own.

    The learner is held for as long as the weights are on their way. An engine is held for as long as they take to its
    device; with `nccl` that is all the way.
    """
    config, work, time = told.config, told.work, told.time
    *first, decoding = time.sampling
    terms = dict(decoding.terms)
    sent = told.parts.sent * BYTES[config.model.dtype]
    broadcast = config.rollout.weight_transfer == "nccl"
    ranks = config.learner.ranks
    return Timings(
        name=f"forecast on {told.hardware.name}",
        step_seconds=terms["overhead"],
        sequence_seconds=terms["operations"] / terms["rate"],
        read_seconds=terms["weights"] / terms["memory"],
        cache_seconds=terms["cache"] / terms["running"] / terms["memory"],
        prompt_seconds=total(first) / dict(first[0].terms)["prompts"],
        load_seconds=total(time.sync) if broadcast else sent / (told.hardware.host_gigabytes_per_second * GIGABYTE),
        token_seconds=total(time.passes) / (work.groups_of_a_rank * work.group_tokens),
        update_seconds=total(time.optimizer),
        exchange_seconds=total(time.traffic) * ranks / (ranks - 1) if ranks > 1 else 0.0,
        publish_seconds=total(time.sync),
        control_seconds=CONTROL_SECONDS,
        weights_bytes=sent,
        prompt_tokens=work.lengths.prompt_tokens,
        groups=((work.lengths.completion_tokens,) * work.group_size,),
    )


def setting_of(told: Forecast) -> Setting:
    """What is simulated of a forecast: each engine and each rank has devices of its own."""
    config = told.config
    algorithm, rollout = config.algorithm, config.rollout
    completions = algorithm.prompts_per_step * algorithm.group_size
    least, most = STEPS
    return Setting(
        engines=told.engines,
        ranks=config.learner.ranks,
        prompts_per_step=algorithm.prompts_per_step,
        max_staleness=algorithm.max_staleness,
        max_running=rollout.max_running,
        steps=min(max(MOST_COMPLETIONS // completions, least), most),
        on_update=config.on_update,
        micro_batch_tokens=config.learner.micro_batch_tokens,
        encoders=config.data.encoders,
        engines_per_machine=max(MACHINE_DEVICES // rollout.tensor_parallel, 1),
        seed=config.run.seed,
    )


def _words(engines: int, ranks: int) -> str:
    return f"{engines} engine{'s' * (engines > 1)} and {ranks} rank{'s' * (ranks > 1)}"


def _idle(split: Split) -> str:
    return f" (engines idle {split.outcome.engine_idle:.0%}, learner {split.outcome.learner_idle:.0%})"
