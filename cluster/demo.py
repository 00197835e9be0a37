"""The demo's paths: `demo:train`, `demo:validation`, `demo:test`, `demo:model` stand for what is made on this machine.

The question set is built from Debian packages, the model is warmed up on it; both are kept in the user's cache by
the hash of the code that makes them, so the second run starts at once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from configs.schema import Config

SCHEME = "demo:"
HOME = Path(__file__).resolve().parent.parent
CONTINUED_LEARNING_RATE = 1e-3
DATA_SOURCES = ("data/demo",)
MODEL_SOURCES = (
    "data/prompts.py",
    "data/tokenizer.py",
    "learner/demo_model.py",
    "learner/warm_up.py",
    "learner/sft.py",
    "learner/whisper.py",
)


class DemoError(RuntimeError):
    """A part of the demo could not be made."""


def cache() -> Path:
    """Where downloads and what is made from them are kept: AURICLE_CACHE, else `auricle` in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("AURICLE_CACHE") or Path(base) / "auricle")


def resolved(config: Config, say: Callable[[str], None], build: bool = True) -> Config:
    """The configuration with `demo:` paths replaced by real ones; makes what is missing if `build`."""
    data = config.data
    paths = [path for path in (data.train, data.validation, data.test, config.model.path) if path]
    if not any(path.startswith(SCHEME) for path in paths):
        return config
    questions = cache() / "demo" / f"data-{_fingerprint(DATA_SOURCES)}"
    name = f"model-{_fingerprint((*DATA_SOURCES, *MODEL_SOURCES))}-seed{config.run.seed}"
    model = cache() / "demo" / name
    if build:
        make_data(questions, say)
        if config.model.path.startswith(SCHEME):
            make_model(model, questions, config.run.seed, say)

    def real(path: str | None) -> str | None:
        if path is None or not path.startswith(SCHEME):
            return path
        part = path.removeprefix(SCHEME)
        return str(model) if part == "model" else str(questions / f"{part}.parquet")

    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"path": real(config.model.path)}),
            "data": data.model_copy(
                update={
                    "train": real(data.train),
                    "validation": real(data.validation),
                    "test": real(data.test),
                    "feature_cache": data.feature_cache or str(cache() / "features"),
                }
            ),
        }
    )


def make_data(out: Path, say: Callable[[str], None]) -> None:
    """Build the question set unless it is there."""
    if not out.exists():
        say("building the demo's questions from Debian packages (once)")
        _make(out, "data.demo")


def make_model(out: Path, data: Path, seed: int, say: Callable[[str], None]) -> None:
    """Warm up a model unless it is there."""
    if not out.exists():
        say(f"warming up the demo's model, seed {seed} (once)")
        _make(out, "learner.warm_up", "--data", data, "--features", cache() / "features", "--seed", seed)


def continue_fine_tuning(model: Path, out: Path, data: Path, steps: int, seed: int) -> None:
    """Fine-tune a warm start further on the demo's questions, to compare with."""
    rate = ("--learning-rate", CONTINUED_LEARNING_RATE)
    places = ("--data", data, "--features", cache() / "features", "--source", model)
    _make(out, "learner.warm_up", *places, "--seed", seed, "--steps", steps, *rate)


def _make(out: Path, module: str, *arguments: object) -> None:
    """Run a module with `--out`, and give the result its name when it is complete."""
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", module, "--out", str(partial), *map(str, arguments)]
    if subprocess.run(command, cwd=HOME, check=False).returncode:
        raise DemoError(f"`{' '.join(command[1:])}` failed; its last lines above say why")
    shutil.rmtree(out, ignore_errors=True)
    os.replace(partial, out)


def _fingerprint(sources: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for source in sources:
        path = HOME / source
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]
