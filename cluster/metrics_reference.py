"""Write docs/metrics.md from what is exported: `python -m cluster.metrics_reference`; `--check` fails when stale."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import yaml

from actors.exporter import Named
from actors.metrics import ENGINE_COUNTERS, ENGINE_GAUGES, RANK_GAUGES, RANK_PHASES, RANK_STEPS, RANK_TOKENS
from cluster.fingerprint import HOME
from cluster.metrics import (
    BEST_REWARD,
    COMPLETIONS_DROPPED,
    COUNTERS,
    DROPPED,
    GAUGES,
    LAST_PROGRESS,
    LAST_STEP,
    LIVE_COUNTERS,
    LIVE_GAUGES,
    OFF_POLICY,
    PHASES,
    REWARDS,
    STALENESS,
)
from configs.reference import write_files

PAGE = HOME / "docs" / "metrics.md"
ALERTS = HOME / "deploy" / "prometheus" / "alerts.rules.yml"

_HEAD = """# Metrics

What a run serves for Prometheus, generated from `cluster/metrics.py`, `actors/metrics.py` and
`deploy/prometheus/alerts.rules.yml` by `python -m cluster.metrics_reference`. How to look at it:
[dashboard.md](dashboard.md).

`metrics.port` switches it on: a port for the control loop, or 0 for a free one, which the run prints. Each engine and
each learner rank then serves `/metrics` on a free port of its own. All listen on `metrics.host`, by default loopback;
the endpoints ask for no password. Where machines are several, `metrics.host: 0.0.0.0` lets Prometheus reach them all.

While the run goes on, `NAME.targets.json` beside its directory lists them for Prometheus's file-based discovery, and
with them the nodes of its Ray cluster. Where `run.dir` is a URL, the file lies on the machine of the launch, which
prints where. An engine that takes the place of another takes its entry; when the run ends the file is removed. Its
labels are on every metric of a process:

| label | values |
|---|---|
| `run` | name of the run |
| `role` | `controller`, `engine`, `learner`, `ray` |
| `engine` | of an engine: `engine-0` ... |
| `rank` | of a learner rank: `0` ... |
| `node` | of a Ray node: the beginning of its id |

Beside each counter Prometheus's client may export `_created`, the time at which it was made.
"""

_CONTROLLER = """
## Control loop

These have the label `run` themselves. Values with a key change once a step and are those of the last line of
`metrics.jsonl`; a gauge appears with its first value. The others are those of the moment.
"""

_ENGINE = """
## Engines

The rate of a counter of seconds is a share of time: `rate(auricle_engine_busy_seconds_total[1m])`.
"""

_RANK = """
## Learner ranks
"""

_OTHERS = """
## vLLM, Ray and the processes

These keep their own names and are documented by their projects.

- Engines export vLLM's metrics, `vllm:...`: `vllm:num_requests_running`, `vllm:num_requests_waiting`,
  `vllm:kv_cache_usage_perc`, `vllm:prefix_cache_hits_total` and more. There a request is a completion. Evaluations
  of a model without a run (`python -m cluster.evaluate`) serve none.
- Ray nodes export `ray_node_cpu_utilization`, `ray_node_mem_used`, `ray_object_store_memory` and more. Ray's own
  endpoint listens on all interfaces unless the node's address is loopback.
- Control loop, engines and ranks export `process_resident_memory_bytes`, `process_cpu_seconds_total`,
  `process_open_fds` and more of their process.
"""

_ALERTS = """
## Alerts

Those of `deploy/prometheus/alerts.rules.yml`. None fires of a run that has ended, since its targets are gone.
"""

Row = tuple[str, str, str, str, str]
"""Name as Prometheus sees it, kind, labels, meaning, and key of `metrics.jsonl` or nothing."""


def controller_rows() -> list[Row]:
    """The control loop's metrics."""
    labelled = [
        (REWARDS, "reward", "rewards"),
        (STALENESS, "versions", "staleness"),
        (PHASES, "phase", "seconds"),
    ]
    dropped = [(DROPPED, "dropped_by_reason"), (COMPLETIONS_DROPPED, "completions_dropped")]
    return [
        *((name, "gauge", "run", text, key) for key, (name, text) in GAUGES.items()),
        *((name, "gauge", f"run, {label}", text, key) for (name, text), label, key in labelled),
        *((name, "gauge", "run", text, f"off_policy.{key}") for key, (name, text) in OFF_POLICY.items()),
        *((f"{name}_total", "counter", "run", text, key) for key, (name, text) in COUNTERS.items()),
        *((f"{name}_total", "counter", "run, reason", text, key) for (name, text), key in dropped),
        *((name, "gauge", "run", text, "") for name, text in (BEST_REWARD, LAST_STEP, LAST_PROGRESS)),
        *_unkeyed(LIVE_GAUGES, LIVE_COUNTERS, "run"),
    ]


def engine_rows() -> list[Row]:
    """An engine's metrics, without vLLM's."""
    return _unkeyed(ENGINE_GAUGES, ENGINE_COUNTERS, "")


def rank_rows() -> list[Row]:
    """A learner rank's metrics."""
    counters = {"steps": RANK_STEPS, "tokens": RANK_TOKENS}
    name, text = RANK_PHASES
    return [*_unkeyed(RANK_GAUGES, counters, ""), (f"{name}_total", "counter", "phase", text, "")]


def render() -> str:
    """The page, as Markdown."""
    tables = [(_CONTROLLER, controller_rows()), (_ENGINE, engine_rows()), (_RANK, rank_rows())]
    sections = [head + "\n" + _table(rows) for head, rows in tables]
    return _HEAD + "".join(sections) + _OTHERS + _ALERTS + _alerts()


def _unkeyed(gauges: Named, counters: Named, labels: str) -> list[Row]:
    return [
        *((name, "gauge", labels, text, "") for name, text in gauges.values()),
        *((f"{name}_total", "counter", labels, text, "") for name, text in counters.values()),
    ]


def _table(rows: Iterable[Row]) -> str:
    lines = ["| metric | kind | labels | meaning | key |", "|---|---|---|---|---|"]
    lines += [
        f"| `{name}` | {kind} | {labels} | {text.replace('|', '&#124;')} | {f'`{key}`' if key else ''} |"
        for name, kind, labels, text, key in rows
    ]
    return "\n".join(lines) + "\n"


def _alerts() -> str:
    """Each alert with its severity, its condition and what to do."""
    rules = [rule for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
    return "".join(
        f"\n### {rule['alert']}\n\nSeverity {rule['labels']['severity']}. {rule['annotations']['description']}\n\n"
        f"```\n{rule['expr'].strip()}\n```\n"
        for rule in rules
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return write_files("cluster.metrics_reference", __doc__, {PAGE: render()}, argv)


if __name__ == "__main__":
    sys.exit(main())
