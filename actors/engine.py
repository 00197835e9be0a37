"""The one adapter to vLLM: an `LLMEngine` in this process, driven by one thread.

Only that thread calls add, step, update and abort; everybody else puts commands into its queue and awaits a future.
Not stepping is pausing. What runs when a weight update comes is, by `rollout.on_update`,

- drain: sampled to its end first, while requests that arrive meanwhile wait for the update;
- recompute: preempted, and its keys and values are computed again, with the new weights, before its next token;
- keep_kv: sampled on from the keys and values that it has, while new requests, salted with the version, make their own.

Either way each token carries the version that sampled it, and the prefix cache never crosses a version. An engine that
samples goes on until all of the update is here; an idle one loads each bucket as it comes. A clip is embedded when
its request is given to vLLM.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine

from actors.embedder import AudioInput, Embedder, Waveforms
from actors.limits import BATCHED_TOKENS, GATHER_SECONDS
from actors.report import EngineDied, EngineError, EngineReport
from actors.weights import in_vllm
from actors.weights.incoming import Incoming
from configs.schema import Config
from data.types import ClipFeatures, Completion, Group, Prompt, Sampling
from learner.device import DeviceError, device_of
from learner.hf_files import resolve
from learner.released import ENGINE_OVERRIDES

CPU_BLOCK_TOKENS = 32
"""Tokens of a block of the key-value cache on CPU, the smallest that its attention kernel is fast with."""


@dataclass(slots=True)
class _Request:
    prompt: Prompt
    features: ClipFeatures
    sampling: Sampling
    future: Future[Group] = field(default_factory=Future)
    version: int = -1
    """The engine's when vLLM got the request."""


@dataclass(slots=True)
class _WeightLoad:
    incoming: Incoming
    future: Future[None] = field(default_factory=Future)


@dataclass(slots=True)
class _Call:
    function: Callable[[LLMEngine], Any]
    future: Future[Any] = field(default_factory=Future)


