"""The configuration of a run: every key, its default and its meaning.

Unknown keys are errors. This room imports no heavy package, so that `--help`, `--dry-run` and a wrong key answer
at once.
"""

from __future__ import annotations

import re
from string import Formatter
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from configs.algorithms import ALGORITHMS, GRPO, ONE_RATIO, OVERLONG, Advantage, KlEstimator, Mean, Name, Surrogate
from configs.named import OrPlugIn
from configs.prompts import PROMPTS

SAMPLING_REFUSED = (
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
)
"""Sampling settings that change the sampled distribution in a way that the learner's log-prob does not follow."""

FORMATS = ("auto", "auricle", "jsonl", "avqa", "mmau", "huggingface")
"""Of files of questions."""

Channels = Literal["mean", "first"]
"""What becomes of several channels: they are averaged, or the first is taken."""

Device = Literal["auto", "cpu", "gpu"]
"""What ranks and engines compute on."""

Form = Literal["answer", "think"]
"""What a completion is to hold: an answer in its tag, or thoughts and then an answer."""

LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?")
"""What Ray takes as the name or the value of a node's label, without its operators such as `!` and `in()`."""

STAGES_OF_A_BROADCAST = 4
"""Engines prepare, perhaps again without those that are late, join the group, and take the weights."""

LANGUAGE_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Linear layers of the language model's attention and MLP."""
TOWER_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
"""Linear layers of the audio tower's attention and MLP."""


class Section(BaseModel):
    """A part of the configuration: strict, immutable, documented by the docstring under each field."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Run(Section):
    """What the run is called, where it writes and how long it goes on."""

    name: str = ""
    """Name of the run's directory; the stem of the configuration file when empty."""
    dir: str = "runs"
    """Directory that holds run directories; inside a Ray cluster an absolute path that every node mounts, or a URL such
    as s3://bucket/runs of any object storage that fsspec knows."""
    max_steps: PositiveInt = 100
    """Steps of the whole run: versions of the policy."""
    seed: NonNegativeInt = 0
    """Seed of data order, sampling and initialisation."""
    init_from: str | None = None
    """Start from the weights of this checkpoint or model (directory or URL) instead of `model.path`; the optimizer is
    new."""


class Lora(Section):
    """Low-rank adapters in place of full training. What is trained is the adapters, and the projector where
    `model.projector` says so; engines get merged weights.
    """

    rank: PositiveInt = 16
    """Rank of an adapter."""
    alpha: PositiveInt = 32
    """An adapter's output is scaled by alpha / rank."""
    targets: tuple[str, ...] | None = None
    """Names of the linear layers that get an adapter, such as `q_proj`; default: all of attention and MLP."""
    tower: bool = False
    """Adapters in the audio tower too. Needs `model.audio_tower: trained`, as that needs this."""

    @property
    def language_targets(self) -> tuple[str, ...]:
        """The layers of the language model that get an adapter."""
        return tuple(name for name in LANGUAGE_LAYERS if self.targets is None or name in self.targets)

    @property
    def tower_targets(self) -> tuple[str, ...]:
        """Those of the audio tower."""
        return tuple(name for name in TOWER_LAYERS if self.tower and (self.targets is None or name in self.targets))

    @model_validator(mode="before")
    @classmethod
    def _refuse_dropout(cls, values: Any) -> Any:
        if isinstance(values, dict) and "dropout" in values:
            raise ValueError(
                "model.lora.dropout is refused: the learner's log-prob would be of another policy in every forward, "
                "and never of the one that sampled. Use learner.weight_decay or algorithm.beta."
            )
        return values

    @model_validator(mode="after")
    def _targets_exist(self) -> Self:
        if self.targets is None:
            return self
        known = LANGUAGE_LAYERS + tuple(name for name in TOWER_LAYERS if self.tower and name not in LANGUAGE_LAYERS)
        unknown = [name for name in self.targets if name not in known]
        if unknown or not self.targets:
            hint = "; those of the tower need model.lora.tower: true" if set(unknown) & set(TOWER_LAYERS) else ""
            raise ValueError(
                f"model.lora.targets: {', '.join(map(repr, unknown)) or 'an empty list'} names no layer that can be "
                f"adapted; there are {', '.join(known)}{hint}"
            )
        if self.tower and not set(self.targets) & set(TOWER_LAYERS):
            raise ValueError(
                f"model.lora.tower: true adapts nothing, since model.lora.targets names no layer of the tower; "
                f"it has {', '.join(TOWER_LAYERS)}"
            )
        return self


