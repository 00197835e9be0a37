"""`python -m bench.staleness --seeds 0 1 2`: what sampling while the learner trains costs in accuracy, on the demo.

Each seed's warm start is trained with `algorithm.max_staleness` 0 and 2, on as many groups, with one engine; the
rollout has one core and the learner the other. The intervals are 95%, of the paired difference (the same question after
either run), pooled over seeds, and resample recordings. A few steps with the demo's own two engines and no cores of
their own give the speed that such a machine has without pinning.
"""

from __future__ import annotations

import os
import statistics
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from bench.command import finish, parser
from bench.machine import two_cores
from bench.runs import run_of_demo
from cluster.evaluation.statistics import estimated
from cluster.progress import Reporter
from cluster.runs import Run

MEASURES = {"greedy": "correct", "sampled": "correct_sampled"}
STALENESS = 2
MARGIN = 0.03
"""How much less accurate asynchronous training may be, by the interval of the difference."""
TIMED_STEPS = 60
LOOK_SECONDS = 0.5
ROLLOUT, LEARNER = ("RolloutActor", "AudioActor", "RewardActor"), ("LearnerActor",)
"""Actors of the first core and of the second."""
REWARD_PROCESS = "-m rewards.worker"
"""Part of the command line of a reward function's process, which shares the core of its actor."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit status 1 where asynchronous training may be worse by more than the margin."""
    arguments = parser("staleness", __doc__)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--out", type=Path, default=Path("runs/staleness"), help="directory of the runs")
    arguments.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="configuration keys of the runs")
    options = arguments.parse_intermixed_args(argv)
    reporter = Reporter()
    runs = {
        (seed, staleness): trained(seed, staleness, options.out, options.overrides, reporter)
        for seed in options.seeds
        for staleness in (0, STALENESS)
    }
    short = ["rollout.engines=2", f"run.max_steps={TIMED_STEPS}", "data.test=null", "evaluate.every_steps=0"]
    timed = {
        staleness: trained(options.seeds[0], staleness, options.out / "unpinned", short, reporter, pinned=False)
        for staleness in (0, STALENESS)
    }
    figures = compare(runs, timed, options.seeds)
    return finish(figures, show(figures, options.seeds, reporter), options, reporter)


def trained(
    seed: int, staleness: int, out: Path, overrides: Sequence[str], reporter: Reporter, pinned: bool = True
) -> Run:
    """A run of the demo."""
    keys = ["rollout.engines=1", f"algorithm.max_staleness={staleness}", "evaluate.silent=false", *overrides]
    reporter.say(f"seed {seed}, max_staleness {staleness}{', on a core each' if pinned else ''}")
    keys += [f"run.seed={seed}", f"run.dir={out / f'staleness{staleness}'}", f"run.name=seed{seed}"]
    return run_of_demo(keys, reporter, around=on_a_core_each() if pinned else None)


