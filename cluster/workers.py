"""The actors of a run: created as planned, asked through one small surface each, ended together.

The engines' surface is `cluster.rollout_pool`.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from typing import Any

import ray

from actors.audio import AudioActor
from actors.learner import LearnerActor
from actors.log import RolloutLogActor
from actors.reward import RewardActor
from actors.rollout import RolloutActor, environment
from cluster.clips import AudioPool
from cluster.growth import Growth
from cluster.nodes import VISIBLE_GPUS, alive_nodes
from cluster.placement import Role
from cluster.places import Place, Places
from cluster.rollout_pool import RolloutPool
from cluster.supervision import ActorLost, Losses, Watch, watch_control
from cluster.targets import Targets
from cluster.transports import STEP_KEY, transport
from cluster.waiting import ANSWER_KEY, GONE, bounded, ended
from configs.schema import Config
from data.checksums import Checksums
from data.types import Lesson, LoggedStep
from learner.result import LessonResult, UpdateResult

SAVED_SECONDS = 0.1
"""Between two looks at a checkpoint that is being written."""

STARTED_AGAIN = {"max_restarts": -1, "max_task_retries": -1}
"""Options of actors that hold nothing that another would not make again."""


class LearnerGroup:
    """The learner ranks; every call goes to all of them."""

    def __init__(self, actors: Sequence[Any], config: Config) -> None:
        self.actors = actors
        self.step_seconds = config.learner.step_timeout_seconds
        self.answer_seconds = config.cluster.actor_timeout_seconds
        self.weights = transport(actors, config)
        """The way of the weights to the engines."""

    async def join(self, model_path: str, reference_path: str, trainer_state: str | None) -> None:
        """Meet at rank 0 and load the model."""
        calls = asyncio.gather(*(actor.node.remote() for actor in self.actors))
        nodes = await bounded(calls, ANSWER_KEY, self.answer_seconds, "learner ranks have not started")
        call: Awaitable[str] = self.actors[0].address.remote(len(set(nodes)) == 1)
        rendezvous = await bounded(call, ANSWER_KEY, self.answer_seconds, "rank 0 has not answered")
        await self._all("join", rendezvous, model_path, reference_path, trainer_state)

    async def step(self, groups: Sequence[Any], step: int) -> tuple[UpdateResult, list[Any]]:
        """One step from references to scored groups; gives references to the log-probs of each rank too."""
        calls = [actor.step.options(num_returns=2).remote(list(groups), step) for actor in self.actors]
        results = await self._bounded("step", [result for result, _ in calls])
        return results[0], [logprobs for _, logprobs in calls]

    async def teach(self, lessons: Sequence[Lesson], step: int) -> LessonResult:
        """One supervised step."""
        return (await self._all("teach", list(lessons), step))[0]  # type: ignore[no-any-return]

    async def differences(self, groups: Sequence[Any]) -> list[float]:
        """For each group (references) the largest difference of a log-prob between its engine and the learner."""
        return (await self._all("differences", list(groups)))[0]  # type: ignore[no-any-return]

    async def save(self, directory: str, facts: Mapping[str, Any]) -> None:
        """Begin to write a checkpoint; the learner may step afterwards."""
        await self._all("save", directory, facts)

    async def saved(self) -> Checksums:
        """Wait until the checkpoint that was begun is written; gives what it holds."""
        what = "the checkpoint has not been written"
        return await bounded(self._saved(), STEP_KEY, self.step_seconds, what)

    async def _saved(self) -> Checksums:
        while (files := await self.actors[0].saved.remote()) is None:  # answered between two steps
            await asyncio.sleep(SAVED_SECONDS)
        return files  # type: ignore[no-any-return]

    async def start_profile(self) -> None:
        """Record what the ranks compute from now on."""
        await self._all("start_profile")

    async def stop_profile(self, path: str) -> None:
        """Write what rank 0 recorded."""
        await self._all("stop_profile", path)

    async def _all(self, method: str, *arguments: Any) -> list[Any]:
        return await self._bounded(method, [getattr(actor, method).remote(*arguments) for actor in self.actors])

    async def _bounded(self, method: str, calls: Sequence[Awaitable[Any]]) -> list[Any]:
        what = f"the learner has not finished {method!r}"
        return list(await bounded(asyncio.gather(*calls), STEP_KEY, self.step_seconds, what))


class RolloutLog:
    """The writer of the rollout log; at most one shard is on its way."""

    def __init__(self, actors: Sequence[Any], config: Config, say: Callable[[str], None] = print) -> None:
        self.actors = actors
        self.answer_seconds = config.cluster.actor_timeout_seconds
        self._say = say
        self._shard: tuple[int, Awaitable[tuple[str, ...]]] | None = None

    async def write(self, directory: str, clips: str, step: LoggedStep) -> None:
        """Have a step's groups written while the next step goes on, each into a directory by its path or URL."""
        await self.written()
        self._shard = step.step, self.actors[0].write.remote(directory, clips, step)

    async def written(self) -> None:
        """Wait until nothing is on its way."""
        if self._shard is None:
            return
        shard = step, call = self._shard
        what = f"the rollout log has not written step {step}"
        notes = await bounded(call, ANSWER_KEY, self.answer_seconds, what, "the storage of run.dir may be slow or gone")
        if self._shard is shard:  # others may wait for it too
            self._shard = None
            for note in notes:
                self._say(note)


