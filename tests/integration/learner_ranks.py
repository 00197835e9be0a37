"""`python -m tests.integration.learner_ranks FOLDER RANK`: one learner rank, without Ray, on fabricated groups.

FOLDER/jobs.json says how many ranks there are and what they do, one job after the other; rank 0 writes what came out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from configs.schema import Config
from data.audio import audio_tokens, log_mel, mel_frames
from data.prompts import PromptEncoder
from data.types import Clip, ClipFeatures, ClipSource, Completion, Example, Group, Lesson, Prompt
from learner import head
from learner.address import free_address
from learner.engine import Engine, leaving_ranks
from learner.head import CHUNK_LOGITS
from learner.hf_files import load_processor
from learner.learner import Learner
from learner.result import LessonResult, UpdateResult
from learner.update import GroupLogprobs

SECONDS = (0.5, 1.0, 1.7, 0.8, 2.3, 1.2, 0.6, 1.5)
"""Lengths of the groups' clips."""
TOTALS = (
    (1.0, 0.0, 0.5), (0.0, 0.0, 1.0), (1.0, None, 0.0), (1.0, 1.0, 1.0),
    (0.2, 0.9, 0.4), (None, 3.0, 1.0), (0.0, 2.0, 2.0), (0.5, 0.1, 0.3),
)  # fmt: skip
"""Rewards of the groups' completions; a dropped one and a group without variance among them."""
LONG = 8
"""Tokens of a completion that ends of itself, at most."""
BETA, ENTROPY_COEFFICIENT = 0.04, 0.01
STALE_LOGPROBS = (-5.0, -7.0, -6.0)
"""Of a completion's tokens in turn: a near-uniform policy's are between the first two."""
NARROW = (0.001, 0.002)
"""Where the second of several updates is clipped."""
FEW_LOGITS = 2**11
"""Logits of a chunk where they are computed again: of a handful of tokens."""
LIMIT_SECONDS = 250


@dataclass(frozen=True)
class Job:
    """Start a learner, update, and keep what came out."""

    name: str
    zero_stage: int
    micro_batch_tokens: int
    updates: int = 1
    load: str | None = None
    """A checkpoint to go on from."""
    save: str | None = None
    """Where to write a checkpoint after the first update."""
    dtype: str = "float32"
    lora: dict[str, Any] | None = None
    """Adapters; the model to go on from is then the base, and not what the checkpoint merged."""
    offload: str = "none"
    again: bool = False
    """Compute activations again in the backward, and logits too, a few tokens at a time."""
    threads: int | None = 1
    beta: float = BETA
    entropy_coefficient: float = ENTROPY_COEFFICIENT
    alike: tuple[int, ...] = ()
    """Numbers of the updates in which every completion has the same reward."""
    uneven: bool = False
    """Update from three groups: one with long completions, and two of which one is too many for an even share."""
    one_clip: bool = False
    """Have all groups hear the first one's clip, whose features come anew with each fetch."""
    stale: str = ""
    """Level at which the learner weighs completions of an older policy, whose log-probs then differ by token."""
    several: bool = False
    """Make two updates from the groups, the second clipped narrowly."""
    algorithm: dict[str, Any] = field(default_factory=dict)
    """Further keys of the section."""
    max_grad_norm: float = 1e9
    broken: str = ""
    """What of the second update is not finite, on one rank alone: a `clip`, or the `loss` and not its gradient."""


@dataclass(frozen=True)
class Outcome:
    """What a job came to, read on the side of the test."""

    grad_norms: list[float]
    """Before clipping, one an update."""
    logprobs: list[list[list[float]] | None]
    """What the ranks tell of the tokens of each group before the first update, one list a completion."""
    losses: list[float]
    """One an update."""
    kls: list[float]
    """One an update."""
    state: dict[str, Tensor]
    """`master/NAME`, `exp_avg/NAME` and `exp_avg_sq/NAME` after the last update."""
    micro_batches: int
    heard: int
    """Clips that went into the policy's tower."""
    packed_tokens: list[int]
    """One an update."""
    rank_tokens: list[int]
    """Those of rank 0."""
    zero_variance_groups: list[int]
    """One an update."""
    applied: list[int]
    """Optimizer updates, one a call; and last those that the learner counts in all."""
    clipped_again: list[float]
    """Shares of the tokens of the updates after the first, one a step."""
    threads: int
    skipped: list[bool]
    """One an update."""