class Model(Section):
    """The policy."""

    path: str
    """Hub id, directory or URL of a Qwen2-Audio checkpoint of any size."""
    audio_tower: Literal["trained", "frozen"] = "trained"
    """A frozen tower encodes each clip once; engines and learner take its output."""
    projector: Literal["trained", "frozen"] = "trained"
    """Whether `multi_modal_projector` is trained. A frozen projector needs a frozen tower."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of learner and engines."""
    lora: Lora | None = None
    """Train low-rank adapters and not the weights themselves; see `model.lora`. Full training when empty."""

    @model_validator(mode="after")
    def _frozen_from_the_bottom(self) -> Self:
        if self.projector == "frozen" and self.audio_tower == "trained":
            raise ValueError("model.projector: frozen needs model.audio_tower: frozen (freezing starts at the bottom)")
        return self

    @model_validator(mode="after")
    def _adapters_train_the_tower_or_leave_it_frozen(self) -> Self:
        if self.lora is None or self.lora.tower == (self.audio_tower == "trained"):
            return self
        if self.lora.tower:
            raise ValueError(
                "model.lora.tower: true needs model.audio_tower: trained; a frozen tower's output is kept by clip and "
                "would stay that of the tower without adapters"
            )
        raise ValueError(
            "model.lora leaves the audio tower as it is, and model.audio_tower is trained: set model.audio_tower: "
            "frozen (each clip is encoded once), or model.lora.tower: true for adapters in the tower"
        )


class Prompt(Section):
    """How a question is worded. The name of a built-in prompt, `answer` or `think` (R1-AQA's) or `letters`, or the
    keys of one of your own.
    """

    text: str = PROMPTS["answer"]["text"]
    """The user's turn after the clip, with `{question}` and `{choices}`; a brace itself is written twice. A question
    without choices is asked without the sentence that names them."""
    choices: Literal["list", "letters", "lines"] = "list"
    """`list` as Python prints one, `letters` as `(A) dog (B) cat`, `lines` with a dash before each."""
    form: Form = "answer"
    """What the reward `format` asks for: the answer alone, or thinking first. Has to be said of a text of your own."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, values: Any) -> Any:
        if isinstance(values, str):
            if values not in PROMPTS:
                raise ValueError(
                    f"data.prompt: {values!r} is not known; use one of {', '.join(PROMPTS)}, or a section with text "
                    "and form"
                )
            return dict(PROMPTS[values])
        if isinstance(values, dict) and "text" in values and "form" not in values:
            raise ValueError("data.prompt.form: missing; say what data.prompt.text asks for, answer or think")
        return values

    @field_validator("text")
    @classmethod
    def _known_fields(cls, value: str) -> str:
        try:
            fields = [parts for parts in Formatter().parse(value) if parts[1] is not None]
        except ValueError as error:
            raise ValueError(f"data.prompt.text: {error}; write {{{{ or }}}} for a brace that is text") from error
        for _, name, form, conversion in fields:
            if name not in ("question", "choices") or form or conversion:
                written = f"{name}{f'!{conversion}' if conversion else ''}{f':{form}' if form else ''}"
                raise ValueError(
                    f"data.prompt.text: {{{written}}} is not known; there are {{question}} and {{choices}}, and a "
                    "brace that is text is written twice"
                )
        if "question" not in [name for _, name, _, _ in fields]:
            raise ValueError(f"data.prompt.text: {value!r} asks nothing; write {{question}} where the question stands")
        return value

    @model_serializer(mode="wrap")
    def _as_named(self, written: SerializerFunctionWrapHandler) -> Any:
        """A built-in prompt is written as its name."""
        keys = written(self)
        return next((name for name, built_in in PROMPTS.items() if built_in == keys), keys)


class Data(Section):
    """The questions."""

    train: str
    """Training questions: a file (Parquet, JSONL, AVQA, MMAU), or a directory that save_to_disk of `datasets` wrote."""
    validation: str | None = None
    """Questions for `evaluate.every_steps`; everything may be tuned on it."""
    test: str | None = None
    """Held-out questions, read before and after the run only."""
    audio_dir: str | None = None
    """Directory that relative clip paths start from; default: the directory of the file that names them."""
    format: Annotated[str, OrPlugIn(FORMATS)] = "auto"
    """Format of the files; `auto` tells it from the first bytes and the first row. A plug-in makes a row with Auricle's
    keys of a row as it was read (docs/extending.md)."""
    prompt: Prompt = Prompt()
    """How a question is worded."""
    shuffle_choices: bool = False
    """Ask the choices in another order every epoch, in training only; the rollout log has them as they were asked."""
    silent: bool = False
    """Train on silence of each clip's length, a control: what is learned then is not learned by listening. Questions of
    evaluations are about their clips all the same."""
    min_seconds: PositiveFloat = 0.05
    """Shorter clips are dropped and counted."""
    max_seconds: PositiveFloat = Field(default=30.0, le=30.0)
    """Longer clips are cut to this length; the audio tower hears 30 seconds."""
    channels: Channels = "mean"
    """What becomes of a clip's channels: their mean is heard, or the first alone, as in R1-AQA."""
    feature_cache: str | None = None
    """Directory that keeps a frozen tower's output between runs, by tower and clip; none when empty."""
    feature_cache_bytes: PositiveInt = 100_000_000
    """Memory of each audio actor for what it reads from and writes to `data.feature_cache`."""
    encoders: PositiveInt = 1
    """Audio actors that decode and encode clips."""
    cache_bytes: PositiveInt = 2_000_000_000
    """Features of clips that are kept in the object store, in all."""


