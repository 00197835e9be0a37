"""What the dashboards show. Grafana's and Prometheus's own are made of this list by `deploy.dashboard.files`."""

from __future__ import annotations

from dataclasses import dataclass, field

RUN = "$run"
"""Stands in a query for the runs that are looked at, a regular expression."""


@dataclass(frozen=True, slots=True)
class Query:
    """One family of lines."""

    expression: str
    labels: tuple[str, ...] = ("run",)
    """Tell its lines apart."""
    name: str = ""
    """Tells them from another query's of the panel."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph."""

    title: str
    help: str
    unit: str
    """In Grafana's words: short, percentunit, s, bytes, ..."""
    stacked: bool = field(default=False, kw_only=True)
    queries: tuple[Query, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """Panels about one thing."""

    title: str
    panels: tuple[Panel, ...]


def _of(metric: str, *labels: str, name: str = "") -> Query:
    """A metric as it is."""
    return Query(f'{metric}{{run=~"{RUN}"}}', ("run", *labels), name)


def _rate(metric: str, *labels: str, name: str = "") -> Query:
    """A counter's increase a second, over a minute."""
    return Query(f'rate({metric}{{run=~"{RUN}"}}[1m])', ("run", *labels), name)


LEARNING = Row(
    "Learning",
    (
        Panel("Reward", "Mean weighted reward of the step's completions", "short", (_of("auricle_reward_mean"),)),
        Panel(
            "Rewards",
            "Mean of each reward before its weight; format is the share of completions in the asked form",
            "short",
            (_of("auricle_reward_term_mean", "reward"),),
        ),
        Panel(
            "Accuracy",
            "While training, and greedy on the validation questions",
            "percentunit",
            (
                _of("auricle_accuracy_ratio", name="training"),
                _of("auricle_validation_accuracy_ratio", name="validation"),
            ),
        ),
        Panel("KL", "To the reference, mean over tokens, in nats", "short", (_of("auricle_kl_nats"),)),
        Panel("Entropy", "Mean over tokens, in nats", "short", (_of("auricle_entropy_nats"),)),
        Panel("Gradient norm", "Before clipping", "short", (_of("auricle_grad_norm"),)),
        Panel(
            "Steps skipped",
            "Since the launch, whose loss or gradient was not finite",
            "short",
            (_of("auricle_steps_skipped_total"),),
        ),
        Panel("Completion length", "Mean tokens", "short", (_of("auricle_completion_tokens"),)),
        Panel(
            "Completions cut",
            "Of the step, at rollout.max_completion_tokens",
            "short",
            (_of("auricle_completions_truncated"),),
        ),
        Panel(
            "Groups without a signal",
            "Groups of the step whose completions scored alike",
            "short",
            (_of("auricle_zero_variance_groups"),),
        ),
    ),
)

PIPELINE = Row(
    "Pipeline",
    (
        Panel(
            "Step by phase",
            "Seconds of the last step; sync is the weights' way as far as the learner waits for it",
            "s",
            (_of("auricle_phase_seconds", "phase"),),
            stacked=True,
        ),
        Panel(
            "Busy",
            "Share of the step in which engines and learner worked",
            "percentunit",
            (_of("auricle_rollout_busy_ratio", name="engines"), _of("auricle_learner_busy_ratio", name="learner")),
        ),
        Panel(
            "Completion tokens a second",
            "Of the step over its seconds",
            "short",
            (_of("auricle_completion_tokens_per_second"),),
        ),
        Panel(
            "Staleness",
            "Age of the oldest token that the step trained, in versions, and how old it may be",
            "short",
            (
                _of("auricle_staleness_max_versions", name="oldest"),
                _of("auricle_staleness_bound_versions", name="bound"),
            ),
        ),
        Panel(
            "Groups in flight",
            "Admitted and neither trained nor dropped, and finished ones that wait",
            "short",
            (_of("auricle_groups_in_flight", name="in flight"), _of("auricle_groups_buffered", name="finished")),
        ),
        Panel(
            "Groups dropped",
            "In all, by reason",
            "short",
            (_of("auricle_groups_dropped_total", "reason"),),
        ),
        Panel(
            "Weights to the engines",
            "Seconds of the last delivery, of the one that goes on, and in which the learner gave its weights away",
            "s",
            (
                _of("auricle_sync_seconds", name="last"),
                _of("auricle_delivery_pending_seconds", name="going on"),
                _of("auricle_publish_seconds", name="published"),
            ),
        ),
        Panel(
            "Engine against learner",
            "Largest difference of a log-prob on the same version, and what is still one policy; in nats",
            "short",
            (
                _of("auricle_logprob_difference_max_nats", name="step"),
                _of("auricle_verified_logprob_difference_max_nats", name="check"),
                _of("auricle_logprob_difference_bound_nats", name="bound"),
            ),
        ),
        Panel(
            "Since it last moved",
            "Seconds since a step was over or an evaluation's question answered",
            "s",
            (_of("auricle:progress_age_seconds"),),
        ),
    ),
)

ENGINES = Row(
    "Engines",
    (
        Panel(
            "Completions in vLLM",
            "Running and waiting",
            "short",
            (
                _of("vllm:num_requests_running", "engine", name="running"),
                _of("vllm:num_requests_waiting", "engine", name="waiting"),
            ),
        ),
        Panel("Key-value cache", "Share in use", "percentunit", (_of("vllm:kv_cache_usage_perc", "engine"),)),
        Panel(
            "Tokens a second",
            "As vLLM samples them, and as groups are finished",
            "short",
            (
                _rate("vllm:generation_tokens_total", "engine", name="sampled"),
                _of("auricle:engine_completion_tokens_per_second:rate1m", "engine", name="finished"),
            ),
        ),
        Panel(
            "Prompt tokens found in the prefix cache",
            "Share of those that were looked for",
            "percentunit",
            (
                Query(
                    f'rate(vllm:prefix_cache_hits_total{{run=~"{RUN}"}}[1m])'
                    f' / rate(vllm:prefix_cache_queries_total{{run=~"{RUN}"}}[1m])',
                    ("run", "engine"),
                ),
            ),
        ),
        Panel(
            "Engine busy", "Sampling or loading weights", "percentunit", (_of("auricle:engine_busy:ratio1m", "engine"),)
        ),
        Panel(
            "Weight version",
            "That each engine samples from",
            "short",
            (_of("auricle_engine_weight_version", "engine"),),
        ),
        Panel(
            "Requests of groups",
            "Running in vLLM, and waiting for the engine's thread or new weights",
            "short",
            (
                _of("auricle_engine_running_requests", "engine", name="running"),
                _of("auricle_engine_queued_requests", "engine", name="waiting"),
            ),
        ),
        Panel(
            "Loading weights", "Share of time", "percentunit", (_rate("auricle_engine_load_seconds_total", "engine"),)
        ),
        Panel(
            "Engines",
            "That sample, and that were lost so far",
            "short",
            (_of("auricle_engines", name="sampling"), _of("auricle_engines_lost_total", name="lost")),
        ),
    ),
)

LEARNER = Row(
    "Learner",
    (
        Panel(
            "Rank by phase",
            "Share of time that each rank spends",
            "percentunit",
            (_rate("auricle_rank_phase_seconds_total", "rank", "phase"),),
            stacked=True,
        ),
        Panel(
            "Packed tokens a second",
            "Positions that went through the policy, by rank",
            "short",
            (_of("auricle:rank_packed_tokens_per_second:rate1m", "rank"),),
        ),
        Panel(
            "Peak memory",
            "Most that a rank's process and its tensors on a GPU have held",
            "bytes",
            (
                _of("auricle_rank_process_peak_bytes", "rank", name="process"),
                _of("auricle_rank_device_peak_bytes", "rank", name="device"),
            ),
        ),
    ),
)

MACHINES = Row(
    "Machines",
    (
        Panel(
            "Memory of the processes",
            "Resident, of control loop, engines and ranks",
            "bytes",
            (_of("process_resident_memory_bytes", "role", "engine", "rank"),),
        ),
        Panel(
            "CPU of the processes",
            "Cores",
            "short",
            (_rate("process_cpu_seconds_total", "role", "engine", "rank"),),
        ),
        Panel("Free disk", "On the storage of the run's directory", "bytes", (_of("auricle_disk_free_bytes"),)),
        Panel(
            "CPU of the nodes",
            "As Ray tells it, in percent",
            "percent",
            (Query("ray_node_cpu_utilization", ("instance",)),),
        ),
        Panel("Memory of the nodes", "Used, as Ray tells it", "bytes", (Query("ray_node_mem_used", ("instance",)),)),
        Panel(
            "Object store",
            "Of each node, by where the objects lie",
            "bytes",
            (Query("sum by (instance, Location) (ray_object_store_memory)", ("instance", "Location")),),
        ),
    ),
)

ALERTS = Row(
    "Alerts",
    (
        Panel(
            "Alerts that fire",
            "docs/metrics.md tells what each means and what to do",
            "short",
            (Query(f'ALERTS{{alertstate="firing", run=~"{RUN}"}}', ("run", "alertname", "severity")),),
        ),
    ),
)

ROWS = (LEARNING, PIPELINE, ENGINES, LEARNER, MACHINES, ALERTS)
