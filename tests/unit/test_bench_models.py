"""What the benchmarks share: the same seed gives the same work, and the work is what it claims to be."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import models
from bench.rewards import drawn
from data.audio import SAMPLE_RATE, read_clip
from data.formats import load_examples
from data.prompts import PromptEncoder
from data.types import ClipSource, Example
from learner.hf import load_model
from learner.hf_files import load_processor

pytestmark = pytest.mark.heavy  # models of full size


def example(name: str) -> Example:
    return Example(name, ClipSource("clip.wav"), "What is heard?", ("a", "b"), "a")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.build(tmp_path_factory.mktemp("bench") / "model")


def test_a_model_has_the_size_and_the_vocabulary_that_it_claims(built: Path, tmp_path: Path) -> None:
    model = load_model(str(built), torch.float32)
    assert 17e6 < sum(parameter.numel() for parameter in model.parameters()) < 18e6
    larger = load_model(str(models.build(tmp_path / "larger", vocabulary=2000)), torch.float32)
    for small, large in (
        (model.lm_head.weight, larger.lm_head.weight),
        (model.get_input_embeddings().weight, larger.get_input_embeddings().weight),
    ):
        assert small.shape == (models.VOCABULARY, 384)
        assert torch.equal(large[: len(small)], small)
        assert large.shape == (2000, 384)
        assert large[len(small) :].std().item() == pytest.approx(small.std().item(), rel=0.1)


def test_a_vocabulary_below_the_tokenizers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vocabulary is 100"):
        models.build(tmp_path / "model", vocabulary=100)


def test_two_seeds_give_two_models_with_one_tokenizer(built: Path, tmp_path: Path) -> None:
    again, other = (models.build(tmp_path / str(seed), seed=seed) for seed in (0, 1))
    assert (built / "tokenizer.json").read_bytes() == (other / "tokenizer.json").read_bytes()
    assert (built / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    assert (built / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


def test_questions_have_about_eighty_tokens_and_their_own_clips(built: Path, tmp_path: Path) -> None:
    processor = load_processor(str(built))
    encoder = PromptEncoder(processor.tokenizer, processor.chat_template, "answer")
    examples = load_examples(str(models.write_questions(tmp_path / "questions", 0.5, 8))).examples
    assert all(70 < len(encoder.encode(one)) < 100 for one in examples)
    waveforms = [read_clip(one.clip, 30.0, 0.05)[0] for one in examples]
    for waveform, made in zip(waveforms, models.clips(0.5, 8), strict=True):
        assert len(waveform) == SAMPLE_RATE // 2
        np.testing.assert_array_equal(waveform, made)
    assert all(np.abs(first - second).max() > 0.1 for first, second in pairwise(waveforms))


def test_drawn_rewards_have_variance_and_depend_on_the_question_alone() -> None:
    one, other = drawn([""] * 8, example("one")), drawn([""] * 8, example("other"))
    assert len(set(one)) == 8
    assert one == drawn(["said"] * 8, example("one"))
    assert one != other
    assert len(set(drawn([""] * 8, example("one"), alike=["one"]))) == 1
