"""One learner rank: the policy and its reference, the engine, the update, and what a checkpoint holds."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from transformers.modeling_layers import GradientCheckpointingLayer

from configs.schema import Config
from data.ordered import cpus
from data.types import ClipFeatures, Group, Lesson
from learner import attention
from learner.checkpoint import Contents
from learner.device import device_of
from learner.engine import MASTER, STATE, Engine, join_ranks
from learner.hf import DTYPES, export_checkpoint, load_model
from learner.hf_files import save_tensors
from learner.packing import Sequences, pack
from learner.policy import MicroBatch, Policy
from learner.result import LessonResult, UpdateResult
from learner.sft import SupervisedUpdate
from learner.update import GroupLogprobs, Reference, Update
from learner.weights import weights_of

EMPTY = torch.empty(0)
STATE_BYTES = 4 * len(STATE)
"""Of a trained parameter: its float32 master and moments."""

ATTENTION = {"auto": None, "sdpa": attention.SDPA, "flex": attention.FLEX}


class Learner:
    """Builds a rank and applies updates.

    All methods are collectives but `checkpoint_bytes`, `step_logprobs` and `write`.
    """

    def __init__(
        self,
        config: Config,
        rank: int,
        world_size: int,
        rendezvous: str,
        model_path: str,
        reference_path: str,
        listener: socket.socket | None = None,
    ) -> None:
        device = device_of(config.cluster.device)
        torch.manual_seed(config.run.seed)
        join_ranks(rank, world_size, rendezvous, device, listener)
        torch.set_num_threads(config.learner.threads or threads_of_a_rank())
        self.config = config
        self.rank = rank
        self.model_path = model_path
        dtype, kind = DTYPES[config.model.dtype], ATTENTION[config.learner.attention]
        model = trained_as_configured(load_model(model_path, dtype), config, model_path).to(device)
        if config.learner.activation_checkpointing:
            checkpoint_activations(model)
        supervised = config.algorithm.name == "sft"
        policy = Policy(model, 1.0 if supervised else config.rollout.temperature, kind)
        self.model_config = policy.model.config
        self.engine = Engine(policy, config.learner, dtype)
        reference: Reference | None = None
        if config.algorithm.beta and config.model.lora is not None:
            from learner.lora import base_policy

            reference = base_policy(self.engine.forward, model)
        elif config.algorithm.beta:
            with_tower = config.model.audio_tower == "trained"  # a frozen one is the policy's, and has been run
            frozen = load_model(reference_path, dtype, tower=with_tower).to(device)  # type: ignore[arg-type]
            reference = Policy(frozen, config.rollout.temperature, kind).requires_grad_(False).eval()
        self.updates = 0
        """Of the optimizer, in the run so far; a step in which nothing was learned has none."""
        self._update = Update(config, self.engine, reference)
        self._lesson = SupervisedUpdate(self.engine, config.learner, config.run.max_steps)

    def update(self, groups: Sequence[Group], fetch: Callable[[Group], ClipFeatures], step: int) -> UpdateResult:
        """Train on the groups of a step; see `learner.update`."""
        result = self._update(groups, fetch, step)
        self.updates += result.updates
        return result

    @property
    def step_logprobs(self) -> GroupLogprobs:
        """What the policy gave each token that this rank had in the last step, before it."""
        return self._update.logprobs

    def teach(self, lessons: Sequence[Lesson], fetch: Callable[[Lesson], ClipFeatures], step: int) -> LessonResult:
        """Train on the lessons of a step; see `learner.sft`."""
        result = self._lesson(lessons, fetch, step)
        self.updates += result.updates
        return result

    @torch.no_grad()
    def logprobs(self, group: Group, features: ClipFeatures) -> list[list[float]]:
        """What the policy gives each token of each of the group's completions, as it is now; in nats."""
        sampled = [completion.token_ids for completion in group.completions]
        packed = pack([Sequences.of(group.prompt, sampled, self.engine.policy.audio_token_id)])
        batch = MicroBatch(packed, [features], len(packed.targets))
        found, _ = self.engine.forward(batch, "none")  # (N,)
        owners = torch.from_numpy(packed.owners)  # (N,)
        return [found.cpu()[owners == number].tolist() for number in range(len(group.completions))]

    def contents(self, facts: Mapping[str, Any]) -> Contents:
        """What a checkpoint of now holds; `facts` are for `trainer/state.json`."""
        weights = self.engine.weights(trained_only=False)
        return Contents(
            ((name, tensor.to("cpu", copy=True) if self.rank == 0 else EMPTY) for name, tensor in weights),
            self.engine.state(),
            torch.get_rng_state(),
            {"updates": self.updates, **facts},
        )

    def write(self, directory: Path, contents: Contents) -> None:
        """Write `hf/` (loads in transformers and vLLM) and `trainer/` (master weights, moments, facts).

        With LoRA `hf/` holds merged weights, and `adapter/` what peft loads on the base model. Asked of rank 0 alone
        where the contents are gathered.
        """
        trainer = directory / "trainer"
        trainer.mkdir(parents=True)
        export_checkpoint(directory / "hf", self.model_config, contents.weights, self.model_path)
        for part, tensors in contents.state:
            save_tensors(tensors, trainer / f"{part}.safetensors")
            if part == MASTER and self.config.model.lora is not None:
                from learner.lora import export_adapter

                dtype = DTYPES[self.config.model.dtype]
                export_adapter(directory / "adapter", self.engine.policy.model, tensors, dtype)
        save_tensors({"torch": contents.random}, trainer / "random.safetensors")
        (trainer / "state.json").write_text(json.dumps(contents.facts, indent=1))

    def checkpoint_bytes(self) -> int:
        """What a checkpoint takes, nearly."""
        model = self.engine.policy.model
        weights = sum(math.prod(one.shape) * one.dtype.itemsize for one in weights_of(model))
        trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
        return weights + sum(STATE_BYTES * getattr(one, "ds_numel", one.numel()) for one in trained)

    def load(self, trainer: Path) -> int:
        """Put back what `write` wrote, on any number of ranks; returns the step of the checkpoint."""
        facts = json.loads((trainer / "state.json").read_text())
        self.updates = int(facts["updates"])
        state = {part: load_file(trainer / f"{part}.safetensors") for part in STATE}
        self.engine.load_state(state, self.updates)
        torch.set_rng_state(load_file(trainer / "random.safetensors")["torch"])
        return int(facts["step"])


def threads_of_a_rank() -> int:
    """The CPUs of this machine over the ranks that share it, at least 1; a collective."""
    hosts: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(hosts, socket.gethostname())
    return max(cpus() // hosts.count(socket.gethostname()), 1)


def trained_as_configured(model: Any, config: Config, path: str) -> Any:
    """Switch off the gradients of what the configuration freezes, or with LoRA of all but adapters and projector.

    Positions of the tower are never trained.
    """
    if config.model.lora is not None:
        from learner.lora import add_adapters  # peft takes a second to import

        add_adapters(model, config.model, base=path)
        return model
    tower = model.get_submodule("model.audio_tower")
    if config.model.audio_tower == "frozen":
        tower.requires_grad_(False)
    if config.model.projector == "frozen":
        model.get_submodule("model.multi_modal_projector").requires_grad_(False)
    return model


def checkpoint_activations(model: torch.nn.Module) -> None:
    """Have every transformer layer compute its activations again in the backward.

    transformers does so in training mode alone. The layers are put into it by themselves, so that what they hold stays
    in evaluation mode; a layer's own dropout is set to 0, since a policy never drops anything.
    """
    model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True
            for name in ("dropout", "activation_dropout"):
                if hasattr(module, name):
                    setattr(module, name, 0.0)
