"""`python -m cluster.launch`: train a policy on audio questions.

Joins the Ray cluster that the environment names (RAY_ADDRESS, or inside `ray job submit`), else starts an embedded
one on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster import demo
from cluster.environment import check_rooms, describe
from cluster.errors import UsageError, report_errors
from cluster.loggers import check_loggers, loggers
from cluster.progress import Reporter
from cluster.run_directory import RunDirectory
from cluster.run_lock import BEAT_SECONDS, SILENT_SECONDS, RunInUse
from cluster.tables import accuracy_rows, share
from configs.load import dump_config, load_config
from configs.plugins import is_plug_in
from configs.schema import Config
from data.command import command
from data.remote import is_url

if TYPE_CHECKING:
    from cluster.metrics import Metrics
    from cluster.placement import Node, Role
    from cluster.questions import Questions
    from cluster.targets import Targets

EXAMPLES = """examples:
  python -m cluster.launch --config tiny                         the demo (`make train` prepares its data and model)
  python -m cluster.launch --config my.yaml --dry-run            what would run, where, and what it takes
  python -m cluster.launch --config my.yaml --nodes 4            four Ray nodes, joined or embedded
  python -m cluster.launch --config my.yaml run.max_steps=200 learner.learning_rate=2e-6
  python -m cluster.launch --config my.yaml --resume             go on from the last checkpoint
  ray job submit --working-dir . -- python -m cluster.launch --config my.yaml run.dir=/shared/runs

Every key and its meaning: docs/configuration.md
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = command("cluster.launch", __doc__, EXAMPLES)
    arguments.add_argument("--config", default="tiny", metavar="FILE", help="YAML file, or the name of a preset (tiny)")
    arguments.add_argument("--nodes", type=int, metavar="N", help="Ray nodes to wait for, or to start on this machine")
    arguments.add_argument("--dry-run", action="store_true", help="print the configuration and the plan; start nothing")
    arguments.add_argument(
        "--hardware",
        metavar="NAME",
        help="what a dry run assumes: a100, h100, h800, h200, cpu, measured, or a YAML file; and ,KEY=VALUE,...",
    )
    arguments.add_argument(
        "--assume",
        metavar="KEY=N,...",
        help="lengths that a dry run assumes: clip_seconds, text_tokens, completion_tokens",
    )
    existing = arguments.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="go on from the run's last checkpoint")
    existing.add_argument("--auto-resume", action="store_true", help="go on if the run is there, else start it")
    existing.add_argument("--fresh", action="store_true", help="move an existing run of this name aside")
    arguments.add_argument("--profile", action="store_true", help="write a trace of three steps, for Perfetto")
    arguments.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="configuration keys, dotted")
    return arguments


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_intermixed_args(argv)
    reporter = Reporter()
    check_rooms()
    nodes = [f"cluster.nodes={options.nodes}"] if options.nodes is not None else []
    config = load_config(options.config, [*options.overrides, *nodes])
    config = demo.resolved(config, reporter.say, build=not options.dry_run)
    if options.dry_run:
        dry_run(config, reporter, options.hardware, options.assume)
    elif options.hardware or options.assume:
        raise UsageError("--hardware and --assume are of a dry run: add --dry-run")
    else:
        there = options.auto_resume and wait_for(RunDirectory.of(config), reporter)
        train(config, reporter, resume=options.resume or there, fresh=options.fresh, profile=options.profile)
    return 0


def wait_for(run: RunDirectory, reporter: Reporter) -> bool:
    """Whether the run is there, once whoever was at work on it has let it go, or is known to have died."""
    told, deadline = False, time.monotonic() + SILENT_SECONDS + BEAT_SECONDS
    while True:
        try:
            run.storage.check_free()
            return run.is_there()
        except RunInUse as held:
            if time.monotonic() > deadline:
                raise
            if not told:
                reporter.say(f"waiting up to {SILENT_SECONDS + BEAT_SECONDS:.0f} s: {held}")
            told = True
            time.sleep(1.0)


def dry_run(config: Config, reporter: Reporter, hardware: str | None, assumed: str | None) -> None:
    """Print the resolved configuration, the placement plan, and what the run will take on such hardware."""
    from cluster.forecast.report import tell
    from cluster.nodes import embedded_nodes, existing_address
    from cluster.placement import Node, plan

    reporter.say(dump_config(config))
    address, count = existing_address(), config.cluster.nodes or 1
    if address is not None:
        reporter.say(f"would join the Ray cluster at {address} and wait for {count} node(s)")
    else:
        reporter.say(f"would start an embedded Ray cluster of {count} node(s)")
    if address is not None:
        nodes = [Node("unknown", 1e9, 1e9)] * count  # until joined: print what is asked for
    elif config.cluster.device == "gpu":
        nodes = [Node("unknown", config.cluster.cpus_per_node, 1e9)] * count  # the GPUs may be another machine's
    else:
        nodes = embedded_nodes(config.cluster)
    roles = plan(config, nodes)
    print_plan(roles, reporter)
    tell(config, roles, hardware, assumed, reporter.say)


