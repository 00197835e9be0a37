"""`python -m bench.step --clip-seconds 3`: whole optimizer steps of Auricle against the reference method.

The same work on both sides: the same model from the same weights, the same prompts with the same number of completion
tokens, the audio tower trained, the KL to the reference policy, float32, the same threads, and rewards drawn so that
every group has variance. Auricle's side is a run's own control loop with its Ray actors, and a step ends when the
engine has the new weights; the reference method (`bench.reference`) is R1-AQA's. Steps of both alternate, each on clips
that nobody has seen before; the first of each only warms up. Figures are medians, `best` the fastest step.

Two last lines, named as such, show what Auricle may do besides: a frozen tower whose clips are encoded once, no KL, and
no work for the half of the groups that have no variance; and the same in bfloat16.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from bench import bound, models, runs
from bench.command import finish, parser
from bench.machine import PAUSE_SECONDS, machine
from bench.parity import gradient_difference
from bench.reference import Reference
from bench.rewards import drawn
from cluster.controller import Controller
from cluster.metrics import Metrics
from cluster.nodes import connected
from cluster.placement import Node, plan
from cluster.progress import Reporter
from cluster.questions import Questions
from cluster.run_directory import RunDirectory
from cluster.session import workers
from configs.schema import Config
from data.formats import load_examples
from data.types import Example

PROMPTS, GROUP_SIZE, COMPLETION_TOKENS, BETA, LEARNING_RATE = 8, 8, 32, 0.04, 1e-6
SAME_GRADIENT = 1e-4
"""Largest relative difference of a parameter's gradient between the two sides."""
FURTHER = {
    "further": ("model.audio_tower=frozen", "algorithm.beta=0.0"),
    "further_bfloat16": ("model.audio_tower=frozen", "algorithm.beta=0.0", "model.dtype=bfloat16"),
}
"""What Auricle may do besides."""
ONCE = ("further_bfloat16",)
"""Timed for one step: a CPU without bfloat16 products takes a minute for it."""
ALIKE_SHARE = 2
"""There, one of so many groups has no variance."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit status 1 where the two sides have different gradients."""
    arguments = parser("step", __doc__)
    arguments.add_argument("--clip-seconds", type=float, default=3.0, help="length of every clip (3)")
    arguments.add_argument("--repetitions", type=int, default=3, help="timed steps of each side (3)")
    arguments.add_argument("--threads", type=int, default=2, help="threads of engine, learner and reference (2)")
    arguments.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="configuration keys of Auricle's side")
    options = arguments.parse_intermixed_args(argv)
    reporter = Reporter()
    with tempfile.TemporaryDirectory(prefix="auricle-bench-") as temporary:
        figures = measure(Path(temporary), options, reporter)
    show(figures, reporter)
    same = figures["gradient_difference"] <= SAME_GRADIENT
    promised = {f"the two sides do the same work: their gradients differ by at most {SAME_GRADIENT:g}": same}
    return finish(figures, promised, options, reporter)


