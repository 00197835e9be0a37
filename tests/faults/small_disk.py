"""A disk that is soon full."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    """A file system of its own in memory, of so many bytes; skips the test where nobody may mount one."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode and (os.geteuid() != 0 or "permission denied" in mounted.stderr.lower()):
        pytest.skip(f"no disk of its own can be mounted: {mounted.stderr.strip()}")
    mounted.check_returncode()
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextmanager
def filled(disk: Path, free: int) -> Iterator[None]:
    """Somebody else's file takes all but so many bytes of it."""
    ballast = disk / "of somebody else"
    with ballast.open("wb") as file:
        for _ in range((shutil.disk_usage(disk).free - free) // 4096):
            file.write(bytes(4096))
    try:
        yield
    finally:
        ballast.unlink()
