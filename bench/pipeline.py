"""`python -m bench.pipeline`: what sampling and training at the same time gains, beside the most that it can gain.

The rollout has one core and the learner the other. The same work is done with `algorithm.max_staleness` 0, where each
waits for the other, and 1, where sampling goes on while the learner trains. From the first follow R and L, the seconds
of a step that the rollout and the learner work, each with its part of the weights' way: publishing is the learner's,
what loading takes longer is the engine's. With perfect overlap a step would take max(R, L) instead of R + L. The sizes
are such that R and L are alike, which is where overlap gains most; where they are not on your machine, `--tokens` moves
them. Engines keep what they sample over an update (`rollout.on_update: keep_kv`); `rollout.on_update=recompute` takes
the default.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from bench import models, runs
from bench.command import finish, parser
from bench.machine import machine, two_cores
from cluster.asking import Asker
from cluster.controller import Controller
from cluster.metrics import Metrics
from cluster.nodes import connected
from cluster.placement import Node, plan
from cluster.progress import Reporter
from cluster.questions import Questions
from cluster.run_directory import RunDirectory
from cluster.session import workers
from cluster.training_loop import state_at
from cluster.workers import Workers
from configs.schema import Config
from data.formats import load_examples

PROMPTS, GROUP_SIZE, CLIP_SECONDS, CLIPS = 4, 4, 3.0, 32
STEPS = 32
COMPLETION_TOKENS = 32
WARM_UP_STEPS = CLIPS // PROMPTS
"""In which every clip is encoded."""
LEAST_TO_IDEAL, MOST_APART, MOST_OVERHEAD = 0.85, 0.25, 0.10


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parser("pipeline", __doc__)
    arguments.add_argument("--steps", type=int, default=STEPS, help=f"steps with each bound ({STEPS})")
    arguments.add_argument(
        "--tokens", type=int, default=COMPLETION_TOKENS, help=f"tokens of every completion ({COMPLETION_TOKENS})"
    )
    arguments.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="configuration keys")
    options = arguments.parse_intermixed_args(argv)
    reporter = Reporter()
    with tempfile.TemporaryDirectory(prefix="auricle-bench-") as temporary:
        figures = measure(Path(temporary), options, reporter)
    return finish(figures, show(figures, reporter), options, reporter)


def measure(directory: Path, options: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """All figures, as one flat object."""
    model = models.build(directory / "model")
    questions = models.write_questions(directory / "clips", CLIP_SECONDS, CLIPS)
    config = configured(directory, model, questions, options.overrides)
    with connected(config.cluster, reporter.say) as nodes:
        return asyncio.run(Pipeline(config, nodes, reporter).compare(options.steps, options.tokens))


def configured(directory: Path, model: Path, questions: Path, overrides: Sequence[str]) -> Config:
    """One engine and one learner rank, of one thread each."""
    settings = {
        "run": {"dir": str(directory / "runs")},
        "model": {"path": str(model), "audio_tower": "frozen"},
        "data": {"train": str(questions)},
        "rollout": {
            "engines": 1,
            "threads": 1,
            "max_running": PROMPTS * GROUP_SIZE,  # a step's worth: the next step's groups wait for a place
            "max_model_tokens": 1024,
            "ignore_stop": True,
            "on_update": "keep_kv",  # an update that comes just before the end of a group would cost its prompt again
        },
        "rewards": [{"use": "bench.rewards:drawn"}],
        "learner": {"threads": 1, "schedule": "constant"},
        "algorithm": {"beta": 0.0, "group_size": GROUP_SIZE, "prompts_per_step": PROMPTS, "max_staleness": 1},
    }
    return runs.configured(directory, settings, overrides)


class Pipeline:
    """One set of actors, on which runs with either bound follow each other."""

    workers: Workers
    asker: Asker

    def __init__(self, config: Config, nodes: list[Node], reporter: Reporter) -> None:
        self.config = config
        self.nodes = nodes
        self.reporter = reporter
        self.questions = Questions(train=load_examples(config.data.train).examples)
        self.version = 0

    async def compare(self, steps: int, tokens: int) -> dict[str, Any]:
        """The same work with each bound; the synchronous half of it before, half of it after the other."""
        config, nodes = self.config, self.nodes
        session = workers(config, nodes, plan(config, nodes), config.model.path, meanwhile=runs.join)
        async with session as (self.workers, self.asker, _):
            self.pin()
            await self.run(0, WARM_UP_STEPS, tokens)
            self.reporter.say(f"warm; {steps} steps with each bound")
            half = steps // 2
            before, first = await self.run(0, half, tokens)
            async_seconds, async_lines = await self.run(1, steps, tokens)
            after, second = await self.run(0, steps - half, tokens)
        sync_seconds, sync_lines = before + after, first + second
        rollout, learner = work(sync_lines)
        ideal = (rollout + learner) / max(rollout, learner)
        speedup = sync_seconds / async_seconds
        return {
            "steps": steps,
            "completion_tokens": tokens,
            "rollout_seconds": rollout,
            "learner_seconds": learner,
            "apart": max(rollout, learner) / min(rollout, learner) - 1,
            "synchronous_step_seconds": sync_seconds / steps,
            "asynchronous_step_seconds": async_seconds / steps,
            "overhead": sync_seconds / steps / (rollout + learner) - 1,
            "speedup": speedup,
            "ideal": ideal,
            "ratio_to_ideal": speedup / ideal,
            "rollout_busy": statistics.mean(line["rollout_busy"] for line in async_lines),
            "learner_busy": statistics.mean(line["learner_busy"] for line in async_lines),
            "asynchronous_wait_seconds": statistics.mean(line["seconds"]["sample"] for line in async_lines[1:]),
            "staleness_max": max(line["staleness_max"] for line in async_lines),
            **machine(),
        }

    def pin(self) -> None:
        """Give rollout, clips and rewards the first core and the learner the second."""
        import ray

        of_rollout, of_learner = two_cores()
        sampling = [*self.workers.rollout.actors.values(), *self.workers.rollout.rewards, *self.workers.audio.actors]
        for core, actors in ((of_rollout, sampling), (of_learner, self.workers.learner.actors)):
            ray.get([actor.__ray_call__.remote(pin_process, core) for actor in actors])

    async def run(self, staleness: int, steps: int, tokens: int) -> tuple[float, list[dict[str, Any]]]:
        """Seconds of so many steps with that bound, from the first prompt to the last weights; and their lines."""
        name = f"from-{self.version}"
        config = self.config.model_copy(
            update={
                "run": self.config.run.model_copy(update={"name": name, "max_steps": self.version + steps}),
                "rollout": self.config.rollout.model_copy(update={"max_completion_tokens": tokens}),
                "algorithm": self.config.algorithm.model_copy(update={"max_staleness": staleness}),
            }
        )
        state = state_at(self.version, PROMPTS)
        lines: list[dict[str, Any]] = []
        with closing(RunDirectory.create(config, fresh=False)) as directory:
            controller = Controller(
                config, directory, self.workers, self.asker, self.questions, self.reporter, Metrics(name), state
            )
            begun = time.perf_counter()
            await controller.train(self.version + steps, lines.append)
            seconds = time.perf_counter() - begun
            await self.workers.log.written()
        self.version += steps
        return seconds, lines


def pin_process(_: Any, core: int) -> None:
    """Have every thread of this process, and those that come, run on one core."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {core})