def run_ranks(folder: Path, ranks: int, model: Path, reference: Path, jobs: Sequence[Job]) -> dict[str, Outcome]:
    """Run the jobs on so many processes; gives the outcomes by name."""
    folder.mkdir()
    plan = {"ranks": ranks, "rendezvous": free_address(), "model": str(model), "reference": str(reference)}
    (folder / "jobs.json").write_text(json.dumps(plan | {"jobs": [asdict(job) for job in jobs]}))
    command = [sys.executable, "-m", __name__, str(folder)]
    logs = [(folder / f"rank-{rank}.log").open("w") for rank in range(ranks)]
    processes = [
        subprocess.Popen([*command, str(rank)], stdout=log, stderr=subprocess.STDOUT) for rank, log in enumerate(logs)
    ]
    try:
        statuses = [process.wait(LIMIT_SECONDS) for process in processes]
    finally:
        for process, log in zip(processes, logs, strict=True):
            process.kill()
            log.close()
    assert not any(statuses), "\n".join((folder / f"rank-{rank}.log").read_text()[-4000:] for rank in range(ranks))
    return {job.name: _outcome(folder, job) for job in jobs}


def _outcome(folder: Path, job: Job) -> Outcome:
    facts = json.loads((folder / f"{job.name}.json").read_text())
    return Outcome(**facts, state=load_file(folder / f"{job.name}.safetensors"))


def fabricate(model: str) -> tuple[list[Group], dict[str, ClipFeatures]]:
    """Groups of random clips and completions, the same on every rank, and the features by clip."""
    random = np.random.default_rng(0)
    processor = load_processor(model)
    encoder = PromptEncoder(processor.tokenizer, processor.chat_template, "answer")
    groups, features = [], {}
    for number, (seconds, total) in enumerate(zip(SECONDS, TOTALS, strict=True)):
        waveform = (0.1 * random.standard_normal(int(16_000 * seconds))).astype(np.float32)
        name = f"clip-{number}"
        frames = mel_frames(len(waveform))
        features[name] = ClipFeatures(mel=log_mel(waveform, processor.feature_extractor), valid_frames=frames)
        clip = Clip(name, seconds, audio_tokens(frames))
        example = Example(name, ClipSource(name), f"Which animal is heard {number} times?", ("a", "b"), "a")
        completions = [
            Completion(
                tuple(random.integers(0, 200, length).tolist()),
                "",
                (-5.0,) * length,
                (0,) * length,
                "length" if length > LONG else "stop",
            )
            for length in random.integers(1, 12, len(total)).tolist()
        ]
        prompt = Prompt(name, example, encoder.encode(example), clip, seed=number)
        groups.append(Group(prompt, tuple(completions), total=total))
    return groups, features


def lasting(group: Group, length: int) -> Group:
    """The group with completions of so many tokens."""
    completions = [
        Completion((one.token_ids * length)[:length], "", (-5.0,) * length, (0,) * length, "length")
        for one in group.completions
    ]
    return replace(group, completions=tuple(completions))


def stale(groups: Sequence[Group]) -> list[Group]:
    """The groups as an older policy sampled them: some tokens are likelier for the learner, some are less likely."""
    return [
        replace(
            group,
            completions=tuple(
                replace(
                    one,
                    logprobs=tuple(STALE_LOGPROBS[place % len(STALE_LOGPROBS)] for place in range(len(one.token_ids))),
                )
                for one in group.completions
            ),
        )
        for group in groups
    ]


def lessons(groups: Sequence[Group]) -> list[Lesson]:
    """The first completion of each group, as what is to be said."""
    return [Lesson(group.prompt, group.completions[0].token_ids) for group in groups]


def about(group: Group, clip: Clip) -> Group:
    """The group with its question asked about another clip."""
    return replace(group, prompt=replace(group.prompt, clip=clip))


class Losing:
    """Makes the losses that an engine is given infinite, while it is to; their gradients stay as they are."""

    def __init__(self, engine: Engine) -> None:
        self.now = False
        self._backward = engine.backward
        engine.backward = self  # type: ignore[assignment]

    def __call__(self, loss: Tensor) -> None:
        self._backward(loss + torch.inf if self.now else loss)


