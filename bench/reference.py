"""The reference method: GRPO on audio questions as R1-AQA's trainer does it (arXiv 2503.11197), in plain transformers.

One prompt at a time: Hugging Face `generate` samples the completions of a group, with the clip padded to 30 seconds
and repeated, with its prompt, once a completion; the policy's forward and the reference's run over the repeated
prompts, with logits at every position; gradients accumulate over the prompts of a step, and AdamW updates once.
Written anew from the paper and its described behaviour. Two things differ from the published trainer: completions all
have the same length, so that work can be compared, and clips are paired with their prompts rightly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from data.arguments import DEFAULTS
from data.audio import MAX_SAMPLES, SAMPLE_RATE, audio_tokens, mel_frames, read_clip
from data.prompts import PromptEncoder
from data.types import Example
from learner.hf import load_model
from learner.hf_files import load_processor
from learner.packing import expand_audio

MAX_GRAD_NORM = 1.0
STANDARD_DEVIATION_FLOOR = 1e-4


@dataclass(frozen=True, slots=True)
class Inputs:
    """One prompt as the model takes it."""

    token_ids: Tensor
    """(1, P), the audio placeholder once for each position of the clip."""
    mel: Tensor
    """(1, bins, 3000): the clip padded to 30 seconds."""
    mel_mask: Tensor
    """(1, 3000): 1 where the clip is."""


class Reference:
    """A policy, its frozen reference and AdamW."""

    def __init__(
        self,
        model_path: str,
        frozen_path: str,
        group_size: int = 8,
        completion_tokens: int = 32,
        beta: float = 0.04,
        learning_rate: float = 1e-6,
    ) -> None:
        self.group_size, self.completion_tokens, self.beta = group_size, completion_tokens, beta
        self.policy = load_model(model_path, torch.float32)
        self.policy.generation_config.eos_token_id = None  # nothing ends a completion early
        self.frozen = load_model(frozen_path, torch.float32).requires_grad_(False)
        self._trained = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(self._trained, lr=learning_rate, weight_decay=0.0)
        processor = load_processor(model_path)
        self._tokenizer, self._extractor = processor.tokenizer, processor.feature_extractor
        self._encoder = PromptEncoder(processor.tokenizer, processor.chat_template, "answer")
        self._audio_token_id = self._encoder.audio_token_id

    def step(self, examples: Sequence[Example], reward: Callable[[list[str], Example], list[Any]]) -> float:
        """One optimizer step from newly sampled completions; returns the norm of the gradient before clipping."""
        for example in examples:
            inputs = self.inputs(example)
            completions = self.sample(inputs)
            texts = self._tokenizer.batch_decode(completions, skip_special_tokens=True)
            self.backward(inputs, completions, reward(texts, example), share=1 / len(examples))
        return self.update()

    def inputs(self, example: Example) -> Inputs:
        """The example's prompt and clip."""
        waveform, _ = read_clip(example.clip, DEFAULTS.max_seconds, DEFAULTS.min_seconds)
        features = self._extractor(
            waveform,
            sampling_rate=SAMPLE_RATE,
            padding="max_length",
            max_length=MAX_SAMPLES,
            return_attention_mask=True,
            return_tensors="pt",
        )
        positions = audio_tokens(mel_frames(len(waveform)))
        token_ids = expand_audio(self._encoder.encode(example), self._audio_token_id, positions)
        return Inputs(torch.tensor([token_ids]), features["input_features"], features["attention_mask"])

    def sample(self, inputs: Inputs) -> Tensor:
        """Completions of the group at temperature 1, (G, C)."""
        policy: Any = self.policy
        with torch.inference_mode():
            sequences: Tensor = policy.generate(
                input_ids=inputs.token_ids,
                attention_mask=torch.ones_like(inputs.token_ids),
                input_features=inputs.mel,
                feature_attention_mask=inputs.mel_mask,
                num_return_sequences=self.group_size,
                max_new_tokens=self.completion_tokens,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                pad_token_id=0,
                suppress_tokens=[self._audio_token_id],  # transformers would look for a clip behind a sampled one
            )
        return sequences[:, inputs.token_ids.shape[1] :].clone()  # a tensor of inference mode takes no part in autograd

    def backward(self, inputs: Inputs, completions: Tensor, rewards: Sequence[float], share: float) -> None:
        """Accumulate the gradient of one group's loss, `share` of the mean over groups."""
        prompts = inputs.token_ids.repeat_interleave(self.group_size, dim=0)  # (G, P)
        sequences = torch.cat([prompts, completions], dim=1)  # (G, P + C)
        logprobs = self._logprobs(self.policy, inputs, sequences)  # (G, C)
        with torch.inference_mode():
            reference = self._logprobs(self.frozen, inputs, sequences)  # (G, C)
        total = torch.tensor(rewards)  # (G,)
        advantages = (total - total.mean()) / (total.std() + STANDARD_DEVIATION_FLOOR)
        difference = reference.clone() - logprobs
        kl = torch.exp(difference) - difference - 1
        objective = torch.exp(logprobs - logprobs.detach()) * advantages[:, None] - self.beta * kl
        (-share * objective.mean(dim=1).mean()).backward()

    def update(self) -> float:
        """Clip, step, clear; returns the norm of the gradient before clipping."""
        norm = float(nn.utils.clip_grad_norm_(self._trained, MAX_GRAD_NORM))
        self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    def _logprobs(self, model: nn.Module, inputs: Inputs, sequences: Tensor) -> Tensor:
        """Log-probability of each completion token, (G, C); computed at every position of the sequences, then cut."""
        logits = model(
            input_ids=sequences,
            attention_mask=torch.ones_like(sequences),
            input_features=inputs.mel.repeat_interleave(self.group_size, dim=0),
            feature_attention_mask=inputs.mel_mask.repeat_interleave(self.group_size, dim=0),
            use_cache=False,
        ).logits[:, :-1]  # (G, P + C - 1, V)
        rows = [
            row.log_softmax(dim=-1).gather(-1, ids[1:, None]).squeeze(-1)  # (P + C - 1,), one row at a time
            for row, ids in zip(logits, sequences, strict=True)
        ]
        return torch.stack(rows)[:, inputs.token_ids.shape[1] - 1 :]