def work(lines: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Seconds a step that the rollout and the learner work, in the mean of synchronous steps."""
    rollout, learner = [], []
    for line in lines:
        seconds = line["seconds"]
        loading = line["sync_seconds"] - line["publish_seconds"]
        rollout.append(seconds["encode"] + seconds["sample"] + seconds["score"] + loading)
        beside = ("encode", "sample", "score", "sync", "wait")
        own = sum(spent for phase, spent in seconds.items() if phase not in beside)
        learner.append(own + seconds["sync"] - loading)
    return statistics.mean(rollout), statistics.mean(learner)


def show(figures: dict[str, Any], reporter: Reporter) -> dict[str, bool]:
    """Print the figures; gives what is promised, and whether they bear it out."""
    rows = [
        ("max_staleness 0", f"{figures['synchronous_step_seconds']:.3f}", "1.00"),
        ("max_staleness 1", f"{figures['asynchronous_step_seconds']:.3f}", f"{figures['speedup']:.2f}"),
        ("perfect overlap", "", f"{figures['ideal']:.2f}"),
    ]
    reporter.table("seconds a step, and how many times as fast", rows, ("", "seconds", "times"))
    reporter.say(
        f"R {figures['rollout_seconds']:.3f} s, L {figures['learner_seconds']:.3f} s, {figures['apart']:.0%} apart; "
        f"the synchronous steps take {figures['overhead']:.1%} more than R + L; speed-up over ideal "
        f"{figures['ratio_to_ideal']:.3f}; engine busy {figures['rollout_busy']:.0%}, learner "
        f"{figures['learner_busy']:.0%}"
    )
    return {
        f"speed-up at least {LEAST_TO_IDEAL:.0%} of the ideal": figures["ratio_to_ideal"] >= LEAST_TO_IDEAL,
        f"R and L at most {MOST_APART:.0%} apart": figures["apart"] <= MOST_APART,
        f"synchronous steps at most {MOST_OVERHEAD:.0%} over R + L": figures["overhead"] <= MOST_OVERHEAD,
    }


if __name__ == "__main__":
    sys.exit(main())
