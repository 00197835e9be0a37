"""What the benchmarks have in common as commands: how they are called, where figures go, and what they promise."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.progress import Reporter
from data.command import command


def parser(bench: str, description: str | None) -> argparse.ArgumentParser:
    """The command line of `python -m bench.BENCH`, as far as the benchmarks are alike."""
    arguments = command(f"bench.{bench}", description)
    arguments.add_argument("--json", type=Path, metavar="FILE", help="file for the figures, one flat object")
    return arguments


def finish(
    figures: Mapping[str, Any], promised: Mapping[str, bool], options: argparse.Namespace, reporter: Reporter
) -> int:
    """Write the figures where they are asked for, and tell every promise that they do not bear out.

    Returns:
        The exit status: 1 where there is such a promise.
    """
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    broken = [promise for promise, held in promised.items() if not held]
    for promise in broken:
        reporter.say(f"does not hold: {promise}")
    return 1 if broken else 0
