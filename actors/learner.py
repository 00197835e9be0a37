"""The learner actor: one DeepSpeed rank."""

from __future__ import annotations

import math
import os
import socket
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import ray
from safetensors import SafetensorError

from actors.exporter import Endpoint, serve_actor
from actors.metrics import RankMetrics, peak_bytes
from actors.weights.buckets import Bucket, Layout, lay_out, pack
from configs.schema import Config
from data.checksums import Checksums, checksums
from data.remote import local, written
from data.types import ClipFeatures, Group, Lesson
from data.whole_file import writing
from learner.address import LOOPBACK, address_of, listen
from learner.result import LessonResult, UpdateResult

if TYPE_CHECKING:
    from learner.checkpoint import Contents  # imports torch
    from learner.update import GroupLogprobs


@ray.remote(concurrency_groups={"beat": 1})
class LearnerActor:
    """One rank of the learner. All calls are made on all ranks, in the same order, but those that say otherwise."""

    def __init__(self, config: Config, rank: int) -> None:
        self.config = config
        self.rank = rank
        self._metrics = RankMetrics(peak_bytes)
        self._endpoint = serve_actor(config.metrics, self._metrics.registry, ray.util.get_node_ip_address())
        self._listener: socket.socket | None = None
        """Of rank 0, until the ranks have met."""
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[Checksums] | None = None
        """Of the checkpoint that was begun last."""
        self._broadcaster: Any = None
        self._buckets: Iterator[Bucket] = iter(())
        """Those of the newest weights that nobody has asked for yet."""

    def node(self) -> str:
        """The Ray node that this rank is on."""
        return ray.get_runtime_context().get_node_id()

    @ray.method(concurrency_group="beat")
    def beat(self) -> int:
        """Answers while the process lives, whatever else it is at: with its id."""
        return os.getpid()

    def address(self, near: bool) -> str:
        """Where the ranks are to meet; nobody outside of this machine reaches it if all are `near`.

        Asked of rank 0 alone, which listens there from now on.
        """
        self._listener = listen(LOOPBACK if near else ray.util.get_node_ip_address())
        return address_of(self._listener)

    def endpoint(self) -> Endpoint | None:
        """Where the rank's metrics are, None where the run serves none; asked of any rank."""
        return self._endpoint

    def join(self, rendezvous: str, model_path: str, reference_path: str, trainer_state: str | None) -> None:
        """Meet the other ranks, load the model and, on a resume, the trainer's state.

        Args:
            rendezvous: address of rank 0.
            model_path: weights to train; with LoRA those of the base model.
            reference_path: weights of the KL's reference policy.
            trainer_state: path or URL of a checkpoint's `trainer/`, or None for a fresh optimizer.
        """
        from learner.learner import Learner

        self._learner = Learner(
            self.config,
            self.rank,
            self.config.learner.ranks,
            rendezvous,
            model_path,
            reference_path,
            self._listener,
        )
        self._version = 0 if trainer_state is None else self._learner.load(local(trainer_state))

    def step(self, groups: Sequence[Any], step: int) -> tuple[UpdateResult, GroupLogprobs]:
        """Update from the scored groups (references), and move on to version `step` + 1 unless that was skipped.

        The second value is for the rollout log.
        """
        scored: list[Group] = ray.get(list(groups))
        result = self._learner.update(scored, _features, step)
        self._metrics.stepped(result.seconds, result.rank_tokens)
        self._version = step + (not result.skipped)
        return result, self._learner.step_logprobs

    def teach(self, lessons: Sequence[Lesson], step: int) -> LessonResult:
        """Take a supervised step, and move on to version `step` + 1 unless that was skipped."""
        result = self._learner.teach(lessons, _features, step)
        self._metrics.stepped(result.seconds, result.rank_tokens)
        self._version = step + (not result.skipped)
        return result

    def differences(self, groups: Sequence[Any]) -> list[float]:
        """For each group (references) the largest |log-prob of its engine - log-prob of the learner| of a token."""
        found = []
        for group in ray.get(list(groups)):
            own = self._learner.logprobs(group, _features(group))
            pairs = [
                abs(engines - learners)
                for completion, logprobs in zip(group.completions, own, strict=True)
                for engines, learners in zip(completion.logprobs, logprobs, strict=True)
            ]
            found.append(math.inf if any(map(math.isnan, pairs)) else max(pairs))
        return found

    def layout(self) -> Layout:
        """What the buckets of every update hold; asked of rank 0 alone."""
        self._layout = lay_out(self._learner.engine.weight_shapes(), self.config.learner.bucket_bytes)
        return self._layout

    def bucket(self, number: int) -> tuple[Bucket, None]:
        """A bucket of the weights that engines need; asked of rank 0 alone, from the first to the last.

        The second value tells that the first is there, to one who does not want to fetch it.
        """
        if number == 0:
            self._buckets = pack(self._layout, self._learner.engine.weights())
        bucket = next(self._buckets)
        if number == len(self._layout.buckets) - 1:
            deque(self._buckets, maxlen=0)  # what is left of the weights is gathered, and found out
        return bucket, None

    def help_gather(self) -> None:
        """Help rank 0 to make each tensor whole while it is asked for buckets; asked of the other ranks."""
        deque(self._learner.engine.weights(), maxlen=0)

    def broadcast(self, version: int, engines: Mapping[str, Any]) -> tuple[bool, dict[str, str]]:
        """Send the weights that engines need to all of them at once.

        Args:
            version: policy version of the weights.
            engines: handles of rollout actors by name.

        Returns:
            Of rank 0: whether the broadcast has begun; and the engines that did not take it, with the reason.
        """
        weights = self._learner.engine.weights()
        if self.rank == 0:
            return self.broadcaster().send(version, engines, weights)
        deque(weights, maxlen=0)
        return True, {}

    def version(self) -> int:
        """Policy version of the weights; asked of rank 0 alone."""
        return self._version

    def broadcaster(self) -> Any:
        """Rank 0's end of the broadcasts; made when it is first asked for, since vLLM takes seconds to import."""
        if self._broadcaster is None:
            from actors.weights.nccl import Broadcaster

            rollout, shapes = self.config.rollout, self._learner.engine.weight_shapes()
            self._broadcaster = Broadcaster(shapes, rollout.tensor_parallel, rollout.update_timeout_seconds)
        return self._broadcaster

    def save(self, directory: str, facts: Mapping[str, Any]) -> None:
        """Begin to write a checkpoint; when all ranks have answered they may step, and `saved` tells of the rest.

        Args:
            directory: its path or URL.
            facts: what its `trainer/state.json` tells.
        """
        contents = self._learner.contents(facts)
        if self.config.checkpoint.in_background:
            contents = contents.gathered()
        if self.rank == 0:
            self._writing = self._writer.submit(self._write, directory, contents)
        if not self.config.checkpoint.in_background:
            if self.rank == 0:
                wait([self._writing])
            contents.pass_over()

    def saved(self) -> Checksums | None:
        """What the checkpoint that was begun holds, once it is written; asked of rank 0 alone.

        Raises:
            WriteError: it could not be written.
        """
        if self._writing is None or not self._writing.done():
            return None
        # an error holds what was to be written as long as it is held
        writing, self._writing = self._writing, None
        return writing.result()

    def _write(self, directory: str, contents: Contents) -> Checksums:
        size = self._learner.checkpoint_bytes()
        with writing(directory, size, SafetensorError), written(directory) as folder:
            self._learner.write(folder, contents)
            return checksums(folder)

    def start_profile(self) -> None:
        """Record operators on rank 0 from now on."""
        from torch.profiler import profile

        self._profiler = profile() if self.rank == 0 else None
        if self._profiler is not None:
            self._profiler.start()

    def stop_profile(self, path: str) -> None:
        """Write what was recorded as a Chrome trace."""
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler.export_chrome_trace(path)
            self._profiler = None


def _features(asked: Group | Lesson) -> ClipFeatures:
    """Those of the clip that is asked about."""
    features: ClipFeatures = ray.get(asked.prompt.clip.features)
    return features
