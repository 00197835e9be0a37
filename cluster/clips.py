"""The prepared clips of a run: each is asked for once, and kept while there is room for its features."""

from __future__ import annotations

import asyncio
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cluster.waiting import ANSWER_KEY, bounded
from configs.schema import Config
from data.types import Clip, ClipSource

Asked = tuple[ClipSource, bool]
"""Where the bytes of a clip lie, and whether its samples are to be silent."""


class HeldClips:
    """The clips asked for most recently, as many as there is room for; a recording of several rows is held once.

    Args:
        budget_bytes: of all features together; the newest clip is held whatever its size.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.held_bytes = 0
        self._names: dict[Asked, str] = {}
        self._held: OrderedDict[str, tuple[Clip, int, list[Asked]]] = OrderedDict()
        """Clips, the bytes of their features and what was asked for them, by the hash of the recording."""

    def find(self, asked: Asked) -> Clip | None:
        """The clip, if it is held."""
        if asked not in self._names:
            return None
        name = self._names[asked]
        self._held.move_to_end(name)
        return self._held[name][0]

    def hold(self, asked: Asked, clip: Clip, features_bytes: int) -> Clip:
        """Hold a clip, and let those go that were not asked for in the longest time; gives the one that is held."""
        if clip.sha256 not in self._held:
            self._held[clip.sha256] = clip, features_bytes, []
            self.held_bytes += features_bytes
        self._names[asked] = clip.sha256
        self._held[clip.sha256][2].append(asked)
        self._held.move_to_end(clip.sha256)
        while self.held_bytes > self.budget_bytes and len(self._held) > 1:
            _, (_, freed, rows) = self._held.popitem(last=False)
            self.held_bytes -= freed
            for row in rows:
                del self._names[row]
        return self._held[clip.sha256][0]


class AudioPool:
    """Decoding and encoding: a clip goes to an audio actor once, and its features stay in the object store.

    This process owns them. An audio actor that is lost takes none with it, and a node that is lost only those that
    another actor makes again.

    Args:
        actors: audio actors.
        config: the run.
    """

    def __init__(self, actors: Sequence[Any], config: Config) -> None:
        self.actors = actors
        self.answer_seconds = config.cluster.actor_timeout_seconds
        self._clips = HeldClips(config.data.cache_bytes)
        self._under_way: dict[Asked, asyncio.Task[Clip | str]] = {}

    def prefetch(self, source: ClipSource) -> None:
        """Have a clip prepared that is asked for soon."""
        self._request((source, False))

    async def prepare(self, source: ClipSource, silent: bool = False) -> Clip | str:
        """The clip with a reference to its features, or `reason: detail` where it cannot be used.

        Args:
            source: where its bytes lie.
            silent: replace every sample by zero, as a control of what the text alone gives away.
        """
        return await asyncio.shield(self._request((source, silent)))

    def _request(self, asked: Asked) -> asyncio.Task[Clip | str]:
        if asked not in self._under_way:
            task = self._under_way[asked] = asyncio.create_task(self._prepare(asked))
            task.add_done_callback(lambda _: self._answered(asked))
        return self._under_way[asked]

    def _answered(self, asked: Asked) -> None:
        task = self._under_way.pop(asked)
        if not task.cancelled():
            task.exception()  # where nobody waits for it yet, whoever asks next finds out for himself

    async def _prepare(self, asked: Asked) -> Clip | str:
        if clip := self._clips.find(asked):
            return clip
        home = zlib.crc32(str(asked[0]).encode()) % len(self.actors)
        call, features = self.actors[home].prepare.options(num_returns=2).remote(*asked)
        what = f"audio actor {home} has not prepared {asked[0]}"
        given = await bounded(call, ANSWER_KEY, self.answer_seconds, what, "more data.encoders share the clips")
        if isinstance(given, str):
            return given
        clip, features_bytes = given
        return self._clips.hold(asked, replace(clip, features=features), features_bytes)
