"""A session that trains nothing: its configuration, and what a model answers to questions."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from typing import get_args

from cluster.evaluation.scoring import Answered
from cluster.placement import Role, plan_asking
from cluster.progress import Reporter
from configs.load import load_prompt
from configs.schema import Channels, Config
from data.arguments import count
from data.types import Example


def add_options(arguments: argparse.ArgumentParser) -> None:
    """Add to a command line how a model is asked."""
    arguments.add_argument(
        "--prompt",
        default="answer",
        metavar="PROMPT",
        help="answer, think, letters, or a YAML file with the keys of data.prompt (default answer)",
    )
    arguments.add_argument(
        "--channels",
        default="mean",
        choices=get_args(Channels),
        help="what a clip of several channels is heard as: data.channels of the training run (default mean)",
    )
    arguments.add_argument(
        "--max-tokens", type=count(1), default=256, metavar="N", help="longest completion (default 256)"
    )
    arguments.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])


def inference_config(
    options: argparse.Namespace, engines: int | None, nodes: int | None = None, seed: int = 0
) -> Config:
    """The configuration of a session that only asks; `options` are those of `add_options`, and `model`."""
    return Config.model_validate(
        {
            "run": {"seed": seed},
            "model": {"path": options.model, "audio_tower": "frozen", "projector": "frozen", "dtype": options.dtype},
            "data": {"train": "", "prompt": load_prompt(options.prompt), "channels": options.channels},
            "rollout": {
                "engines": engines,
                "max_completion_tokens": options.max_tokens,
                "max_model_tokens": 1500 + options.max_tokens,
                "max_running": 128,
            },
            "algorithm": {"beta": 0.0},
            "cluster": {"nodes": nodes},
        }
    )


def heard_by_engines(config: Config, roles: Sequence[Role]) -> Config:
    """The configuration with the tower and the projector where they are fastest: with the engines, if these have GPUs.

    On CPUs the audio actor encodes, beside the engines.
    """
    if not any(role.gpus for role in roles if role.name == "engine"):
        return config
    both = {"audio_tower": "trained", "projector": "trained"}
    return config.model_copy(update={"model": config.model.model_copy(update=both)})


def ask(
    config: Config,
    examples: Sequence[Example],
    reporter: Reporter,
    samples: int = 0,
    silent: bool = False,
    shuffled: bool = False,
) -> list[Answered]:
    """What `model.path` answers to the examples, in their order; starts and ends a session.

    Args:
        config: as `inference_config` gives it.
        examples: the questions.
        reporter: shows how far it is.
        samples: completions at temperature 1 beside the greedy one.
        silent: ask about silence instead of the clips.
        shuffled: ask each question about another one's recording.
    """
    from cluster.nodes import connected
    from cluster.session import usable_model, workers

    model_path = usable_model(config.model.path)

    async def answers() -> list[Answered]:
        from cluster.evaluation.evaluation import ask_about_other_clips, ask_all

        heard = heard_by_engines(config, roles)
        async with workers(heard, nodes, roles, model_path) as (started, asker, _):
            reporter.say(f"questions: {len(examples)}, engines: {len(started.rollout.actors)}")
            with reporter.questions("questions", len(examples)) as advance:
                common = (asker, started.rollout, examples, samples)
                if shuffled:
                    return await ask_about_other_clips(*common, advance)
                return await ask_all(*common, silent=silent, advance=advance)

    with connected(config.cluster, reporter.say) as nodes:
        roles = plan_asking(config, nodes)
        return asyncio.run(answers())
