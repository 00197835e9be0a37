"""How a version's weights get from the learner to the engines: `object_store` or `nccl`, behind one small interface.

An update is begun, delivered to each engine by the rollout pool, and published by the learner, which may step again
when that is over. An engine that joins later is sent the newest update too. References come by here, weights do not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from actors.report import EngineReport
from actors.weights.buckets import Layout
from cluster.waiting import WorkerError, bounded
from configs.plugins import load_plug_in
from configs.schema import Config

STEP_KEY = "learner.step_timeout_seconds"
"""The limit of everything that the learner does."""


class Update(Protocol):
    """A policy version on its way: references, no weights."""

    version: int
    layout: Layout
    """What buckets hold that an engine may be sent."""
    size_bytes: int

    async def send(self, engine: Any) -> Awaitable[EngineReport]:
        """Have an engine, which expects the layout, take all of it as it comes from the learner.

        Args:
            engine: handle of the rollout actor.

        Returns:
            What the engine reports when it has loaded the version, or a newer one.
        """


class Transport(Protocol):
    """The learner's side."""

    def __init__(self, learners: Sequence[Any], config: Config) -> None:
        """From the learner actors, in the order of their ranks."""

    async def begin(self, version: int, engines: Mapping[str, Any]) -> Update:
        """An update of these engines, by name, that is not published yet."""

    async def publish(self, update: Any) -> None:
        """Have the learner give its weights to an update of this transport."""


class Buckets:
    """References to the buckets of a version, which engines are sent as the learner gives them.

    They are kept as long as this is, so that an engine that joins later can be sent all of them.
    """

    def __init__(self, version: int, layout: Layout) -> None:
        self.version = version
        self.layout = layout
        self.size_bytes = sum(layout.sizes_bytes)
        self.references: list[Any] = []
        self._more = asyncio.Event()

    def add(self, bucket: Any) -> None:
        """Take the reference to the next bucket."""
        self.references.append(bucket)
        self._more.set()
        self._more = asyncio.Event()

    async def send(self, engine: Any) -> Awaitable[EngineReport]:
        """Hand over every bucket, as they come."""
        answers = []
        for number in range(len(self.layout.buckets)):
            while number == len(self.references):
                await self._more.wait()
            answers.append(engine.receive.remote(self.version, number, self.references[number]))
        return _last(answers)


async def _last(answers: list[Awaitable[EngineReport]]) -> EngineReport:
    return (await asyncio.gather(*answers))[-1]


@dataclass(frozen=True, slots=True)
class Requested:
    """What the ranks of the learner were asked for."""

    buckets: Sequence[tuple[Any, Awaitable[None]]]
    """References to the buckets, and what tells that each is there."""
    helped: Sequence[Awaitable[None]]


class ObjectStore:
    """Packed buckets through Ray's object store: the learner gives each once, the nodes of the engines fetch it."""

    def __init__(self, learners: Sequence[Any], config: Config) -> None:
        self.learners = learners
        self.seconds = config.learner.step_timeout_seconds
        self._layout: Layout | None = None

    async def begin(self, version: int, engines: Mapping[str, Any]) -> Buckets:
        """An update without buckets."""
        return Buckets(version, await self.layout())

    async def layout(self) -> Layout:
        """What the buckets of every update hold; asked once."""
        if self._layout is None:
            call: Awaitable[Layout] = self.learners[0].layout.remote()
            self._layout = await bounded(call, STEP_KEY, self.seconds, "rank 0 has not told the layout of its weights")
        return self._layout

    async def publish(self, update: Buckets) -> None:
        """Add the buckets, each as soon as it is packed."""
        await self.fill(update, self.ask(update.layout))

    def ask(self, layout: Layout) -> Requested:
        """Ask the learner for the buckets of its weights, as they are when it next can."""
        first, *others = self.learners
        buckets = [first.bucket.options(num_returns=2).remote(number) for number in range(len(layout.buckets))]
        return Requested(buckets, [rank.help_gather.remote() for rank in others])

    async def fill(self, update: Buckets, asked: Requested) -> None:
        """Add what was asked for as it comes; a rank that fails ends it, whichever it is."""

        async def add() -> None:
            for bucket, there in asked.buckets:
                await there
                update.add(bucket)

        adding = asyncio.create_task(add())
        ended = asyncio.gather(adding, *asked.helped)
        try:
            await bounded(ended, STEP_KEY, self.seconds, f"the learner has not published version {update.version}")
        finally:
            adding.cancel()


