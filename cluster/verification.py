"""Whether engines have loaded what the learner gave: both compute the log-probs of a few tokens."""

from __future__ import annotations

from cluster.asking import Asker, Unusable
from cluster.waiting import WorkerError
from cluster.workers import Workers
from configs.schema import Config
from data.types import Example, Sampling

COMPLETIONS, TOKENS = 2, 8
"""What every engine samples of one prompt."""

MOST_DIFFERENCE = {"float32": 1e-3, "bfloat16": 0.5}
"""Of a log-prob, in nats; above it an engine is another policy than the learner."""


class Verification:
    """Holds every engine against the learner while both have one version; who calls sees to that."""

    def __init__(self, config: Config, asker: Asker, workers: Workers) -> None:
        self._asker = asker
        self._workers = workers
        self._most = MOST_DIFFERENCE[config.model.dtype]
        rollout = config.rollout
        self._sampling = Sampling(COMPLETIONS, rollout.temperature, min(TOKENS, rollout.max_completion_tokens))
        self._failed = False
        """Whether an engine was another policy the last time."""

    async def difference(self, version: int, example: Example, epoch: int) -> float | None:
        """The largest difference of a log-prob between an engine and the learner, in nats.

        An engine that is another policy is replaced; None where none answers, or the question cannot be asked.

        Raises:
            WorkerError: one was so the last time too.
        """
        prompt = await self._asker.prompt(example, f"verify-{version}", epoch)
        if isinstance(prompt, Unusable):
            return None
        groups = await self._workers.rollout.sample_from_each(prompt, self._sampling)
        found = await self._workers.learner.differences(list(groups.values()))
        differences = dict(zip(groups, found, strict=True))
        others = {name: difference for name, difference in differences.items() if not difference <= self._most}
        if others and self._failed:
            raise WorkerError(
                f"the log-probs of {', '.join(others)} differ by {max(others.values()):.2g} from the learner's at "
                f"version {version}, and some engine's did at the check before: they do not compute the same model"
            )
        self._failed = bool(others)
        for name, difference in others.items():
            self._workers.rollout.replace(name, f"its log-probs of version {version} differ by {difference:.2g}")
        return max(differences.values(), default=None)
