"""`python -m bench.memory`: peak memory of one update, the learner against the reference method, at a 7B's vocabulary.

Each in a fresh process, from the same prompts and completions. Counted is what an update takes beyond the loaded
models: activations, gradients, and the optimizer's moments, which the first update makes and the second finds there.
Sampling is left out on both sides. The published trainer computes the group of one prompt at a time, and so does the
learner; beside it stands the learner with the default `learner.micro_batch_tokens`, which holds several groups and
takes more. The model is the benchmarks' own with the embeddings of 152,000 tokens, so logits weigh as they do for a 7B
model against the rest of an update.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from bench import models
from bench.command import finish, parser
from bench.parity import GroupMaker, join_alone
from bench.reference import Reference
from cluster.progress import Reporter
from configs.schema import Config
from configs.schema import Learner as LearnerSettings
from data.formats import load_examples
from learner.engine import leaving_ranks
from learner.sft import features_of

GROUP_SIZE, COMPLETION_TOKENS = 8, 32
MEGABYTE = 1e6


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parser("memory", __doc__)
    arguments.add_argument("--clip-seconds", type=float, default=10.0, help="length of every clip (10, as in AVQA)")
    arguments.add_argument("--prompts", type=int, default=8, help="prompts of the update (8)")
    arguments.add_argument("--vocabulary", type=int, default=152_000, help="rows of embeddings and lm_head (152,000)")
    arguments.add_argument("--threads", type=int, default=2, help="threads of either side (2)")
    options = arguments.parse_args(argv)
    reporter = Reporter()
    figures: dict[str, Any] = {
        "clip_seconds": options.clip_seconds,
        "prompts": options.prompts,
        "group_size": GROUP_SIZE,
        "completion_tokens": COMPLETION_TOKENS,
        "vocabulary": options.vocabulary,
        "default_micro_batch_tokens": LearnerSettings().micro_batch_tokens,
    }
    with tempfile.TemporaryDirectory(prefix="auricle-bench-") as temporary:
        model = models.build(Path(temporary) / "model", options.vocabulary)
        questions = models.write_questions(Path(temporary) / "clips", options.clip_seconds, options.prompts)
        for name, (label, update) in SIDES.items():
            reporter.say(f"an update: {label}")
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
                found = fresh.submit(update, str(model), str(questions), options).result()
            figures |= {f"{name}_{key}": value for key, value in found.items()}
    for name, which in itertools.product(SIDES, ("", "second_")):
        peak, other = figures[f"{name}_{which}peak_megabytes"], figures[f"reference_{which}peak_megabytes"]
        figures[f"{name}_{which}peak_ratio"] = peak / other
    figures["peak_ratio"] = figures["learner_peak_ratio"]
    show(figures, reporter)
    return finish(figures, {}, options, reporter)


def learner_update(model: str, questions: str, options: argparse.Namespace, **settings: int) -> dict[str, float]:
    """Memory of the learner's update."""
    config = Config.model_validate(
        {
            "model": {"path": model},
            "data": {"train": questions},
            "learner": {"threads": options.threads, **settings},
            "algorithm": {"group_size": GROUP_SIZE, "prompts_per_step": options.prompts},
        }
    )
    learner = join_alone(config, model)
    examples = load_examples(questions).examples
    maker = GroupMaker(model)
    groups = [maker.group(example, sampled(number, options)) for number, example in enumerate(examples)]
    with leaving_ranks():
        return measured(lambda: learner.update(groups, features_of, step=0))


def reference_update(model: str, questions: str, options: argparse.Namespace) -> dict[str, float]:
    """Memory of the reference method's update."""
    torch.set_num_threads(options.threads)
    method = Reference(model, model, GROUP_SIZE, COMPLETION_TOKENS)
    prompts = [method.inputs(example) for example in load_examples(questions).examples]
    rewards = [float(number % 2) for number in range(GROUP_SIZE)]

    def update() -> None:
        for number, inputs in enumerate(prompts):
            method.backward(inputs, sampled(number, options), rewards, share=1 / len(prompts))
        method.update()

    return measured(update)


def sampled(number: int, options: argparse.Namespace) -> torch.Tensor:
    """Random completions (G, C) of a prompt, from the whole vocabulary but the tokenizer's own tokens."""
    generator = torch.Generator().manual_seed(number)
    return torch.randint(models.VOCABULARY, options.vocabulary, (GROUP_SIZE, COMPLETION_TOKENS), generator=generator)


SIDES: dict[str, tuple[str, Callable[..., dict[str, float]]]] = {
    "reference": ("reference method", reference_update),
    # a group is larger than one token, and is taken whole
    "learner": ("Auricle's learner, one group at a time", partial(learner_update, micro_batch_tokens=1)),
    "default": ("the same with the default micro-batch", learner_update),
}


def measured(update: Callable[[], object]) -> dict[str, float]:
    """Memory before two updates, the most that each takes beyond that, and the seconds of the first."""
    loaded, started = resident_bytes("VmRSS"), time.perf_counter()
    first = peak_bytes(update)
    seconds = time.perf_counter() - started
    return {
        "loaded_megabytes": loaded / MEGABYTE,
        "peak_megabytes": (first - loaded) / MEGABYTE,
        "second_peak_megabytes": (peak_bytes(update) - loaded) / MEGABYTE,
        "seconds": seconds,
    }


def peak_bytes(work: Callable[[], object]) -> int:
    """The most resident memory that this process has during a call."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
    work()
    return resident_bytes("VmHWM")


def resident_bytes(field: str) -> int:
    """This process's resident memory (`VmRSS`) or the most that it was (`VmHWM`)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}: this benchmark needs Linux")


def show(figures: dict[str, Any], reporter: Reporter) -> None:
    """Print the table."""
    rows = []
    for name, (label, _) in SIDES.items():
        cells = [f"{figures[f'{name}_{key}_megabytes']:,.0f}" for key in ("loaded", "peak", "second_peak")]
        ratios = [f"{figures[f'{name}_{which}peak_ratio']:.2f}" for which in ("", "second_")]
        rows.append((label, *cells, " / ".join(ratios)))
    title = (
        f"memory of an update of {figures['prompts']} prompts x {GROUP_SIZE} completions, vocabulary "
        f"{figures['vocabulary']:,}, clips of {figures['clip_seconds']:g} s, in MB"
    )
    reporter.table(title, rows, ("", "loaded", "first update, peak beyond", "second update", "ratios"))


if __name__ == "__main__":
    sys.exit(main())
