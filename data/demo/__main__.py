"""`python -m data.demo --out DIR`: build four-choice questions on real recordings from Debian packages.

They are 449 MB, downloaded once. AURICLE_DEBS names a directory with packages supplied by hand, and
AURICLE_DEBIAN_MIRROR another Debian mirror.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from data.command import command
from data.demo.build import build
from data.demo.packages import DIRECTORY_VARIABLE, PackageError, fetch
from data.demo.questions import TooFewRecordings
from data.demo.split import LeakError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = command("data.demo", __doc__)
    arguments.add_argument("--out", type=Path, required=True, help="directory to write the set into")
    arguments.add_argument("--seed", type=int, default=0, help="seed of the split and the questions (default 0)")
    arguments.add_argument("--packages", type=Path, help=f"directory with .deb files, before {DIRECTORY_VARIABLE}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(argv)
    started = time.monotonic()

    def progress(message: str) -> None:
        print(f"[{time.monotonic() - started:5.0f} s] {message}", file=sys.stderr, flush=True)

    try:
        progress("looking for the packages")
        report = build(fetch(directory=options.packages), options.out, options.seed, progress)
    except (PackageError, LeakError, TooFewRecordings) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for split, counts in report["splits"].items():
        print(f"{split}: {counts['questions']} questions on {counts['recordings']} recordings")
    print(f"text-only baseline on test: {report['text_baseline']['accuracy']:.1%} (chance 25%)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
