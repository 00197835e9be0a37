"""What engines, the learner and all between them take, as a simulation needs it.

`cluster.forecast.recommendation` makes it from a forecast, `bench.calibration` from runs.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from configs.schema import Section

CONTROL_SECONDS = 0.002
"""Of the control loop for a group, where it was not measured: about what the demo's takes
(bench/baselines/scale_timings.json), most of it Ray's calls, which `bench.control` leaves out."""


class Timings(Section):
    """Seconds of one kind of device with one model; what is not told takes no time."""

    name: str
    """What they are of."""
    known: dict[str, str] = Field(default_factory=dict)
    """How each of the fields below is known: `measured`, or what was assumed."""

    step_seconds: NonNegativeFloat = 0.0
    """Of an engine's decoding step, however many sequences it decodes."""
    sequence_seconds: NonNegativeFloat = 0.0
    """Beside that for each sequence: what it computes."""
    read_seconds: NonNegativeFloat = 0.0
    """Reading the weights, while which it computes: a step takes the longer of the two."""
    cache_seconds: NonNegativeFloat = 0.0
    """Reading the keys and values of a sequence, after the weights."""
    request_seconds: NonNegativeFloat = 0.0
    """Of an engine for each group beside its arithmetic: embeddings, tokens, bookkeeping."""
    prompt_seconds: NonNegativeFloat = 0.0
    """Of an engine for the keys and values of a prompt."""
    gather_seconds: NonNegativeFloat = 0.0
    """How long an idle engine waits for further groups beside a first one."""
    load_seconds: NonNegativeFloat = 0.0
    """In which an engine loads new weights that are here, and samples nothing."""

    token_seconds: NonNegativeFloat = 0.0
    """Of a learner rank for a packed token: all passes."""
    update_seconds: NonNegativeFloat = 0.0
    """Of a rank for a step beside its tokens: packing and the optimizer."""
    exchange_seconds: NonNegativeFloat = 0.0
    """Of the traffic between very many ranks in a step; r ranks have (r - 1) / r of it, while they compute."""
    publish_seconds: NonNegativeFloat = 0.0
    """In which the learner gives its weights away."""

    encode_seconds: NonNegativeFloat = 0.0
    """Of an audio actor for a clip."""
    control_seconds: NonNegativeFloat = 0.0
    """Of the control loop for a group: one group at a time."""
    score_seconds: NonNegativeFloat = 0.0
    """Of the reward actor for a group: one group at a time."""
    beside_seconds: NonNegativeFloat = 0.0
    """Of a core, for a group, in all processes but engines, learner and control loop: Ray's, audio, rewards, the log.
    Nobody waits for it, but where cores are shared it takes them."""
    wait_seconds: NonNegativeFloat = 0.0
    """Of a step beside all this: calls on their way."""
    weights_bytes: NonNegativeFloat = 0.0
    """What is sent of a version."""
    network_gigabytes_per_second: PositiveFloat = 12.5
    """Between two machines, each way."""

    prompt_tokens: PositiveFloat
    """Packed positions of a prompt."""
    groups: tuple[tuple[PositiveInt, ...], ...]
    """Tokens of each completion, of groups to draw from. All are of one size."""
    dropped_share: float = Field(default=0.0, ge=0, lt=1)
    """Of the groups that are sampled: those that are not trained."""

    @model_validator(mode="after")
    def _groups_are_alike(self) -> Self:
        sizes = {len(group) for group in self.groups}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(f"groups have {sorted(sizes)} completions: give one or more, all of one size")
        return self

    @property
    def group_size(self) -> int:
        """Completions of a group."""
        return len(self.groups[0])

    @property
    def completion_tokens(self) -> float:
        """Mean tokens of a completion."""
        return sum(map(sum, self.groups)) / (len(self.groups) * self.group_size)

    def decoding_seconds(self, running: int) -> float:
        """Of a decoding step with so many sequences."""
        return self.step_seconds + max(
            self.read_seconds + running * self.cache_seconds, running * self.sequence_seconds
        )

    def learning_seconds(self, rank_tokens: int, ranks: int) -> float:
        """Of a step whose fullest rank has so many packed tokens."""
        exchange = self.exchange_seconds * (ranks - 1) / ranks
        return max(rank_tokens * self.token_seconds, exchange) + self.update_seconds

    def delivery_seconds(self, machine: int) -> float:
        """From the end of publishing until a version is on a machine, the learner's being number 0.

        Buckets are passed on as they come, so that the slower of publishing and the network counts, once.
        """
        network = self.weights_bytes / (self.network_gigabytes_per_second * 1e9)
        return max(network - self.publish_seconds, 0.0) if machine else 0.0
