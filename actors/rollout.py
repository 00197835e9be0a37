"""The rollout actor: one vLLM engine that samples groups and takes weights."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import ray

from actors.metrics import serve_engine
from actors.report import EngineError, EngineReport
from actors.weights.buckets import Bucket, Layout
from actors.weights.incoming import Arrivals, Reception
from configs.schema import Config
from data.audio import SAMPLE_RATE, audio_tokens, mel_frames
from data.types import Clip, ClipFeatures, ClipSource, Example, Group, Prompt, Sampling


def environment(config: Config) -> dict[str, str]:
    """Variables of the actor's process; vLLM reads them when it is imported."""
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": str(config.rollout.kv_cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": str(config.rollout.threads),
        "TOKENIZERS_PARALLELISM": "false",
    }


@ray.remote
class RolloutActor:
    """Samples the completions of prompts. All calls may overlap; the engine's thread orders them."""

    def __init__(
        self, name: str, config: Config, model_path: str, version: int, stop_token_ids: tuple[int, ...]
    ) -> None:
        import torch

        from actors.embedder import Embedder, Waveforms
        from actors.engine import EngineThread

        torch.set_num_threads(config.rollout.threads)
        self.name = name
        self.config = config
        own_path = config.rollout.audio == "waveform"
        self._wait_seconds = config.learner.step_timeout_seconds  # the learner's time: the engine's own has its limit
        self._updates: dict[int, tuple[Any, asyncio.Future[None]]] = {}
        """What has begun to come, until it is loaded, by version."""
        self._audio = Waveforms(config) if own_path else Embedder(config, model_path, version)
        self._engine = EngineThread(config, model_path, version, stop_token_ids, self._audio)
        self._endpoint = serve_engine(config.metrics, self._engine.figures, ray.util.get_node_ip_address())

    async def ready(self, prompt_token_ids: tuple[int, ...]) -> dict[str, Any]:
        """Wait for the engine, then sample once so that kernels are compiled; tells where the actor lives.

        `endpoint` is that of its metrics, None where the run serves none.
        """
        await asyncio.wrap_future(self._engine.ready)
        await self._warm_up(prompt_token_ids)
        node = ray.get_runtime_context().get_node_id()
        return {"name": self.name, "node": node, "endpoint": self._endpoint}

    async def generate(self, prompt: Prompt, features: ClipFeatures, sampling: Sampling) -> tuple[Group, EngineReport]:
        """The completions of one prompt, in one request; and a report, to wait for without the group."""
        group = await asyncio.wrap_future(self._engine.generate(prompt, features, sampling))
        return dataclasses.replace(group, engine=self.name), self._engine.report()

    async def expect(self, layout: Layout) -> None:
        """Take note of what the buckets of every update hold."""
        self._layout = layout

    async def receive(self, version: int, number: int, bucket: Bucket) -> EngineReport:
        """Take a bucket of a version; gives a report when the version is loaded, as `rollout.on_update` says."""
        arrivals, loaded = self._incoming(version, lambda: Arrivals(version, self._layout, self._wait_seconds))
        arrivals.add(number, bucket)
        return await self._loaded(loaded)

    async def prepare(self, version: int) -> None:
        """Get ready for the broadcast of a version, as `rollout.on_update` says; until its end nothing else is done."""
        reception, loaded = self._incoming(version, lambda: Reception(version, self._wait_seconds))
        await _part(reception.ready, loaded)

    async def join(self, version: int, init_info: dict[str, Any]) -> None:
        """Join the group that the version is broadcast to, in place of any other."""
        reception, loaded = self._updates[version]
        await _part(reception.join(init_info), loaded)

    async def take(self, version: int, update_info: dict[str, Any]) -> EngineReport:
        """Receive the version; gives a report when it is loaded."""
        reception, loaded = self._updates[version]
        reception.receive(update_info)
        return await self._loaded(loaded)

    async def beat(self) -> int:
        """Answers while the process lives: with its id."""
        return os.getpid()

    async def report(self) -> EngineReport:
        """How the engine is doing."""
        return self._engine.report()

    def _incoming(self, version: int, make: Callable[[], Any]) -> tuple[Any, asyncio.Future[None]]:
        """What comes of a version, which the engine is told of when it begins to come."""
        if version not in self._updates:
            incoming = make()
            loaded = asyncio.wrap_future(self._engine.load(incoming))
            loaded.add_done_callback(lambda _: self._updates.pop(version))  # now: the version may be sent again
            self._updates[version] = incoming, loaded
        return self._updates[version]

    async def _loaded(self, loaded: asyncio.Future[None]) -> EngineReport:
        await asyncio.shield(loaded)
        return self._engine.report()

    async def _warm_up(self, prompt_token_ids: tuple[int, ...]) -> None:
        """Sample from one second of silence, outside of every count."""
        features = self._audio.silence(SAMPLE_RATE)
        clip = Clip("warm-up", 1.0, audio_tokens(mel_frames(SAMPLE_RATE)))
        example = Example("warm-up", ClipSource("warm-up"), "", (), "")
        prompt = Prompt("warm-up", example, prompt_token_ids, clip, seed=1)
        size = min(self.config.algorithm.group_size, self.config.rollout.max_running)
        await self.generate(prompt, features, Sampling(size, self.config.rollout.temperature, 4))


async def _part(done: Future[None], loaded: asyncio.Future[None]) -> None:
    """Wait for a part of an update; a dying engine ends all of it before."""
    part = asyncio.wrap_future(done)
    await asyncio.wait([part, loaded], return_when=asyncio.FIRST_COMPLETED)
    if not part.done():
        await asyncio.shield(loaded)
        raise EngineError("the update was over before this part of it")
