"""A session that trains nothing: its configuration, and what a model answers to questions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cluster.placement import plan_asking
from cluster.progress import Reporter
from cluster.scoring import Answered
from configs.schema import Algorithm, Channels, Cluster, Config, Data, Model, Prompt, Rollout
from data.types import Example


def inference_config(
    model: str,
    prompt: Prompt | str = "answer",
    engines: int | None = None,
    nodes: int | None = None,
    dtype: str = "float32",
    seed: int = 0,
    max_tokens: int = 256,
    channels: Channels = "mean",
) -> Config:
    """The configuration of a session that only asks."""
    return Config.model_validate(
        {
            "run": {"seed": seed},
            "model": Model(path=model, audio_tower="frozen", projector="frozen", dtype=dtype).model_dump(),  # type: ignore[arg-type]
            "data": Data(train="", prompt=prompt, channels=channels).model_dump(),  # type: ignore[arg-type]
            "rollout": Rollout(
                engines=engines, max_completion_tokens=max_tokens, max_model_tokens=1500 + max_tokens, max_running=128
            ).model_dump(),
            "algorithm": Algorithm(beta=0.0).model_dump(),
            "cluster": Cluster(nodes=nodes).model_dump(),
        }
    )


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
        from cluster.evaluation import ask_about_other_clips, ask_all

        async with workers(config, roles, model_path) as (started, asker, _):
            reporter.say(f"questions: {len(examples)}, engines: {len(started.rollout.actors)}")
            with reporter.questions("questions", len(examples)) as advance:
                most = config.rollout.max_completion_tokens
                common = (asker, started.rollout, examples, samples, most)
                if shuffled:
                    return await ask_about_other_clips(*common, config.run.seed, advance)
                return await ask_all(*common, silent=silent, advance=advance)

    with connected(config.cluster, reporter.say) as nodes:
        roles = plan_asking(config, nodes)
        return asyncio.run(answers())
