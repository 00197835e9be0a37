"""What a run would do, as a discrete-event simulation: `cluster.controller` with engines and a learner that only take
time. Pure and deterministic: the same setting and seed give the same outcome.

Real are the admission of groups (`cluster.admission`) and their layout on ranks (`learner.packing`). Simulated are the
engines (`simulated_engine`), a learner whose step takes what `Timings` say, the weights' way to the engines, and queues
for clips, the control loop and rewards. A group goes to the engine with the least outstanding work. Nothing fails, and
there are neither checkpoints nor evaluations.

Where engines and ranks share cores, everything that goes on is slowed alike as soon as more threads work than there are
cores (`simulated_clock`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil, inf
from random import Random
from statistics import fmean

from cluster.admission import Admission
from cluster.forecast.simulated_clock import Clock, Line, Server, Spent
from cluster.forecast.simulated_engine import STATES, SimulatedEngine, SimulatedGroup
from cluster.forecast.timings import Timings
from learner.packing import plan_micro_batches

LEARNER_STATES = ("idle", "stepping", "publishing")


class SettingError(ValueError):
    """A setting that cannot be simulated; the message names the field."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is run, and on what."""

    engines: int
    ranks: int
    prompts_per_step: int
    max_staleness: int
    max_running: int
    """Completions that an engine decodes at once."""
    steps: int
    on_update: str = "drain"
    micro_batch_tokens: int = 2048
    encoders: int = 1
    cores: float | None = None
    """Cores that all engines and ranks share; None where each has a device of its own."""
    engine_threads: int = 1
    rank_threads: int = 1
    engines_per_machine: int = 8
    """Engines of one machine share a copy of the weights; the learner's machine is the first."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("engines", "ranks", "prompts_per_step", "max_running", "steps", "encoders", "engines_per_machine"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} is {getattr(self, name)}: give 1 or more")
        if self.on_update not in ("drain", "recompute", "keep_kv"):
            raise SettingError(f"on_update is {self.on_update!r}: give drain, recompute or keep_kv")
        if self.max_staleness == 0 and self.on_update != "drain":
            raise SettingError(f"on_update is {self.on_update} and max_staleness 0: only drain keeps that bound")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it. Seconds are of the wall clock."""

    ended: tuple[float, ...]
    """When each step was over."""
    admitted: int
    trained: int
    dropped: int
    completions: int
    """Of trained groups."""
    staleness: dict[int, int]
    """Trained groups by the age of their oldest token, in versions."""
    step_staleness: tuple[float, ...]
    """Mean of that age in each step."""
    engine_seconds: dict[str, float]
    """Of all engines together: idle, prompts, decoding, loading."""
    learner_seconds: dict[str, float]
    """Of the learner: idle, stepping, publishing."""

    @property
    def seconds(self) -> float:
        """From the start until the last step was over."""
        return self.ended[-1]

    @property
    def seconds_per_step(self) -> float:
        """Mean of all steps but the first, which waits for groups that nothing overlaps."""
        return (self.ended[-1] - self.ended[0]) / (len(self.ended) - 1) if len(self.ended) > 1 else self.ended[0]

    @property
    def completions_per_second(self) -> float:
        """Trained ones, at that mean."""
        return self.completions / len(self.ended) / self.seconds_per_step

    @property
    def engine_idle(self) -> float:
        """Share of the engines' time."""
        return self.engine_seconds["idle"] / sum(self.engine_seconds.values())

    @property
    def learner_idle(self) -> float:
        """Share of the learner's time in which it neither steps nor publishes."""
        return self.learner_seconds["idle"] / sum(self.learner_seconds.values())

    @property
    def mean_staleness(self) -> float:
        """Of the later half of the steps: the first ones have none."""
        return fmean(self.step_staleness[len(self.step_staleness) // 2 :])


def simulate(timings: Timings, setting: Setting) -> Outcome:
    """The outcome of a run of so many steps, until its last weights are loaded."""
    return _Simulation(timings, setting).run()


class _Simulation:
    """One run: what is in flight, and what happens to it."""

    def __init__(self, timings: Timings, setting: Setting) -> None:
        self.timings = timings
        self.setting = setting
        self.clock = Clock(setting.cores)
        self.admission = Admission(setting.prompts_per_step, setting.max_staleness, setting.steps)
        self.version = 0
        """Steps applied."""
        self._draws, self._fates = Random(setting.seed), Random(setting.seed + 1)
        """Two, so that the lengths of the groups do not depend on when others are scored."""
        self._groups: dict[str, SimulatedGroup] = {}
        self._places = setting.engines * (ceil(setting.max_running / timings.group_size) + 1)
        self._audio = Line(setting.encoders, timings.encode_seconds)
        self._clips: list[float] = []
        """When the clip of each group is prepared, in the order of the draws."""
        self._control = Server(self.clock, timings.control_seconds)
        self._reward = Server(self.clock, timings.score_seconds)
        self._others = Server(self.clock, timings.beside_seconds)

        self._engines = [
            SimulatedEngine(timings, setting.max_running, setting.on_update) for _ in range(setting.engines)
        ]
        self._engine_spent = [Spent(STATES) for _ in self._engines]
        self._outstanding = [0] * setting.engines
        """Groups that each engine was asked for and has not given."""
        self._stamps = [0] * setting.engines
        """Of the newest event of each engine; older ones are void."""
        self._engine_versions = Counter({0: setting.engines})

        self._learner_spent = Spent(LEARNER_STATES)
        self._learner_threads = 0
        self._taken = False
        """Whether a step has its groups and is not over."""
        self._unpublished = False
        """Whether a version waits for the last one to be delivered."""
        self._undelivered = 0
        """Engines that have not loaded the newest version that was published."""

        self._admitted = self._dropped = 0
        self._ages: list[list[int]] = []
        """Of the groups of each step."""
        self._ended: list[float] = []

    def run(self) -> Outcome:
        """Until the last version is delivered."""
        self._admit()
        while self.version < self.setting.steps or self._taken or self._undelivered:
            self.clock.step()
        for spent in (*self._engine_spent, self._learner_spent):
            spent.note(self.clock.wall, "idle")
        trained = sum(map(len, self._ages))
        return Outcome(
            ended=tuple(self._ended),
            admitted=self._admitted,
            trained=trained,
            dropped=self._dropped,
            completions=trained * self.timings.group_size,
            staleness=dict(sorted(Counter(age for ages in self._ages for age in ages).items())),
            step_staleness=tuple(map(fmean, self._ages)),
            engine_seconds={state: sum(spent.seconds[state] for spent in self._engine_spent) for state in STATES},
            learner_seconds=self._learner_spent.seconds,
        )

    # a group: started, prepared, asked for, sampled, scored

    def _admit(self) -> None:
        """Start groups, as many as there may be."""
        while self.version < self.setting.steps and self._places and self.admission.room(min(self._engine_versions)):
            name = str(self._admitted)
            self.admission.start(name, min(self._engine_versions))
            group = self._groups[name] = SimulatedGroup(name, self._draws.choice(self.timings.groups))
            self._places -= 1
            while len(self._clips) <= self._admitted + self.setting.prompts_per_step:  # a step's clips ahead
                self._clips.append(self._audio.over(self.clock.now))
            prepared = max(self._clips[self._admitted], self.clock.now)
            self._admitted += 1
            self.clock.at(prepared, partial(self._prepared, group))

    def _prepared(self, group: SimulatedGroup) -> None:
        self._control.do(partial(self._ask, group))
        if self.timings.beside_seconds:
            self._others.do(lambda: None)  # nobody waits for it but who shares its core

    def _ask(self, group: SimulatedGroup) -> None:
        number = min(range(self.setting.engines), key=self._outstanding.__getitem__)
        self._outstanding[number] += 1
        self._engine(number, lambda engine: engine.ask(self.clock.now, group))

    def _engine(self, number: int, call: Callable[[SimulatedEngine], object]) -> None:
        """Have an engine do something, and note when it has to be looked at again."""
        engine = self._engines[number]
        self.clock.threads -= (engine.state != "idle") * self.setting.engine_threads
        call(engine)
        self.clock.threads += (engine.state != "idle") * self.setting.engine_threads
        self._engine_spent[number].note(self.clock.wall, engine.state)
        self._stamps[number] += 1
        if engine.until < inf:
            self.clock.at(engine.until, partial(self._acts, number, self._stamps[number]))

    def _acts(self, number: int, stamp: int) -> None:
        if stamp != self._stamps[number]:
            return
        engine, finished = self._engines[number], list[SimulatedGroup]()
        before = engine.version
        self._engine(number, lambda engine: finished.extend(engine.act(self.clock.now)))
        for group in finished:
            self._outstanding[number] -= 1
            self._places += 1
            self._reward.do(partial(self._scored, group))
        if engine.version != before:
            self._loaded(before, engine.version)
        self._admit()

    def _scored(self, group: SimulatedGroup) -> None:
        if self._fates.random() < self.timings.dropped_share:
            self._dropped += 1
            self.admission.drop(group.name)
            del self._groups[group.name]
            self._admit()
        else:
            self.admission.finish(group.name, group.oldest)
        self.clock.after(0.0, self._take)  # which finds all that finish at this moment

    # a step: its groups taken, stepped, published, delivered

    def _take(self) -> None:
        """Begin a step, if the learner is free and its groups are there."""
        if self._taken or not (names := self.admission.take()):
            return
        self._taken = True
        groups = [self._groups.pop(name) for name in names]
        self._ages.append([self.version - group.oldest for group in groups])
        tokens = [round(self.timings.prompt_tokens) + group.packed_tokens for group in groups]
        plan = plan_micro_batches(tokens, self.setting.ranks, self.setting.micro_batch_tokens)
        fullest = max(sum(tokens[index] for batch in rank for index in batch) for rank in plan)
        seconds = self.timings.learning_seconds(fullest, self.setting.ranks)
        self.clock.after(self.timings.wait_seconds, partial(self._step, seconds))
        self._admit()

    def _step(self, seconds: float) -> None:
        self._learner("stepping", threads=self.setting.ranks * self.setting.rank_threads)
        self.clock.after(seconds, self._stepped)

    def _stepped(self) -> None:
        self._learner("idle")
        self.version += 1
        self._unpublished = True
        if not self._undelivered:
            self._publish()

    def _publish(self) -> None:
        self._unpublished = False
        self._learner("publishing", threads=1)
        self.clock.after(self.timings.publish_seconds, self._published)

    def _published(self) -> None:
        self._learner("idle")
        self._undelivered = self.setting.engines
        for number in range(self.setting.engines):
            seconds = self.timings.delivery_seconds(number // self.setting.engines_per_machine)
            self.clock.after(seconds, partial(self._offer, number, self.version))
        if self.setting.max_staleness:
            self._over()

    def _offer(self, number: int, version: int) -> None:
        self._engine(number, lambda engine: engine.offer(self.clock.now, version))

    def _loaded(self, before: int, version: int) -> None:
        """An engine has new weights."""
        self._engine_versions += Counter({version: 1})
        self._engine_versions -= Counter({before: 1})
        self._undelivered -= 1
        if not self._undelivered and self._unpublished:
            self._publish()
        elif not self._undelivered and not self.setting.max_staleness:
            self._over()

    def _over(self) -> None:
        """The step is over."""
        self._ended.append(self.clock.wall)
        self._taken = False
        self._admit()
        self._take()

    def _learner(self, state: str, threads: int = 0) -> None:
        self._learner_spent.note(self.clock.wall, state)
        self.clock.threads += threads - self._learner_threads
        self._learner_threads = threads