class Rollout(Section):
    """The vLLM engines that sample."""

    engines: PositiveInt | None = None
    """Number of engines; default: `engines_per_node` on each rollout node, at most 2 in all on a 2-core machine."""
    engines_per_node: PositiveInt = 1
    """Engines of a rollout node, and of each node that joins later. Where `engines` is set, Ray spreads those."""
    tensor_parallel: PositiveInt = 1
    """Processes that share each layer of an engine, every one on a GPU of its own."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature; the learner's log-prob is of logits / temperature."""
    max_completion_tokens: PositiveInt = 256
    """Longest completion; longer ones are truncated, with finish reason `length`."""
    ignore_stop: bool = False
    """Sample every completion to `max_completion_tokens`, for benchmarks that compare equal work."""
    max_model_tokens: PositiveInt = 2048
    """Longest prompt and completion together that an engine takes."""
    max_running: PositiveInt = 64
    """Completions that an engine decodes at once."""
    audio: Literal["auto", "waveform"] = "auto"
    """`auto`: embeddings that the rollout actor makes, from each clip's own length; `waveform`: vLLM's own path, which
    pads every clip to 30 seconds."""
    kv_cache_gib: PositiveInt = 1
    """Memory for the key-value cache on CPU."""
    gpu_memory_utilization: float = Field(default=0.85, gt=0, le=1)
    """Share of a GPU's memory that an engine takes."""
    prefix_cache: bool = True
    """Reuse keys and values of equal prompts, never across a weight version."""
    on_update: Literal["auto", "drain", "recompute", "keep_kv"] = "auto"
    """What new weights do to completions that are being sampled: `drain` samples them to their end first, `recompute`
    computes their keys and values again, `keep_kv` goes on from the old ones. `auto` is `drain` where
    `algorithm.max_staleness` is 0, else `recompute`."""
    verify_every: NonNegativeInt = 50
    """Versions between two checks of what engines have loaded: each samples a few tokens, whose log-probs the learner
    computes too; an engine that is another policy is replaced. 0 never checks."""
    weight_transfer: Annotated[str, OrPlugIn(("object_store", "nccl"))] = "object_store"
    """How new weights reach the engines: in buckets through Ray's object store, or broadcast from GPU to GPU."""
    threads: PositiveInt = 1
    """CPU threads of each of an engine's processes."""
    update_timeout_seconds: PositiveFloat = 300.0
    """An engine that has not taken new weights by then is replaced; with `nccl`, each part of it has this limit."""
    request_timeout_seconds: PositiveFloat = 600.0
    """An engine that has not sampled a group by then is replaced."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_reshaped_sampling(cls, values: Any) -> Any:
        for key in SAMPLING_REFUSED:
            if isinstance(values, dict) and key in values:
                raise ValueError(
                    f"rollout.{key} is refused in training: it changes the sampled distribution, and the learner's "
                    f"log-prob would not be the one that sampled. Use rollout.temperature."
                )
        return values


class Reward(Section):
    """One term of the reward."""

    use: str
    """Built-in name (docs/rewards.md), name of an installed plug-in, or plug-in `module:function`."""
    name: str = ""
    """Name in metrics and rollout log; `use` when empty. Two terms with one function need two names."""
    weight: float = 1.0
    """Weight in the sum; 0 only observes: the reward is logged, and drops nothing whatever it gives."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the function."""
    timeout_seconds: PositiveFloat = 60.0
    """A group that the function has not scored by then is dropped as `reward_timeout`."""
    concurrency: PositiveInt = 8
    """Groups that an `async def` scores at a time, `judge` as many as it has requests for; any other scores one."""


