"""Ask a model every question of a file, greedily and by sampling, on the engines of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from cluster.asking import EVALUATION, Asker, Unusable
from cluster.errors import UsageError
from cluster.evaluation.controls import other_recordings
from cluster.evaluation.scoring import Answered
from cluster.rollout_pool import RolloutPool
from data.types import Clip, Example, Sampling

QUESTIONS_AT_ONCE = 64
"""Questions that are with each engine at a time, each with all of its completions."""


async def ask_all(
    asker: Asker,
    pool: RolloutPool,
    examples: Sequence[Example],
    samples: int,
    silent: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> list[Answered]:
    """The answers to all questions, in their order.

    Args:
        asker: makes the prompts.
        pool: the engines.
        examples: the questions.
        samples: completions at temperature 1 beside the greedy one; 0 for none.
        silent: ask about silence instead of the clips.
        advance: called once a question is done.
    """
    places = asyncio.Semaphore(QUESTIONS_AT_ONCE * max(len(pool.actors), 1))
    most = asker.config.rollout.max_completion_tokens

    async def ask(number: int, example: Example) -> Answered:
        async with places:
            prompt = await asker.prompt(example, f"evaluation-{number}", epoch=EVALUATION, silent=silent)
            if isinstance(prompt, Unusable):
                advance()
                return Answered(example, str(example.clip), None, (), prompt.reason)
            wanted = [Sampling(1, 0.0, most)] + ([Sampling(samples, 1.0, most)] if samples else [])
            groups = await asyncio.gather(*(pool.sample(prompt, sampling) for sampling in wanted))
            advance()
            drawn = tuple(completion.text for group in groups[1:] for completion in group.completions)
            return Answered(example, prompt.clip.sha256, groups[0].completions[0].text, drawn)

    return list(await asyncio.gather(*(ask(number, example) for number, example in enumerate(examples))))


async def ask_about_other_clips(
    asker: Asker,
    pool: RolloutPool,
    examples: Sequence[Example],
    samples: int,
    advance: Callable[[], None] = lambda: None,
) -> list[Answered]:
    """The answers where each question is asked with the clip of another one, about another recording.

    A question is about its own recording still, as intervals and comparisons take it; `heard` is the other. One whose
    own clip cannot be used has no answer, as without the exchange.

    Raises:
        UsageError: more than half of the questions are about one recording.
    """
    places = asyncio.Semaphore(QUESTIONS_AT_ONCE)

    async def recording(example: Example) -> str | None:
        async with places:
            clip = await asker.audio.prepare(example.clip)
            return clip.sha256 if isinstance(clip, Clip) else None

    own = await asyncio.gather(*(recording(example) for example in examples))
    usable = [number for number, sha256 in enumerate(own) if sha256 is not None]
    try:
        givers = other_recordings([str(own[number]) for number in usable], asker.config.run.seed)
    except ValueError as error:
        raise UsageError(f"--shuffled: {error}; ask about more recordings") from error
    asked = list(examples)
    for number, giver in zip(usable, givers, strict=True):
        asked[number] = replace(examples[number], clip=examples[usable[giver]].clip)
    answers = await ask_all(asker, pool, asked, samples, advance=advance)
    return [
        replace(answer, recording=sha256, heard="" if answer.greedy is None else answer.recording) if sha256 else answer
        for answer, sha256 in zip(answers, own, strict=True)
    ]
