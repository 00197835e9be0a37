"""What a run writes while it goes on: its checkpoints, and what goes to the storage that its directory lies on."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from cluster.checkpoints import CheckpointError, to_keep
from cluster.errors import for_the_user
from cluster.run_directory import RunDirectory
from cluster.waiting import ANSWER_KEY, bounded, in_thread
from cluster.workers import Workers
from configs.schema import Config
from data.checksums import Checksums
from data.remote import RemoteError
from data.whole_file import WriteError

Stored = TypeVar("Stored")

UNWRITTEN = (WriteError, RemoteError, CheckpointError, OSError)
"""What is raised where a checkpoint cannot be written, as on a full disk."""


class Saving:
    """Checkpoints one after the other, each mostly while the next steps are taken.

    Args:
        config: the run.
        run: its directory.
        workers: whose learner writes, and whose log has every step up to a checkpoint first.
        say: tells the user of a checkpoint that could not be written.
        saved: called when one is there.
    """

    def __init__(
        self,
        config: Config,
        run: RunDirectory,
        workers: Workers,
        say: Callable[[str], None],
        saved: Callable[[], object],
    ) -> None:
        self.config = config
        self.run_directory = run
        self.workers = workers
        self.at_work = False
        """Whether a checkpoint is being written."""
        self.failed = 0
        """Checkpoints of this launch that could not be written."""
        self.size_bytes = 0.0
        """Of the last one, as far as this process knows."""
        self._say = say
        self._saved = saved
        self._last: asyncio.Task[None] | None = None
        """The writing of the last one."""
        self._publishing: asyncio.Task[None] | None = None
        """What is on its way to the storage of the run."""

    async def checkpoint(self, step: int, facts: Callable[[], Mapping[str, Any]], tasks: asyncio.TaskGroup) -> None:
        """Have `checkpoints/step_N` written; when this is over the learner has what belongs to it, and may step.

        Args:
            step: which.
            facts: gives what it tells of the run, as it stands once the last one is written.
            tasks: the writing is one of them.
        """
        if self._last is not None:
            await self._last
        taken = asyncio.Event()
        self._last = tasks.create_task(self._write(step, facts(), taken))
        await taken.wait()

    async def _write(self, step: int, facts: Mapping[str, Any], taken: asyncio.Event) -> None:
        """Write the checkpoint of a step, with every step up to it in the rollout log; `taken` is set on the way."""
        self.at_work = True
        checkpoints = self.run_directory.checkpoints
        try:
            files = await self._unless_unwritten(step, self._written(step, facts, taken))
            if files is None:
                return
            await self.workers.log.written()
            size = await self._unless_unwritten(step, self._stored(functools.partial(checkpoints.finish, step, files)))
            if size is None:
                return
            self.size_bytes = size
            keep = functools.partial(to_keep, self.config.checkpoint, accuracy=self.run_directory.validated())
            await self._stored(lambda: checkpoints.tidy(keep))
        finally:
            taken.set()
            self.at_work = False
        self._saved()

    async def _written(self, step: int, facts: Mapping[str, Any], taken: asyncio.Event) -> Checksums:
        """What the learner has written of a step's checkpoint."""
        place = await self._stored(lambda: self.run_directory.checkpoints.begin(step))
        await self.workers.learner.save(place, facts)
        taken.set()
        return await self.workers.learner.saved()

    async def _unless_unwritten(self, step: int, part: Awaitable[Stored]) -> Stored | None:
        """What a part of the writing of a checkpoint gives; None where it failed and the run is to go on without."""
        try:
            return await part
        except UNWRITTEN as error:
            await self._stored(self.run_directory.checkpoints.abandon)
            if self.config.checkpoint.on_failure == "stop":
                raise
            self.failed += 1
            self._say(f"step {step} has no checkpoint, and the run goes on: {for_the_user(error)}")
            return None

    async def publish(self) -> None:
        """Have what was written go to the storage of the run while it goes on."""
        await self.published()
        self._publishing = asyncio.create_task(self._stored(self.run_directory.publish))

    async def published(self) -> None:
        """Wait until nothing is on its way there."""
        if self._publishing is not None:
            publishing, self._publishing = self._publishing, None
            await publishing

    async def _stored(self, call: Callable[[], Stored]) -> Stored:
        """What the storage of the run gives, which may be far away."""
        what = f"the storage of {self.run_directory} has not answered"
        return await bounded(in_thread(call), ANSWER_KEY, self.config.cluster.actor_timeout_seconds, what)
