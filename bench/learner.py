"""`python -m bench.learner --json FILE`: what an update costs beside its arithmetic, and what a shared prefix saves.

The whole update (packing, forward, loss, backward, clipping, AdamW) is compared with a bare forward and backward of
the same packed tensors: the model called directly, with the same attention and a plain sum as its loss. The shared
prefix is compared with the same groups laid out as one sequence a completion, each with a prompt of its own; both
have to give the same gradient. Random weights, clips and completions; no KL; repetitions take turns.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bench import models
from bench.command import finish, parser
from bench.parity import GroupMaker, join_alone
from cluster.progress import Reporter
from configs.schema import Config
from data.formats import load_examples
from data.types import ClipFeatures, Group
from learner import attention, audio_tower, losses
from learner.advantage import standardised
from learner.engine import leaving_ranks
from learner.hf import load_model
from learner.packing import Sequences, pack, plan_micro_batches
from learner.policy import MicroBatch, Policy
from learner.sft import features_of

THREADS = 2
GROUP_SIZE = 8
COMPLETION_TOKENS = 32
CLIP_SECONDS = (3, 10)
TOWERS = ("frozen", "trained")
UPDATE_PROMPTS = 8
"""Prompts of a whole update."""
PREFIX_PROMPTS = 3
"""Prompts of a comparison of layouts, where repeated prompts take seconds a group."""
GRADIENT_TOLERANCE = 1e-4
"""Largest relative difference of a parameter's gradient between the layouts, in float32."""


@dataclass(frozen=True, slots=True)
class Part:
    """What stands behind one prompt in a layout."""

    sequences: Sequences
    clip: ClipFeatures
    advantages: tuple[float, ...]
    """One a completion."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit status 1 where the two layouts have different gradients."""
    arguments = parser("learner", __doc__)
    arguments.add_argument("--repetitions", type=int, default=7, help="measured repetitions of each side (7)")
    options = arguments.parse_args(argv)
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
    torch.set_num_threads(THREADS)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        model = str(models.build(Path(temporary) / "model"))
        for seconds in CLIP_SECONDS:
            figures |= prefix_figures(model, seconds, options.repetitions)
        with leaving_ranks():
            for tower in TOWERS:
                figures |= update_figures(model, tower, options.repetitions)
    figures["ratio"] = min(figures[f"ratio_{tower}_{seconds}s"] for tower in TOWERS for seconds in CLIP_SECONDS)
    figures["gradient_difference"] = max(figures[f"gradient_difference_{seconds}s"] for seconds in CLIP_SECONDS)
    reporter = Reporter()
    show(figures, reporter)
    same = figures["gradient_difference"] <= GRADIENT_TOLERANCE
    return finish(figures, {f"gradients differ by at most {GRADIENT_TOLERANCE:g}": same}, options, reporter)


def update_figures(model: str, tower: str, repetitions: int) -> dict[str, float]:
    """Seconds of a whole update, by phase, and of the bare work in it; the lower `ratio`, the more is lost."""
    learner = join_alone(configured(model, tower), model)
    bare = Policy(load_model(model, torch.float32), temperature=1.0)
    if tower == "frozen":
        bare.model.model.audio_tower.requires_grad_(False)
    figures: dict[str, float] = {}
    for seconds in CLIP_SECONDS:
        groups = fabricate(model, seconds, UPDATE_PROMPTS, tower)
        budget = learner.config.learner.micro_batch_tokens
        batches = lay_out(parts_of(groups, bare.audio_token_id), budget)
        work = [bare_work(bare, batch) for batch, _ in batches]
        phases: list[dict[str, float]] = []

        def update(groups: Sequence[Group] = groups, phases: list[dict[str, float]] = phases) -> None:
            result = learner.update(groups, features_of, learner.updates)
            phases.append(result.seconds)

        def direct(work: Sequence[Callable[[], Tensor]] = work) -> None:
            for forward in work:
                forward().backward()

        whole, alone = alternate([update, direct], repetitions, lambda: bare.zero_grad(set_to_none=True))
        key = f"{tower}_{seconds}s"
        figures[f"update_seconds_{key}"], figures[f"bare_seconds_{key}"] = whole, alone
        figures[f"ratio_{key}"] = alone / whole
        for phase in phases[-1]:
            figures[f"{phase}_seconds_{key}"] = statistics.median(spent[phase] for spent in phases[-repetitions:])
    return figures


