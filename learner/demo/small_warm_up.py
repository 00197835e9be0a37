"""`python -m learner.demo.small_warm_up`: where the preset `small` starts, pretrained parts that know of each other.

Whisper base's encoder and SmolLM2 are put together. Then the projector is fitted to the words that name the training
clips, both ends frozen and the language model not even run (`learner.demo.word_alignment`). Last, low-rank adapters
teach the language model what such positions in a prompt are, and how to answer, sometimes after a thought; they are
merged. All of it is learned from the demo's training questions; some of validation tell of progress.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from transformers import PreTrainedTokenizerBase, Qwen2AudioForConditionalGeneration

from configs.schema import Learner, Lora, Model
from data.formats import load_examples
from data.ordered import cpus
from data.prompts import PromptEncoder
from data.types import Example, Lesson
from learner.demo.small_model import build
from learner.demo.warm_up import alone, fine_tuned, lessons_of, parser, write
from learner.demo.word_alignment import Named, align
from learner.hf_files import load_processor
from learner.lora import add_adapters
from learner.sft import features_of

STEPS = 80
BATCH_SIZE = 16
SETTINGS = Learner(learning_rate=1e-3, schedule="cosine", warmup_steps=5, betas=(0.9, 0.98), micro_batch_tokens=1024)
LORA = Lora(rank=16, alpha=32)
HELD_OUT = 120
"""Validation questions that accuracy is told on, from the first, which are of all tasks; all 480 take a minute."""
THOUGHTFUL = 3
"""One in as many lessons asks for a thinking process, and shows one that says what is heard."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parser("learner.demo.small_warm_up", __doc__, STEPS)
    arguments.add_argument("--encoder", type=Path, help="Whisper directory or model.bin in place of Whisper base")
    arguments.add_argument("--language", type=Path, help="GGUF file in place of SmolLM2-135M-Instruct")
    options = arguments.parse_args(argv)
    console = Console(highlight=False)
    train = load_examples(str(options.data / "train.parquet")).examples
    validation = load_examples(str(options.data / "validation.parquet")).examples
    held = validation[:HELD_OUT]
    with tempfile.TemporaryDirectory() as temporary:
        parts = Path(temporary) / "parts"
        console.print("putting audio tower and language model together (fetched once, 226 MB)")
        build(parts, options.seed, options.encoder, options.language)
        lessons = lessons_of(parts, [*train, *held], options.features, console)
        learned = some_thoughtful(parts, lessons[: len(train)])
        with alone(parts, options.seed, threads=cpus()) as model:
            console.print("fitting the projector to the words that name the clips")
            show_words(model, load_processor(str(parts)).tokenizer, learned)
            adapted = Model(path=str(parts), audio_tower="frozen", projector="frozen", lora=LORA)
            add_adapters(model, adapted, base=str(parts))
            engine = fine_tuned(model, learned, lessons[len(train) :], SETTINGS, BATCH_SIZE, options, console)
            write(engine, options.out, parts)
    return 0


def some_thoughtful(model: Path, lessons: Sequence[Lesson]) -> list[Lesson]:
    """The lessons, of which one in `THOUGHTFUL` asks for thinking and has a thought before its answer."""
    processor = load_processor(str(model))
    encoder = PromptEncoder(processor.tokenizer, processor.chat_template, "think")

    def thoughtful(lesson: Lesson) -> Lesson:
        example: Example = lesson.prompt.example
        prompt = replace(lesson.prompt, token_ids=encoder.encode(example))
        return Lesson(prompt, encoder.answer(example, f"The {example.sub_category} in this clip is {example.answer}."))

    return [lesson if number % THOUGHTFUL else thoughtful(lesson) for number, lesson in enumerate(lessons)]


def show_words(
    model: Qwen2AudioForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, lessons: Sequence[Lesson]
) -> None:
    """Set the projector so that the lessons' clips look like the words of their answers."""
    clips = {(lesson.prompt.clip.sha256, lesson.prompt.example.sub_category): lesson for lesson in lessons}.values()
    table = model.get_input_embeddings().weight.detach()  # type: ignore[operator]
    named = [_named(lesson) for lesson in clips]
    words = {clip.name: table[pieces(tokenizer, clip.name)].mean(0) for clip in named}
    weight, bias = align(named, words)
    projector = model.model.multi_modal_projector.linear
    projector.weight.data.copy_(weight)
    projector.bias.data.copy_(bias)


def pieces(tokenizer: PreTrainedTokenizerBase, name: str) -> list[int]:
    """Token ids of a name as it stands in an answer, right after the tag: not those that it has in running text."""
    tag = tokenizer("<answer>").input_ids
    return tokenizer(f"<answer>{name}").input_ids[len(tag) :]  # type: ignore[no-any-return]


def _named(lesson: Lesson) -> Named:
    example: Example = lesson.prompt.example
    return Named(torch.from_numpy(features_of(lesson).pooled).mean(0), example.answer, example.sub_category)


if __name__ == "__main__":
    sys.exit(main())