class Learner(Section):
    """The DeepSpeed learner."""

    ranks: PositiveInt = 1
    """Learner processes."""
    micro_batch_tokens: PositiveInt = 2048
    """Tokens of a packed micro-batch; a single larger group is still taken whole."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage; from 1 on, gradients of a bfloat16 model are summed and sent in float32."""
    learning_rate: PositiveFloat = 1e-6
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Decay after the warm-up, to 0 at `run.max_steps`; `constant` does not decay."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the learning rate rises linearly."""
    weight_decay: NonNegativeFloat = 0.0
    """AdamW's decoupled weight decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's moment decay rates."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this global norm."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What lives in CPU memory: `optimizer` states (ZeRO 1 to 3), or with `all` the parameters too (ZeRO 3)."""
    activation_checkpointing: bool = False
    """Compute the layers' activations again in the backward instead of keeping them."""
    attention: Literal["auto", "sdpa", "flex"] = "auto"
    """Kernel of the packed attention; `auto` takes FlexAttention on GPUs and SDPA elsewhere."""
    threads: PositiveInt | None = None
    """CPU threads of a rank; default: the CPUs of its machine over the ranks that share it."""
    bucket_bytes: PositiveInt = 256_000_000
    """Weights go to the engines in buckets of this size; a larger tensor has one of its own."""
    max_skipped_steps: NonNegativeInt = 3
    """A step whose loss or gradient is NaN or infinite is skipped on all ranks, and its questions are dropped; more of
    them one after the other end the run."""
    step_timeout_seconds: PositiveFloat = 1800.0
    """A rank that has not finished a step by then is an error."""

    @model_validator(mode="after")
    def _offload_needs_shards(self) -> Self:
        least = {"none": 0, "optimizer": 1, "all": 3}[self.offload]
        if self.zero_stage < least:
            raise ValueError(
                f"learner.offload: {self.offload} needs learner.zero_stage {least} or more, and it is {self.zero_stage}"
            )
        return self


