"""What a benchmark promises, held against its figures."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.progress import Reporter


def broken(held: Mapping[str, bool], reporter: Reporter) -> list[str]:
    """The claims that do not hold, each of them told."""
    failed = [claim for claim, holds in held.items() if not holds]
    for claim in failed:
        reporter.say(f"does not hold: {claim}")
    return failed
