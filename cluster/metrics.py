"""What the control loop's `/metrics` shows of a run: each name with its unit, help and few labels.

Most of it are the lines of `metrics.jsonl`; what has to be known between two steps is asked for at each scrape.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from math import inf
from statistics import fmean
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector

from actors.exporter import Endpoint, Live, endpoint, serve

GAUGES = {
    "step": ("auricle_step", "Steps applied; also the policy version"),
    "reward_mean": ("auricle_reward_mean", "Mean weighted reward of the step's completions"),
    "accuracy": ("auricle_accuracy_ratio", "Mean of the accuracy reward over the step's completions"),
    "kl": ("auricle_kl_nats", "Mean estimate of KL(policy || reference) over tokens"),
    "entropy": ("auricle_entropy_nats", "Mean entropy of the policy over tokens"),
    "loss": ("auricle_loss", "Loss of the step"),
    "grad_norm": ("auricle_grad_norm", "Global gradient norm before clipping"),
    "learning_rate": ("auricle_learning_rate", "Learning rate of the step"),
    "updates": ("auricle_updates", "Optimizer updates of the step; 0 where no group had anything to learn from"),
    "completion_tokens_mean": ("auricle_completion_tokens", "Mean length of the step's completions in tokens"),
    "truncated": ("auricle_completions_truncated", "Completions of the step that ended at the token limit"),
    "zero_variance_groups": ("auricle_zero_variance_groups", "Groups of the step whose completions scored alike"),
    "logprob_difference_max": (
        "auricle_logprob_difference_max_nats",
        "Largest |log-prob of the engine - log-prob of the learner| of a token, of groups of the learner's own version",
    ),
    "staleness_max": ("auricle_staleness_max_versions", "Age of the oldest token that the step trained"),
    "buffered": ("auricle_groups_buffered", "Groups that were finished and left over when the step took its own"),
    "length_bias": ("auricle_length_bias_ratio", "Mean tokens of trained groups over those of sampled groups"),
    "rollout_busy": (
        "auricle_rollout_busy_ratio",
        "Time that engines worked, by the reports that came in the step, over the step's",
    ),
    "learner_busy": ("auricle_learner_busy_ratio", "Share of the step in which the learner worked"),
    "verified_difference": (
        "auricle_verified_logprob_difference_max_nats",
        "Largest |log-prob of an engine - log-prob of the learner| when engines were last checked",
    ),
    "publish_seconds": ("auricle_publish_seconds", "Seconds in which the learner gave its newest weights away"),
    "sync_seconds": (
        "auricle_sync_seconds",
        "Seconds until every engine had loaded the newest weights that all have, publishing included",
    ),
    "sync_bytes_per_second": ("auricle_sync_bytes_per_second", "Bytes of the published weights over these seconds"),
    "tokens_per_second": (
        "auricle_completion_tokens_per_second",
        "Completion tokens of the step over its seconds; in supervised fine-tuning those of the answers",
    ),
    "step_seconds": ("auricle_step_seconds", "Seconds of the step, all phases"),
    "in_flight": ("auricle_groups_in_flight", "Groups admitted and neither trained nor dropped"),
    "validation_accuracy": ("auricle_validation_accuracy_ratio", "Greedy accuracy on the validation questions"),
}
"""Key of a metrics line: name and help of its gauge."""

REWARD_STEPS = 20
"""Over which the mean reward is held against its best; prompts of one step may be easy."""

KEPT = ("validation_accuracy", "verified_difference")
"""Shown on from one look to the next; other gauges are absent while a line has no value for them."""

COUNTERS = {
    "admitted": ("auricle_groups_admitted", "Groups admitted since the launch"),
    "trained": ("auricle_groups_trained", "Groups that went into a step since the launch"),
}
"""Key of a metrics line: name and help of its counter; Prometheus sees the name with `_total`."""

BEST_REWARD = (
    "auricle_reward_best_mean",
    f"Largest mean reward of {REWARD_STEPS} steps in a row since the launch",
)
"""Name and help of the gauge that a fall of the reward is held against."""

LIVE_GAUGES = {
    "engines": ("auricle_engines", "Engines that sample"),
    "delivery_pending_seconds": (
        "auricle_delivery_pending_seconds",
        "Seconds that the version has been on its way which the engines are taking; 0 while none is",
    ),
    "max_steps": ("auricle_steps_bound", "Steps of the whole run, `run.max_steps`"),
    "max_staleness": ("auricle_staleness_bound_versions", "How old a token may be, `algorithm.max_staleness`"),
    "most_difference": (
        "auricle_logprob_difference_bound_nats",
        "Above it engine and learner are not one policy, by `model.dtype`",
    ),
    "saving": ("auricle_checkpoint_saving", "1 while a checkpoint is being written, else 0"),
    "checkpoint_bytes": ("auricle_checkpoint_bytes", "Size of the last checkpoint of this launch; 0 before the first"),
    "disk_free_bytes": ("auricle_disk_free_bytes", "Free on the disk of the run's directory, unless that is a URL"),
    "disk_bytes": ("auricle_disk_bytes", "Size of that disk"),
}
"""Key of what `TrainingLoop.figures` tells at a scrape: name and help of its gauge."""

LIVE_COUNTERS = {
    "engines_lost": ("auricle_engines_lost", "Engines that died or missed a deadline, and were replaced"),
    "checkpoints_failed": (
        "auricle_checkpoints_failed",
        "Checkpoints since the launch that could not be written, where checkpoint.on_failure lets the run go on",
    ),
    "steps_skipped": (
        "auricle_steps_skipped",
        "Steps whose loss or gradient was not finite since the launch; their questions are dropped as not_finite",
    ),
}
"""The same of its counters."""

LAST_STEP = ("auricle_last_step_timestamp_seconds", "When the last step was over, in seconds since 1970")
LAST_PROGRESS = (
    "auricle_last_progress_timestamp_seconds",
    "When the launch began, or a step, a checkpoint or a held-out question was last over; in seconds since 1970",
)
"""Name and help of the gauges of when the run last moved."""

DROPPED = ("auricle_groups_dropped", "Groups dropped since the launch, by reason")
"""Name and help of the counter of `dropped_by_reason`, with a label `reason`."""

COMPLETIONS_DROPPED = ("auricle_completions_dropped", "Completions of trained groups without a reward, by reason")
"""Name and help of the counter of `completions_dropped`, with a label `reason`; a line has those of its step."""

PHASES = ("auricle_phase_seconds", "Seconds of the last step by phase")
"""Name and help of the gauge of `seconds`, with a label `phase`."""

REWARDS = ("auricle_reward_term_mean", "Mean of each reward over the step's completions, before its weight")
"""Name and help of the gauge of `rewards`, with a label `reward`."""

STALENESS = ("auricle_groups_by_staleness", "Groups of the step by the age of their oldest token in versions")
"""Name and help of the gauge of `staleness`, with a label `versions`."""

OFF_POLICY = {
    "ratio_mean": ("auricle_importance_ratio_mean", "Mean probability of the learner over that of the engine"),
    "ratio_max": ("auricle_importance_ratio_max", "Largest probability of the learner over that of the engine"),
    "clipped": ("auricle_importance_clipped_ratio", "Share of tokens whose ratio was truncated or clipped"),
    "further_clipped": (
        "auricle_further_clipped_ratio",
        "Share of tokens whose gain was clipped in updates of a step after the first",
    ),
    "masked": ("auricle_importance_masked_ratio", "Share of tokens whose ratio was out of bounds and counted nothing"),
    "effective_sample_size": ("auricle_effective_sample_ratio", "Effective sample size as a share of the tokens"),
    "logprob_difference_mean": (
        "auricle_off_policy_logprob_difference_mean_nats",
        "Mean |log-prob of the engine - log-prob of the learner| over all tokens, stale ones too",
    ),
    "logprob_difference_max": (
        "auricle_off_policy_logprob_difference_max_nats",
        "Largest |log-prob of the engine - log-prob of the learner| of all tokens, stale ones too",
    ),
}
"""Key in `off_policy` of a metrics line: name and help of its gauge."""


class MetricsError(ValueError):
    """`/metrics` cannot be served."""


class Metrics:
    """The run's Prometheus registry, served while the run goes on."""

    def __init__(self, run_name: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._gauges = {key: Gauge(name, text, ["run"], registry=self.registry) for key, (name, text) in GAUGES.items()}
        self._counters = {
            key: Counter(name, text, ["run"], registry=self.registry).labels(run_name)
            for key, (name, text) in COUNTERS.items()
        }
        self._dropped = Counter(*DROPPED, ["run", "reason"], registry=self.registry)
        self._completions_dropped = Counter(*COMPLETIONS_DROPPED, ["run", "reason"], registry=self.registry)
        self._last_step = Gauge(*LAST_STEP, ["run"], registry=self.registry)
        self._last_progress = Gauge(*LAST_PROGRESS, ["run"], registry=self.registry)
        self._rewards = Gauge(*REWARDS, ["run", "reward"], registry=self.registry)
        self._phases = Gauge(*PHASES, ["run", "phase"], registry=self.registry)
        self._staleness = Gauge(*STALENESS, ["run", "versions"], registry=self.registry)
        self._off_policy = {
            key: Gauge(name, text, ["run"], registry=self.registry) for key, (name, text) in OFF_POLICY.items()
        }
        self._recent: deque[float] = deque(maxlen=REWARD_STEPS)
        """Mean rewards of the last steps."""
        self._best_reward = Gauge(*BEST_REWARD, ["run"], registry=self.registry)
        self._best = -inf
        self._run_name = run_name
        self._seen: dict[str, float] = {}
        self._server: Any = None
        self._host = ""
        self.progress()

    def serve(self, host: str, port: int) -> int:
        """Listen until `close`; port 0 takes a free one. Returns the port."""
        try:
            self._server = serve(self.registry, host, port)
        except OSError as error:
            raise MetricsError(
                f"metrics.port {port} on metrics.host {host!r} cannot be listened on ({error.strerror}): choose "
                f"another, metrics.port=0 takes a free one, metrics.port=null serves none"
            ) from error
        self._host = host
        return int(self._server.server_port)

    def endpoint(self, node: str) -> Endpoint | None:
        """Where it is reached, None where nobody listens.

        Args:
            node: address of this machine's Ray node.
        """
        if self._server is None:
            return None
        return endpoint(self._server, self._host, node)

    def begin_with(self, counts: Mapping[str, float], dropped: Mapping[str, float]) -> None:
        """Count from here on what the lines tell in all: what a resume has behind it is no increase."""
        self._seen = {key: counts[key] for key in COUNTERS} | {f"dropped {key}": one for key, one in dropped.items()}
        for reason in dropped:
            self._dropped.labels(self._run_name, reason)

    def watch(self, figures: Callable[[], Mapping[str, float]]) -> None:
        """Ask for `LIVE_GAUGES` and `LIVE_COUNTERS` at every scrape, from its thread."""
        self.registry.register(Live(LIVE_GAUGES, LIVE_COUNTERS, figures, {"run": self._run_name}))

    def progress(self) -> None:
        """Something of the run has been done."""
        self._last_progress.labels(self._run_name).set_to_current_time()

    def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def record(self, line: Mapping[str, Any]) -> None:
        """Show a line of `metrics.jsonl`, whose step is over."""
        self._last_step.labels(self._run_name).set_to_current_time()
        self.progress()
        for key, gauge in self._gauges.items():
            if line.get(key) is not None:
                gauge.labels(self._run_name).set(line[key])
            elif key not in KEPT:
                gauge.clear()
        if line.get("reward_mean") is not None:
            self._record_best(line["reward_mean"])
        for key, counter in self._counters.items():
            counter.inc(self._increase(key, line.get(key, 0)))
        for reason, count in line["dropped_by_reason"].items():
            self._dropped.labels(self._run_name, reason).inc(self._increase(f"dropped {reason}", count))
        for reason, count in line.get("completions_dropped", {}).items():
            self._completions_dropped.labels(self._run_name, reason).inc(count)
        for reward, mean in line.get("rewards", {}).items():
            self._rewards.labels(self._run_name, reward).set(mean)
        for phase, seconds in line["seconds"].items():
            self._phases.labels(self._run_name, phase).set(seconds)
        self._staleness.clear()  # an age that no group has is not shown
        for versions, groups in line.get("staleness", {}).items():
            self._staleness.labels(self._run_name, versions).set(groups)
        for key, value in line.get("off_policy", {}).items():
            self._off_policy[key].labels(self._run_name).set(value)

    def _record_best(self, reward: float) -> None:
        """Keep the best mean of `REWARD_STEPS` steps."""
        self._recent.append(reward)
        if len(self._recent) == REWARD_STEPS:
            self._best = max(fmean(self._recent), self._best)
            self._best_reward.labels(self._run_name).set(self._best)

    def _increase(self, key: str, total: float) -> float:
        increase = total - self._seen.get(key, 0.0)
        self._seen[key] = total
        return increase
