"""What Auricle needs of a machine, and one line for each thing that this one lacks."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path

GIB = 1024**3

LINKED_BYTES = 1 * GIB
"""Room in the checkout where the packages are hard links into the cache."""

MEMORY_BYTES = 15 * GIB
"""A machine sold with 16 GiB shows a little less."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Room that the packages of a device take."""

    cache_bytes: int
    """What an empty cache grows to: wheels, the packages unpacked from them, and their bytecode."""
    copied_bytes: int
    """What a checkout grows to where the cache lies on another disk and the packages are copied."""


SIZES = {
    "cpu": Sizes(cache_bytes=6 * GIB, copied_bytes=5 * GIB),
    "gpu": Sizes(cache_bytes=12 * GIB, copied_bytes=9 * GIB),
}


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found."""

    system: str
    architecture: str
    has_venv: bool
    has_pip: bool
    compiler: str
    """Command of the C++ compiler that extensions are built with."""
    has_compiler: bool
    has_python_headers: bool
    cores: int
    memory_bytes: int
    checkout_free_bytes: int
    cache_free_bytes: int
    one_disk: bool
    """Whether checkout and cache lie on one file system."""


def inspect(checkout: Path, cache: Path) -> Machine:
    """This machine, with the disks that hold `checkout` and `cache`."""
    cache = next(folder for folder in (cache, *cache.parents) if folder.exists())
    compiler = os.environ.get("CXX", "c++")
    return Machine(
        system=platform.system(),
        architecture=platform.machine(),
        has_venv=importlib.util.find_spec("venv") is not None,
        has_pip=importlib.util.find_spec("ensurepip") is not None,
        compiler=compiler,
        has_compiler=shutil.which(compiler) is not None,
        has_python_headers=Path(sysconfig.get_path("include"), "Python.h").exists(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=_memory_bytes(),
        checkout_free_bytes=shutil.disk_usage(checkout).free,
        cache_free_bytes=shutil.disk_usage(cache).free,
        one_disk=checkout.stat().st_dev == cache.stat().st_dev,
    )


def missing(machine: Machine, sizes: Sizes, cache_is_filled: bool) -> list[str]:
    """Why Auricle cannot be set up on `machine`, one line each; empty when it can."""
    if (machine.system, machine.architecture) != ("Linux", "x86_64"):
        return [f"Auricle runs on Linux x86-64; this machine is {machine.system} {machine.architecture}"]
    lines = []
    if not (machine.has_venv and machine.has_pip):
        lines.append("Python's venv and ensurepip modules are missing: install them (Debian: python3.11-venv)")
    if not machine.has_compiler:
        lines.append(
            f"a C++ compiler is missing ({machine.compiler!r} was not found): install one (Debian: g++) or set CXX"
        )
    cache_bytes = 0 if cache_is_filled else sizes.cache_bytes
    checkout_bytes = LINKED_BYTES if machine.one_disk else sizes.copied_bytes
    if machine.one_disk:
        checkout_bytes += cache_bytes
    elif machine.cache_free_bytes < cache_bytes:
        lines.append(_full("the cache", machine.cache_free_bytes, cache_bytes))
    if machine.checkout_free_bytes < checkout_bytes:
        lines.append(_full("the checkout", machine.checkout_free_bytes, checkout_bytes))
    return lines


def _full(place: str, free_bytes: int, needed_bytes: int) -> str:
    return (
        f"{free_bytes / GIB:.1f} GiB are free on the disk of {place} and setup needs {needed_bytes / GIB:.0f}: make"
        " room, or set AURICLE_CACHE to a folder on another disk"
    )


def tight(machine: Machine, device: str) -> list[str]:
    """What `machine` has less of than Auricle is tested with, one line each; setup goes on."""
    lines = []
    if machine.cores < 2:
        lines.append(f"{machine.cores} core; Auricle is tested with 2, expect runs to be slow")
    if machine.memory_bytes < MEMORY_BYTES:
        lines.append(f"{machine.memory_bytes / GIB:.1f} GiB of memory; Auricle is tested with 16, runs may be killed")
    if device == "gpu" and not machine.has_python_headers:
        lines.append("Python.h is missing (Debian: python3.11-dev); Triton compiles with it at its first use on a GPU")
    return lines


def _memory_bytes() -> int:
    """The machine's memory, or the control group's limit where that is lower."""
    if platform.system() != "Linux":
        return 0
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="ascii").strip() if limit.exists() else "max"
    return total if text == "max" else min(total, int(text))