def print_plan(roles: Sequence[Role], reporter: Reporter) -> None:
    """The actors as a table."""
    rows = [(r.name, str(r.count), f"{r.cpus:g}", f"{r.gpus:g}", r.where, r.note) for r in roles]
    reporter.table("placement", rows, ("actor", "count", "CPUs", "GPUs", "where", ""))


def train(
    config: Config, reporter: Reporter, resume: bool = False, fresh: bool = False, profile: bool = False
) -> dict[str, Any]:
    """Train as configured; returns the summary."""
    from ray.util import get_node_ip_address

    from cluster.nodes import connected, embedded_nodes, existing_address
    from cluster.placement import plan, refuse_nccl_without_gpus
    from cluster.questions import Questions
    from cluster.session import usable_model
    from cluster.storage import prove
    from cluster.targets import listed
    from cluster.transports import kind_of
    from rewards.score import check_rewards

    RunDirectory.check(config, resume, fresh)
    found = RunDirectory.of(config)
    if resume and (summary := found.finished(config.run.max_steps)) is not None:
        reporter.say(
            f"{found} is finished: it has taken {summary['steps']} steps, and run.max_steps is "
            f"{config.run.max_steps}; a higher one goes on"
        )
        return show(found, summary, reporter)
    questions = Questions.of(config, reporter)
    if resume:
        found.check_questions(questions.digests())
    initial = usable_model(config.run.init_from or config.model.path)
    check_loggers(config)
    if any(map(is_plug_in, (config.algorithm.advantage, config.algorithm.surrogate))):
        from learner.off_policy import check_objective  # imports torch

        check_objective(config.algorithm)
    kind_of(config.rollout.weight_transfer)
    check_rewards(config.rewards, config.data.prompt.form, config.cluster.actor_timeout_seconds)
    if existing_address() is not None and not os.path.isabs(config.run.dir) and not is_url(config.run.dir):
        raise UsageError(
            f"run.dir is {config.run.dir!r}: inside a Ray cluster it must be an absolute path or a URL that every node "
            f"reaches, for example run.dir=/shared/runs or run.dir=s3://bucket/runs"
        )
    if profile and is_url(config.run.dir):
        raise UsageError(f"run.dir is {config.run.dir!r}, and --profile writes a trace to a path: add run.dir=runs")
    if existing_address() is None:
        refuse_nccl_without_gpus(config, plan(config, embedded_nodes(config.cluster)))
    with serving(config, reporter) as metrics, connected(config.cluster, reporter.say) as nodes:
        roles = plan(config, nodes)
        refuse_nccl_without_gpus(config, roles)
        if existing_address() is not None:
            prove(config.run.dir, samples_of(questions, initial))
        print_plan(roles, reporter)
        endpoint = metrics.endpoint(get_node_ip_address())
        # only now nothing can refuse any more
        with opened(config, reporter, resume, fresh) as start, listed(start.run.path, endpoint) as targets:
            if endpoint is not None and is_url(config.run.dir):
                reporter.say(f"Prometheus finds this run by {targets.file}")
            start.run.write_text("bad_rows.jsonl", "".join(json.dumps(row) + "\n" for row in questions.bad))
            work = _train(config, start, initial, nodes, roles, questions, reporter, metrics, targets, profile)
            return finish(start.run, asyncio.run(work), reporter)


def samples_of(questions: Questions, model: str) -> list[str]:
    """What every node has to read: the first clip of each split that is here, and the model, unless it is a hub id."""
    clips = [
        next((example.clip.path for example in split if os.path.exists(example.clip.path)), None)
        for split in (questions.train, questions.validation, questions.test)
    ]
    return [path for path in (*clips, model) if path is not None and (os.path.exists(path) or is_url(path))]


@contextmanager
def serving(config: Config, reporter: Reporter) -> Iterator[Metrics]:
    """The run's metrics, served for the length of the block where `metrics.port` says so."""
    from cluster.metrics import Metrics

    metrics = Metrics(config.run.name)
    if config.metrics.port is not None:
        port = metrics.serve(config.metrics.host, config.metrics.port)
        reporter.say(f"metrics at http://{config.metrics.host}:{port}/metrics")
    try:
        yield metrics
    finally:
        metrics.close()


