"""`python -m bench.scale`: how far Auricle would scale, by simulation with the timings of real runs.

Short runs of the demo with one engine, one of them with completions of full length, give the timings
(`bench.calibration`). The simulation (`cluster.forecast.simulation`) is then checked against runs with 1, 2 and 4
engines on this machine, whose cores engines and learner share, and swept over engines and learner ranks that have
devices of their own, with the best split of a number of devices. What of it this commit has run already is taken as it
is.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import command
from bench.calibration import WARM_UP_STEPS, timings_of
from bench.runs import run_of_demo
from bench.scale_plots import plot
from bench.timings_file import read_timings, write_timings
from cluster.errors import UsageError, report_errors
from cluster.forecast.forecast import forecast, lengths_of
from cluster.forecast.hardware import hardware
from cluster.forecast.recommendation import case_of, with_split
from cluster.forecast.simulation import Outcome, Setting, simulate
from cluster.forecast.splits import Case, Split, best_splits
from cluster.forecast.timings import Timings
from cluster.placement import Node, plan
from cluster.progress import Reporter
from cluster.runs import Run
from configs.load import load_config
from learner.sizes import find_sizes

STEPS, SWEPT_STEPS = 32, 12
CHECKED_ENGINES, CHECKED_STALENESS = (1, 2, 4), (0, 1)
ENGINES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
RANKS = (1, 2, 4, 8, 16, 32)
DEVICES = (2, 4, 8, 16, 32, 64, 128, 256)
PROMPTS_PER_STEP = 512
"""Of the sweep: 256 engines have at least two groups each."""
STALENESS = (1, 2, 4)
"""Of the sweep, whose throughput is shown with the first."""
MOST_ERROR = 0.15
"""Of the seconds of a step in the asynchronous run of one engine. Of more engines on two cores nothing is promised."""
BESIDE_SECONDS = 0.0125
"""Of a core for a group in Ray's processes, audio, rewards and the log: their CPU time over 16 synchronous steps of the
demo, with one engine and with two (0.40 and 0.43 s a step of 32 groups)."""

Cases = Callable[[int, int, int], Case | None]
"""Timings and setting of so many engines and ranks with a bound of staleness."""


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit status 1 where the simulation misses a run by more than it may."""
    options = parser().parse_intermixed_args(argv)
    if options.overrides and not options.config:
        raise UsageError("KEY=VALUE changes the configuration of a forecast: name one with --config")
    reporter = Reporter()
    figures: dict[str, Any] = {}
    promised: dict[str, bool] = {}
    if options.config:
        cases = forecast_cases(options)
    else:
        timings, figures, promised = measured(options, reporter)
        cases = timed_cases(timings, options.prompts_per_step)
    begun = time.process_time()
    outcomes = sweep(cases)
    splits = {devices: best(cases, devices) for devices in DEVICES}
    figures |= summed_up(outcomes, splits) | {"sweep_cpu_seconds": time.process_time() - begun}
    show(outcomes, splits, figures["sweep_cpu_seconds"], reporter)
    if options.figure:
        plot(outcomes, splits, options.figure)
    return command.finish(figures, promised, options, reporter)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = command.parser("scale", __doc__)
    arguments.add_argument("--out", type=Path, default=Path("runs/scale"), help="directory of the runs (runs/scale)")
    arguments.add_argument(
        "--runs", type=Path, nargs="+", metavar="DIR", help="take the timings of these runs; no check"
    )
    arguments.add_argument("--timings", type=Path, metavar="FILE", help="take the timings of this file; no check")
    arguments.add_argument("--config", metavar="FILE", help="take the timings that a dry run forecasts for this")
    arguments.add_argument("--hardware", help="of that forecast, as cluster.launch takes it")
    arguments.add_argument("--assume", metavar="KEY=N,...", help="lengths of that forecast")
    arguments.add_argument(
        "--prompts-per-step", type=int, default=PROMPTS_PER_STEP, help=f"of the sweep ({PROMPTS_PER_STEP})"
    )
    arguments.add_argument(
        "--cores", type=float, default=len(os.sched_getaffinity(0)), help="what this machine's cores are worth (all)"
    )
    arguments.add_argument("--save", type=Path, metavar="FILE", help="file for the timings")
    arguments.add_argument("--figure", type=Path, metavar="FILE", help="PNG file for the curves")
    arguments.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="configuration keys of that forecast")
    return arguments


def measured(options: argparse.Namespace, reporter: Reporter) -> tuple[Timings, dict[str, Any], dict[str, bool]]:
    """Timings of a file or of runs; where the runs are this command's own, the check's figures and what it promises."""
    if options.timings:
        return read_timings(options.timings), {}, {}
    if options.runs:
        timings = timings_of(options.runs)
        show_timings(timings, options.save, reporter)
        return timings, {}, {}
    long = trained(1, 0, options.out, reporter, "long", ["rollout.ignore_stop=true"])
    runs = {
        (engines, staleness): trained(engines, staleness, options.out, reporter)
        for staleness in CHECKED_STALENESS
        for engines in CHECKED_ENGINES
    }
    timings = timings_of([runs[1, 0].path, long.path])
    beside = {"beside_seconds": BESIDE_SECONDS, "known": timings.known | {"beside_seconds": "measured, in other runs"}}
    timings = timings.model_copy(update=beside)
    show_timings(timings, options.save, reporter)
    figures = check(timings, runs, options.cores)
    show_check(figures, runs, reporter)
    met = abs(figures["error_1_1"]) <= MOST_ERROR
    return timings, figures, {f"an asynchronous step of one engine is met within {MOST_ERROR:.0%}": met}


