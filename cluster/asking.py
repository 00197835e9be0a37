"""From an example to a prompt that an engine can take: the clip prepared, the text tokenised, the seed drawn."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.clips import AudioPool
from configs.schema import Config
from data.order import hash_seed, shuffle_choices
from data.prompts import PromptEncoder
from data.types import Example, Prompt


@dataclass(frozen=True, slots=True)
class Unusable:
    """Why an example cannot be asked."""

    reason: str
    """A short word, counted."""
    detail: str


EVALUATION = -1
"""The epoch of a question that is not trained on: its choices keep the order of the file."""


def as_asked(config: Config, example: Example, epoch: int) -> Example:
    """The example with its choices in the order in which they are asked in this pass over the data."""
    if epoch == EVALUATION or not config.data.shuffle_choices:
        return example
    return shuffle_choices(example, hash_seed(config.run.seed, "choices", epoch, example.id))


class Asker:
    """Makes the prompts of training, evaluation and verification, all alike."""

    def __init__(self, config: Config, encoder: PromptEncoder, audio: AudioPool) -> None:
        self.config = config
        self.encoder = encoder
        self.audio = audio

    async def prompt(
        self, example: Example, group_id: str, epoch: int, issue: int = 0, silent: bool = False
    ) -> Prompt | Unusable:
        """The prompt of an example, or why there is none.

        Args:
            example: the question.
            group_id: unique in the run.
            epoch: which pass over the data; part of the seed, and of the order of the choices.
            issue: how often the group was lost and asked again; part of the seed.
            silent: ask about silence of the same length.
        """
        example = as_asked(self.config, example, epoch)
        clip = await self.audio.prepare(example.clip, silent)
        if isinstance(clip, str):
            reason, _, detail = clip.partition(": ")
            return Unusable(reason, detail)
        seed = hash_seed(self.config.run.seed, epoch, example.id, issue)
        prompt = Prompt(group_id, example, self.encoder.encode(example), clip, seed)
        rollout = self.config.rollout
        room = rollout.max_model_tokens - rollout.max_completion_tokens
        if prompt.expanded_tokens > room:
            return Unusable(
                "prompt_too_long",
                f"{example.id}: {prompt.expanded_tokens} tokens, and rollout.max_model_tokens less "
                f"rollout.max_completion_tokens leaves {room}",
            )
        return prompt