@contextmanager
def on_a_core_each() -> Iterator[None]:
    """Keep rollout and learner actors, as they start, on a core each."""
    cores = two_cores()
    over = threading.Event()
    pinned: set[int] = set()

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            for process in psutil.Process().children(recursive=True):
                if process.pid not in pinned and pin(process, cores):
                    pinned.add(process.pid)

    watch = threading.Thread(target=look, daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()
    if len(pinned) < len(ROLLOUT + LEARNER):
        raise AssertionError(f"only {len(pinned)} actors were put on a core of their own")


def pin(process: psutil.Process, cores: Sequence[int]) -> bool:
    """Put every thread of an actor's process on its core, and with them those that they start."""
    try:
        title = " ".join(process.cmdline())
        for core, actors in zip(cores, (ROLLOUT, LEARNER), strict=True):
            rewards = actors is ROLLOUT and REWARD_PROCESS in title
            if rewards or title.startswith(tuple(f"ray::{actor}" for actor in actors)):
                for thread in process.threads():
                    os.sched_setaffinity(thread.id, {core})
                return True
    except (psutil.NoSuchProcess, ProcessLookupError):
        return False  # it has ended
    return False


def compare(runs: dict[tuple[int, int], Run], timed: dict[int, Run], seeds: Sequence[int]) -> dict[str, Any]:
    """The figures: accuracy of either, the paired difference and its interval, and seconds a step."""
    figures: dict[str, Any] = {"seeds": len(seeds), "staleness": STALENESS}
    for measure, column in MEASURES.items():
        differences: list[float] = []
        recordings: list[str] = []
        for seed in seeds:
            before, after = (runs[seed, staleness].evaluations["trained"] for staleness in (0, STALENESS))
            if list(before["id"]) != list(after["id"]):
                raise AssertionError("the runs were asked other questions")
            difference = after[column] - before[column]
            figures[f"{measure}_0_seed{seed}"] = float(before[column].mean())
            figures[f"{measure}_{STALENESS}_seed{seed}"] = float(after[column].mean())
            differences += map(float, difference)
            recordings += list(after["recording"])
        for staleness in (0, STALENESS):
            of_seeds = [figures[f"{measure}_{staleness}_seed{seed}"] for seed in seeds]
            figures[f"{measure}_{staleness}"] = statistics.mean(of_seeds)
        found = estimated({"difference": differences}, recordings)
        figures[f"{measure}_difference"] = found["difference"]
        figures[f"{measure}_low"], figures[f"{measure}_high"] = found["difference_interval"]
    figures["questions"] = len(runs[seeds[0], 0].evaluations["trained"])
    for staleness in (0, STALENESS):
        some = [runs[seed, staleness] for seed in seeds]
        metrics = [run.metrics for run in some]
        figures[f"groups_{staleness}"] = int(sum(frame["trained"].iloc[-1] for frame in metrics))
        figures[f"staleness_max_mean_{staleness}"] = statistics.mean(
            float(frame["staleness_max"].mean()) for frame in metrics
        )
        figures[f"step_seconds_{staleness}"] = statistics.mean(_step_seconds(run) for run in some)
        figures[f"minutes_{staleness}"] = statistics.mean((run.summary or {})["train_seconds"] / 60 for run in some)
        figures[f"unpinned_step_seconds_{staleness}"] = _step_seconds(timed[staleness])
    return figures


def _step_seconds(run: Run) -> float:
    """Mean over all steps but the first, without checkpoints and evaluations between them; asynchronous ones differ."""
    return float(run.metrics["step_seconds"].iloc[1:].mean())


def show(figures: dict[str, Any], seeds: Sequence[int], reporter: Reporter) -> dict[str, bool]:
    """Print the table; gives what is promised, and whether the figures bear it out."""
    rows: list[tuple[str, ...]] = []
    for measure in MEASURES:
        for seed in seeds:
            before, after = (figures[f"{measure}_{staleness}_seed{seed}"] for staleness in (0, STALENESS))
            rows.append((f"{measure}, seed {seed}", f"{before:.1%}", f"{after:.1%}", f"{after - before:+.1%}"))
        interval = f"[{figures[f'{measure}_low']:+.1%}, {figures[f'{measure}_high']:+.1%}]"
        means = (f"{figures[f'{measure}_{staleness}']:.1%}" for staleness in (0, STALENESS))
        rows.append((f"{measure}, mean", *means, f"{figures[f'{measure}_difference']:+.1%} {interval}"))
    for name, label in (("", "pinned"), ("unpinned_", "not pinned, two engines")):
        before, after = (figures[f"{name}step_seconds_{staleness}"] for staleness in (0, STALENESS))
        rows.append((f"seconds a step, {label}", f"{before:.2f}", f"{after:.2f}", f"{before / after:.2f} times"))
    header = ("", "max_staleness 0", f"max_staleness {STALENESS}", "difference [95%]")
    reporter.table(f"held-out accuracy on {figures['questions']} questions", rows, header)
    promised = {
        f"{measure} accuracy at most {MARGIN:.0%} lower": figures[f"{measure}_low"] >= -MARGIN for measure in MEASURES
    }
    promised["as many groups trained"] = figures["groups_0"] == figures[f"groups_{STALENESS}"]
    return promised


if __name__ == "__main__":
    sys.exit(main())
