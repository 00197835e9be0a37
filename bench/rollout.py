"""`python -m bench.rollout --json FILE`: what the rollout actor costs beside vLLM, and what a frozen tower saves there.

The same requests go through a `RolloutActor`, by the calls that a run makes, and to a bare `vllm.LLM.generate` in a
process of its own, with the same engine arguments and sampling parameters. Both take the audio as a frozen tower's
embeddings and as waveforms. Random weights; every completion has the same length. The sides take turns, and each
repetition asks about clips that were never heard before, so that no cache of vLLM's answers for it.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from actors.rollout import environment
from bench import models
from bench.command import finish, parser
from bench.machine import PAUSE_SECONDS
from cluster.nodes import connected
from cluster.placement import plan
from cluster.progress import Reporter
from cluster.rollout_pool import RolloutPool
from cluster.session import workers
from configs.schema import Config
from data.audio import SAMPLE_RATE, audio_tokens, log_mel, mel_frames
from data.prompts import PromptEncoder
from data.types import Clip, ClipFeatures, ClipSource, Example, Prompt, Sampling
from learner import audio_tower
from learner.hf import load_model
from learner.hf_files import load_processor

THREADS = 2
CLIP_SECONDS = 3.0
PROMPTS = 8
SAMPLING = Sampling(completions=8, temperature=1.0, max_tokens=32, ignore_stop=True)
PATHS = ("embeddings", "waveform")
"""How the audio gets into an engine."""
BARE_START_SECONDS = 600
WORKER_NICENESS = 15
"""What Ray adds to the niceness of its workers."""
SAME_COMPLETIONS = 0.97
"""Share of completions that both sides sample alike: the last bit of a sum depends on what is computed beside it."""
Tokens = list[list[tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class Question:
    """One request in the forms that the sides take it in."""

    prompt: Prompt
    """For an actor: its clip's features are the tower's output and the waveform."""
    waveform: NDArray[np.float32]
    embeddings: torch.Tensor
    """What bare vLLM is given of a frozen tower: its output after the projector."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit status 1 where actor and vLLM did not sample the same tokens."""
    arguments = parser("rollout", __doc__)
    arguments.add_argument("--repetitions", type=int, default=15, help="measured repetitions of each side (15)")
    options = arguments.parse_args(argv)
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as temporary:
        model = str(models.build(Path(temporary) / "model"))
        figures = asyncio.run(measure(model, options.repetitions))
    reporter = Reporter()
    show(figures, reporter)
    same = figures["equal_completions"] > SAME_COMPLETIONS
    return finish(figures, {f"over {SAME_COMPLETIONS:.0%} of the completions are the same": same}, options, reporter)


async def measure(model: str, repetitions: int) -> dict[str, float]:
    """Start two actors and a bare vLLM, and let them take turns."""
    configs = {path: configured(model, path) for path in PATHS}
    os.environ.update(environment(configs["embeddings"]))
    make, same = Questions(model), []
    spent: dict[tuple[str, str], list[float]] = {}
    with connected(configs["embeddings"].cluster, lambda _: None) as nodes:
        async with AsyncExitStack() as stack:
            bare, actors = {}, {}
            for path, config in configs.items():
                bare[path] = stack.enter_context(Bare(config, model, path))
                roles = [role for role in plan(config, nodes) if role.name == "engine"]
                started, _, _ = await stack.enter_async_context(workers(config, nodes, roles, model))
                actors[path] = started.rollout
            for repetition in range(repetitions + 1):
                asked = make(repetition)
                for path in PATHS:
                    turns = {"actor": ask(actors[path], asked), "bare": bare[path].ask(asked)}
                    answers = {}
                    for side in sorted(turns, reverse=repetition % 2 == 1):
                        await asyncio.sleep(PAUSE_SECONDS)
                        answers[side] = await turns[side]
                        spent.setdefault((side, path), []).append(answers[side][0])
                    same += [
                        one == two
                        for ones, twos in zip(answers["actor"][1], answers["bare"][1], strict=True)
                        for one, two in zip(ones, twos, strict=True)
                    ]
    return figures_of({key: seconds[1:] for key, seconds in spent.items()}, same)


async def ask(pool: RolloutPool, asked: Sequence[Question]) -> tuple[float, Tokens]:
    """Seconds of the groups of all questions through the actor, with their tokens."""
    prompts = [question.prompt for question in asked]
    start = time.perf_counter()
    groups = await asyncio.gather(*(pool.sample(prompt, SAMPLING) for prompt in prompts))
    seconds = time.perf_counter() - start
    return seconds, [[completion.token_ids for completion in group.completions] for group in groups]


class Bare:
    """`vllm.LLM` in a process of its own, for the length of a block."""

    def __init__(self, config: Config, model: str, path: str) -> None:
        self._path = path
        context = multiprocessing.get_context("spawn")
        self._connection, far = context.Pipe()
        self._process = context.Process(target=_serve, args=(far, config, model, path), daemon=True)

    def __enter__(self) -> Bare:
        self._process.start()
        if not self._connection.poll(BARE_START_SECONDS):
            raise TimeoutError(f"vLLM did not start within {BARE_START_SECONDS} s")
        self._connection.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    async def ask(self, asked: Sequence[Question]) -> tuple[float, Tokens]:
        """Seconds of `LLM.generate` on the questions, measured in its process, with the tokens."""
        embeds = self._path == "embeddings"
        audio = [question.embeddings if embeds else (question.waveform, SAMPLE_RATE) for question in asked]
        requests = [
            {
                "prompt_token_ids": list(question.prompt.token_ids),
                "multi_modal_data": {"audio": [heard]},
                "multi_modal_uuids": {"audio": [question.prompt.clip.sha256]},
            }
            for question, heard in zip(asked, audio, strict=True)
        ]
        self._connection.send((requests, [question.prompt.seed for question in asked]))
        seconds, tokens = await asyncio.to_thread(self._connection.recv)
        return seconds, tokens


