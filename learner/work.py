"""The work of a step in numbers: what a rank's micro-batches hold, and the operations that they take.

All groups are taken to be alike: clips, prompts and completions of one length. Operations are those of matrix products,
convolutions and attention, two for a multiplication with its addition; what a mask hides is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from configs.schema import Config
from data.audio import SAMPLE_RATE, audio_tokens, mel_frames, tower_positions
from learner.sizes import Sizes

CHUNK_LOGITS = 2**24
"""Logits of a chunk of the output layer's work, 64 MiB in float32. Of a layer that is whole and in float32, two of that
size are held at once."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long clips, questions and completions are."""

    clip_seconds: float
    text_tokens: int
    """Of a prompt, without the clip's positions."""
    completion_tokens: int

    @property
    def frames(self) -> int:
        """Mel frames of a clip."""
        return mel_frames(int(self.clip_seconds * SAMPLE_RATE))

    @property
    def prompt_tokens(self) -> int:
        """Of a prompt as the language model sees it, with the clip's positions."""
        return self.text_tokens + audio_tokens(self.frames)


@dataclass(frozen=True, slots=True)
class Work:
    """What a step computes."""

    lengths: Lengths
    groups: int
    """Prompts of a step."""
    group_size: int
    ranks: int
    micro_batch_tokens: int
    """The budget that is configured."""

    @property
    def group_tokens(self) -> int:
        """Packed positions of a group: the prompt once, and each completion but its last token."""
        return self.lengths.prompt_tokens + self.group_size * (self.lengths.completion_tokens - 1)

    @property
    def groups_of_a_rank(self) -> int:
        """Of the rank that has most."""
        return ceil(self.groups / self.ranks)

    @property
    def groups_of_a_micro_batch(self) -> int:
        """As many as the budget holds, and at least one."""
        return max(1, min(self.micro_batch_tokens // self.group_tokens, self.groups_of_a_rank))

    @property
    def micro_batches(self) -> int:
        """Of a rank."""
        return ceil(self.groups_of_a_rank / self.groups_of_a_micro_batch)

    @property
    def tokens(self) -> int:
        """Packed positions of a micro-batch."""
        return self.groups_of_a_micro_batch * self.group_tokens

    @property
    def targets(self) -> int:
        """Predicted tokens of a micro-batch."""
        return self.groups_of_a_micro_batch * self.group_size * self.lengths.completion_tokens


def work_of(config: Config, lengths: Lengths) -> Work:
    """The work of a step of this configuration."""
    algorithm, learner = config.algorithm, config.learner
    size = 1 if algorithm.name == "sft" else algorithm.group_size  # a lesson has one answer
    return Work(lengths, algorithm.prompts_per_step, size, learner.ranks, learner.micro_batch_tokens)


def forward_operations(sizes: Sizes, lengths: Lengths, group_size: int, with_tower: bool) -> float:
    """Of the policy's forward over one group; the backward takes twice as many."""
    completion = lengths.completion_tokens
    tokens = lengths.prompt_tokens + group_size * (completion - 1)
    language = sizes.language
    attended = _causal(lengths.prompt_tokens) + group_size * (
        (completion - 1) * lengths.prompt_tokens + _causal(completion - 1)
    )
    return (
        2 * tokens * language.layers * layer_weights(sizes)
        + 4 * language.layers * language.heads * language.head_size * attended
        + 2 * group_size * completion * language.vocabulary * language.hidden
        + 2 * audio_tokens(lengths.frames) * sizes.tower.width * language.hidden
        + (tower_operations(sizes, lengths.frames) if with_tower else 0)
    )


def tower_operations(sizes: Sizes, frames: int) -> float:
    """Of the audio tower's forward over one clip of so many mel frames."""
    tower = sizes.tower
    positions = tower_positions(frames)
    convolutions = 2 * 3 * tower.width * (tower.mel_bins * frames + tower.width * positions)
    layer = 2 * positions * (4 * tower.width**2 + 2 * tower.width * tower.intermediate) + 4 * positions**2 * tower.width
    return convolutions + tower.layers * layer


def layer_weights(sizes: Sizes) -> int:
    """Numbers in the matrices of one layer of the language model."""
    language = sizes.language
    attention = 2 * language.hidden * language.head_size * (language.heads + language.key_value_heads)
    return attention + 3 * language.hidden * language.intermediate


def _causal(tokens: int) -> float:
    """Pairs of a position and one that is not after it."""
    return tokens * (tokens + 1) / 2
