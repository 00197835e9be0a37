"""Write a file so that nobody ever reads half of it, and tell what it needs where there is no room."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class WriteError(RuntimeError):
    """A file cannot be written."""


@contextmanager
def writing(place: str | Path, size: int, *errors: type[Exception]) -> Iterator[None]:
    """Tell of the system's errors within the block as WriteError, with what is needed and what is free.

    Nothing is begun that the disk has no room for: what fills it takes room from all that is written beside.

    Args:
        place: path of what is written, or a URL.
        size: its bytes, about.
        errors: what else a library raises in their place.
    """
    takes, folder = f"it takes {size / 1e6:,.1f} MB", _folder(place)
    if folder is not None:
        free = shutil.disk_usage(folder).free
        takes += f", and {free / 1e6:,.1f} MB are free there"
        if free < size:
            raise WriteError(f"{place} cannot be written: {takes}")
    caught: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        yield
    except caught as error:
        raise WriteError(f"{place} cannot be written ({error}): {takes}") from error


def _folder(place: str | Path) -> Path | None:
    """The folder that a path lies in, as far as it is there; None of a URL."""
    parents = () if "://" in str(place) else (Path(place), *Path(place).parents)
    return next((parent for parent in parents if parent.is_dir()), None)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the name when the block ends well. A device or a pipe is written itself."""
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        yield path
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