def _serve(connection: Connection, config: Config, model: str, path: str) -> None:
    """The process of `Bare`."""
    os.nice(WORKER_NICENESS)
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"  # it warns of each clip that it leaves the number of threads as it is
    from vllm import LLM

    from actors.engine import engine_arguments, sampling_parameters

    torch.set_num_threads(THREADS)
    engine = LLM.from_engine_args(engine_arguments(config, model, embeds=path == "embeddings"))
    connection.send("ready")
    while True:
        requests, seeds = connection.recv()
        parameters = [sampling_parameters(SAMPLING, seed, ()) for seed in seeds]
        start = time.perf_counter()
        outputs = engine.generate(requests, parameters, use_tqdm=False)
        seconds = time.perf_counter() - start
        connection.send((seconds, [[tuple(one.token_ids) for one in output.outputs] for output in outputs]))


class Questions:
    """Makes the requests of a repetition, about clips of its own."""

    def __init__(self, model: str) -> None:
        self.processor = load_processor(model)
        self.encoder = PromptEncoder(self.processor.tokenizer, self.processor.chat_template, "answer")
        self.ears = load_model(model, torch.float32).model

    @torch.inference_mode()
    def __call__(self, repetition: int) -> list[Question]:
        """Questions with clips that no other repetition has."""
        asked = []
        texts = models.questions(PROMPTS, repetition)
        for number, waveform in enumerate(models.clips(CLIP_SECONDS, PROMPTS, repetition)):
            question, choices = texts[number]
            frames = mel_frames(len(waveform))
            mel = log_mel(waveform, self.processor.feature_extractor)
            pooled = audio_tower.encode(self.ears.audio_tower, [mel], [frames])[0]
            name = f"{repetition}-{number}"
            features = ray.put(ClipFeatures(waveform=waveform, pooled=pooled.numpy()))
            example = Example(name, ClipSource(name), question, choices, choices[0])
            clip = Clip(name, CLIP_SECONDS, audio_tokens(frames), features)
            prompt = Prompt(name, example, self.encoder.encode(example), clip, seed=1 + 1000 * repetition + 8 * number)
            embeddings = self.ears.multi_modal_projector(pooled)
            asked.append(Question(prompt, waveform, embeddings))
        return asked


def configured(model: str, path: str) -> Config:
    """An engine for a frozen tower; `path` says how it takes the audio."""
    return Config.model_validate(
        {
            "model": {"path": model, "audio_tower": "frozen"},
            "data": {"train": "unused"},
            "rollout": {
                "engines": 1,
                "threads": THREADS,
                "max_completion_tokens": SAMPLING.max_tokens,
                "max_running": PROMPTS * SAMPLING.completions,
                "audio": "auto" if path == "embeddings" else "waveform",
            },
            "algorithm": {"group_size": SAMPLING.completions, "prompts_per_step": PROMPTS},
            "cluster": {"device": "cpu"},
        }
    )


def figures_of(spent: dict[tuple[str, str], list[float]], same: Sequence[bool]) -> dict[str, float]:
    """Completion tokens a second by side and path, and their ratios."""
    tokens = PROMPTS * SAMPLING.completions * SAMPLING.max_tokens
    figures = {
        f"{side}_{path}_tokens_per_second": tokens / statistics.median(seconds)
        for (side, path), seconds in spent.items()
    }
    for path in PATHS:
        figures[f"ratio_{path}"] = (
            figures[f"actor_{path}_tokens_per_second"] / figures[f"bare_{path}_tokens_per_second"]
        )
    figures["ratio"] = min(figures[f"ratio_{path}"] for path in PATHS)
    figures["embeddings_ratio"] = (
        figures["actor_embeddings_tokens_per_second"] / figures["actor_waveform_tokens_per_second"]
    )
    figures["equal_completions"] = sum(same) / len(same)
    return figures


def show(figures: dict[str, float], reporter: Reporter) -> None:
    """Print the table."""
    rows = [
        (
            path,
            *(f"{figures[f'{side}_{path}_tokens_per_second']:.0f}" for side in ("actor", "bare")),
            f"{figures[f'ratio_{path}']:.3f}",
        )
        for path in PATHS
    ]
    title = f"completion tokens a second, {PROMPTS} prompts x {SAMPLING.completions} x {SAMPLING.max_tokens} tokens"
    reporter.table(title, rows, ("audio as", "RolloutActor", "vllm.LLM", "ratio"))
    reporter.say(
        f"embeddings against waveforms {figures['embeddings_ratio']:.2f}; "
        f"{figures['equal_completions']:.1%} of the completions are the same on both sides"
    )


if __name__ == "__main__":
    sys.exit(main())