def prefix_figures(model: str, seconds: float, repetitions: int) -> dict[str, float]:
    """Forward and backward with the prompt once a group, and with the prompt once a completion."""
    policy = Policy(load_model(model, torch.float32), temperature=1.0)
    policy.model.model.audio_tower.requires_grad_(False)
    shared = parts_of(fabricate(model, seconds, PREFIX_PROMPTS, "frozen"), policy.audio_token_id)
    repeated = [
        Part(Sequences(part.sequences.prompt, [completion]), part.clip, (advantage,))
        for part in shared
        for completion, advantage in zip(part.sequences.completions, part.advantages, strict=True)
    ]
    budget = configured(model, "frozen").learner.micro_batch_tokens

    def accumulate(parts: Sequence[Part]) -> None:
        for batch, advantages in lay_out(parts, budget):
            logprobs, entropy = policy(batch)
            weights = torch.full_like(logprobs, 1 / (COMPLETION_TOKENS * len(repeated)))
            gained, _ = losses.clipped(
                logprobs,
                logprobs.detach(),
                advantages,
                torch.from_numpy(batch.packed.owners),
                losses.Clip(0.2, 0.2),
            )
            losses.objective(gained, None, entropy, weights, 0.0, 0.0).backward()

    gradients = []
    for parts in (shared, repeated):
        accumulate(parts)
        gradients.append([parameter.grad for parameter in policy.parameters() if parameter.grad is not None])
        policy.zero_grad(set_to_none=True)
    difference = max(float((one - two).norm() / two.norm()) for one, two in zip(*gradients, strict=True))
    once, each = alternate(
        [lambda: accumulate(shared), lambda: accumulate(repeated)],
        repetitions,
        lambda: policy.zero_grad(set_to_none=True),
    )
    return {
        f"shared_seconds_{seconds}s": once / PREFIX_PROMPTS,
        f"repeated_seconds_{seconds}s": each / PREFIX_PROMPTS,
        f"shared_ratio_{seconds}s": each / once,
        f"gradient_difference_{seconds}s": difference,
    }


def bare_work(policy: Policy, batch: MicroBatch) -> Callable[[], Tensor]:
    """The model's forward and a plain sum of its losses, on tensors that are all laid out beforehand."""
    model, packed = policy.model, batch.packed
    token_ids, positions, sources, targets = (
        torch.from_numpy(array) for array in (packed.token_ids, packed.positions, packed.sources, packed.targets)
    )
    places = torch.from_numpy(np.flatnonzero((packed.token_ids == policy.audio_token_id) & (packed.branches == 0)))
    mask = attention.mask_for(packed, policy.attention_kind, token_ids.device)
    frozen = batch.clips[0].pooled is not None
    clips = [torch.from_numpy(clip.pooled if frozen else clip.mel) for clip in batch.clips]
    frames = [clip.valid_frames for clip in batch.clips]

    def forward() -> Tensor:
        pooled = clips if frozen else audio_tower.encode(model.model.audio_tower, clips, frames)
        audio = model.model.multi_modal_projector(torch.cat(pooled))  # (A, H)
        embeddings = model.get_input_embeddings()(token_ids).index_copy(0, places, audio)  # (T, H)
        hidden = model.model.language_model(
            inputs_embeds=embeddings[None], attention_mask=mask, position_ids=positions[None], use_cache=False
        ).last_hidden_state[0]  # (T, H)
        return nn.functional.cross_entropy(model.lm_head(hidden[sources]), targets, reduction="sum")

    return forward