def _rank(folder: Path, rank: int) -> None:
    plan = json.loads((folder / "jobs.json").read_text())
    fabricated, features = fabricate(plan["model"])
    for values in plan["jobs"]:
        job = Job(**values)
        groups = fabricated
        if job.uneven:
            groups = [lasting(group, length) for group, length in zip(groups, (30, 1, 1), strict=False)]
        if job.stale:
            groups = stale(groups)
        if job.one_clip:
            groups = [about(group, groups[0].prompt.clip) for group in groups]
        head.CHUNK_LOGITS = FEW_LOGITS if job.again else CHUNK_LOGITS
        config = Config.model_validate(
            {
                "model": {"path": plan["model"], "dtype": job.dtype, "lora": job.lora},
                "data": {"train": "unused"},
                "learner": {
                    "ranks": plan["ranks"],
                    "zero_stage": job.zero_stage,
                    "micro_batch_tokens": job.micro_batch_tokens,
                    "learning_rate": 1e-3,
                    "schedule": "constant",
                    "max_grad_norm": job.max_grad_norm,
                    "threads": job.threads,
                    "offload": job.offload,
                    "activation_checkpointing": job.again,
                },
                "algorithm": {
                    "beta": job.beta,
                    "entropy_coefficient": job.entropy_coefficient,
                    "max_staleness": 1 if job.stale else 0,
                    "correction": {"level": job.stale or "none"},
                    **({"updates_per_step": 2, "clip": NARROW} if job.several else {}),
                    **job.algorithm,
                },
                "cluster": {"device": "cpu"},
            }
        )
        start = f"{job.load}/hf" if job.load and job.lora is None else plan["model"]
        learner = Learner(config, rank, plan["ranks"], plan["rendezvous"], start, plan["reference"])
        version = learner.load(Path(job.load) / "trainer") if job.load else 0
        forwards = [0]
        learner.engine.policy.register_forward_pre_hook(lambda *_, seen=forwards: seen.append(0))
        heard: list[int] = []
        convolution = learner.engine.policy.model.get_submodule("model.audio_tower.conv1")
        convolution.register_forward_pre_hook(lambda _, given, seen=heard: seen.append(len(given[0])))
        results: list[UpdateResult | LessonResult] = []
        losing = Losing(learner.engine)
        logprobs: dict[int, list[list[float]]] = {}
        for number in range(job.updates):
            heard_clips = features
            if number == 1 and job.broken == "clip":
                heard_clips = features | {"clip-0": replace(features["clip-0"], mel=features["clip-0"].mel * np.nan)}
            losing.now = number == 1 and job.broken == "loss" and rank == plan["ranks"] - 1
            work: list[Any] = groups
            if number in job.alike:
                work = [replace(group, total=(1.0,) * len(group.total)) for group in groups]
            apply: Any = learner.update
            if config.algorithm.name == "sft":
                work, apply = lessons(groups), learner.teach
            results.append(apply(work, lambda one, clips=heard_clips: replace(clips[one.prompt.clip.sha256]), version))
            version += 1
            if number == 0:
                logprobs = _of_all_ranks(learner.step_logprobs)
            if job.save and len(results) == 1:
                contents = learner.contents({"step": 1})
                if rank == 0:
                    learner.write(Path(job.save), contents)
                contents.pass_over()
        state = {f"{part}/{name}": tensor for part, of in learner.engine.state() for name, tensor in of.items()}
        if rank == 0:
            save_file(state, folder / f"{job.name}.safetensors")
            updates = [result for result in results if isinstance(result, UpdateResult)]
            facts = {
                "grad_norms": [result.grad_norm for result in results],
                "logprobs": [logprobs.get(number) for number in range(len(groups))],
                "losses": [result.loss for result in results],
                "kls": [result.kl for result in updates],
                "micro_batches": (len(forwards) - 1) // max(job.updates, 1),
                "heard": sum(heard),
                "packed_tokens": [result.packed_tokens for result in results],
                "rank_tokens": [result.rank_tokens for result in results],
                "zero_variance_groups": [result.zero_variance_groups for result in updates],
                "applied": [*(result.updates for result in updates), learner.updates],
                "clipped_again": [result.off_policy["further_clipped"] for result in updates],
                "skipped": [result.skipped for result in results],
                "threads": torch.get_num_threads(),
            }
            (folder / f"{job.name}.json").write_text(json.dumps(facts))
    dist.barrier()


def _of_all_ranks(own: GroupLogprobs) -> dict[int, list[list[float]]]:
    """By index of the group; a collective."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, {index: [values.tolist() for values in of] for index, of in own.items()})
    assert sum(map(len, found)) == len({index for of_rank in found for index in of_rank})
    return {index: values for of_rank in found for index, values in of_rank.items()}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    with leaving_ranks():
        _rank(Path(sys.argv[1]), int(sys.argv[2]))