class Correction(Section):
    """What a token counts that an older policy sampled: truncated importance sampling by the learner's probability over
    the engine's.
    """

    level: Literal["auto", "none", "token", "sequence"] = "auto"
    """The ratio of a token, or the product over its completion. `auto` is `none` where `algorithm.max_staleness` is 0
    or `algorithm.ratio` is `sampled`; else `sequence` where `algorithm.surrogate` has one ratio a completion, and
    `token` where it has one a token."""
    cap: PositiveFloat = 2.0
    """Ratios are truncated here."""
    mask: tuple[float, float] | None = None
    """Ratios outside of these bounds count nothing."""

    @field_validator("mask")
    @classmethod
    def _around_one(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 <= value[0] < 1 < value[1]:
            raise ValueError(f"algorithm.correction.mask is {list(value)}: give bounds around 1, for example [0.1, 10]")
        return value


class Algorithm(Section):
    """The objective. `name` stands for a paper's values of the keys below; each can be set by itself."""

    name: Name = "grpo"
    """Which values `beta`, `kl`, `kl_in`, `advantage`, `surrogate`, `clip`, `mean`, `dynamic_sampling` and
    `overlong_share` have where they are not given: see the table below. `sft` trains on the gold answers."""
    beta: NonNegativeFloat = GRPO["beta"]
    """Weight of the KL to the reference; 0 skips the reference."""
    kl: KlEstimator = GRPO["kl"]
    """Estimator of the KL: log-ratio, half its square, or ratio - 1 - log-ratio, which is never negative."""
    kl_in: Literal["loss", "reward"] = GRPO["kl_in"]
    """Whether the KL is a term of the loss, or taken off each completion's reward before the advantage."""
    advantage: Annotated[str, OrPlugIn(get_args(Advantage))] = GRPO["advantage"]
    """What a completion's reward is compared with: the group's mean, over its deviation (`standardised`) or not
    (`centred`), the mean of the others (`leave_one_out`), or the group's mean over the step's deviation."""
    surrogate: Annotated[str, OrPlugIn(get_args(Surrogate))] = GRPO["surrogate"]
    """What the advantage multiplies: each token's ratio, `clipped` as in PPO; one ratio of all tokens of a completion,
    clipped too, which is their geometric mean (`sequence`) or their product (`completion`); or the log-prob, `weighted`
    by the truncated ratio."""
    mean: Mean = GRPO["mean"]
    """Over tokens: within a completion first, then over completions (`sequence`); over all tokens of the step; over
    completions of their sum, or of their sum over the `constant` `rollout.max_completion_tokens`. A KL in the loss is
    weighed in the same way, so that `sum` weighs it by a completion's length."""
    group_size: int = Field(default=8, ge=2)
    """Completions a prompt (G)."""
    prompts_per_step: PositiveInt = 16
    """Prompts of one step."""
    dynamic_sampling: bool = GRPO["dynamic_sampling"]
    """Drop groups whose completions all have the same reward, and sample others in their place."""
    overlong_share: float = Field(default=GRPO["overlong_share"], ge=0, lt=1)
    """The last share of `rollout.max_completion_tokens` in which a completion loses reward, up to 1; 0 none."""
    mask_truncated: bool = False
    """Completions that ended at the token limit count in their group's mean, and are not trained."""
    max_staleness: NonNegativeInt = 0
    """Versions that a token may lag behind; 0 is exact on-policy training, above it engines sample while the learner
    trains."""
    ratio: Literal["current", "sampled"] = "current"
    """What the policy's ratio is taken to: to itself before a step's updates, corrected by `algorithm.correction`, or
    to the policy that sampled, clipped by `algorithm.clip` as in PPO."""
    updates_per_step: PositiveInt = 1
    """Optimizer updates from the groups of a step (mu of arXiv 2402.03300). From the second on the ratio of `current`
    is to the policy before the first, clipped by `algorithm.clip` as in decoupled PPO (arXiv 2110.00641)."""
    clip: tuple[NonNegativeFloat, NonNegativeFloat] = GRPO["clip"]
    """How far below and above 1 a ratio may gain: to the policy that sampled, or to the one before a step's updates."""
    dual_clip: float | None = Field(default=None, gt=1)
    """Where the advantage is negative, a completion loses no more than this many times it, however large the ratio
    (dual-clip PPO, arXiv 1912.09729); 3 is usual, no bound when empty."""
    correction: Correction = Correction()
    """Importance sampling between engine and learner, as in `algorithm.correction`."""
    entropy_coefficient: NonNegativeFloat = 0.0
    """Weight of the mean entropy over all tokens of the step, whatever `algorithm.mean`, that is added to the
    objective."""

    @model_validator(mode="before")
    @classmethod
    def _as_named(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return ALGORITHMS.get(str(values.get("name", "grpo")), {}) | values

    @model_validator(mode="after")
    def _kl_has_a_gradient(self) -> Self:
        if self.beta and self.kl == "k1" and self.kl_in == "loss":
            raise ValueError(
                "algorithm.kl: k1 in the loss has a gradient of zero in expectation: use k2, whose gradient is the "
                "KL's, or algorithm.kl_in: reward"
            )
        return self

    @model_validator(mode="after")
    def _fine_tuning_has_no_policy_gradient(self) -> Self:
        if self.name == "sft" and (self.beta or self.entropy_coefficient or self.updates_per_step > 1):
            raise ValueError(
                "algorithm.name: sft has the answers' log-probs alone in its loss: leave algorithm.beta, "
                "algorithm.entropy_coefficient and algorithm.updates_per_step at their defaults"
            )
        return self

    @property
    def correction_level(self) -> str:
        """`correction.level` with `auto` resolved."""
        if self.correction.level != "auto":
            return self.correction.level
        if not self.max_staleness or self.ratio == "sampled":
            return "none"
        return "sequence" if self.surrogate in ONE_RATIO else "token"

    @model_validator(mode="after")
    def _corrected_once(self) -> Self:
        level = self.correction_level
        unclipped = self.ratio == "current" and self.updates_per_step == 1
        if unclipped and self.clip != ALGORITHMS[self.name]["clip"]:
            raise ValueError(
                f"algorithm.clip: {list(self.clip)} clips nothing: it needs algorithm.ratio: sampled, or "
                "algorithm.updates_per_step above 1"
            )
        if unclipped and self.dual_clip is not None:
            raise ValueError(
                f"algorithm.dual_clip: {self.dual_clip:g} bounds nothing: it needs algorithm.ratio: sampled, or "
                "algorithm.updates_per_step above 1"
            )
        if self.surrogate == "weighted" and self.dual_clip is not None:
            raise ValueError(
                f"algorithm.dual_clip: {self.dual_clip:g} bounds a clipped ratio, and algorithm.surrogate: weighted "
                "has none: leave it empty, or take another surrogate"
            )
        if self.surrogate in ONE_RATIO and level == "token":
            raise ValueError(
                f"algorithm.correction.level: token weighs tokens apart, and algorithm.surrogate: {self.surrogate} has "
                "one ratio for all tokens of a completion: use level sequence, auto or none"
            )
        if level == "none" and self.correction.cap != Correction.model_fields["cap"].default:
            raise ValueError(
                f"algorithm.correction.cap: {self.correction.cap:g} truncates nothing: it needs "
                "algorithm.correction.level: token or sequence, or algorithm.max_staleness above 0"
            )
        if self.ratio == "sampled" and level != "none":
            raise ValueError(
                f"algorithm.correction.level: {level} with algorithm.ratio: sampled would count the engine's log-prob "
                "twice; leave one of them at its default"
            )
        if self.correction.mask is not None and level == "none":
            raise ValueError("algorithm.correction.mask needs algorithm.correction.level: token or sequence")
        return self


class Checkpoint(Section):
    """What is kept."""

    every_steps: NonNegativeInt = 0
    """Steps between checkpoints; 0 writes only the last."""
    keep: PositiveInt = 2
    """Newest checkpoints that are kept."""
    keep_every: NonNegativeInt = 0
    """Those of multiples of this step are kept too; 0 keeps none for that."""
    keep_best: NonNegativeInt = 0
    """So many are kept too that were best on the validation questions, of those of steps that `evaluate.every_steps`
    asks after."""
    in_background: bool = True
    """Train on while one is written. Meanwhile its content lies in the memory of rank 0's machine: 12 bytes a trained
    parameter, and the whole model in its own type. `false` holds one of its parts at a time."""
    on_failure: Literal["stop", "continue"] = "stop"
    """What a checkpoint that cannot be written does, as on a full disk: end the run, or be told of and counted."""


class Evaluate(Section):
    """Accuracy while and around training."""

    every_steps: NonNegativeInt = 0
    """Steps between evaluations on `data.validation`; 0 never."""
    questions: PositiveInt | None = None
    """Questions of the validation file that are asked, from the first; default all."""
    held_out: PositiveInt | None = None
    """Questions of `data.test` that are asked, evenly spaced in their file; default all."""
    before: bool = True
    """Ask the held-out questions before the run too; without it, accuracy before training is unknown."""
    samples: PositiveInt = 8
    """Completions a held-out question at temperature 1 for `accuracy_sampled`."""
    silent: bool = False
    """After the run, ask the held-out questions about silence too: a model that listens falls to chance."""


class Logging(Section):
    """What is kept of the groups, and where the figures of `metrics.jsonl` and of evaluations go besides."""

    rollouts_bytes: PositiveInt = 20_000_000_000
    """Room for `rollouts/` of the run directory; the groups of the oldest steps go first."""
    clips_bytes: NonNegativeInt = 1_000_000_000
    """Room for `clips/` of the run directory, which holds each recording that was trained on once, to be heard in the
    viewer wherever the run is copied to; when it is full no more are kept."""
    tensorboard: bool = False
    """Write event files into `tensorboard/` of the run directory."""
    wandb: str | None = None
    """Project of Weights & Biases that the run is told to; `WANDB_MODE=offline` keeps it in the run directory."""


class Metrics(Section):
    """What Prometheus scrapes: the control loop, each engine and each learner rank, found by `NAME.targets.json`."""

    port: int | None = Field(default=None, ge=0, le=65535)
    """Port of the control loop's `/metrics`; 0 takes a free one, as engines and ranks do. None is served when empty."""
    host: str = "127.0.0.1"
    """Address that all of them listen on, or `0.0.0.0`. Engines and ranks on a machine that has no such address listen
    on that of their Ray node."""


class Cluster(Section):
    """Where the actors live."""

    nodes: PositiveInt | None = None
    """Ray nodes: waited for on a joined cluster, started on an embedded one. `--nodes` sets it."""
    cpus_per_node: PositiveInt = 4
    """Logical CPUs of each node of an embedded cluster; at least one for each of its GPUs and two more."""
    object_store_bytes: PositiveInt = 2_000_000_000
    """Ray's object store on each node of an embedded cluster. New weights lie there twice while they are replaced; what
    does not fit goes to disk."""
    learner_nodes: PositiveInt = 1
    """Nodes that are left to the learner ranks: `rollout.engines` defaults to engines on each of the others."""
    learner_labels: dict[str, str] = {}
    """Labels of the Ray nodes that learner ranks may go to, such as `{accelerator: h100}`; `ray start --labels` gives a
    node its labels."""
    engine_labels: dict[str, str] = {}
    """Labels of the Ray nodes that engines may go to."""
    wait_seconds: PositiveFloat = 600.0
    """Longest wait for the nodes of a joined cluster, and for a place for each kind of actor."""
    actor_timeout_seconds: PositiveFloat = 600.0
    """An actor that has not started, prepared a clip or written a shard of the rollout log by then is an error."""
    beat_timeout_seconds: PositiveFloat = 60.0
    """An actor that has not said for so long that it is there counts as dead: an engine is replaced, an audio or reward
    actor and the rollout log are started again, and without a learner rank the run ends."""
    max_losses_per_hour: PositiveInt = 20
    """Engines and other actors that may be lost within an hour; more of them end the run with what is known of them."""
    device: Device = "auto"
    """`auto` takes GPUs where Ray knows of any; with `gpu` a run without them is refused."""
    gpu_hour_price: PositiveFloat | None = None
    """What a GPU costs an hour, in any currency: a dry run then tells what the run costs."""

    @field_validator("learner_labels", "engine_labels")
    @classmethod
    def _plain_labels(cls, labels: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        for text in (text for pair in labels.items() for text in pair):
            if not LABEL.fullmatch(text):
                raise ValueError(
                    f"cluster.{info.field_name}: {text!r} is no label: letters, digits, '.', '_', '-' and in a name "
                    f"'/'; labels are compared for equality"
                )
        return labels


class Config(Section):
    """A whole run."""

    run: Run = Run()
    """Name, place, length and seed."""
    model: Model
    """The policy, and what of it is trained."""
    data: Data
    """The questions and how they are asked."""
    rollout: Rollout = Rollout()
    """The engines."""
    rewards: tuple[Reward, ...] = (Reward(use="accuracy"), Reward(use="format"))
    """Terms of the weighted sum that rewards a completion, each as in `rewards[]`; the default is the paper's."""
    learner: Learner = Learner()
    """The optimizer and its ranks."""
    algorithm: Algorithm = Algorithm()
    """The objective and the size of a step."""
    checkpoint: Checkpoint = Checkpoint()
    """When checkpoints are written and how many are kept."""
    evaluate: Evaluate = Evaluate()
    """When accuracy is measured, and on what."""
    logging: Logging = Logging()
    """TensorBoard and Weights & Biases."""
    metrics: Metrics = Metrics()
    """The endpoints that Prometheus scrapes."""
    cluster: Cluster = Cluster()
    """Nodes, and what is placed where."""

    @property
    def on_update(self) -> str:
        """`rollout.on_update` with `auto` resolved."""
        if self.rollout.on_update != "auto":
            return self.rollout.on_update
        return "recompute" if self.algorithm.max_staleness else "drain"

    @model_validator(mode="after")
    def _updates_keep_the_bound(self) -> Self:
        on_update = self.rollout.on_update
        if self.algorithm.max_staleness == 0 and on_update in ("recompute", "keep_kv"):
            raise ValueError(
                f"rollout.on_update: {on_update} lets completions cross versions, and algorithm.max_staleness is 0: "
                "use drain, or allow 1"
            )
        if on_update == "keep_kv" and self.rollout.audio == "waveform" and self.model.projector == "trained":
            raise ValueError(
                "rollout.on_update: keep_kv with rollout.audio: waveform would keep what an older audio tower heard; "
                "use rollout.audio: auto, or recompute"
            )
        return self

    @model_validator(mode="after")
    def _answers_are_all_there_is_to_learn(self) -> Self:
        if self.algorithm.name == "sft" and self.data.prompt.form == "think":
            raise ValueError(
                "data.prompt asks for a thinking process, and the questions hold none to learn from: with "
                "algorithm.name: sft use data.prompt: answer"
            )
        return self

    @model_validator(mode="after")
    def _the_best_are_known(self) -> Self:
        if self.checkpoint.keep_best and not self.evaluate.every_steps:
            raise ValueError(
                f"checkpoint.keep_best is {self.checkpoint.keep_best}, and evaluate.every_steps is 0: no validation "
                f"tells which checkpoints are best; set evaluate.every_steps and data.validation"
            )
        return self

    @model_validator(mode="after")
    def _weights_reach_who_embeds(self) -> Self:
        rollout = self.rollout
        if rollout.weight_transfer == "nccl" and rollout.audio == "auto" and self.model.projector == "trained":
            raise ValueError(
                "rollout.weight_transfer: nccl broadcasts into vLLM alone, and with rollout.audio: auto tower and "
                "projector are the rollout actor's: freeze both, or use rollout.audio: waveform, or object_store"
            )
        most = STAGES_OF_A_BROADCAST * rollout.update_timeout_seconds
        if rollout.weight_transfer == "nccl" and self.learner.step_timeout_seconds <= most:
            raise ValueError(
                f"learner.step_timeout_seconds is {self.learner.step_timeout_seconds:g}, and a broadcast may take "
                f"{STAGES_OF_A_BROADCAST} x rollout.update_timeout_seconds = {most:g}: raise the one or lower the other"
            )
        return self

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.rewards:
            raise ValueError("rewards is empty: name at least one, for example `rewards: [{use: accuracy}]`")
        names = [reward.name or reward.use for reward in self.rewards]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"rewards has {sorted(twice)} twice; sum their weights, or give each term a `name`")
        if OVERLONG in names:
            raise ValueError(
                f"rewards has one that is called {OVERLONG}, under which algorithm.overlong_share is told: give it "
                "another `name`"
            )
        if self.rollout.max_completion_tokens >= self.rollout.max_model_tokens:
            raise ValueError(
                f"rollout.max_completion_tokens ({self.rollout.max_completion_tokens}) leaves no room for a prompt in "
                f"rollout.max_model_tokens ({self.rollout.max_model_tokens})"
            )
        return self
