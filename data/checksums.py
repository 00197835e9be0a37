"""Size and SHA-256 of the files of a directory, to know later whether they are as they were written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from data.ordered import cpus, ordered
from data.remote import WHOLE, Remote, is_url


class Checksum(TypedDict):
    """Of a file."""

    bytes: int
    sha256: str


Checksums = Mapping[str, Checksum]
"""By the names of the files, relative to their directory."""


def checksums(folder: Path) -> dict[str, Checksum]:
    """Of every file in a directory of this machine, and in those in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = ordered(_checksum, files, cpus())
    return {file.relative_to(folder).as_posix(): one for file, one in zip(files, found, strict=True)}


def differences(place: str, written: Checksums, contents: bool = True) -> list[str]:
    """What of a directory is not as it was written, a few words a file; files that were not written are left out.

    Args:
        place: path or URL of the directory.
        written: what it held.
        contents: whether what is in the files is read. By URL it never is: such storages hold a file whole or not at
            all, and everything would have to be fetched.
    """
    if is_url(place):
        return _of_sizes(Remote(place).sizes(), written)
    folder = Path(place)
    sizes = {name: (folder / name).stat().st_size for name in written if (folder / name).is_file()}
    found = _of_sizes(sizes, written)
    if found or not contents:
        return found
    now = ordered(_checksum, (folder / name for name in written), cpus())
    return [f"{name} has other content" for name, one in zip(written, now, strict=True) if one != written[name]]


def changed_part(folder: Path) -> list[str]:
    """What of a checkpoint's folder, such as its `hf/`, is not as it was written; nothing where nobody knows."""
    told = folder.parent / WHOLE
    if not told.is_file():
        return []
    try:
        files = json.loads(told.read_text())["files"]
    except (ValueError, KeyError, TypeError) as error:
        return [f"{WHOLE} does not tell what was written ({error!r})"]
    return differences(str(folder.parent), {name: files[name] for name in files if name.startswith(f"{folder.name}/")})


def _of_sizes(sizes: Mapping[str, int], written: Checksums) -> list[str]:
    absent = [f"{name} is not there" for name in written if name not in sizes]
    return absent + [
        f"{name} has {sizes[name]} of {one['bytes']} bytes"
        for name, one in written.items()
        if sizes.get(name, one["bytes"]) != one["bytes"]
    ]


def _checksum(file: Path) -> Checksum:
    with file.open("rb") as opened:
        return Checksum(bytes=file.stat().st_size, sha256=hashlib.file_digest(opened, "sha256").hexdigest())
