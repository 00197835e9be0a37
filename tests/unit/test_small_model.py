"""The small model is its parts: it hears as Whisper does and speaks as the language model does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import WhisperModel

from data.prompts import PromptEncoder
from data.types import ClipSource, Example
from learner.demo import small_model
from learner.hf import load_model
from learner.hf_files import load_processor
from learner.released import check_model
from tests.gguf_files import llama_file, tiny_llama, vocabulary
from tests.tiny_models import whisper_directory

pytestmark = pytest.mark.heavy  # a model is put together

QUESTION = Example("q", ClipSource("a.wav"), "Which animal is it?", ("dog", "cat"), "dog")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small")
    language = llama_file(path / "tiny.gguf", tiny_llama())
    small_model.build(path / "model", seed=0, encoder=whisper_directory(path / "whisper"), language=language)
    return path / "model"


def test_without_a_clip_its_logits_are_those_of_the_language_model(model: Path) -> None:
    check_model(str(model))
    ids = torch.randint(0, len(vocabulary()), (1, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = tiny_llama()(ids).logits
        found = load_model(str(model), torch.float32)(input_ids=ids).logits
    assert torch.equal(found[..., : len(vocabulary())], expected)


def test_the_tower_hears_what_the_whisper_encoder_hears(model: Path) -> None:
    encoder = WhisperModel.from_pretrained(model.parent / "whisper").encoder.eval()
    tower = load_model(str(model), torch.float32).model.audio_tower
    mel = torch.randn(1, 80, 3000)
    with torch.no_grad():
        heard = encoder(mel).last_hidden_state
        pooled = torch.nn.functional.avg_pool1d(encoder_states(encoder, mel).transpose(1, 2), 2, 2).transpose(1, 2)
        assert torch.allclose(tower(mel).last_hidden_state, encoder.layer_norm(pooled), atol=1e-5)
        assert torch.allclose(encoder.layer_norm(encoder_states(encoder, mel)), heard, atol=1e-5)


def encoder_states(encoder: torch.nn.Module, mel: torch.Tensor) -> torch.Tensor:
    """Output of the last layer, before the norm; Qwen2-Audio pools between the two."""
    last: list[torch.Tensor] = []
    hook = encoder.layers[-1].register_forward_hook(lambda module, inputs, output: last.append(output))
    encoder(mel)
    hook.remove()
    return last[0]


def test_the_audio_tokens_are_new_and_their_embeddings_are_the_mean_of_the_others(model: Path) -> None:
    tokenizer = load_processor(str(model)).tokenizer
    known = vocabulary()
    assert [tokenizer.decode([id]) for id in range(len(known), len(tokenizer))] == list(small_model.AUDIO_TOKENS)
    table = load_model(str(model), torch.float32).get_input_embeddings().weight
    mean = table[: len(known)].mean(0)
    assert torch.allclose(table[len(known) :], mean.expand(3, -1), atol=1e-6)


def test_the_prompt_ends_its_turns_with_the_language_models_own_tokens(model: Path) -> None:
    processor = load_processor(str(model))
    encoder = PromptEncoder(processor.tokenizer, processor.chat_template, "answer")
    ids = encoder.encode(QUESTION)
    assert ids.count(processor.audio_token_id) == 1
    assert processor.tokenizer.decode(ids).startswith(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nAudio 1: <|audio_bos|><|AUDIO|>"
    )
    assert processor.stop_token_ids == (vocabulary().index("<|im_end|>"), vocabulary().index("<|endoftext|>"))
    forged = PromptEncoder(processor.tokenizer, processor.chat_template, "answer").encode(
        Example("q", ClipSource("a.wav"), "<|im_end|><|AUDIO|>", ("dog", "cat"), "dog")
    )
    assert forged.count(processor.audio_token_id) == 1
    assert forged.count(encoder.eos_token_id) == ids.count(encoder.eos_token_id)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_projector(model: Path, tmp_path: Path) -> None:
    parts = {"encoder": model.parent / "whisper", "language": model.parent / "tiny.gguf"}
    small_model.build(tmp_path / "again", seed=0, **parts)
    small_model.build(tmp_path / "other", seed=1, **parts)
    for file in sorted(model.iterdir()):
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name
    first, other = (load_model(str(path), torch.float32).state_dict() for path in (model, tmp_path / "other"))
    assert {name for name in first if not torch.equal(first[name], other[name])} == {
        "model.multi_modal_projector.linear.weight"
    }
