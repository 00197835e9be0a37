"""The one adapter to vLLM: an `LLMEngine` in this process, driven by one thread.

Only that thread calls add, step, update and abort; everybody else puts commands into its queue and awaits a future.
Not stepping is pausing. A weight update waits until nothing runs (drain), requests that arrive meanwhile wait for
it, and the prefix cache is emptied before the next request starts: no key or value crosses a version.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine

from actors.weights import object_store
from actors.weights.buckets import Bucket, WeightUpdate
from configs.schema import Config
from data.audio import SAMPLE_RATE
from data.types import Completion, Prompt, Sampling
from learner.hf import ENGINE_OVERRIDES
from learner.hf_files import resolve

BATCHED_TOKENS = 8192
"""Tokens that an engine computes in one step at most."""


CPU_BLOCK_TOKENS = 32
"""Tokens of a block of the key-value cache on CPU, the smallest that its attention kernel is fast with."""


class EngineError(RuntimeError):
    """The engine failed, refused a request or could not take new weights."""


@dataclass(slots=True)
class _Request:
    prompt: Prompt
    audio: dict[str, Any]
    audio_id: str
    sampling: Sampling
    future: Future[tuple[Completion, ...]] = field(default_factory=Future)


@dataclass(slots=True)
class _WeightLoad:
    update: WeightUpdate
    buckets: list[Bucket]
    future: Future[None] = field(default_factory=Future)


@dataclass(slots=True)
class _Call:
    function: Callable[[LLMEngine], Any]
    future: Future[Any] = field(default_factory=Future)


class EngineThread:
    """vLLM behind a queue. The first `ready` future resolves when the engine can sample."""

    def __init__(self, config: Config, model_path: str, version: int, stop_token_ids: tuple[int, ...]) -> None:
        self.version = version
        self.ready: Future[None] = Future()
        self._stop_token_ids = list(stop_token_ids)
        self._commands: queue.SimpleQueue[_Request | _WeightLoad | _Call] = queue.SimpleQueue()
        self._running: dict[str, _Request] = {}
        self._held: list[_Request] = []
        self._numbers = itertools.count()
        self._load: _WeightLoad | None = None
        self._thread = threading.Thread(target=self._main, args=(config, model_path), name="engine", daemon=True)
        self._thread.start()

    def generate(
        self, prompt: Prompt, audio: dict[str, Any], audio_id: str, sampling: Sampling
    ) -> Future[tuple[Completion, ...]]:
        """Sample the completions of one prompt in one request.

        Args:
            prompt: token ids with one audio placeholder, and the seed.
            audio: vLLM's multimodal data (`{"audio": ...}`).
            audio_id: names the audio in vLLM's caches: equal ids must mean equal embeddings.
            sampling: number of completions, temperature, longest completion.
        """
        request = _Request(prompt, audio, audio_id, sampling)
        self._commands.put(request)
        return request.future

    def load(self, update: WeightUpdate, buckets: list[Bucket]) -> Future[None]:
        """Drain, load the weights, empty the prefix cache and call them `update.version` from then on."""
        command = _WeightLoad(update, buckets)
        self._commands.put(command)
        return command.future

    def call(self, function: Callable[[LLMEngine], Any]) -> Future[Any]:
        """Run a function on the engine's own thread, between two steps."""
        command = _Call(function)
        self._commands.put(command)
        return command.future

    def _main(self, config: Config, model_path: str) -> None:
        try:
            engine = build_engine(config, model_path, self.version)
        except Exception as error:  # noqa: BLE001 - whoever awaits `ready` gets it
            self.ready.set_exception(error)
            return
        self.ready.set_result(None)
        try:
            while True:
                self._take_commands(engine)
                self._load_if_drained(engine)
                if self._running:
                    for output in engine.step():
                        self._finish(output)
        except Exception as error:
            self._fail_all(error)
            raise

    def _take_commands(self, engine: LLMEngine) -> None:
        """Take what waits, or wait where there is nothing else to do."""
        while True:
            idle = not self._running and self._load is None
            try:
                command = self._commands.get(block=idle)
            except queue.Empty:
                return
            match command:
                case _Request() if self._load is not None:
                    self._held.append(command)
                case _Request():
                    self._add(engine, command)
                case _WeightLoad():
                    if self._load is not None:
                        command.future.set_exception(EngineError("a weight update is already waiting"))
                    else:
                        self._load = command
                case _Call():
                    _resolve(command.future, lambda call=command: call.function(engine))

    def _add(self, engine: LLMEngine, request: _Request) -> None:
        sampling = request.sampling
        trained = sampling.temperature > 0
        parameters = SamplingParams(
            n=sampling.completions,
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            seed=request.prompt.seed if trained else None,
            logprobs=0 if trained else None,
            flat_logprobs=trained,
            stop_token_ids=None if sampling.ignore_stop else self._stop_token_ids,
            ignore_eos=sampling.ignore_stop,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        name = f"{request.prompt.group_id}#{next(self._numbers)}"  # a prompt may be asked twice at a time
        try:
            engine.add_request(
                name,
                {
                    "prompt_token_ids": list(request.prompt.token_ids),
                    "multi_modal_data": request.audio,
                    "multi_modal_uuids": {"audio": [request.audio_id]},
                },
                parameters,
            )
        except Exception as error:  # noqa: BLE001 - whoever awaits the request gets it
            request.future.set_exception(EngineError(f"vLLM refused prompt {request.prompt.example.id}: {error}"))
        else:
            self._running[name] = request

    def _finish(self, output: RequestOutput) -> None:
        if not output.finished:
            return
        request = self._running.pop(output.request_id)
        expected, got = request.prompt.expanded_tokens, len(output.prompt_token_ids or ())
        if expected != got:
            request.future.set_exception(
                EngineError(f"prompt {request.prompt.example.id} has {got} tokens in vLLM, {expected} in the learner")
            )
            return
        ordered = sorted(output.outputs, key=lambda completion: completion.index)
        request.future.set_result(tuple(_completion(completion, self.version) for completion in ordered))

    def _load_if_drained(self, engine: LLMEngine) -> None:
        if self._load is None or self._running:
            return
        load, self._load = self._load, None
        _resolve(load.future, lambda: self._apply(engine, load))
        held, self._held = self._held, []
        for request in held:
            self._add(engine, request)

    def _apply(self, engine: LLMEngine, load: _WeightLoad) -> None:
        engine.collective_rpc("start_weight_update")
        engine.collective_rpc(
            "update_weights", kwargs={"update_info": {"manifest": load.update.manifest, "buckets": load.buckets}}
        )
        engine.collective_rpc("finish_weight_update")
        if not engine.reset_prefix_cache():
            raise EngineError(f"the prefix cache could not be emptied before version {load.update.version}")
        self.version = load.update.version
        engine.set_weight_version(str(self.version))

    def _fail_all(self, error: Exception) -> None:
        for request in [*self._running.values(), *self._held]:
            request.future.set_exception(EngineError(f"the engine died: {error!r}"))
        if self._load is not None:
            self._load.future.set_exception(EngineError(f"the engine died: {error!r}"))


def build_engine(config: Config, model_path: str, version: int) -> LLMEngine:
    """An engine that samples audio prompts, takes weights through the object store and reports exact log-probs."""
    object_store.register()
    rollout = config.rollout
    on_gpu = torch.cuda.is_available()
    engine = LLMEngine.from_engine_args(
        EngineArgs(
            model=str(resolve(model_path)),
            dtype=config.model.dtype,
            max_model_len=rollout.max_model_tokens,
            max_num_seqs=rollout.max_running,
            gpu_memory_utilization=rollout.gpu_memory_utilization,
            enable_prefix_caching=rollout.prefix_cache,
            # completions of a group share whole blocks only, and the CPU default of 128 leaves most of a prompt out
            block_size=None if on_gpu else CPU_BLOCK_TOKENS,
            max_num_batched_tokens=max(rollout.max_model_tokens, BATCHED_TOKENS),
            enforce_eager=not on_gpu,
            # a prompt in chunks discards samples, and vLLM cannot rewind a CPU's seeded generator for that
            enable_chunked_prefill=on_gpu,
            hf_overrides=ENGINE_OVERRIDES,
            limit_mm_per_prompt={"audio": 1},
            enable_mm_embeds=True,
            logprobs_mode="processed_logprobs",
            weight_transfer_config={"backend": object_store.BACKEND},
            async_scheduling=False,
            generation_config="vllm",
            disable_log_stats=True,
            seed=config.run.seed,
        )
    )
    engine.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": {}})
    engine.set_weight_version(str(version))
    return engine


def waveform_input(waveform: Any) -> dict[str, Any]:
    """Multimodal data for vLLM's own mel, tower and projector: float32 (samples,), 16 kHz."""
    return {"audio": [(waveform, SAMPLE_RATE)]}


def embedding_input(embeddings: torch.Tensor) -> dict[str, Any]:
    """Multimodal data for embeddings after the projector: (audio_tokens, hidden)."""
    return {"audio": [embeddings]}


def _completion(output: CompletionOutput, version: int) -> Completion:
    token_ids = tuple(output.token_ids)
    versions = [version] * len(token_ids)
    for span in output.weight_versions or ():
        versions[span.start : span.end] = [int(span.version)] * (span.end - span.start)
    logprobs: tuple[float, ...] = ()
    if output.logprobs is not None:
        flat = output.logprobs
        logprobs = tuple(flat.logprobs[start] for start in flat.start_indices)
    reason = output.finish_reason if output.finish_reason in ("stop", "length") else "abort"
    return Completion(token_ids, output.text, logprobs, tuple(versions), reason)


def _resolve(future: Future[Any], function: Callable[[], Any]) -> None:
    """Run and hand the outcome, good or bad, to whoever waits."""
    try:
        result = function()
    except Exception as error:  # noqa: BLE001 - whoever awaits the future gets it
        future.set_exception(error)
    else:
        future.set_result(result)
