"""Write the lock files `deploy/locks/{cpu,gpu,dev}.txt` from the requirements in `pyproject.toml`.

pip resolves the requirements of a device without installing anything; a walk from the direct requirements then keeps
what they need, by name, version and hash. What is locked keeps its version unless it is to be upgraded. The packages in
`DROPPED` and what only they need stay out. `cpu.txt` and `gpu.txt` are each complete for running Auricle with its
loggers and S3; `dev.txt` adds the tools for working on it and serves both.

    .venv/bin/python deploy/lock.py            all three, minutes: pip reads the metadata of some 250 packages
    .venv/bin/python deploy/lock.py --device cpu
    .venv/bin/python deploy/lock.py --upgrade  newest versions of everything that pyproject.toml leaves open
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "deploy" / "locks"

DROPPED = frozenset({"torchaudio", "torchcodec", "torchvision"})
"""Never installed: the registry builds them for another torch than the CPU build, and importing torchvision then
breaks `import transformers`. Auricle decodes with soundfile and resamples with soxr."""

DEVICES = {"cpu": ("cpu",), "gpu": ("gpu",), "both": ("cpu", "gpu")}


@dataclass(frozen=True, slots=True)
class Release:
    """One resolved package."""

    name: str
    version: str
    sha256: str
    is_wheel: bool
    requires: tuple[Requirement, ...]

    @property
    def line(self) -> str:
        """A line of a requirements file; setup builds what is marked as source."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}{'' if self.is_wheel else '  # source'}"


def resolve(requirements: list[str], locked: list[str]) -> dict[str, Release]:
    """Every release that pip would install for `requirements`, by canonical name, at its locked version where it has
    one."""
    with tempfile.TemporaryDirectory() as folder:
        report, constraints = Path(folder) / "report.json", Path(folder) / "constraints.txt"
        constraints.write_text("".join(f"{pin}\n" for pin in locked), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        index = os.environ.get("AURICLE_TORCH_INDEX")
        extra_index = ["--extra-index-url", index] if index else []
        pinned = ["--constraint", str(constraints)]
        subprocess.run([*command, *pinned, *extra_index, "--report", str(report), *requirements], check=True)
        entries = json.loads(report.read_text(encoding="utf-8"))["install"]
    releases = {}
    for entry in entries:
        metadata = entry["metadata"]
        name = canonicalize_name(metadata["name"])
        releases[name] = Release(
            name=name,
            version=metadata["version"],
            sha256=entry["download_info"]["archive_info"]["hashes"]["sha256"],
            is_wheel=entry["download_info"]["url"].endswith(".whl"),
            requires=tuple(Requirement(text) for text in metadata.get("requires_dist", [])),
        )
    return releases


def closure(requirements: list[str], releases: dict[str, Release]) -> dict[str, Release]:
    """What `requirements` need of `releases`, directly or not, without `DROPPED`."""
    found: dict[str, Release] = {}
    seen: set[tuple[str, str]] = set()
    todo = [Requirement(text) for text in requirements]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if name in DROPPED or (name, extra) in seen:
                continue
            seen.add((name, extra))
            found[name] = releases[name]
            todo += [
                wanted
                for wanted in releases[name].requires
                if wanted.marker is None or wanted.marker.evaluate({"extra": extra})
            ]
    return found


def pins(*names: str) -> list[str]:
    """`name==version` of every package in these lock files."""
    lines = [line for name in names for line in (LOCKS / f"{name}.txt").read_text(encoding="utf-8").splitlines()]
    return [line.split()[0] for line in lines]


def write(path: Path, releases: dict[str, Release]) -> None:
    lines = [releases[name].line for name in sorted(releases)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{path.relative_to(ROOT)}: {len(lines)} packages")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the lock files from pyproject.toml.")
    parser.add_argument("--device", choices=DEVICES, default="both")
    parser.add_argument("--upgrade", action="store_true", help="take newer versions of what is locked already")
    options = parser.parse_args()
    devices = DEVICES[options.device]

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    torch = next(text for text in project["dependencies"] if text.startswith("torch=="))
    for device in devices:
        direct = project["dependencies"] + extras[device] + extras["loggers"] + extras["s3"]
        build = [f"{torch.replace('==', '!=')}+cpu"] if device == "gpu" else []
        locked = [] if options.upgrade else pins(device, "dev")
        releases = resolve(direct + build + extras["dev"], locked)
        runtime = closure(direct, releases)
        tools = {name: release for name, release in closure(extras["dev"], releases).items() if name not in runtime}
        write(LOCKS / f"{device}.txt", runtime)
        if device == "cpu":
            write(LOCKS / "dev.txt", tools)
            continue
        shared = (LOCKS / "dev.txt").read_text(encoding="utf-8").splitlines()
        if strangers := sorted(release.line for release in tools.values() if release.line not in shared):
            sys.exit(f"deploy/locks/dev.txt does not serve the gpu set; it lacks: {'; '.join(strangers)}")


if __name__ == "__main__":
    main()
