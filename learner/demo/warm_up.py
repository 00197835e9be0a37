"""`python -m learner.demo.warm_up`: the demo's warm start, a small model that hears a little and answers in the format.

Builds the untrained demo model, encodes every clip once with its frozen tower, and fine-tunes projector and language
model on the training questions for a fixed number of steps. GRPO then has something to sharpen, and room to.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress, track
from transformers import Qwen2AudioForConditionalGeneration

from configs.schema import Learner
from data.arguments import DEFAULTS, count
from data.audio import read_clip
from data.command import command
from data.formats import load_examples
from data.order import DataOrder
from data.ordered import cpus
from data.prompts import PromptEncoder, render_question
from data.types import Clip, ClipFeatures, Example, Lesson, Prompt
from learner.address import free_address
from learner.demo.tiny_model import build
from learner.engine import Engine, join_ranks, leaving_ranks
from learner.feature_cache import FrozenTower
from learner.hf import export_checkpoint, load_model, load_tower
from learner.hf_files import is_taken, load_processor
from learner.policy import Policy
from learner.sft import SupervisedUpdate, features_of, greedy_accuracy

STEPS = 270
"""Enough to answer in the format and to hear a little; more of them leave less for GRPO to learn."""

BATCH_SIZE = 32
SETTINGS = Learner(
    learning_rate=3e-3, schedule="cosine", warmup_steps=20, weight_decay=0.3, betas=(0.9, 0.98), micro_batch_tokens=600
)
"""Picked on the validation questions."""

PROMPT_WEIGHT = 0.3
"""With it the model copies one of the choices much sooner: its prediction is one of them twice as often."""

TIMES = {"sound": 5, "music": 4, "speech": 5}
"""How often a question of a task stands among the lessons: music is learned soonest."""

REPORTS = 4
"""How often a warm-up tells of its accuracy, and once at its end."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = parser("learner.demo.warm_up", __doc__, STEPS).parse_args(argv)
    console = Console(highlight=False)
    train = load_examples(str(options.data / "train.parquet")).examples
    validation = load_examples(str(options.data / "validation.parquet")).examples
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "untrained"
        build(source, [text_of(example) for example in train], options.seed)
        lessons = lessons_of(source, [*train, *validation], options.features, console)
        learned, held = lessons[: len(train)], lessons[len(train) :]
        weighted = [lesson for lesson in learned for _ in range(TIMES[lesson.prompt.example.task])]
        # more threads gain little on a model of this size, and lose a lot on a busy machine
        with alone(source, options.seed, threads=1) as model:
            model.model.audio_tower.requires_grad_(False)
            engine = fine_tuned(model, weighted, held, SETTINGS, BATCH_SIZE, options, console, PROMPT_WEIGHT)
            write(engine, options.out, source)
    return 0


def parser(module: str, description: str | None, steps: int) -> argparse.ArgumentParser:
    """What every warm-up is told on its command line; `steps` is the default of --steps."""
    arguments = command(module, description)
    arguments.add_argument("--data", type=Path, required=True, help="directory of the demo set (train.parquet, ...)")
    arguments.add_argument("--out", type=_new_directory, required=True, help="model directory to write; a new one")
    arguments.add_argument("--features", type=Path, required=True, help="directory that keeps the tower's output")
    arguments.add_argument("--seed", type=int, default=0, help="of initialisation and order (default 0)")
    arguments.add_argument("--steps", type=count(1), default=steps, help=f"fine-tuning steps (default {steps})")
    return arguments


def _new_directory(text: str) -> Path:
    """A path at which nothing would be lost, so that a run of minutes is not refused at its end."""
    path = Path(text)
    if is_taken(path):
        raise argparse.ArgumentTypeError(f"{text} exists already; name a new directory or move it away")
    return path


def text_of(example: Example) -> str:
    """What the vocabulary is trained on: the question as it is asked, and every choice as it is answered."""
    answers = " ".join(f"<answer>{choice}</answer>" for choice in example.choices)
    return f"{render_question(example, 'answer')} {answers}"