@dataclass(frozen=True, slots=True)
class Start:
    """A run's directory, and where the run stands."""

    run: RunDirectory
    checkpoint: str | None = None
    """Path or URL of the checkpoint that a resume goes on from."""
    state: dict[str, Any] | None = None
    """What that tells of the run."""


@contextmanager
def opened(config: Config, reporter: Reporter, resume: bool, fresh: bool) -> Iterator[Start]:
    """The run's directory for the length of the block, on a resume cut after its last checkpoint."""
    run, changed = RunDirectory.resume(config) if resume else (RunDirectory.create(config, fresh), {})
    with closing(run):
        for key, (before, now) in changed.items():
            reporter.say(f"changed on resume: {key}: {before!r} -> {now!r}")
        step, state = run.checkpoints.start(reporter.say)
        if resume:
            run.cut_after(step or 0, config.run.max_steps)
            reporter.say(f"resuming {run} from step {step or 0}")
        run.write_environment(describe(), step or 0)
        yield Start(run) if step is None else Start(run, run.checkpoints.place(step), state)


async def _train(
    config: Config,
    start: Start,
    initial: str,
    nodes: Sequence[Node],
    roles: Sequence[Role],
    questions: Questions,
    reporter: Reporter,
    metrics: Metrics,
    targets: Targets,
    profile: bool,
) -> dict[str, Any]:
    from cluster.controller import Controller
    from cluster.phases import Profile
    from cluster.session import workers
    from cluster.supervised import SupervisedLoop
    from cluster.workers import Workers

    run, checkpoint, state = start.run, start.checkpoint, start.state
    model_path, trainer = (initial, None) if checkpoint is None else (f"{checkpoint}/hf", f"{checkpoint}/trainer")
    version = int(state["step"]) if state else 0
    reporter.say("starting engines and learner")

    async def join(started: Workers) -> None:
        base = initial if config.model.lora is not None else started.model_path  # the engines' weights are merged
        await started.learner.join(base, initial, trainer)

    session = workers(config, nodes, roles, model_path, version, run.place("engine_model"), join, reporter.say, targets)
    async with session as (started, asker, places):
        reporter.say(", ".join(f"{place['name']} on node {place['node'][:8]}" for place in places))
        trace = Profile(run.path / "profile.json") if profile else None
        kind = SupervisedLoop if config.algorithm.name == "sft" else Controller
        with loggers(config, run.path, version) as told:
            return await kind(config, run, started, asker, questions, reporter, metrics, state, trace, told).run()


def finish(run: RunDirectory, outcome: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Write `summary.json` and print the table."""
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    seconds = sum(line["step_seconds"] for line in lines)
    completions = sum(line.get("completions", 0) for line in lines)
    differences = [line.get("logprob_difference_max") for line in lines]
    summary = {
        **outcome,
        "steps": lines[-1]["step"],
        "questions_trained": lines[-1]["trained"],
        "completions": completions,
        "completions_per_second": completions / seconds,
        "tokens": sum(line["packed_tokens"] for line in lines),
        "logprob_difference_max": max((value for value in differences if value is not None), default=None),
        "ledger": {key: lines[-1][key] for key in ("admitted", "trained", "dropped", "in_flight", "dropped_by_reason")},
    }
    run.write_json("summary.json", summary)
    return show(run, summary, reporter)


def show(run: RunDirectory, summary: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Print a summary's table and last lines."""
    base, trained = summary["base"], summary["trained"]
    if trained is not None:
        header = ("held-out", "questions", "greedy before", "greedy after", "sampled before", "sampled after")
        reporter.table(
            f"accuracy before and after {summary['steps']} steps (95% interval)",
            accuracy_rows(base, trained),
            header,
        )
        if summary["silent"] is not None:
            low, high = summary["silent"]["accuracy_interval"]
            reporter.say(
                f"asked about silence: {summary['silent']['accuracy']:.1%} [{low:.1%}, {high:.1%}], "
                f"chance {summary['silent']['chance']:.1%}"
            )
        before = share(base["format_rate"]) if base is not None else "unknown"
        reporter.say(f"format rate {before} -> {share(trained['format_rate'])}")
    difference = summary["logprob_difference_max"]
    figures = [
        f"{summary['steps']} steps in {summary['train_seconds']:.0f} s",
        *([f"{summary['completions_per_second']:.1f} completions/s"] if summary["completions"] else []),
        "no log-probs compared" if difference is None else f"largest log-prob difference {difference:.1e}",
    ]
    reporter.say(f"{', '.join(figures)}; {run}/summary.json")
    return summary


if __name__ == "__main__":
    sys.exit(main())
