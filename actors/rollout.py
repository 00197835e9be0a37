"""The rollout actor: one vLLM engine that samples groups and takes weights."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import ray
import torch

from actors.weights.buckets import WeightUpdate, unpack
from configs.schema import Config
from data.types import Clip, ClipFeatures, ClipSource, Example, Group, Prompt, Sampling

PROJECTOR = "multi_modal_projector.linear"


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
        from actors.engine import EngineThread
        from learner.hf import load_tensors

        torch.set_num_threads(config.rollout.threads)
        dtype: torch.dtype = getattr(torch, config.model.dtype)
        self.name = name
        self.config = config
        self._embeds = config.model.audio_tower == "frozen" and config.rollout.audio == "auto"
        stored = load_tensors(model_path, PROJECTOR) if self._embeds else ()
        self._projector = {key: tensor.to(dtype) for key, tensor in stored}
        self._projector_version = version
        self._engine = EngineThread(config, model_path, version, stop_token_ids)

    async def ready(self, prompt_token_ids: tuple[int, ...]) -> dict[str, Any]:
        """Wait for the engine, then sample once so that kernels are compiled; tells where the actor lives."""
        await asyncio.wrap_future(self._engine.ready)
        await self._warm_up(prompt_token_ids)
        return {"name": self.name, "pid": os.getpid(), "node": ray.get_runtime_context().get_node_id()}

    async def generate(self, prompt: Prompt, features: ClipFeatures, sampling: Sampling) -> tuple[Group, str]:
        """The completions of one prompt, in one request; and the engine's name, to wait for without the group."""
        audio, audio_id = self._audio(prompt.clip, features)
        completions = await asyncio.wrap_future(self._engine.generate(prompt, audio, audio_id, sampling))
        return Group(prompt, completions, engine=self.name), self.name

    async def update_weights(self, update: WeightUpdate) -> int:
        """Drain, load and go on as `update.version`, which is returned."""
        buckets = await asyncio.gather(*update.buckets)
        await asyncio.wrap_future(self._engine.load(update, list(buckets)))
        if self._embeds:
            sent = {name: tensor for name, tensor in unpack(update.manifest, buckets) if name.startswith(PROJECTOR)}
            if sent:
                self._projector = {name: tensor.clone() for name, tensor in sent.items()}
                self._projector_version = update.version
        return self._engine.version

    def _audio(self, clip: Clip, features: ClipFeatures) -> tuple[dict[str, Any], str]:
        from actors.engine import embedding_input, waveform_input

        if not self._embeds:
            version = self._engine.version if self.config.model.projector == "trained" else 0
            return waveform_input(features.waveform), f"{clip.sha256}-{version}"
        weight, bias = self._projector[f"{PROJECTOR}.weight"], self._projector[f"{PROJECTOR}.bias"]
        pooled = torch.as_tensor(features.pooled).to(weight.dtype)
        return embedding_input(
            torch.nn.functional.linear(pooled, weight, bias)
        ), f"{clip.sha256}-{self._projector_version}"

    async def _warm_up(self, prompt_token_ids: tuple[int, ...]) -> None:
        """Sample from one second of silence, outside of every count."""
        from data.audio import SAMPLE_RATE, audio_tokens, mel_frames

        samples = SAMPLE_RATE
        tokens = audio_tokens(mel_frames(samples))
        if self._embeds:
            width = self._projector[f"{PROJECTOR}.weight"].shape[1]
            features = ClipFeatures(pooled=torch.zeros(tokens, width).numpy())
        else:
            features = ClipFeatures(waveform=torch.zeros(samples).numpy())
        clip = Clip("warm-up", 1.0, tokens)
        example = Example("warm-up", ClipSource("warm-up"), "", (), "")
        prompt = Prompt("warm-up", example, prompt_token_ids, clip, seed=1)
        size = min(self.config.algorithm.group_size, self.config.rollout.max_running)
        await self.generate(prompt, features, Sampling(size, self.config.rollout.temperature, 4))
