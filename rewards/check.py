"""`python -m rewards.check`: try a reward on the groups that a run has logged, before a run is spent on it.

Prints how its values are distributed, how often a group has no variance (such a group teaches nothing), what it takes,
how it goes with the rewards that the run logged, its lowest and highest completions, and everything that went wrong.
The exit status is 1 where it raised, took too long, crashed or gave what is no value.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from configs.schema import Reward
from data.arguments import above_zero, count
from data.command import command
from data.teller import bar, table
from rewards.logged import LogError, LoggedGroup, form_of, read_groups
from rewards.process import RewardProcess
from rewards.registry import RewardError
from rewards.terms import Term, terms_of
from rewards.trial import Scored, Trial
from rewards.values import Outcome, cut

EXAMPLES = """examples:
  python -m rewards.check my_rewards:brevity --rollouts runs/tiny --args limit=30
  python -m rewards.check length --rollouts runs/tiny --args '{"target_words": 20, "slope_words": 10}' --groups 500
  python -m rewards.check judge --rollouts runs/my --groups 20 \\
      --args model=Qwen/Qwen3-8B base_url=http://localhost:8000/v1
"""

START_SECONDS = 600.0
"""Limit of the import of a reward's module."""
SHOWN_CHARACTERS = 200
"""Of a completion; the rest is left out."""
SHOWN_IDS = 3


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = command("rewards.check", __doc__, EXAMPLES)
    arguments.add_argument("use", metavar="REWARD", help="module:function, a built-in or an installed reward")
    arguments.add_argument("--rollouts", required=True, type=Path, metavar="RUN", help="a run's directory")
    arguments.add_argument(
        "--args", nargs="+", default=[], metavar="KEY=VALUE", help="arguments of the reward, or one JSON object"
    )
    arguments.add_argument(
        "--groups", type=count(1), default=200, metavar="N", help="groups, spread over the run (default 200)"
    )
    arguments.add_argument(
        "--examples", type=count(1), default=3, metavar="N", help="completions shown at either end (default 3)"
    )
    arguments.add_argument(
        "--timeout-seconds", type=above_zero(), default=60.0, metavar="S", help="limit of a group (default 60)"
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = parser()
    options = arguments.parse_args(argv)
    console = Console(highlight=False)
    try:
        args = parsed(options.args)
    except ValueError as error:
        arguments.error(f"argument --args: {error}")
    try:
        groups = read_groups(options.rollouts, options.groups)
        reward = Reward(use=options.use, args=args, timeout_seconds=options.timeout_seconds)
        [term] = terms_of([reward], form_of(options.rollouts))
        trial = Trial(groups, asyncio.run(outcomes(term, groups, console)))
    except (RewardError, LogError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: the process of the reward has been ended", file=sys.stderr)
        return 130
    show(trial, f"{options.use} on {len(groups)} groups of {options.rollouts}", options.examples, console)
    return 1 if trial.problems else 0


def parsed(texts: Sequence[str]) -> dict[str, Any]:
    """Arguments as `key=value`, each value JSON or else text, or all as one JSON object; raises ValueError."""
    if len(texts) == 1 and texts[0].lstrip().startswith("{"):
        return dict(json.loads(texts[0]))
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"{text!r} is neither KEY=VALUE, for example limit=30, nor a JSON object")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found


async def outcomes(term: Term, groups: Sequence[LoggedGroup], console: Console) -> list[Outcome]:
    """What the reward makes of each group, as it would in a run."""
    process = RewardProcess(term, START_SECONDS)
    with bar("groups", console) as progress:
        task = progress.add_task("groups", total=len(groups))

        async def judged(group: LoggedGroup) -> Outcome:
            outcome = await process.score(group.completions, group.example)
            progress.advance(task)
            return outcome

        try:
            await process.start()
            return await asyncio.gather(*map(judged, groups))
        finally:
            await process.end()


def show(trial: Trial, title: str, examples: int, console: Console) -> None:
    """Print what a trial tells."""
    console.print(table(title, figures(trial), ("", "")))
    agreements = [
        (name, str(one.completions), _number(one.mean), _number(one.correlation), _share(one.equal))
        for name, one in trial.agreements().items()
    ]
    header = ("logged reward", "completions", "its mean", "correlation", "equal")
    if agreements:
        console.print(table("beside what the run logged", agreements, header))
    low, high = trial.extremes(examples)
    for name, ends in (("lowest", low), ("highest", high)):
        for one in ends:
            console.print(_described(name, one), markup=False, soft_wrap=True)
    for problem, ids in trial.problems.items():
        further = f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else ""
        told = f"problem in {len(ids)} groups (examples {', '.join(ids[:SHOWN_IDS])}{further}): {problem}"
        console.print(told, markup=False, soft_wrap=True)


def figures(trial: Trial) -> list[tuple[str, str]]:
    """Rows of the first table."""
    seconds = [outcome.seconds for outcome in trial.outcomes]
    groups, dropped = len(trial.groups), trial.dropped
    reasons = "".join(f", {reason} {count}" for reason, count in dropped.most_common())
    return [
        ("completions", str(trial.completions)),
        *_distribution([one.value for one in trial.scored]),
        ("without a value", f"{_share(dropped.total() / trial.completions)}{reasons}"),
        ("groups without variance", f"{_share(trial.alike / groups)} ({trial.alike} of {groups})"),
        ("seconds a group, median and longest", f"{statistics.median(seconds):.4f}, {max(seconds):.4f}"),
    ]


def _distribution(values: Sequence[float]) -> list[tuple[str, str]]:
    if not values:
        return []
    middle = statistics.median(values)
    return [
        ("mean", _number(statistics.fmean(values))),
        ("standard deviation", _number(statistics.pstdev(values))),
        ("lowest, median, highest", ", ".join(map(_number, (min(values), middle, max(values))))),
    ]


def _described(name: str, one: Scored) -> str:
    told = f"{name} {_number(one.value)}, example {one.group.example.id}, answer {one.group.example.answer!r}"
    return f"{told}: {cut(one.text, SHOWN_CHARACTERS)!r}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


if __name__ == "__main__":
    sys.exit(main())
