"""`python -m tests.breaks`: break the code on purpose, one line at a time, and see that a test notices.

Each break is made in a temporary copy of the checkout's tracked files, as they are in the working tree; the named test
runs there. A break that no test notices has survived, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.breaks.catalogue import BREAKS, Break

CHECKOUT = Path(__file__).resolve().parent.parent.parent
ROOMS = ("configs", "data", "rewards", "learner", "actors", "cluster", "tests")
LIMIT_SECONDS = 900
SHOWN_LINES = 25


class BreakError(ValueError):
    """A break that cannot be made, or was not tried."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = argparse.ArgumentParser(prog="python -m tests.breaks", description=__doc__.split("\n\n")[0])
    arguments.add_argument("--only", metavar="NAME", help="the breaks with NAME in their name")
    arguments.add_argument("--list", action="store_true", help="print names and tests, and run nothing")
    options = arguments.parse_args(argv)
    chosen = [broken for broken in BREAKS if (options.only or "") in broken.name]
    if not chosen:
        print(f"error: no break is named {options.only!r}; --list prints the names", file=sys.stderr)
        return 2
    if options.list:
        for broken in chosen:
            print(f"{broken.name}: {broken.file} -> {broken.test}")
        return 0
    try:
        for broken in chosen:
            replaced(broken, CHECKOUT)
        survived = [broken.name for broken in chosen if not notices(broken)]
    except BreakError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(chosen) - len(survived)} of {len(chosen)} breaks were noticed", flush=True)
    for name in survived:
        print(f"survived: {name}")
    return 1 if survived else 0


def notices(broken: Break) -> bool:
    """Make the break in a copy, run its test there, and print what came of it."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="auricle-break-") as folder:
        copy = Path(folder) / "checkout"
        copy_tracked(copy)
        (copy / broken.file).write_text(replaced(broken, copy), encoding="utf-8")
        check_imports(copy)
        done = python(copy, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rfE", broken.test)
    seconds = time.monotonic() - started
    caught = done.returncode == 1 and f"FAILED {broken.test}" in done.stdout
    if caught:
        print(f"{broken.name} -> {broken.test} ({seconds:.0f} s)", flush=True)
        return True
    shown = "\n".join((done.stdout + done.stderr).splitlines()[-SHOWN_LINES:])
    if done.returncode == 0:
        print(f"{broken.name} -> SURVIVED {broken.test} ({seconds:.0f} s)", flush=True)
        return False
    raise BreakError(f"{broken.name}: {broken.test} neither passed nor failed by itself:\n{shown}")


def copy_tracked(to: Path) -> None:
    """Copy the tracked files of the checkout."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\0"):
        source = CHECKOUT / name
        if name and source.is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, to / name)


def replaced(broken: Break, root: Path) -> str:
    """The broken file's text; raises unless what is replaced stands exactly once."""
    text = (root / broken.file).read_text(encoding="utf-8")
    if text.count(broken.text) != 1:
        raise BreakError(
            f"{broken.name}: {broken.file} holds {broken.text!r} {text.count(broken.text)} times, not once; "
            f"bring tests/breaks/catalogue.py up to date"
        )
    return text.replace(broken.text, broken.replacement)


def check_imports(copy: Path) -> None:
    """Raise unless our packages are the copy's, not those that are installed."""
    script = f"import {', '.join(ROOMS)}; print({', '.join(f'{room}.__file__' for room in ROOMS)}, sep='\\n')"
    done = python(copy, "-c", script)
    elsewhere = [path for path in done.stdout.splitlines() if not Path(path).resolve().is_relative_to(copy.resolve())]
    if done.returncode or elsewhere:
        raise BreakError(f"the copy in {copy} does not import its own packages: {elsewhere or done.stderr}")


def python(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """This interpreter on the copy's packages."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
    )


if __name__ == "__main__":
    sys.exit(main())