def trained(
    engines: int, staleness: int, out: Path, reporter: Reporter, name: str = "", further: Sequence[str] = ()
) -> Run:
    """A short run of the demo on this machine."""
    keys = [
        f"run.max_steps={STEPS}",
        f"run.dir={out}",
        f"run.name={name or f'engines{engines}_staleness{staleness}'}",
        f"rollout.engines={engines}",
        f"cluster.nodes={engines}",
        f"algorithm.max_staleness={staleness}",
        "rollout.verify_every=0",
        "data.validation=null",
        "data.test=null",
        "evaluate.every_steps=0",
        "checkpoint.every_steps=0",
        "cluster.object_store_bytes=500000000",
        *further,
    ]
    reporter.say(f"{engines} engine{'s' * (engines > 1)}, max_staleness {staleness}{f', {name}' if name else ''}")
    return run_of_demo(keys, reporter)


def check(timings: Timings, runs: Mapping[tuple[int, int], Run], cores: float) -> dict[str, Any]:
    """Seconds of a step, staleness and busy shares of each run and of its simulation, which shares its cores."""
    figures: dict[str, Any] = {}
    for (engines, staleness), run in runs.items():
        whole = run.metrics["time"].diff()
        lines = run.metrics[run.metrics["step"] > WARM_UP_STEPS]
        outcome = simulate(timings, setting_of_run(run, cores))
        seconds = float(whole[lines.index].mean())  # phases, and what is between two steps
        columns = [key for key in map(str, lines) if key.startswith("staleness.")]
        ages = {int(key.removeprefix("staleness.")): lines[key].sum() for key in columns}
        name = f"{engines}_{staleness}"
        figures |= {
            f"step_seconds_{name}": seconds,
            f"simulated_step_seconds_{name}": outcome.seconds_per_step,
            f"error_{name}": outcome.seconds_per_step / seconds - 1,
            f"staleness_{name}": float(sum(age * count for age, count in ages.items()) / sum(ages.values())),
            f"simulated_staleness_{name}": statistics.mean(outcome.step_staleness[WARM_UP_STEPS:]),
            f"learner_busy_{name}": float((lines["learner_busy"] * lines["step_seconds"]).mean()) / seconds,
            f"simulated_learner_busy_{name}": outcome.learner_seconds["stepping"]
            / sum(outcome.learner_seconds.values()),
        }
    errors = [
        abs(figures[f"error_{engines}_{staleness}"]) for engines, staleness in runs if (engines, staleness) != (1, 0)
    ]
    return figures | {"error_largest": max(errors), "error_mean": statistics.mean(errors)}


def setting_of_run(run: Run, cores: float) -> Setting:
    """What a run of the demo did, on a machine whose cores all share."""
    config = run.config
    rollout, algorithm, learner = config["rollout"], config["algorithm"], config["learner"]
    return Setting(
        engines=int(run.metrics["engines"].iloc[-1]),
        ranks=learner["ranks"],
        prompts_per_step=algorithm["prompts_per_step"],
        max_staleness=algorithm["max_staleness"],
        max_running=rollout["max_running"],
        steps=config["run"]["max_steps"],
        on_update="recompute" if algorithm["max_staleness"] else "drain",
        micro_batch_tokens=learner["micro_batch_tokens"],
        cores=cores,
        engine_threads=rollout["threads"],
        rank_threads=learner["threads"] or int(cores),
        engines_per_machine=rollout["engines"],
    )


def timed_cases(timings: Timings, prompts_per_step: int) -> Cases:
    """Of timings that hold for any number of devices, as the demo runs otherwise."""
    config = load_config("tiny")

    def case(engines: int, ranks: int, staleness: int) -> Case:
        return timings, Setting(
            engines=engines,
            ranks=ranks,
            prompts_per_step=prompts_per_step,
            max_staleness=staleness,
            max_running=config.rollout.max_running,
            steps=SWEPT_STEPS,
            on_update="recompute" if staleness else "drain",
            micro_batch_tokens=config.learner.micro_batch_tokens,
        )

    return case


