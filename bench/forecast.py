"""`python -m bench.forecast`: the memory that a dry run forecasts, against what updates allocate on CPUs.

Every case is a learner of one or two ranks in fresh processes, which updates the benchmarks' model three times. Counted
are the bytes of live tensors when the second backward has ended, and the most that torch's allocator holds at once in
the third update. DeepSpeed's buckets are reserved for 500 million numbers each, of which a model this small writes its
own: they count as that. What only a GPU holds (FlexAttention, NCCL, contexts) is not measured here.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bench import models
from bench.command import finish, parser
from bench.parity import GroupMaker
from cluster.progress import Reporter
from configs.schema import Config
from data.formats import load_examples
from learner.address import free_address
from learner.engine import leaving_ranks
from learner.figure import total
from learner.learner import Learner
from learner.memory import BUCKET_NUMBERS, rank_memory
from learner.sft import features_of
from learner.sizes import find_sizes
from learner.work import Lengths, work_of

CLIP_SECONDS, COMPLETION_TOKENS, GROUP_SIZE, PROMPTS = 3.0, 32, 8, 4
TOLERANCE = 1.25
"""Largest factor between what is forecast and what is allocated."""


@dataclass(frozen=True, slots=True)
class Case:
    """A learner; its name in the figures is what it is made of."""

    ranks: int = 1
    zero_stage: int = 0
    offload: str = "none"
    dtype: str = "float32"
    beta: float = 0.0
    again: bool = False
    audio_tower: str = "trained"
    lora: int = 0

    @property
    def name(self) -> str:
        """Such as `2_ranks_zero_3_bfloat16`."""
        parts = [f"{self.ranks}_rank{'s' * (self.ranks > 1)}", f"zero_{self.zero_stage}", self.dtype]
        parts += [f"offload_{self.offload}"] * (self.offload != "none") + ["reference"] * bool(self.beta)
        parts += ["checkpointing"] * self.again + ["frozen_tower"] * (self.audio_tower == "frozen")
        return "_".join(parts + [f"lora_{self.lora}"] * bool(self.lora))

    def config(self, model: str, questions: str) -> Config:
        """Its configuration."""
        return Config.model_validate(
            {
                "model": {
                    "path": model,
                    "dtype": self.dtype,
                    "audio_tower": self.audio_tower,
                    "lora": {"rank": self.lora} if self.lora else None,
                },
                "data": {"train": questions},
                "learner": {
                    "ranks": self.ranks,
                    "zero_stage": self.zero_stage,
                    "offload": self.offload,
                    "activation_checkpointing": self.again,
                    "threads": 1,
                },
                "algorithm": {"group_size": GROUP_SIZE, "prompts_per_step": PROMPTS, "beta": self.beta},
            }
        )


ALONE = (
    Case(),
    Case(dtype="bfloat16"),
    Case(again=True),
    Case(beta=0.04),
    Case(audio_tower="frozen", beta=0.04),
    Case(audio_tower="frozen", lora=16),
)
SHARDED = (
    *(Case(2, stage, dtype=dtype) for stage in (1, 2, 3) for dtype in ("float32", "bfloat16")),
    *(Case(2, stage, "optimizer", "bfloat16") for stage in (1, 2, 3)),
    Case(2, 2, "optimizer"),
    Case(2, 3, "all", "bfloat16", again=True, beta=0.04),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit status 1 where a forecast is off by more than it claims."""
    arguments = parser("forecast", __doc__)
    arguments.add_argument("--only", default="", metavar="NAME", help="the cases with NAME in their name")
    options = arguments.parse_args(argv)
    reporter = Reporter()
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="auricle-bench-") as temporary:
        model = str(models.build(Path(temporary) / "model"))
        questions = str(models.write_questions(Path(temporary) / "clips", CLIP_SECONDS, PROMPTS))
        for case in (case for case in (*ALONE, *SHARDED) if options.only in case.name):
            reporter.say(case.name)
            config = case.config(model, questions)
            forecast, found = forecast_of(config), measured(config)
            for kind in ("held", "peak"):
                figures[f"{kind}_forecast_megabytes_{case.name}"] = forecast[kind] / 1e6
                figures[f"{kind}_megabytes_{case.name}"] = found[kind] / 1e6
                figures[f"{kind}_ratio_{case.name}"] = forecast[kind] / found[kind]
    show(figures, reporter)
    ratios = {name: value for name, value in figures.items() if "_ratio_" in name}
    promised = {f"{name} is within a factor of {TOLERANCE}": fits(value) for name, value in ratios.items()}
    return finish(figures, promised, options, reporter)


def fits(ratio: float) -> bool:
    """Whether a ratio is within the tolerance, either way."""
    return 1 / TOLERANCE < ratio < TOLERANCE


