"""The demo's paths, made on this machine: `demo:train`, `demo:validation`, `demo:test`, `demo:model`, `demo:small`.

The question set is built from Debian packages, a model is warmed up on it: `demo:model` is tiny and begins with an
untrained language model, `demo:small` is made of pretrained parts. All are kept in the user's cache by the hash of the
code that makes them, so the second run starts at once. Several runs may do so side by side: each makes what is missing
under a name of its own, and the first that is done gives it the name that all read.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from cluster.fingerprint import HOME, fingerprint
from configs.schema import Config
from data.cache import cache_directory

SCHEME = "demo:"
DATA_MAKER = "data.demo.__main__"
MODEL_MAKER = "learner.demo.warm_up"
MODEL_MAKERS = {"model": MODEL_MAKER, "small": "learner.demo.small_warm_up"}
"""What makes a model, by its `demo:` path."""
ENCODER_VARIABLE = "AURICLE_WHISPER"


class DemoError(RuntimeError):
    """A part of the demo could not be made."""


def resolved(config: Config, say: Callable[[str], None], build: bool = True) -> Config:
    """The configuration with `demo:` paths replaced by real ones; makes what is missing if `build`."""
    data = config.data
    paths = [path for path in (data.train, data.validation, data.test, config.model.path) if path]
    if not any(path.startswith(SCHEME) for path in paths):
        return config
    questions = cache_directory() / "demo" / f"data-{fingerprint(DATA_MAKER)}"
    model = _model_place(config)
    if build:
        make_data(questions, say)
        if model is not None:
            make_model(config.model.path.removeprefix(SCHEME), model, questions, config.run.seed, say)

    def real(path: str | None) -> str | None:
        if path is None or not path.startswith(SCHEME):
            return path
        return str(questions / f"{path.removeprefix(SCHEME)}.parquet")

    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"path": str(model or config.model.path)}),
            "data": data.model_copy(
                update={
                    "train": real(data.train),
                    "validation": real(data.validation),
                    "test": real(data.test),
                    "feature_cache": data.feature_cache or str(cache_directory() / "features"),
                }
            ),
        }
    )


def _model_place(config: Config) -> Path | None:
    """Where the model is kept that the configuration names; None where that is no `demo:` path."""
    if not config.model.path.startswith(SCHEME):
        return None
    kind = config.model.path.removeprefix(SCHEME)
    if kind not in MODEL_MAKERS:
        raise DemoError(
            f"model.path: there is no {config.model.path}; use {' or '.join(map(SCHEME.__add__, MODEL_MAKERS))}"
        )
    return cache_directory() / "demo" / model_name(config.run.seed, kind)


def model_name(seed: int, kind: str = "model") -> str:
    """What a warm start is kept under: by kind, code, seed, and the encoder that AURICLE_WHISPER names."""
    encoder = chosen_encoder()
    suffix = f"-whisper-{hashlib.sha256(encoder.encode()).hexdigest()[:8]}" if encoder else ""
    return f"{kind}-{fingerprint(DATA_MAKER, MODEL_MAKERS[kind])}-seed{seed}{suffix}"


def chosen_encoder() -> str | None:
    """AURICLE_WHISPER, absolute where it is a path: what makes the demo starts in another directory."""
    chosen = os.environ.get(ENCODER_VARIABLE)
    return os.path.abspath(chosen) if chosen and os.path.exists(chosen) else chosen or None


def make_data(out: Path, say: Callable[[str], None]) -> None:
    """Build the question set unless it is there."""
    if not out.exists():
        say("building the demo's questions from Debian packages (once)")
        _make(out, "data.demo")


def make_model(kind: str, out: Path, data: Path, seed: int, say: Callable[[str], None]) -> None:
    """Warm up a model unless it is there."""
    if not out.exists():
        say(f"warming up {SCHEME}{kind}, seed {seed} (once)")
        _make(out, MODEL_MAKERS[kind], "--data", data, "--features", cache_directory() / "features", "--seed", seed)


def _make(out: Path, module: str, *arguments: object) -> None:
    """Run a module with `--out`, and give the result its name when it is complete.

    Where another process was faster its result stays, since somebody may be reading it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(out.parent)
    partial = out.with_name(f"{out.name}.{socket.gethostname()}.{os.getpid()}.partial")
    command = [sys.executable, "-m", module, "--out", str(partial), *map(str, arguments)]
    encoder = chosen_encoder()
    environment = os.environ | ({ENCODER_VARIABLE: encoder} if encoder else {})
    shutil.rmtree(partial, ignore_errors=True)
    try:
        if subprocess.run(command, cwd=HOME, env=environment, check=False).returncode:
            raise DemoError(f"`{' '.join(command[1:])}` failed; its last lines above say why")
        try:
            os.rename(partial, out)  # fails where `out` stands and holds anything
        except OSError:
            if not out.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_abandoned(directory: Path) -> None:
    """Remove what processes of this machine were making when they were killed."""
    for partial in directory.glob(f"*.{socket.gethostname()}.*.partial"):
        if not Path("/proc", partial.name.split(".")[-2]).exists():
            shutil.rmtree(partial, ignore_errors=True)