def measure(directory: Path, options: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """All figures, as one flat object."""
    torch.set_num_threads(options.threads)
    model, other = models.build(directory / "model"), models.build(directory / "other", seed=1)
    count = PROMPTS * (options.repetitions + 2)  # of the first step, and of what the last one prepares ahead
    questions = models.write_questions(directory / "clips", options.clip_seconds, count)
    examples = load_examples(str(questions)).examples
    config = configured(directory, model, questions, options.threads, options.overrides)
    figures: dict[str, Any] = {
        "clip_seconds": options.clip_seconds,
        "threads": options.threads,
        "repetitions": options.repetitions,
        "completions": PROMPTS * GROUP_SIZE,
        "completion_tokens": COMPLETION_TOKENS,
        **machine(),
    }
    reporter.say("comparing gradients")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:  # it joins ranks of its own
        compared = fresh.submit(gradient_difference, config, str(other), examples[:PROMPTS])
        figures["gradient_difference"], figures["gradient_difference_in"] = compared.result()
        figures |= fresh.submit(bound.work, config, examples[:PROMPTS], COMPLETION_TOKENS).result()
    with connected(config.cluster, reporter.say) as nodes:
        figures |= alternate(config, nodes, examples, options.repetitions, reporter)
        alike = [example.id for example in examples[:PROMPTS:ALIKE_SHARE]]
        rewards = f"rewards=[{{use: 'bench.rewards:drawn', args: {{alike: {alike}}}}}]"
        for name, added in FURTHER.items():
            overrides = [*options.overrides, *added, f"run.name={name}", rewards]
            further = configured(directory, model, questions, options.threads, overrides)
            repetitions = 1 if name in ONCE else options.repetitions
            figures |= besides(name, further, nodes, examples[:PROMPTS], repetitions, reporter)
    figures |= {name: max(rate, figures[name]) for name, rate in machine().items()}  # a shared host has slow moments
    figures["ratio"] = figures["auricle_completions_per_second"] / figures["reference_completions_per_second"]
    figures["ratio_best"] = (
        figures["auricle_completions_per_second_best"] / figures["reference_completions_per_second_best"]
    )
    for name in FURTHER:
        ours, theirs = figures[f"{name}_completions_per_second"], figures["reference_completions_per_second"]
        figures[f"{name}_ratio"] = ours / theirs
    return figures


def configured(directory: Path, model: Path, questions: Path, threads: int, overrides: Sequence[str]) -> Config:
    """Auricle's side as a run is configured."""
    settings = {
        "run": {"dir": str(directory / "runs"), "max_steps": 1000},
        "model": {"path": str(model), "audio_tower": "trained"},
        "data": {"train": str(questions)},
        "rollout": {
            "engines": 1,
            "threads": threads,
            "max_running": PROMPTS * GROUP_SIZE,
            "max_completion_tokens": COMPLETION_TOKENS,
            "ignore_stop": True,
        },
        "rewards": [{"use": "bench.rewards:drawn"}],
        "learner": {"threads": threads, "learning_rate": LEARNING_RATE, "schedule": "constant"},
        "algorithm": {"beta": BETA, "group_size": GROUP_SIZE, "prompts_per_step": PROMPTS},
    }
    return runs.configured(directory, settings, overrides)


class Auricle:
    """A run that goes on step by step."""

    def __init__(self, controller: Controller, runner: asyncio.Runner) -> None:
        self.controller = controller
        self._runner = runner

    def next_examples(self) -> list[Example]:
        """The questions of the next step."""
        order = self.controller.order
        draws = [order.at(order.position + ahead) for ahead in range(PROMPTS)]
        return [self.controller.questions.train[draw.index] for draw in draws]

    def step(self) -> tuple[float, dict[str, Any]]:
        """Seconds of a whole step, its rollout log included, and its line of `metrics.jsonl`."""
        lines: list[dict[str, Any]] = []

        async def logged() -> None:
            await self.controller.train(self.controller.version + 1, lines.append)
            await self.controller.workers.log.written()

        seconds = timed(lambda: self._runner.run(logged()))
        return seconds, lines[0]


@contextmanager
def started(config: Config, nodes: list[Node], examples: Sequence[Example], reporter: Reporter) -> Iterator[Auricle]:
    """The actors of a run and its control loop."""
    with asyncio.Runner() as runner:
        session = workers(config, nodes, plan(config, nodes), config.model.path, meanwhile=runs.join)
        actors, asker, _ = runner.run(session.__aenter__())
        try:
            questions, metrics = Questions(train=tuple(examples)), Metrics(config.run.name)
            with closing(RunDirectory.create(config, fresh=False)) as run:
                yield Auricle(Controller(config, run, actors, asker, questions, reporter, metrics), runner)
        finally:
            runner.run(session.__aexit__(None, None, None))


def alternate(
    config: Config, nodes: list[Node], examples: Sequence[Example], repetitions: int, reporter: Reporter
) -> dict[str, Any]:
    """Steps of both sides in turn, on the same questions."""
    method = Reference(config.model.path, config.model.path, GROUP_SIZE, COMPLETION_TOKENS, BETA, LEARNING_RATE)
    ours: list[tuple[float, dict[str, Any]]] = []
    theirs: list[float] = []

    def step_of_theirs(asked: Sequence[Example]) -> None:
        theirs.append(timed(lambda: method.step(asked, drawn)))

    reporter.say("starting Auricle's actors")
    with started(config, nodes, examples, reporter) as auricle:
        method.step(auricle.next_examples()[:1], drawn)
        auricle.step()
        for repetition in range(repetitions):
            sides: list[Callable[[], None]] = [
                lambda: ours.append(auricle.step()),
                partial(step_of_theirs, auricle.next_examples()),
            ]
            for side in sides if repetition % 2 == 0 else sides[::-1]:
                time.sleep(PAUSE_SECONDS)
                side()
            reporter.say(f"a step of Auricle {ours[-1][0]:.2f} s, of the reference method {theirs[-1]:.2f} s")
    lines = [line for _, line in ours]
    for line in lines:
        if line["completions"] != PROMPTS * GROUP_SIZE or line["completion_tokens_mean"] != COMPLETION_TOKENS:
            raise AssertionError(f"a step had other work: {line}")
    return {
        **rates("auricle", [seconds for seconds, _ in ours]),
        **rates("reference", theirs),
        **{f"seconds_{phase}": value for phase, value in phases(lines).items()},
        "logprob_difference_max": max(line["logprob_difference_max"] for line in lines),
        "packed_tokens": lines[-1]["packed_tokens"],
    }


def besides(
    name: str, config: Config, nodes: list[Node], examples: Sequence[Example], repetitions: int, reporter: Reporter
) -> dict[str, Any]:
    """Steps of Auricle with everything that it may do besides; their clips are encoded in the first."""
    reporter.say(f"starting Auricle's actors with a frozen tower, in {config.model.dtype}")
    with started(config, nodes, examples, reporter) as auricle:
        auricle.step()
        return rates(name, [auricle.step()[0] for _ in range(repetitions)])


def timed(work: Callable[[], object]) -> float:
    """Seconds that the call took."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def rates(name: str, seconds: Sequence[float]) -> dict[str, float]:
    """Completions a second, in the median and of the fastest step."""
    return {
        f"{name}_step_seconds": statistics.median(seconds),
        f"{name}_completions_per_second": PROMPTS * GROUP_SIZE / statistics.median(seconds),
        f"{name}_completions_per_second_best": PROMPTS * GROUP_SIZE / min(seconds),
    }


def phases(lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Median seconds of each phase."""
    return {phase: statistics.median(line["seconds"][phase] for line in lines) for phase in lines[0]["seconds"]}


def show(figures: dict[str, Any], reporter: Reporter) -> None:
    """Print the tables."""
    names = {
        "reference": "reference method",
        "auricle": "Auricle, the same work",
        "further": "Auricle besides: frozen tower, no KL, half of the groups skipped",
        "further_bfloat16": "the same in bfloat16",
    }
    base = figures["reference_completions_per_second"]
    rows = []
    for key, label in names.items():
        median = figures[f"{key}_completions_per_second"]
        cells = (f"{figures[f'{key}_step_seconds']:.2f}", f"{median:.2f}")
        rows.append((label, *cells, f"{figures[f'{key}_completions_per_second_best']:.2f}", f"{median / base:.1f}"))
    work = f"{PROMPTS} prompts x {GROUP_SIZE} completions of {COMPLETION_TOKENS} tokens"
    title = f"{work}, clips of {figures['clip_seconds']:g} s, {figures['threads']} threads"
    reporter.table(title, rows, ("", "seconds a step", "completions/s", "best", "ratio"))
    spent = {key.removeprefix("seconds_"): value for key, value in figures.items() if key.startswith("seconds_")}
    least = bound.seconds(figures)
    spent["all"], least["all"] = figures["auricle_step_seconds"], sum(least.values())
    phases = [
        (name, f"{value:.2f}", f"{value / spent['all']:.0%}", f"{least[name]:.2f}" if name in least else "")
        for name, value in spent.items()
    ]
    reporter.table("a step of Auricle", phases, ("phase", "seconds", "share", "at least"))
    reporter.say(
        f"ratio {figures['ratio']:.2f} (best {figures['ratio_best']:.2f}); gradients differ by at most "
        f"{figures['gradient_difference']:.1e} ({figures['gradient_difference_in']}), log-probs by "
        f"{figures['logprob_difference_max']:.1e}; this machine multiplies at {figures['matmul_gflops']:.0f} GFLOP/s "
        f"and copies at {figures['copy_gigabytes_per_second']:.1f} GB/s"
    )


if __name__ == "__main__":
    sys.exit(main())