def forecast_of(config: Config) -> dict[str, float]:
    """Bytes that a rank holds when a backward has ended, and at most, on a CPU."""
    sizes = find_sizes(config.model.path)
    assert sizes is not None
    text = GroupMaker(config.model.path)
    [example, *_] = load_examples(config.data.train).examples
    tokens = len(text.group(example, torch.zeros(GROUP_SIZE, 1, dtype=torch.long)).prompt.token_ids) - 1
    work = work_of(config, Lengths(CLIP_SECONDS, tokens, COMPLETION_TOKENS))
    memory = rank_memory(config, sizes, work, on_gpu=False)
    states = total(memory.host)
    held = total(memory.held) + states
    return {"held": held, "peak": states + memory.peak}


def measured(config: Config) -> dict[str, float]:
    """The same of rank 0, measured in fresh processes."""
    ranks, rendezvous = config.learner.ranks, free_address()
    with ProcessPoolExecutor(ranks, get_context("spawn")) as pool:
        waiting = [pool.submit(_rank, config, rank, rendezvous) for rank in range(ranks)]
        return waiting[0].result()


def _rank(config: Config, rank: int, rendezvous: str) -> dict[str, float]:
    with leaving_ranks():
        return _allocated(config, rank, rendezvous)


def _allocated(config: Config, rank: int, rendezvous: str) -> dict[str, float]:
    learner = Learner(config, rank, config.learner.ranks, rendezvous, config.model.path, config.model.path)
    examples, shape = load_examples(config.data.train).examples, (GROUP_SIZE, COMPLETION_TOKENS)
    # no name for what makes them: a frozen tower of its own is to be gone when memory is counted
    groups = GroupMaker(config.model.path, config.model.audio_tower).random(examples, shape, models.VOCABULARY)
    trained = sum(
        getattr(parameter, "ds_numel", parameter.numel())
        for parameter in learner.engine.policy.parameters()
        if parameter.requires_grad
    )
    found: dict[str, float] = {}
    step = learner.engine.step

    def stop(learning_rate: float) -> float:
        found["held"] = live_bytes(trained)
        return step(learning_rate)

    learner.update(groups, features_of, 0)
    learner.engine.step = stop  # type: ignore[method-assign]
    learner.update(groups, features_of, 1)
    learner.engine.step = step  # type: ignore[method-assign]
    before = live_bytes(trained)
    found["peak"] = before + allocated_peak(lambda: learner.update(groups, features_of, 2), trained)
    dist.barrier()
    return found


def live_bytes(trained: int) -> float:
    """Bytes of every tensor that lives, gradients too, each storage once."""
    gc.collect()
    storages: dict[int, float] = {}
    for tensor in [
        one for one in gc.get_objects() if issubclass(type(one), Tensor)
    ]:  # `isinstance` asks some of torch's objects what they warn of
        gradient = tensor.grad if tensor.is_leaf else None
        for each in (tensor,) if gradient is None else (tensor, gradient):
            if each.device.type == "cpu":
                storage = each.untyped_storage()
                storages[storage.data_ptr()] = _written(storage.nbytes(), trained)
    return sum(storages.values())


def allocated_peak(work: Callable[[], object], trained: int) -> float:
    """The most bytes beyond those before that torch's CPU allocator holds during a call."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events: Any = profiler.profiler.kineto_results.events()
    now = most = 0.0
    for event in sorted((one for one in events if one.name() == "[memory]"), key=lambda one: one.start_ns()):
        size = event.nbytes()
        now += _written(abs(size), trained) * (1 if size > 0 else -1)
        most = max(most, now)
    return most


def _written(size: int, trained: int) -> float:
    """Of a bucket of DeepSpeed's what the model's gradients fill; of any other storage all."""
    for width in (2, 4):
        if size == BUCKET_NUMBERS * width:
            return min(BUCKET_NUMBERS, trained) * width
    return size


def show(figures: dict[str, float], reporter: Reporter) -> None:
    """Print the table."""
    names = [key.removeprefix("held_ratio_") for key in figures if key.startswith("held_ratio_")]
    rows = [
        (
            name.replace("_", " "),
            *(
                f"{figures[f'{kind}_forecast_megabytes_{name}']:,.0f} / {figures[f'{kind}_megabytes_{name}']:,.0f} "
                f"({figures[f'{kind}_ratio_{name}']:.2f})"
                for kind in ("held", "peak")
            ),
        )
        for name in names
    ]
    reporter.table("memory of a rank in MB, forecast / allocated (ratio)", rows, ("", "after a backward", "at most"))


if __name__ == "__main__":
    sys.exit(main())
