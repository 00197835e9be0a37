"""`python -m data.demo --out DIR`: build the demo question set from Debian packages."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from data.demo.build import build
from data.demo.packages import DIRECTORY_VARIABLE, MIRROR_VARIABLE, PackageError, fetch
from data.demo.questions import TooFewRecordings
from data.demo.split import LeakError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m data.demo",
        description="Build four-choice questions on real recordings from Debian packages (449 MB, downloaded once).",
        epilog=f"{DIRECTORY_VARIABLE} names a directory with package files supplied by hand; {MIRROR_VARIABLE} another "
        f"Debian mirror.",
    )
    parser.add_argument("--out", type=Path, required=True, help="directory to write the set into")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split and the questions (default 0)")
    parser.add_argument("--packages", type=Path, help=f"directory with .deb files, before {DIRECTORY_VARIABLE}")
    options = parser.parse_args(arguments)
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
