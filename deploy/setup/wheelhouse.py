"""The cache of third-party wheels: one folder for each set of lock files, shared by every checkout of a user.

A folder is named by the hash of what fills it, so a checkout with other locks gets another folder. The file `complete`
in it says that every package of the locks is there; a download that was cut off goes on with what is missing. The
caller holds `locked` while it fills or reads a folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

BATCH = 30
"""Packages asked of pip at a time: pip keeps what it downloaded only when a call ends well."""

COMPILE = """
import compileall, py_compile, sys
hashed = py_compile.PycInvalidationMode.CHECKED_HASH
compileall.compile_dir(sys.argv[1], quiet=2, workers=0, force=True, invalidation_mode=hashed)
"""
"""Bytecode that is known by its source's hash: a copy on another disk has another time. Some packages hold files for
other Pythons, which are left out.
"""

RESAMPLE = "import librosa, numpy; librosa.resample(numpy.zeros(800), orig_sr=8000, target_sr=16000)"
"""Has numba compile what librosa imports for the first clip of another rate, which it keeps beside the bytecode."""

COMPILED = (".pyc", ".nbi", ".nbc")
"""Ends of the files that Python and numba keep in `__pycache__`."""

Run = Callable[..., None]
"""Runs a command with its output in the log; raises `CommandError` when it fails."""


class SetupError(Exception):
    """One line for the user."""


class CommandError(SetupError):
    """A command failed; `output` is what it wrote."""

    def __init__(self, line: str, output: str) -> None:
        super().__init__(line)
        self.output = output


def cache_folder() -> Path:
    """`AURICLE_CACHE`, else `auricle` in the user's cache directory."""
    if own := os.environ.get("AURICLE_CACHE"):
        return Path(own).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "auricle"


def key(locks: list[Path]) -> str:
    """Hash of what the wheels are made from: the locks, in order, and the Python version."""
    digest = hashlib.sha256(f"cp{sys.version_info.major}{sys.version_info.minor}\n".encode())
    for lock in locks:
        digest.update(lock.read_bytes())
    return digest.hexdigest()


def requirements(locks: list[Path]) -> tuple[list[str], list[str]]:
    """The lines `name==version --hash=...` of the locks: of wheels, torch first, and of packages to build."""
    lines = [line for lock in locks for line in lock.read_text(encoding="utf-8").splitlines() if line]
    wheels = [line for line in lines if not line.endswith("# source")]
    sources = [line for line in lines if line.endswith("# source")]
    return sorted(wheels, key=lambda line: not line.startswith("torch==")), sources


def requirements_file(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@contextmanager
def locked(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the folder for one setup at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another setup that uses the same cache")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def is_complete(folder: Path) -> bool:
    """Whether every wheel is there and every other package is built."""
    return (folder / "complete").exists()


def download(folder: Path, wheels: list[str], python: Path, run: Run, say: Callable[[str], None]) -> None:
    """Fetch the wheels into `folder`, by pip as it is configured here, checking the hashes.

    torch goes alone and first: it may lie on an index of its own, and its absence should not take minutes to show.
    """
    batches = [wheels[:1], *(wheels[start : start + BATCH] for start in range(1, len(wheels), BATCH))]
    say(f"downloading {len(wheels)} packages to {folder}")
    fetched = 0
    for batch in batches:
        wanted = requirements_file(folder / "wanted.txt", batch)
        try:
            run(*_pip(python, "download"), "--only-binary", ":all:", "-r", wanted, "-d", folder)
        except CommandError as failure:
            raise _without_torch(failure, batch[0].split()[0]) or failure from failure
        fetched += len(batch)
        say(f"downloaded {fetched} of {len(wheels)}")


def build(folder: Path, sources: list[str], python: Path, run: Run, say: Callable[[str], None]) -> None:
    """Build a wheel of each package that comes without one; `python` already has what the builds import."""
    say(f"building {', '.join(line.split()[0] for line in sources)}")
    wanted = requirements_file(folder / "wanted.txt", sources)
    # DeepSpeed compiles nothing with this, but would ask for CUDA's compiler wherever it sees a GPU
    only_python = {"DS_BUILD_OPS": "0", "DS_ACCELERATOR": "cpu"}
    run(*_pip(python, "wheel"), "--no-build-isolation", "-r", wanted, "-w", folder / "built", **only_python)


def compile_bytecode(folder: Path, packages: Path, python: Path, run: Run, say: Callable[[str], None]) -> None:
    """Give the modules in `packages` their bytecode, which is compiled once for every checkout with these locks.

    Where Python must not write any (containers often set PYTHONDONTWRITEBYTECODE), each process would compile vLLM and
    transformers anew, and an engine would take 20 seconds longer to start. What numba compiles for librosa is kept too.
    """
    kept = folder / "compiled"
    if not kept.exists():
        say("compiling the packages once, about a minute")
        run(python, "-c", COMPILE, packages)
        if (packages / "librosa").is_dir():
            run(python, "-c", RESAMPLE)
        partial = folder / "compiled.partial"
        shutil.rmtree(partial, ignore_errors=True)
        _link_all(packages, partial, packages)
        partial.rename(kept)
    else:
        _link_all(kept, packages, packages)


def _link_all(source: Path, target: Path, packages: Path) -> None:
    """Have every compiled file under `source` under `target` too, whose module is in `packages`."""
    for file in source.rglob("__pycache__/*"):
        place = target / file.relative_to(source)
        name = file.name.removeprefix("guf-").partition(".")[0]  # numba's of a generalised ufunc
        if file.suffix not in COMPILED or not (packages / file.relative_to(source).parents[1] / f"{name}.py").exists():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        try:
            os.link(file, place)
        except OSError:  # another disk
            shutil.copy2(file, place)


def _pip(python: Path, command: str) -> list[str | Path]:
    index = os.environ.get("AURICLE_TORCH_INDEX")
    options = ["--no-cache-dir", "--no-deps", "--require-hashes", "--no-input", "--progress-bar", "off"]
    return [python, "-m", "pip", command, *options, *(["--extra-index-url", index] if index else [])]


def _without_torch(failure: CommandError, first: str) -> SetupError | None:
    """The mend where pip found no CPU build of torch; None where something else failed."""
    if not first.startswith("torch==") or "No matching distribution found for torch" not in failure.output:
        return None
    where = "at AURICLE_TORCH_INDEX" if os.environ.get("AURICLE_TORCH_INDEX") else "on the indexes it is set up with"
    return SetupError(
        f"pip does not find {first} {where}. The index of PyTorch's CPU builds is needed: set AURICLE_TORCH_INDEX to"
        " its address (PyTorch's install page gives it for Linux, pip, CPU) and run this again"
    )
