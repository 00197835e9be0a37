"""What a whole run comes to: completions, tokens, hours of GPUs, the rollout log, and money."""

from __future__ import annotations

from configs.schema import Config
from learner.figure import Figure, figure
from learner.work import Work

LOGGED_BYTES = 20
"""Of a completion token in the rollout log before compression: id, log-prob, version, and about four of its text."""


def sampled(config: Config, work: Work) -> tuple[Figure, ...]:
    """Counts: completions, and their tokens at the assumed length; none in supervised fine-tuning."""
    if config.algorithm.name == "sft":
        return ()
    counts = {"steps": config.run.max_steps, "questions": work.groups, "group_size": work.group_size}
    of_each = "steps * questions * group_size"
    return (
        figure("completions", of_each, **counts),
        figure("tokens of completions", f"{of_each} * tokens", **counts, tokens=work.lengths.completion_tokens),
    )


def trained(config: Config, work: Work) -> Figure:
    """Tokens that the learner packs."""
    terms = {"steps": config.run.max_steps, "questions": work.groups, "tokens": work.group_tokens}
    return figure("tokens that the learner packs", "steps * questions * tokens", **terms)


def gpu_hours(config: Config, gpus: float, step_seconds: float) -> Figure:
    """Hours of all GPUs of the run, without its start and its evaluations."""
    terms = {"gpus": gpus, "steps": config.run.max_steps, "seconds": step_seconds}
    return figure("GPU hours, without start and evaluations", "gpus * steps * seconds / 3600", **terms)


def rollout_log(config: Config, work: Work) -> tuple[Figure, ...]:
    """Bytes at most."""
    if config.algorithm.name == "sft":
        return ()
    *_, tokens = sampled(config, work)
    return (figure("rollout log, before compression", "tokens * bytes", tokens=tokens.value, bytes=LOGGED_BYTES),)


def money(config: Config, hours: Figure) -> tuple[Figure, ...]:
    """In the currency of `cluster.gpu_hour_price`, where that is set."""
    price = config.cluster.gpu_hour_price
    if price is None:
        return ()
    return (figure("cost at cluster.gpu_hour_price", "hours * price", hours=hours.value, price=price),)
