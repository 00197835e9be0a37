"""The plain values that travel between the rooms.

An `Example` is a row of data, a `Prompt` is what an engine is asked, a `Completion` is one sampled reply and a
`Group` is all replies to one prompt. None of them holds audio: a clip is named by a `ClipSource` (where its bytes
lie) and, once an audio actor has prepared it, by a `Clip` (what is known of it, with an opaque reference to its
features).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

SILENCE = "silence-"
"""Begins the name of silence that stands in for a recording, before the hash of that."""

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class ClipSource:
    """Where the bytes of a clip lie: an audio file, or one row of a Parquet file or an Arrow shard."""

    path: str
    row: int | None = None
    """Row of the table at `path`; None when `path` is itself an audio file."""
    column: str = "audio"
    """Column of the table: bytes, or a struct with a field `bytes`."""

    def __str__(self) -> str:
        return self.path if self.row is None else f"{self.path}, row {self.row}"


@dataclass(frozen=True, slots=True)
class Example:
    """One question about one clip."""

    id: str
    clip: ClipSource
    question: str
    choices: tuple[str, ...]
    answer: str
    """The text of the gold choice."""
    task: str = ""
    sub_category: str = ""
    difficulty: str = ""
    source: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Further columns of the row as they stand there, for reward functions; nothing else reads them."""

    def columns(self) -> dict[str, Any]:
        """What is asked, and what sorts it, as files of questions and the rollout log have it."""
        return {
            "question": self.question,
            "choices": list(self.choices),
            "answer": self.answer,
            "task": self.task,
            "sub_category": self.sub_category,
            "difficulty": self.difficulty,
            "source": self.source,
        }


@dataclass(frozen=True, slots=True)
class Clip:
    """A prepared clip: what is known of it, and a reference to its features."""

    sha256: str
    """Of the encoded bytes as they were read, after `SILENCE` where that stands in for them."""
    seconds: float
    audio_tokens: int
    """Positions that the clip takes in the language model's sequence."""
    features: Any = None
    """Reference to a `ClipFeatures` in the object store (or the value itself where there is no store)."""


@dataclass(frozen=True, slots=True)
class ClipFeatures:
    """What the models take of a clip. Only what the configuration needs is filled."""

    waveform: Any = None
    """float32 (samples,), 16 kHz mono."""
    mel: Any = None
    """float32 (mel_bins, valid_frames + margin)."""
    valid_frames: int = 0
    """Mel frames that hold the clip, ceil(samples / 160); given with `mel`."""
    pooled: Any = None
    """float32 (audio_tokens, d_model): output of the audio tower, before `multi_modal_projector`."""

    @property
    def nbytes(self) -> int:
        """Of the arrays that are filled."""
        return sum(array.nbytes for array in (self.waveform, self.mel, self.pooled) if array is not None)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What an engine is asked: token ids with one `<|AUDIO|>` id, and the clip that stands for it."""

    group_id: str
    example: Example
    token_ids: tuple[int, ...]
    """With a single audio placeholder; the expanded prompt holds `clip.audio_tokens` of them."""
    clip: Clip
    seed: int
    """63-bit; a different one for every issue of every prompt of a run."""

    @property
    def expanded_tokens(self) -> int:
        """Length of the prompt in the language model, in tokens."""
        return len(self.token_ids) - 1 + self.clip.audio_tokens


@dataclass(frozen=True, slots=True)
class Lesson:
    """A prompt with what the assistant should say, as token ids; for supervised fine-tuning."""

    prompt: Prompt
    answer: tuple[int, ...]
    """With the end of the turn."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled reply. `logprobs` and `versions` are as long as `token_ids`."""

    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[float, ...]
    """Of the distribution that was sampled (logits / temperature), natural logarithm."""
    versions: tuple[int, ...]
    """Policy version that sampled each token."""
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Group:
    """The completions of one prompt, with their rewards once they are scored."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    engine: str = ""
    """Name of the engine that sampled them."""
    context_version: int = 0
    """Oldest policy version in what the tokens were conditioned on: the clip's embeddings, and where an engine keeps
    them over an update, keys and values. What is frozen, or made again, does not age."""
    rewards: dict[str, tuple[float | None, ...]] = field(default_factory=dict)
    """By reward name, unweighted, one value a completion; None dropped the completion."""
    total: tuple[float | None, ...] = ()
    """Weighted sum a completion; None where any reward gave None."""

    @property
    def oldest_version(self) -> int:
        """Lowest policy version of any token in the group, and of what it was conditioned on."""
        return min([self.context_version, *(version for one in self.completions for version in one.versions)])

    def is_of(self, version: int) -> bool:
        """Whether this version alone made every token, key and embedding: its learner gives the same log-probs."""
        versions = (one for completion in self.completions for one in completion.versions)
        return self.context_version == version and all(one == version for one in versions)

    @property
    def completion_tokens(self) -> int:
        return sum(len(completion.token_ids) for completion in self.completions)


@dataclass(frozen=True, slots=True)
class Dropped:
    """A question that was dropped, for the rollout log."""

    group_id: str
    example: Example
    """As it was asked."""
    why: str
    """`reason: detail`."""
    group: Any = None
    """Reference to the scored group, where it came so far."""


@dataclass(frozen=True, slots=True)
class LoggedStep:
    """What the rollout log keeps of a step."""

    step: int
    groups: Sequence[Any]
    """References to the groups that were trained."""
    advantages: Sequence[tuple[float | None, ...]]
    """One tuple a group."""
    logprobs: Sequence[Any]
    """References, one a rank, to the log-probs that the learner gave the tokens before the step; by index of the group,
    one array a completion."""
    dropped: Sequence[Dropped]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a prompt's completions are drawn."""

    completions: int
    temperature: float
    max_tokens: int
    ignore_stop: bool = False
    """Sample on to `max_tokens`, whatever is sampled."""


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """What the control loop needs to know of a scored group; the group itself stays in the object store."""

    group_id: str
    completions: int
    """Completions with a reward."""
    completion_tokens: int
    truncated: int
    """Completions that ended at the token limit."""
    rewards: dict[str, float]
    """Mean of each reward over the scored completions, unweighted."""
    total: float
    """Mean weighted reward."""
    oldest_version: int
    spread: float = 0.0
    """Largest weighted reward less the smallest: 0 where the completions have nothing to be compared by."""
    score_seconds: float = 0.0
    """What the slowest reward function took."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Completions without a reward, by reason."""
    problems: tuple[str, ...] = ()
    """Why they have none, a line for each reward that gave them none."""
    faulted: tuple[str, ...] = ()
    """Names of the rewards that failed the whole group: raised, late, dead, or with what is no value."""
    notes: tuple[str, ...] = ()
    """What the user should hear of the rewards, though nothing went wrong with the group."""

    @property
    def drop_reason(self) -> str:
        """Why most completions that have no reward have none."""
        return max(self.dropped, key=self.dropped.__getitem__)
