"""transformers and vLLM load the same export, and give the same probability to every token."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Qwen2AudioForConditionalGeneration

from data.audio import audio_tokens, log_mel, mel_frames
from learner import audio_tower, export
from learner.hf import export_checkpoint, load_model, load_tensors
from learner.hf_files import INDEX_FILE, load_processor
from learner.released import ENGINE_OVERRIDES, for_engines, load_config, name_of_parameter
from learner.sizes import HEAD
from tests.integration.models import hearing_model, other_model, shaken

SECONDS = (0.7, 4.0)
PROMPT = (
    "<|im_start|>user\nAudio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\nWhich animal?<|im_end|>\n<|im_start|>assistant\n"
)
COMPLETION_TOKENS = 16
COMPARE_SECONDS = 250.0
"""Longest start of an engine with its comparison; 20 s on a quiet machine."""

Said = list[tuple[list[int], list[float]]]
"""Token ids and log-probs of completions."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with weights large enough that a wrong one shows in every log-prob."""
    return hearing_model(tmp_path_factory.mktemp("naming"))


@pytest.fixture(scope="module")
def waveforms() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [0.1 * random.standard_normal(int(16_000 * seconds)).astype(np.float32) for seconds in SECONDS]


def assert_one_model(engine_path: Path, path: Path, waveforms: list[np.ndarray]) -> Said:
    """Hold vLLM on `engine_path` against transformers on `path`, in a process that holds neither Ray nor an engine."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_compare, engine_path, path, waveforms).result(timeout=COMPARE_SECONDS)


def _compare(engine_path: Path, path: Path, waveforms: list[np.ndarray]) -> Said:
    os.environ.update(
        VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="1", VLLM_CPU_OMP_THREADS_BIND="nobind"
    )
    from vllm import LLM

    llm = LLM(
        str(engine_path),
        dtype="float32",
        enforce_eager=True,
        enable_mm_embeds=True,
        hf_overrides=ENGINE_OVERRIDES,
        limit_mm_per_prompt={"audio": 1},
        logprobs_mode="processed_logprobs",
        max_model_len=1024,
        max_num_seqs=4,
    )
    return assert_agreement(llm, path, waveforms)


def embeddings(model: Qwen2AudioForConditionalGeneration, path: Path, waveform: np.ndarray) -> Tensor:
    """What stands for a clip in the language model's sequence, (audio_tokens, hidden)."""
    mel = log_mel(waveform, load_processor(str(path)).feature_extractor)
    pooled = audio_tower.encode(model.model.audio_tower, [mel], [mel_frames(len(waveform))])[0]
    return model.model.multi_modal_projector(pooled)


@torch.no_grad()
def logprobs(
    model: Qwen2AudioForConditionalGeneration, prompt: list[int], audio: Tensor, completion: list[int]
) -> Tensor:
    """Log-probability of each completion token, (completion,), by transformers."""
    at = prompt.index(model.config.audio_token_id)
    token_ids = prompt[:at] + [model.config.audio_token_id] * len(audio) + prompt[at + 1 :] + completion
    inputs = model.get_input_embeddings()(torch.tensor(token_ids))  # (T, H)
    inputs[at : at + len(audio)] = audio
    hidden = model.model.language_model(inputs_embeds=inputs[None], use_cache=False).last_hidden_state[0]  # (T, H)
    predicted = model.lm_head(hidden[-len(completion) - 1 : -1]).log_softmax(-1)
    return predicted.gather(1, torch.tensor(completion)[:, None])[:, 0]


def assert_agreement(llm: Any, path: Path, waveforms: list[np.ndarray]) -> Said:
    """Greedy completions by waveform and by embeddings have the log-probs that transformers gives them."""
    said: Said = []
    from vllm import SamplingParams

    model = load_model(str(path), torch.float32)
    prompt = load_processor(str(path)).tokenizer(PROMPT).input_ids
    sampling = SamplingParams(temperature=0.0, max_tokens=COMPLETION_TOKENS, ignore_eos=True, logprobs=0)
    with torch.no_grad():
        clips = [embeddings(model, path, waveform) for waveform in waveforms]
    given = [*waveforms, *({"audio_embeds": clip[None]} for clip in clips)]
    requests = [{"prompt_token_ids": prompt, "multi_modal_data": {"audio": audio}} for audio in given]
    outputs = llm.generate(requests, sampling, use_tqdm=False)
    for output, seconds, clip in zip(outputs, SECONDS * 2, clips * 2, strict=True):
        assert len(output.prompt_token_ids) == len(prompt) - 1 + audio_tokens(mel_frames(int(16_000 * seconds)))
        completion = list(output.outputs[0].token_ids)
        sampled = torch.tensor(
            [given[token].logprob for given, token in zip(output.outputs[0].logprobs, completion, strict=True)]
        )
        assert len(completion) == COMPLETION_TOKENS
        assert (sampled - logprobs(model, prompt, clip, completion)).abs().max() < 1e-4
        said.append((completion, sampled.tolist()))
    return said


@pytest.mark.slow
def test_a_sharded_export_is_one_model_in_vllm_and_transformers(
    model: Path, waveforms: list[np.ndarray], tmp_path: Path
) -> None:
    out = tmp_path / "sharded"
    learner = load_model(str(model), torch.float32)
    named = ((name_of_parameter(name), parameter) for name, parameter in learner.named_parameters())
    export_checkpoint(out, learner.config, named, str(model), max_shard_bytes=100_000)
    assert len(list(out.glob("model-*.safetensors"))) > 2
    assert_one_model(for_engines(str(out), tmp_path / "unused"), out, waveforms)
    plain = Qwen2AudioForConditionalGeneration.from_pretrained(out)
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, learner.get_parameter(name)), name


@pytest.mark.slow
@pytest.mark.long
def test_shards_and_one_file_of_an_exported_checkpoint_give_vllm_the_same_log_probs(
    waveforms: list[np.ndarray], tmp_path: Path
) -> None:
    """Of a model with the released one's kinds of tensors: 128 mel bins, as many key-value heads as heads."""
    model, said = shaken(other_model(tmp_path / "built")), []
    for name, shard_bytes in (("one", 10**9), ("shards", 60_000)):
        out = tmp_path / name
        assert export.main([str(model), "--out", str(out), "--max-shard-bytes", str(shard_bytes)]) == 0
        assert (out / INDEX_FILE).exists() == (name == "shards")
        said.append(assert_one_model(out, out, waveforms))
    assert said[0] == said[1]


@pytest.mark.slow
def test_a_tied_checkpoint_saved_by_transformers_4_is_one_model_in_vllm_and_transformers(
    model: Path, waveforms: list[np.ndarray], tmp_path: Path
) -> None:
    tied = tmp_path / "tied"
    shutil.copytree(model, tied)
    tensors = {name: tensor for name, tensor in load_tensors(str(model)) if name != HEAD}
    save_file(tensors, tied / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((model / "config.json").read_text())
    del config["tie_word_embeddings"]
    config["text_config"]["tie_word_embeddings"] = True
    (tied / "config.json").write_text(json.dumps(config))
    ready = for_engines(str(tied), tmp_path / "ready")
    assert not load_config(str(ready)).tie_word_embeddings
    assert_one_model(ready, tied, waveforms)
