"""Which of a number of devices should sample and which learn: the splits that arithmetic puts first, tried in
simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cluster.forecast.simulation import Outcome, Setting, simulate
from cluster.forecast.timings import Timings

TRIES = 5
"""Splits that are simulated."""
FINE = 16
"""About as many numbers of ranks are looked at."""


@dataclass(frozen=True, slots=True)
class Split:
    """Some devices for engines, the others for learner ranks."""

    engines: int
    ranks: int
    outcome: Outcome


Case = tuple[Timings, Setting]
"""What a split is simulated with."""


def splits(devices: int, engine_devices: int, most_ranks: int) -> Iterator[tuple[int, int]]:
    """(engines, ranks) that leave too few devices for a further engine: all up to `FINE` devices, then some.

    Args:
        devices: how many there are.
        engine_devices: devices of an engine.
        most_ranks: ranks beyond this would have nothing to do.

    >>> list(splits(6, engine_devices=2, most_ranks=3))
    [(2, 1), (2, 2), (1, 3)]
    >>> [ranks for _, ranks in splits(64, engine_devices=1, most_ranks=30)]
    [1, 2, 4, 8, 12, 16, 20, 24, 28, 30]
    """
    apart = -(-devices // FINE)
    most = min(devices - engine_devices, most_ranks)
    few = {1 << power for power in range(apart.bit_length())}
    for ranks in sorted({*few, *range(apart, most + 1, apart), most} & set(range(1, most + 1))):
        yield (devices - ranks) // engine_devices, ranks


def least_seconds(timings: Timings, setting: Setting) -> float:
    """What a step takes at least, if no engine ever waits for a prompt or for its last completions."""
    groups = setting.prompts_per_step / setting.engines / (1 - timings.dropped_share)
    asked = setting.prompts_per_step * (setting.max_staleness + 1) * timings.group_size
    running = max(min(asked / setting.engines, setting.max_running), 1.0)
    decoded = groups * timings.group_size * (timings.completion_tokens - 1)
    sampling = groups * (timings.request_seconds + timings.prompt_seconds)
    sampling += decoded * timings.decoding_seconds(round(running)) / round(running) + timings.load_seconds
    group_tokens = timings.prompt_tokens + timings.group_size * (timings.completion_tokens - 1)
    of_a_rank = -(-setting.prompts_per_step // setting.ranks)
    learning = timings.learning_seconds(round(of_a_rank * group_tokens), setting.ranks)
    learning += timings.publish_seconds + timings.wait_seconds
    return max(sampling, learning) if setting.max_staleness else sampling + learning


def best_splits(
    devices: int,
    engine_devices: int,
    most_ranks: int,
    case: Callable[[int, int], Case | None],
    tries: int = TRIES,
) -> list[Split]:
    """The splits that were simulated, the fastest first.

    Args:
        devices: how many there are, 2 or more.
        engine_devices: devices of an engine.
        most_ranks: ranks beyond this would have nothing to do.
        case: timings and setting of so many engines and ranks; None where they do not fit.
        tries: how many are simulated, of those that `least_seconds` puts first.
    """
    found = [(pair, made) for pair in splits(devices, engine_devices, most_ranks) if (made := case(*pair)) is not None]
    found.sort(key=lambda one: least_seconds(*one[1]))
    tried = [Split(*pair, simulate(*made)) for pair, made in found[:tries]]
    return sorted(tried, key=lambda split: split.outcome.seconds_per_step)