class Broadcast:
    """A version that goes to all engines of its time at once; one that is not among them is sent buckets."""

    def __init__(self, version: int, layout: Layout, engines: Mapping[str, Any], late: Nccl) -> None:
        self.version = version
        self.layout = layout
        self.size_bytes = sum(layout.sizes_bytes)
        self.engines = dict(engines)
        self._late = late
        self._outcomes: dict[Any, asyncio.Future[str]] = {
            engine: asyncio.get_running_loop().create_future() for engine in engines.values()
        }
        """Why an engine did not take it, empty where it did."""

    def over(self, name: str, why: str = "") -> None:
        """An engine has taken the version, or has not."""
        self._outcomes[self.engines[name]].set_result(why)

    async def send(self, engine: Any) -> Awaitable[EngineReport]:
        """Wait for the broadcast."""
        if engine not in self._outcomes:
            return await self._late.send_buckets(engine)
        if why := await asyncio.shield(self._outcomes[engine]):
            raise WorkerError(why)
        report: Awaitable[EngineReport] = engine.report.remote()
        return report


class Nccl:
    """One broadcast from rank 0 of the learner to every process of every engine."""

    def __init__(self, learners: Sequence[Any], config: Config) -> None:
        self.learners = learners
        self.seconds = config.learner.step_timeout_seconds
        self._buckets = ObjectStore(learners, config)

    async def begin(self, version: int, engines: Mapping[str, Any]) -> Broadcast:
        """A broadcast to these engines that has not begun."""
        return Broadcast(version, await self._buckets.layout(), engines, self)

    async def publish(self, update: Broadcast) -> None:
        """Broadcast to the engines that are ready in time. Once it has begun, all depend on each."""
        engines = update.engines
        begun = False
        while engines and not begun:
            calls = [learner.broadcast.remote(update.version, engines) for learner in self.learners]
            what = f"the learner has not broadcast version {update.version}"
            (begun, lost), *_ = await bounded(asyncio.gather(*calls), STEP_KEY, self.seconds, what)
            for name, why in lost.items():
                update.over(name, why)
            engines = {name: engine for name, engine in engines.items() if name not in lost}
        for name in engines:
            update.over(name)

    async def send_buckets(self, engine: Any) -> Awaitable[EngineReport]:
        """Send the learner's weights, as they are when it next can, to one engine."""
        layout = await self._buckets.layout()
        version: Awaitable[int] = self.learners[0].version.remote()  # at once with the next: no step comes between
        asked = self._buckets.ask(layout)
        what = "rank 0 has not told the version of its weights"
        update = Buckets(await bounded(version, STEP_KEY, self.seconds, what), layout)
        answer, _ = await asyncio.gather(update.send(engine), self._buckets.fill(update, asked))
        return answer


BUILT_IN: Mapping[str, type[Transport]] = {"object_store": ObjectStore, "nccl": Nccl}
"""By `rollout.weight_transfer`."""


def kind_of(name: str) -> type[Transport]:
    """The transport of that name, or of a plug-in.

    Raises:
        PlugInError: it cannot be used.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    contract = "class MyTransport:\n    def __init__(self, learners, config): ..."
    return cast(type[Transport], load_plug_in("rollout.weight_transfer", name, contract, ([], None)))


def transport(learners: Sequence[Any], config: Config) -> Transport:
    """The one that `rollout.weight_transfer` names, from these learner actors in the order of their ranks."""
    return kind_of(config.rollout.weight_transfer)(learners, config)
