"""Ask a model every question of a file, greedily and by sampling, on the engines of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from cluster.asking import EVALUATION, Asker, Unusable
from cluster.rollout_pool import RolloutPool
from cluster.scoring import Answered
from data.types import Example, Sampling

QUESTIONS_AT_ONCE = 64
"""Questions that are with the engines at a time, each with all of its completions."""


async def ask_all(
    asker: Asker,
    pool: RolloutPool,
    examples: Sequence[Example],
    samples: int,
    max_tokens: int,
    silent: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> list[Answered]:
    """The answers to all questions, in their order.

    Args:
        asker: makes the prompts.
        pool: the engines.
        examples: the questions.
        samples: completions at temperature 1 beside the greedy one; 0 for none.
        max_tokens: longest completion.
        silent: ask about silence instead of the clips.
        advance: called once a question is done.
    """
    places = asyncio.Semaphore(QUESTIONS_AT_ONCE)

    async def ask(number: int, example: Example) -> Answered:
        async with places:
            prompt = await asker.prompt(example, f"evaluation-{number}", epoch=EVALUATION, silent=silent)
            if isinstance(prompt, Unusable):
                advance()
                return Answered(example, str(example.clip), None, (), prompt.reason)
            wanted = [Sampling(1, 0.0, max_tokens)] + ([Sampling(samples, 1.0, max_tokens)] if samples else [])
            groups = await asyncio.gather(*(pool.sample(prompt, sampling) for sampling in wanted))
            advance()
            drawn = tuple(completion.text for group in groups[1:] for completion in group.completions)
            return Answered(example, prompt.clip.sha256, groups[0].completions[0].text, drawn)

    return list(await asyncio.gather(*(ask(number, example) for number, example in enumerate(examples))))