def forecast_cases(options: argparse.Namespace) -> Cases:
    """Of what a dry run of a configuration forecasts, which is another with every number of ranks."""
    config = load_config(options.config, [f"algorithm.prompts_per_step={options.prompts_per_step}", *options.overrides])
    sizes = find_sizes(config.model.path)
    if sizes is None:
        raise UsageError(f"--config {options.config}: this machine does not know the sizes of {config.model.path}")
    roles = plan(config, [Node("any", 1e9, 1e9)])
    device, lengths = hardware(options.hardware, on_gpu=True), lengths_of(config, options.assume)

    def case(engines: int, ranks: int, staleness: int) -> Case | None:
        algorithm = config.algorithm.model_copy(update={"max_staleness": staleness})
        told = forecast(config.model_copy(update={"algorithm": algorithm}), sizes, device, lengths, roles)
        made = case_of(with_split(told, roles, engines, ranks))
        return made and (made[0], replace(made[1], steps=SWEPT_STEPS))

    return case


def sweep(cases: Cases) -> dict[tuple[int, int, int], Outcome]:
    """Outcomes by engines, ranks and staleness: all pairs with the first bound, the others with half of the ranks."""
    wanted = [(engines, ranks, STALENESS[0]) for ranks in RANKS for engines in ENGINES]
    wanted += [(engines, RANKS[-2], staleness) for staleness in STALENESS[1:] for engines in ENGINES]
    made = {key: cases(*key) for key in wanted}
    return {key: simulate(*case) for key, case in made.items() if case is not None}


def best(cases: Cases, devices: int) -> Split | None:
    """The fastest split; None where nothing fits."""
    found = best_splits(devices, 1, RANKS[-1], lambda engines, ranks: cases(engines, ranks, STALENESS[0]))
    return found[0] if found else None


def summed_up(outcomes: Mapping[tuple[int, int, int], Outcome], splits: Mapping[int, Split | None]) -> dict[str, Any]:
    """The sweep's figures, flat: by engines and ranks, and by devices."""
    figures: dict[str, Any] = {}
    for (engines, ranks, staleness), outcome in outcomes.items():
        name = f"{engines}_{ranks}" if staleness == STALENESS[0] else f"{engines}_{ranks}_staleness{staleness}"
        figures[f"completions_per_second_{name}"] = outcome.completions_per_second
        figures[f"mean_staleness_{name}"] = outcome.mean_staleness
        figures[f"engine_idle_{name}"] = outcome.engine_idle
        figures[f"learner_idle_{name}"] = outcome.learner_idle
    for devices, split in splits.items():
        if split is not None:
            figures[f"best_engines_of_{devices}"] = split.engines
            figures[f"best_ranks_of_{devices}"] = split.ranks
            figures[f"best_completions_per_second_of_{devices}"] = split.outcome.completions_per_second
    return figures


def show_timings(timings: Timings, save: Path | None, reporter: Reporter) -> None:
    """Print the timings with how each is known, and keep them where that was asked."""
    rows = [
        (name, f"{getattr(timings, name):.6g}" if name != "groups" else f"{len(timings.groups)}", how)
        for name, how in timings.known.items()
    ]
    reporter.table(f"timings of {timings.name}", rows, ("", "", "known"))
    if save is not None:
        write_timings(timings, save)
        reporter.say(f"timings: {save}")


def show_check(figures: Mapping[str, Any], runs: Mapping[tuple[int, int], Run], reporter: Reporter) -> None:
    """Print the simulation beside the runs."""
    rows = []
    for engines, staleness in runs:
        name = f"{engines}_{staleness}"
        note = "fitted" if (engines, staleness) == (1, 0) else ""
        pairs = (
            f"{figures[f'simulated_{key}_{name}']:.{digits}f} / {figures[f'{key}_{name}']:.{digits}f}"
            for key, digits in (("step_seconds", 3), ("staleness", 2), ("learner_busy", 2))
        )
        rows.append((f"{engines} engine{'s' * (engines > 1)}, max_staleness {staleness}", *pairs,
                     f"{figures[f'error_{name}']:+.1%}", note))  # fmt: skip
    header = ("simulated / measured", "seconds a step", "mean staleness", "learner busy", "error of the step", "")
    reporter.table("the simulation beside real runs on this machine", rows, header)


def show(
    outcomes: Mapping[tuple[int, int, int], Outcome],
    splits: Mapping[int, Split | None],
    seconds: float,
    reporter: Reporter,
) -> None:
    """Print the sweep."""
    ranks = sorted({ranks for _, ranks, _ in outcomes})
    rows = [
        (
            str(engines),
            *(
                f"{outcome.completions_per_second:,.0f}"
                if (outcome := outcomes.get((engines, own, STALENESS[0])))
                else "-"
                for own in ranks
            ),
        )
        for engines in ENGINES
    ]
    header = ("engines", *(f"{own} rank{'s' * (own > 1)}" for own in ranks))
    reporter.table(f"completions a second, max_staleness {STALENESS[0]} ({seconds:.0f} s of simulation)", rows, header)
    lines = [
        (str(devices), str(split.engines), str(split.ranks), f"{split.outcome.completions_per_second:,.0f}",
         f"{split.outcome.engine_idle:.0%}", f"{split.outcome.learner_idle:.0%}")
        for devices, split in splits.items() if split is not None
    ]  # fmt: skip
    header = ("devices", "engines", "ranks", "completions/s", "engines idle", "learner idle")
    reporter.table("the best split", lines, header)


if __name__ == "__main__":
    sys.exit(main())