class Workers:
    """All actors of a run: planned when this is made, there once it has been placed."""

    audio: AudioPool
    rollout: RolloutPool
    learner: LearnerGroup
    log: RolloutLog

    def __init__(
        self,
        config: Config,
        roles: Sequence[Role],
        model_path: str,
        version: int,
        stop: tuple[int, ...],
        first_nodes: Set[str],
        say: Callable[[str], None],
        targets: Targets | None,
    ) -> None:
        self.config = config
        self.model_path = model_path
        self.version = version
        self._stop_token_ids = stop
        self._first_nodes = first_nodes
        self._roles = {role.name: role for role in roles}
        self._say = say
        self._targets = targets or Targets(None, config.run.name)
        self._ranks: list[Any] = []
        """References to where each learner rank serves its metrics."""
        self._warm_up: tuple[int, ...] = ()
        self._growth: asyncio.Task[None] | None = None
        self._places = Places(config.cluster.wait_seconds)
        self._actors: list[Any] = []
        self._losses = Losses(config.cluster.max_losses_per_hour)
        self._nodes: dict[str, str | None] = {}
        """Where each engine is or was, by its name."""

    async def place(self) -> None:
        """Reserve what each role needs and start its actors."""
        config, path = self.config, self.model_path
        encoders = await self._create("audio", AudioActor, lambda _: (config, path, 1), STARTED_AGAIN)
        rewards = await self._create("reward", RewardActor, lambda _: (config,), STARTED_AGAIN)
        if "engine" in self._roles:
            await self._places.reserve_engines(self._roles["engine"])
        engines = {f"engine-{number}": self._engine(number) for number in range(len(self._places.engines))}
        self.audio = AudioPool(encoders, config)
        self.rollout = RolloutPool(
            engines,
            rewards,
            config,
            self.version,
            self.start_engine,
            self._say,
            self._end_engine,
            lambda name, why: self._losses.note(name, self._nodes.get(name), why),
        )
        quiet = {"TOKENIZERS_PARALLELISM": "false"} | only_its_gpus(self._roles.get("learner"))
        in_quiet = {"runtime_env": {"env_vars": quiet}}
        learners = await self._create("learner", LearnerActor, lambda rank: (config, rank), in_quiet)
        self._ranks = [rank.endpoint.remote() for rank in learners]  # answered before a rank loads its model
        self.learner = LearnerGroup(learners, config)
        logs = await self._create("rollout log", RolloutLogActor, lambda _: (config,), STARTED_AGAIN)
        self.log = RolloutLog(logs, config, self._say)

    async def ready(self, warm_up: tuple[int, ...]) -> list[dict[str, Any]]:
        """Wait until every engine has sampled once; gives where each lives."""
        self._warm_up = warm_up
        engines = asyncio.gather(*(actor.ready.remote(warm_up) for actor in self.rollout.actors.values()))
        rewards = asyncio.gather(*(actor.ready.remote() for actor in self.rollout.rewards))
        seconds = self.config.cluster.actor_timeout_seconds
        both = asyncio.gather(engines, rewards)
        places, _ = await bounded(both, ANSWER_KEY, seconds, "engines and rewards have not started")
        await self._list(places)
        if "engine" in self._roles:
            self._growth = asyncio.create_task(self._grow())
            self._growth.add_done_callback(self._stopped_growing)
        return places

    async def start_engine(self, name: str) -> Any:
        """An engine in its place, ready to sample from the first weights; in another one if that is lost meanwhile."""
        number = int(name.rpartition("-")[2])
        place = self._places.engines[number]
        await place.renew(self._losses.unlucky_nodes())
        actor = self._engine(number)
        what, seconds = f"{name} has not started", self.config.cluster.actor_timeout_seconds
        ready = asyncio.ensure_future(bounded(actor.ready.remote(self._warm_up), ANSWER_KEY, seconds, what))
        lost = asyncio.create_task(place.until_lost())
        try:
            await asyncio.wait([ready, lost], return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                self._started(ready.result())
                return actor
            lost.result()
        except BaseException as error:
            ray.kill(actor)  # it would take the place, if ever there is one
            if isinstance(error, GONE):
                self._nodes[name] = await place.node()
            raise
        finally:
            ready.cancel()
            lost.cancel()
        ray.kill(actor)
        return await self.start_engine(name)

    async def _list(self, engines: Sequence[Mapping[str, Any]]) -> None:
        """Tell who serves metrics now that all have started."""
        for answer in engines:
            self._started(answer)
        ranks, seconds = asyncio.gather(*self._ranks), self.config.cluster.actor_timeout_seconds
        for rank, endpoint in enumerate(await bounded(ranks, ANSWER_KEY, seconds, "the learner has not started")):
            self._targets.add("learner", str(rank), endpoint)
        self._targets.set_nodes(alive_nodes())

    def _started(self, answer: Mapping[str, Any]) -> None:
        """An engine is ready."""
        self._nodes[answer["name"]] = answer["node"]
        self._targets.add("engine", answer["name"], answer["endpoint"])

    async def watch(self) -> None:
        """Find who hangs or has died, whatever is waited for, as long as this is awaited.

        Raises:
            ActorLost: one without which nothing goes on.
            RayLost: the cluster itself.
            TooManyLost: more than the run is to put up with.
        """
        seconds, start = self.config.cluster.beat_timeout_seconds, self.config.cluster.actor_timeout_seconds
        again = _named("audio actor", self.audio.actors) | _named("reward actor", self.rollout.rewards)
        again |= _named("rollout log", self.log.actors)
        needed = _named("learner rank", self.learner.actors)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch_control())
            tasks.create_task(self._losses.too_many())
            # an engine has answered before it is among these
            tasks.create_task(Watch(seconds, seconds, lambda: self.rollout.actors, self._replace).keep())
            tasks.create_task(Watch(seconds, start, lambda: again, self._start_again).keep())
            tasks.create_task(Watch(seconds, start, lambda: needed, self._give_up).keep())

    async def _replace(self, name: str, actor: Any, why: str, again: bool) -> None:
        self.rollout.replace(name, why, actor)

    async def _start_again(self, name: str, actor: Any, why: str, again: bool) -> None:
        """Ray starts the actor again where its process has ended, and asks it again what it has not answered."""
        self._say(f"{name} is lost, and another takes its place: {why}")
        if not again:
            ray.kill(actor, no_restart=False)
        self._losses.note(name, None, why)

    async def _give_up(self, name: str, actor: Any, why: str, again: bool) -> None:
        raise ActorLost(f"{name} is lost ({why}); a run goes on from its last checkpoint with --resume")

    def _end_engine(self, name: str, actor: Any) -> None:
        """End the process of an engine that was lost, which nobody is to scrape any more."""
        ray.kill(actor)
        self._targets.remove("engine", name)

    def _stopped_growing(self, watch: asyncio.Task[None]) -> None:
        if not watch.cancelled():
            self._say(f"nodes that join get no engine any more: {watch.exception()}")

    async def _grow(self) -> None:
        """Give nodes that join an engine, and engines that could not be started another try when they do."""
        role = self._roles["engine"]
        growing = self.config.rollout.engines is None
        further, a_node = (self._place_on, self.config.rollout.engines_per_node) if growing else (None, 1)
        look = functools.partial(self._places.look, role, a_node)
        await Growth(self.rollout, self._first_nodes, look, further, self._say, a_node).watch()

    def _place_on(self, node: str) -> str:
        """Set a node aside for a further engine; gives its name."""
        self._places.engines.append(Place(self._roles["engine"], node))
        self._targets.set_nodes(alive_nodes())
        return f"engine-{len(self._places.engines) - 1}"

    def stop(self) -> None:
        """End every actor and give back what was reserved, as far as Ray answers; the rest ends with the driver."""
        if self._growth is not None:
            self._growth.cancel()
        if hasattr(self, "rollout"):
            self.rollout.close()
        ended(*(functools.partial(ray.kill, actor) for actor in self._actors), self._places.give_back)

    async def _create(self, name: str, kind: Any, arguments: Any, options: Mapping[str, Any]) -> list[Any]:
        role = self._roles.get(name)
        if role is None:
            return []
        places = await self._places.reserve(role)
        created = [kind.options(**place, **options).remote(*arguments(number)) for number, place in enumerate(places)]
        self._actors.extend(created)
        return created

    def _engine(self, number: int) -> Any:
        actor = RolloutActor.options(  # type: ignore[attr-defined]
            **self._places.engines[number].options,
            runtime_env={"env_vars": environment(self.config) | only_its_gpus(self._roles["engine"])},
            max_concurrency=10_000,
        ).remote(f"engine-{number}", self.config, self.model_path, self.version, self._stop_token_ids)
        self._actors.append(actor)
        return actor


def only_its_gpus(role: Role | None) -> dict[str, str]:
    """Variables of an actor that hide the GPUs of its node where it reserves none; Ray would let it see them all."""
    return {} if role is None or role.gpus else {VISIBLE_GPUS: ""}


def _named(kind: str, actors: Sequence[Any]) -> dict[str, Any]:
    return {f"{kind} {number}": actor for number, actor in enumerate(actors)}