def fabricate(model: str, seconds: float, prompts: int, tower: str) -> list[Group]:
    """Groups of random completions about clips of that length."""
    with tempfile.TemporaryDirectory() as folder:
        examples = load_examples(str(models.write_questions(Path(folder), seconds, prompts))).examples
        return GroupMaker(model, tower).random(examples, (GROUP_SIZE, COMPLETION_TOKENS), models.VOCABULARY)


def parts_of(groups: Sequence[Group], audio_token_id: int) -> list[Part]:
    """The groups as an update lays them out: a prompt and all of its completions."""
    return [
        Part(
            Sequences.of(group.prompt, [completion.token_ids for completion in group.completions], audio_token_id),
            features_of(group),
            tuple(advantage or 0.0 for advantage in standardised(group.total)),
        )
        for group in groups
    ]


def lay_out(parts: Sequence[Part], micro_batch_tokens: int) -> list[tuple[MicroBatch, Tensor]]:
    """Micro-batches as an update plans them, each with the advantage of every predicted token, (N,)."""
    [plan] = plan_micro_batches([part.sequences.packed_tokens for part in parts], 1, micro_batch_tokens)
    batches = []
    for members in plan:
        packed = pack([parts[member].sequences for member in members])
        advantages = torch.tensor([advantage for member in members for advantage in parts[member].advantages])
        batches.append((MicroBatch(packed, [parts[member].clip for member in members]), advantages[packed.owners]))
    return batches


def alternate(sides: Sequence[Callable[[], None]], repetitions: int, after: Callable[[], None]) -> list[float]:
    """Median seconds of each side; they take turns, the first round is not counted."""
    spent: list[list[float]] = [[] for _ in sides]
    for _ in range(repetitions + 1):
        for side, seconds in zip(sides, spent, strict=True):
            start = time.perf_counter()
            side()
            seconds.append(time.perf_counter() - start)
            after()
    return [statistics.median(seconds[1:]) for seconds in spent]


def configured(model: str, tower: str) -> Config:
    """An update of the language model and the projector, and of the tower where it is trained."""
    return Config.model_validate(
        {
            "model": {"path": model, "audio_tower": tower},
            "data": {"train": "unused"},
            "learner": {"threads": THREADS, "schedule": "constant"},
            "algorithm": {"beta": 0.0, "group_size": GROUP_SIZE, "prompts_per_step": UPDATE_PROMPTS},
            "cluster": {"device": "cpu"},
        }
    )


def show(figures: dict[str, float], reporter: Reporter) -> None:
    """Print the tables."""
    cases = [f"{tower}_{seconds}s" for tower in TOWERS for seconds in CLIP_SECONDS]
    phases = [key.removesuffix(f"_seconds_{cases[0]}") for key in figures if key.endswith(f"_seconds_{cases[0]}")]
    rows = [(phase, *(f"{figures[f'{phase}_seconds_{case}']:.3f}" for case in cases)) for phase in phases]
    rows.append(("bare / update", *(f"{figures[f'ratio_{case}']:.3f}" for case in cases)))
    header = ("seconds", *(case.replace("_", " tower, ") for case in cases))
    reporter.table(f"one update of {UPDATE_PROMPTS} prompts x {GROUP_SIZE} completions", rows, header)
    columns = ("shared_seconds", "repeated_seconds", "shared_ratio", "gradient_difference")
    rows = [(f"{seconds} s", *(f"{figures[f'{key}_{seconds}s']:.3g}" for key in columns)) for seconds in CLIP_SECONDS]
    header = ("clips", "shared, s", "repeated, s", "repeated / shared", "gradients differ by")
    reporter.table("a group's forward and backward, its prompt once or once a completion", rows, header)


if __name__ == "__main__":
    sys.exit(main())
