"""The gradient of the reference method against the learner's, on the same completions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from bench.reference import Reference
from bench.rewards import drawn
from configs.schema import Config
from data.arguments import DEFAULTS
from data.audio import SAMPLE_RATE, audio_tokens, log_mel, mel_frames, read_clip
from data.prompts import PromptEncoder
from data.types import Clip, ClipFeatures, Completion, Example, Group, Prompt
from learner.address import free_address
from learner.engine import leaving_ranks
from learner.feature_cache import FrozenTower
from learner.hf import load_tower
from learner.hf_files import load_processor
from learner.learner import Learner
from learner.released import name_of_parameter
from learner.sft import features_of


def gradient_difference(config: Config, reference_path: str, examples: Sequence[Example]) -> tuple[float, str]:
    """Largest difference of any parameter's gradient, relative to the gradient's norm, and that parameter's name.

    Before clipping, from completions that the reference method samples. `reference_path` holds other weights than the
    policy, so that the KL has a gradient too.
    """
    torch.set_num_threads(config.learner.threads or 1)
    method = Reference(config.model.path, reference_path, config.algorithm.group_size)
    groups = []
    maker = GroupMaker(config.model.path)
    for example in examples:
        inputs = method.inputs(example)
        completions = method.sample(inputs)
        groups.append(maker.group(example, completions))
        rewards = [reward for reward in groups[-1].total if reward is not None]
        method.backward(inputs, completions, rewards, share=1 / len(examples))
    expected = _gradients(method.policy.named_parameters())
    found = learner_gradients(config, reference_path, groups)
    if found.keys() != expected.keys():
        raise AssertionError(f"trained by one side only: {sorted(found.keys() ^ expected.keys())}")
    differences = {name: float((found[name] - expected[name]).norm() / expected[name].norm()) for name in expected}
    worst = max(differences, key=lambda name: differences[name])
    return differences[worst], worst


def learner_gradients(config: Config, reference_path: str, groups: Sequence[Group]) -> dict[str, Tensor]:
    """The learner's gradient of each parameter from one update, before clipping."""
    unclipped = config.learner.model_copy(update={"max_grad_norm": 1e30})
    learner = join_alone(config.model_copy(update={"learner": unclipped}), reference_path)
    kept: dict[str, Tensor] = {}
    learner.engine.optimizer.register_step_pre_hook(
        lambda *_: kept.update(_gradients(learner.engine.policy.model.named_parameters()))
    )
    with leaving_ranks():
        learner.update(groups, features_of, step=0)
    return kept


def join_alone(config: Config, reference_path: str) -> Learner:
    """A learner of one rank in this process, which its caller has leave (`learner.engine.leaving_ranks`)."""
    return Learner(config, 0, 1, free_address(), config.model.path, reference_path)


class GroupMaker:
    """Makes scored groups, as the rollout would; their clips hold what the learner hears of them.

    Args:
        model_path: model directory.
        tower: `model.audio_tower`.
    """

    def __init__(self, model_path: str, tower: str = "trained") -> None:
        processor = load_processor(model_path)
        self._encoder = PromptEncoder(processor.tokenizer, processor.chat_template, "answer")
        self._extractor = processor.feature_extractor
        self._frozen: FrozenTower | None = None
        if tower == "frozen":
            self._frozen = FrozenTower(load_tower(model_path, torch.float32), self._extractor, None)

    def random(self, examples: Sequence[Example], shape: tuple[int, int], vocabulary: int) -> list[Group]:
        """A group of random completions (G, C) for each example."""
        generator = torch.Generator().manual_seed(0)
        return [self.group(example, torch.randint(vocabulary, shape, generator=generator)) for example in examples]

    def group(self, example: Example, completions: Tensor) -> Group:
        """The group of completions (G, C), with rewards drawn; their log-probs are not known."""
        waveform, sha256 = read_clip(example.clip, DEFAULTS.max_seconds, DEFAULTS.min_seconds)
        frames = mel_frames(len(waveform))
        if self._frozen is None:
            kept = ClipFeatures(mel=log_mel(waveform, self._extractor), valid_frames=frames)
        else:
            kept = ClipFeatures(pooled=self._frozen.pooled(waveform, sha256))
        clip = Clip(sha256, len(waveform) / SAMPLE_RATE, audio_tokens(frames), kept)
        prompt = Prompt(example.id, example, self._encoder.encode(example), clip, seed=0)
        sampled = tuple(
            Completion(tuple(ids), "", (0.0,) * len(ids), (0,) * len(ids), "length") for ids in completions.tolist()
        )
        return Group(prompt, sampled, total=tuple(drawn([""] * len(sampled), example)))


def _gradients(parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[str, Tensor]:
    return {
        name_of_parameter(name): parameter.grad.clone() for name, parameter in parameters if parameter.grad is not None
    }
