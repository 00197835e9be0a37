"""Files that commands write."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.errors import UsageError
from data.whole_file import whole_file


@contextmanager
def replacing(path: Path, argument: str) -> Iterator[Path]:
    """A file beside `path` that takes its name when the block ends well, so that nobody ever reads half of it.

    It is made at once: a place that cannot be written is refused before the work, not after it. A link stays one, and
    a device such as /dev/null is written to as it is.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "it is a directory")
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, argument, error) from error
    with whole_file(path) as partial:
        try:
            partial.touch()
        except OSError as error:
            raise _unwritable(path, argument, error) from error
        yield partial


def _unwritable(path: Path, argument: str, error: OSError) -> UsageError:
    return UsageError(f"{argument} {path} cannot be written: {error.strerror}; name a file elsewhere")


def write_json(path: Path, value: Any) -> None:
    """Write JSON that every reader takes: a number that is none, as Python reads and writes it, becomes null."""
    path.write_text(json.dumps(finite(value), indent=1, allow_nan=False, default=str) + "\n", encoding="utf-8")


def finite(value: Any) -> Any:
    """The value with None in place of every number that JSON does not know, at any depth."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