class EngineThread:
    """vLLM behind a queue. The first `ready` future resolves when the engine can sample.

    Args:
        config: the run.
        model_path: weights to start with.
        version: policy version of these weights.
        stop_token_ids: tokens that end a completion.
        audio: makes of a clip what vLLM takes.
    """

    def __init__(
        self,
        config: Config,
        model_path: str,
        version: int,
        stop_token_ids: tuple[int, ...],
        audio: Embedder | Waveforms,
    ) -> None:
        self.version = version
        self.ready: Future[None] = Future()
        self._busy_seconds = 0.0
        self._load_seconds = 0.0
        self._loads = 0
        self._tokens = 0
        self._kv_cache_use = 0.0
        self._audio = audio
        self._on_update = config.on_update
        self._shared = in_vllm.in_shared_memory if config.rollout.tensor_parallel > 1 else nullcontext
        self._stop_token_ids = list(stop_token_ids)
        self._commands: queue.SimpleQueue[_Request | _WeightLoad | _Call] = queue.SimpleQueue()
        self._running: dict[str, _Request] = {}
        self._held: list[_Request] = []
        self._numbers = itertools.count()
        self._load: _WeightLoad | None = None
        self._died: Exception | None = None
        self._refusing = threading.Lock()
        self._thread = threading.Thread(target=self._main, args=(config, model_path), name="engine", daemon=True)
        self._thread.start()

    def generate(self, prompt: Prompt, features: ClipFeatures, sampling: Sampling) -> Future[Group]:
        """Sample the completions of one prompt in one request.

        Args:
            prompt: token ids with one audio placeholder, and the seed.
            features: the prompt's clip.
            sampling: number of completions, temperature, longest completion.
        """
        return self._put(_Request(prompt, features, sampling))

    def load(self, incoming: Incoming) -> Future[None]:
        """Load the weights, between two steps, and be of their version from then on; an engine that cannot dies."""
        return self._put(_WeightLoad(incoming))

    def call(self, function: Callable[[LLMEngine], Any]) -> Future[Any]:
        """Run a function on the engine's own thread, between two steps."""
        return self._put(_Call(function))

    def report(self) -> EngineReport:
        """How the engine is doing."""
        return EngineReport(self.version, self._busy_seconds, self._kv_cache_use)

    def figures(self) -> dict[str, float]:
        """What the engine's `/metrics` shows of it, by the keys of `actors.metrics`; may be asked by any thread."""
        return {
            "version": self.version,
            "running": len(self._running),
            "queued": self._commands.qsize() + len(self._held),
            "busy_seconds": self._busy_seconds,
            "load_seconds": self._load_seconds,
            "loads": self._loads,
            "tokens": self._tokens,
        }

    def _put(self, command: _Request | _WeightLoad | _Call) -> Future[Any]:
        self._commands.put(command)
        if self._died is not None:
            self._refuse_all(self._died)
        return command.future

    def _main(self, config: Config, model_path: str) -> None:
        try:
            engine = build_engine(config, model_path, self.version, embeds=isinstance(self._audio, Embedder))
        except Exception as error:  # noqa: BLE001 - whoever awaits `ready` gets it
            self.ready.set_exception(error)
            return
        self.ready.set_result(None)
        try:
            while True:
                self._take_commands(engine)
                started = time.perf_counter()
                waited = self._load_if_due(engine)
                if self._running:
                    for output in engine.step():
                        self._finish(engine, output)
                self._busy_seconds += time.perf_counter() - started - waited  # at once: a counter never falls
        except Exception as error:
            self._died = error
            self._refuse_all(error)
            raise

    def _take_commands(self, engine: LLMEngine) -> None:
        """Take what waits. An idle engine waits for a first command, and after a request for others beside it."""
        idle = not self._running and self._load is None
        if idle:
            self._take(engine, self._commands.get())
        until = time.monotonic() + (GATHER_SECONDS if idle and self._running else 0)
        while True:
            try:
                command = self._commands.get(timeout=max(until - time.monotonic(), 0))
            except queue.Empty:
                return
            self._take(engine, command)

    def _take(self, engine: LLMEngine, command: _Request | _WeightLoad | _Call) -> None:
        match command:
            case _Request() if self._load is not None and self._on_update == "drain":
                self._held.append(command)
            case _Request():
                self._add(engine, command)
            case _WeightLoad():
                if self._load is not None:
                    command.future.set_exception(EngineError("a weight update is already waiting"))
                else:
                    self._load = command
            case _Call():
                _resolve(command.future, lambda: command.function(engine))

    def _add(self, engine: LLMEngine, request: _Request) -> None:
        parameters = sampling_parameters(request.sampling, request.prompt.seed, self._stop_token_ids)
        name = f"{request.prompt.group_id}#{next(self._numbers)}"  # a prompt may be asked twice at a time
        try:
            audio: AudioInput = self._audio.input(request.prompt.clip, request.features)
            engine.add_request(
                name,
                {
                    "prompt_token_ids": list(request.prompt.token_ids),
                    "multi_modal_data": audio.data,
                    "multi_modal_uuids": {"audio": [audio.id]},
                    **({"cache_salt": str(self.version)} if self._on_update == "keep_kv" else {}),
                },
                parameters,
            )
        except Exception as error:  # noqa: BLE001 - whoever awaits the request gets it
            request.future.set_exception(EngineError(f"vLLM refused prompt {request.prompt.example.id}: {error}"))
        else:
            request.version = self.version
            self._running[name] = request

    def _finish(self, engine: LLMEngine, output: RequestOutput) -> None:
        if not output.finished:
            return
        request = self._running[output.request_id]
        expected, got = request.prompt.expanded_tokens, len(output.prompt_token_ids or ())
        if expected != got:
            del self._running[output.request_id]
            request.future.set_exception(
                EngineError(f"prompt {request.prompt.example.id} has {got} tokens in vLLM, {expected} in the learner")
            )
            return
        ordered = sorted(output.outputs, key=lambda completion: completion.index)
        texts = engine.get_tokenizer().batch_decode(
            [_spoken(completion) for completion in ordered],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        completions = [_completion(*pair) for pair in zip(ordered, texts, strict=True)]
        self._tokens += sum(len(completion.token_ids) for completion in completions)
        self._kv_cache_use = engine.engine_core.engine_core.scheduler.kv_cache_manager.usage
        kept = self._audio.trained or self._on_update == "keep_kv"
        del self._running[output.request_id]
        request.future.set_result(
            Group(request.prompt, tuple(completions), context_version=request.version if kept else self.version)
        )

    def _load_if_due(self, engine: LLMEngine) -> float:
        """Load what waits, if its time has come; gives the seconds in which it waited for the learner."""
        if self._load is None:
            return 0.0
        if self._running and (self._on_update == "drain" or not self._load.incoming.complete):
            return 0.0
        started, incoming = time.perf_counter(), self._load.incoming
        self._apply(engine, incoming)
        self._load_seconds += time.perf_counter() - started - incoming.waited_seconds
        self._loads += 1
        load, self._load = self._load, None
        load.future.set_result(None)
        held, self._held = self._held, []
        for request in held:
            self._add(engine, request)
        return incoming.waited_seconds

    def _apply(self, engine: LLMEngine, incoming: Incoming) -> None:
        version = incoming.version
        if self._on_update != "keep_kv" and not engine.reset_prefix_cache(reset_running_requests=True):
            raise EngineError(f"the prefix cache could not be emptied before version {version}")
        for method, arguments in incoming.calls(self._audio, self._shared):
            engine.collective_rpc(method, kwargs=arguments)
        if isinstance(self._audio, Waveforms) and self._audio.trained:
            engine.reset_encoder_cache()
        self.version = version
        engine.set_weight_version(str(version))

    def _refuse_all(self, error: Exception) -> None:
        """Answer everybody who waits for a dead engine, and who still comes."""
        with self._refusing:
            waiting = [*self._running.values(), *self._held, *([self._load] if self._load is not None else [])]
            self._running, self._held, self._load = {}, [], None
            while not self._commands.empty():
                waiting.append(self._commands.get_nowait())
            for command in waiting:
                command.future.set_exception(EngineDied(f"the engine died: {error!r}"))


def build_engine(config: Config, model_path: str, version: int, embeds: bool) -> LLMEngine:
    """An engine that samples audio prompts, takes weights through the object store and reports exact log-probs.

    With `embeds` clips come as embeddings, and vLLM loads neither tower nor projector. Where the run serves metrics,
    vLLM keeps its own in prometheus_client's global registry.
    """
    engine = LLMEngine.from_engine_args(engine_arguments(config, model_path, embeds))
    # on a CPU it warns of every clip that the number of threads stays as it is
    logging.getLogger("vllm.v1.worker.cpu_worker").setLevel(logging.ERROR)
    engine.set_weight_version(str(version))
    return engine


def engine_arguments(config: Config, model_path: str, embeds: bool) -> EngineArgs:
    """What vLLM is started with; see `build_engine`. Its workers are in this process too, unless they share layers."""
    rollout = config.rollout
    on_gpu = device_of(config.cluster.device) == "cuda"
    if not on_gpu:
        if current_platform.is_cuda():
            raise DeviceError(
                "this engine has no GPU, and these packages sample on GPUs alone: lower --nodes, add GPUs, or take the "
                "packages for CPUs (AURICLE_DEVICE=cpu make setup)"
            )
        # vLLM compiles a helper of its sampler even in eager mode: on a CPU that costs seconds and saves nothing
        torch._dynamo.config.disable = True
    return EngineArgs(
        model=str(resolve(model_path)),
        dtype=config.model.dtype,
        max_model_len=rollout.max_model_tokens,
        max_num_seqs=rollout.max_running,
        tensor_parallel_size=rollout.tensor_parallel,
        distributed_executor_backend="uni" if rollout.tensor_parallel == 1 else "mp",
        worker_extension_cls=f"{in_vllm.__name__}.{in_vllm.WorkerExtension.__name__}",
        gpu_memory_utilization=rollout.gpu_memory_utilization,
        enable_prefix_caching=rollout.prefix_cache,
        # completions of a group share whole blocks only, and the CPU default of 128 leaves most of a prompt out
        block_size=None if on_gpu else CPU_BLOCK_TOKENS,
        max_num_batched_tokens=max(rollout.max_model_tokens, BATCHED_TOKENS),
        enforce_eager=not on_gpu,
        # a prompt in chunks discards samples, and vLLM cannot rewind a CPU's seeded generator for that
        enable_chunked_prefill=on_gpu,
        hf_overrides=ENGINE_OVERRIDES,
        limit_mm_per_prompt={"audio": 0 if embeds else 1},  # embeddings do not count, and need no tower
        enable_mm_embeds=embeds,
        logprobs_mode="processed_logprobs",
        weight_transfer_config={"backend": in_vllm.BACKEND},
        async_scheduling=False,
        generation_config="vllm",
        disable_log_stats=config.metrics.port is None,
        seed=config.run.seed,
    )


def sampling_parameters(sampling: Sampling, seed: int, stop_token_ids: Sequence[int]) -> SamplingParams:
    """How vLLM samples the completions of one prompt."""
    trained = sampling.temperature > 0
    return SamplingParams(
        n=sampling.completions,
        temperature=sampling.temperature,
        max_tokens=sampling.max_tokens,
        seed=seed if trained else None,
        logprobs=0 if trained else None,
        flat_logprobs=trained,
        detokenize=False,  # text is made of the whole completion, not token by token
        stop_token_ids=None if sampling.ignore_stop else list(stop_token_ids),
        ignore_eos=sampling.ignore_stop,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _spoken(output: CompletionOutput) -> Sequence[int]:
    """Token ids without the one that ended it."""
    return output.token_ids[:-1] if output.finish_reason == "stop" else output.token_ids


def _completion(output: CompletionOutput, text: str) -> Completion:
    token_ids = tuple(output.token_ids)
    versions = [int(span.version) for span in output.weight_versions or () for _ in range(span.start, span.end)]
    if len(versions) != len(token_ids):
        raise EngineError(f"vLLM tells the version of {len(versions)} of {len(token_ids)} tokens")
    logprobs: tuple[float, ...] = ()
    if output.logprobs is not None:
        flat = output.logprobs
        logprobs = tuple(flat.logprobs[start] for start in flat.start_indices)
    reason = output.finish_reason if output.finish_reason in ("stop", "length") else "abort"
    return Completion(token_ids, text, logprobs, tuple(versions), reason)


def _resolve(future: Future[Any], function: Callable[[], Any]) -> None:
    """Run and hand the outcome, good or bad, to whoever waits."""
    try:
        result = function()
    except Exception as error:  # noqa: BLE001 - whoever awaits the future gets it
        future.set_exception(error)
    else:
        future.set_result(result)