@contextmanager
def alone(source: Path, seed: int, threads: int) -> Iterator[Qwen2AudioForConditionalGeneration]:
    """The model at `source`, which this process trains by itself within the block."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    with leaving_ranks():
        join_ranks(0, 1, free_address(), "cpu")
        yield load_model(str(source), torch.float32)


def fine_tuned(
    model: Qwen2AudioForConditionalGeneration,
    lessons: Sequence[Lesson],
    validation: Sequence[Lesson],
    settings: Learner,
    batch_size: int,
    options: argparse.Namespace,
    console: Console,
    prompt_weight: float = 0.0,
) -> Engine:
    """The engine of a model, after optimizer steps on batches of the lessons, which are drawn epoch by epoch.

    Args:
        model: what of it has gradients is trained.
        lessons: questions to learn, which hold the tower's output.
        validation: questions that accuracy is told on.
        settings: learning rate, schedule and `micro_batch_tokens`.
        batch_size: questions of a step.
        options: the command line, for steps and seed of the order.
        console: takes progress.
        prompt_weight: see `learner.sft.SupervisedUpdate`.

    Raises:
        FloatingPointError: loss or gradient of a step is NaN or infinite.
    """
    engine = Engine(Policy(model, temperature=1.0), settings, torch.float32)
    update = SupervisedUpdate(engine, settings, options.steps, prompt_weight)
    order, steps = DataOrder(len(lessons), options.seed), options.steps
    started, report = time.monotonic(), max(steps // REPORTS, 1)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("fine-tuning", total=steps)
        for step in range(1, steps + 1):
            batch = [lessons[order.take().index] for _ in range(batch_size)]
            result = update(batch, features_of, step - 1)
            if result.skipped:
                raise FloatingPointError(f"loss or gradient of step {step} is not finite: a loss of {result.loss}")
            progress.update(task, advance=1, description=f"fine-tuning, loss {result.loss:.2f}")
            if step % report == 0 or step == steps:
                accuracy = greedy_accuracy(engine.policy, validation, settings.micro_batch_tokens)
                console.print(
                    f"step {step}/{steps}  loss {result.loss:.3f}  accuracy on {len(validation)} validation questions "
                    f"{accuracy:.1%}  {time.monotonic() - started:.0f} s"
                )
    return engine


def write(engine: Engine, out: Path, source: Path) -> None:
    """Write the engine's model, adapters merged, with the processor of `source`; raises where `out` holds anything."""
    out.parent.mkdir(parents=True, exist_ok=True)
    weights = ((name, tensor.contiguous()) for name, tensor in engine.weights(trained_only=False))
    export_checkpoint(out, engine.policy.model.config, weights, str(source))


def lessons_of(model: Path, examples: Sequence[Example], features: Path, console: Console) -> list[Lesson]:
    """Token ids and tower output of every example, in order; each distinct clip is encoded once, by all CPUs."""
    processor = load_processor(str(model))
    encoder = PromptEncoder(processor.tokenizer, processor.chat_template, "answer")
    chunks = [examples[start : start + 64] for start in range(0, len(examples), 64)]
    workers = cpus()
    lessons = []
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_encoder, (str(model), str(features))) as pool:
        encoded = track(pool.map(_encode, chunks), "encoding clips", len(chunks), console=console, transient=True)
        for chunk, clips in zip(chunks, encoded, strict=True):
            for example, (sha256, pooled) in zip(chunk, clips, strict=True):
                heard = Clip(sha256, 0.0, len(pooled), ClipFeatures(pooled=pooled))
                prompt = Prompt(example.id, example, encoder.encode(example), heard, seed=0)
                lessons.append(Lesson(prompt, encoder.answer(example)))
    return lessons


_frozen: FrozenTower
"""The tower of an encoding process."""


def _start_encoder(model: str, features: str) -> None:
    global _frozen
    torch.set_num_threads(1)
    _frozen = FrozenTower(load_tower(model, torch.float32), load_processor(model).feature_extractor, features)


def _encode(examples: Sequence[Example]) -> list[tuple[str, np.ndarray]]:
    """Hash and tower output of each example's clip."""
    clips = (read_clip(example.clip, DEFAULTS.max_seconds, DEFAULTS.min_seconds) for example in examples)
    pooled = [(sha256, _frozen.pooled(waveform, sha256)) for waveform, sha256 in clips]
    _frozen.save()
    return pooled


if __name__ == "__main__":
    sys.exit(main())
