"""Write docs/metrics.md from `cluster.metrics`: `python -m cluster.metrics_reference`; `--check` fails when stale."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.metrics import COMPLETIONS_DROPPED, COUNTERS, DROPPED, GAUGES, OFF_POLICY, PHASES, STALENESS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"

_HEAD = """# Metrics

What the controller serves at `/metrics`, generated from `cluster/metrics.py` by `python -m cluster.metrics_reference`.

`metrics.port` switches the endpoint on: `metrics.port=9464`, or 0 for a free port, which the run prints. Every metric
has the label `run`, the run's name. Values change once a step and are those of the last line of `metrics.jsonl`, whose
key stands in the last column; a gauge appears with its first value. Beside each counter Prometheus's client also
exports `_created`, the time at which it was made.

| metric | kind | labels | meaning | key |
|---|---|---|---|---|
"""

Row = tuple[str, str, str, str, str]


def rows() -> list[Row]:
    """Name as Prometheus sees it, kind, labels, meaning and key of `metrics.jsonl`, of every metric."""
    gauges = [(name, "gauge", "run", text, key) for key, (name, text) in GAUGES.items()]
    counters = [(f"{name}_total", "counter", "run", text, key) for key, (name, text) in COUNTERS.items()]
    dropped = [
        (f"{name}_total", "counter", "run, reason", text, key)
        for (name, text), key in ((DROPPED, "dropped_by_reason"), (COMPLETIONS_DROPPED, "completions_dropped"))
    ]
    staleness = (STALENESS[0], "gauge", "run, versions", STALENESS[1], "staleness")
    off_policy = [(name, "gauge", "run", text, f"off_policy.{key}") for key, (name, text) in OFF_POLICY.items()]
    return [
        *gauges,
        staleness,
        *off_policy,
        (PHASES[0], "gauge", "run, phase", PHASES[1], "seconds"),
        *counters,
        *dropped,
    ]


def render() -> str:
    """The page, as Markdown."""
    table = [
        f"| `{name}` | {kind} | {labels} | {text.replace('|', '&#124;')} | `{key}` |"
        for name, kind, labels, text, key in rows()
    ]
    return _HEAD + "\n".join(table) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m cluster.metrics_reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when the page is stale")
    parser.add_argument("--page", type=Path, default=PAGE, help="file to write or check (default: %(default)s)")
    options = parser.parse_args(argv)
    if not options.check:
        options.page.write_text(render(), encoding="utf-8")
        return 0
    if options.page.is_file() and options.page.read_text(encoding="utf-8") == render():
        return 0
    print(f"{options.page} is stale; run `python -m cluster.metrics_reference`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
