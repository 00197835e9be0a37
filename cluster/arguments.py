"""What the arguments of commands have in common: counts that are refused by name, and a file to write."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.errors import UsageError

PROMPT_HELP = "answer, think, letters, or a YAML file with the keys of data.prompt (default answer)"


CHANNELS = ("mean", "first")
CHANNELS_HELP = "what a clip of several channels is heard as: data.channels of the training run (default mean)"


def command(module: str, description: str | None, examples: str) -> argparse.ArgumentParser:
    """The parser of `python -m MODULE`, whose help begins with the module's text and ends with examples."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def count(least: int) -> Callable[[str], int]:
    """The type of an argument that is an integer of at least `least`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {least}")
        return value

    return parse


@contextmanager
def replacing(path: Path, argument: str) -> Iterator[Path]:
    """A file beside `path` that takes its name when the block ends well, so that nobody ever reads half of it.

    It is made at once: a place that cannot be written is refused before the work, not after it. A link stays one, and
    a device such as /dev/null is written to as it is.
    """
    path = path.resolve() if path.is_symlink() else path
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "it is a directory")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
    except OSError as error:
        raise UsageError(f"{argument} {path} cannot be written: {error.strerror}; name a file elsewhere") from error
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON that every reader takes: a number that is none, as Python reads and writes it, becomes null."""
    path.write_text(json.dumps(_finite(value), indent=1, allow_nan=False, default=str) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    """The value with None for NaN and infinities, at any depth."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
