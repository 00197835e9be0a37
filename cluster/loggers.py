"""Where a run's figures go besides `metrics.jsonl`: TensorBoard and Weights & Biases."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from configs.load import flat
from configs.schema import Config

NOT_FIGURES = ("step", "time")


class LoggerError(ValueError):
    """A package is missing that the configuration asks for."""


class TensorBoard:
    """Event files that `tensorboard --logdir runs` shows."""

    def __init__(self, directory: Path, config: Config, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(directory), purge_step=step + 1)
        settings = flat(config.model_dump(mode="json"))
        self._writer.add_text("config", "\n".join(f"    {key}: {value}" for key, value in settings.items()))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


FINISH_SECONDS = 120.0
"""Longest wait for W&B to take what is left at the end; it stays on disk, for `wandb sync`."""


class WeightsAndBiases:
    """A run there, which a resume goes on in. `WANDB_MODE=offline` writes it here alone, for `wandb sync`."""

    def __init__(self, directory: Path, config: Config) -> None:
        import wandb

        self._run = wandb.init(
            project=config.logging.wandb,
            name=config.run.name,
            id=_identity(directory / "wandb" / "run_id"),
            resume="allow",
            dir=str(directory),
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(silent=True, finish_timeout=FINISH_SECONDS),
        )
        self._run.define_metric("*", step_metric="step")  # a resume takes steps again, which wandb's own refuses

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log({**figures, "step": step})

    def close(self) -> None:
        self._run.finish()


Logger = TensorBoard | WeightsAndBiases


class Loggers:
    """All that the configuration asks for."""

    def __init__(self, loggers: tuple[Logger, ...] = ()) -> None:
        self._loggers = loggers

    def line(self, line: Mapping[str, Any]) -> None:
        """Note a line of `metrics.jsonl`."""
        self._log(figures(line), line["step"])

    def evaluation(self, name: str, result: Mapping[str, Any]) -> None:
        """Note the figures of an evaluation, under `eval/NAME/`, at the step that it was made after."""
        top = {key: value for key, value in result.items() if key not in ("step", "rows")}
        self._log({f"eval/{name}/{key}": value for key, value in figures(top).items()}, result["step"])

    def _log(self, figures: Mapping[str, float], step: int) -> None:
        for logger in self._loggers:
            logger.log(figures, step)


@contextmanager
def loggers(config: Config, run: Path, step: int) -> Iterator[Loggers]:
    """The loggers of a run that goes on from `step`, for the length of the block.

    Raises:
        LoggerError: a package is missing.
    """
    opened: list[Logger] = []
    with ExitStack() as stack:
        if config.logging.tensorboard:
            opened.append(stack.enter_context(closing(TensorBoard(run / "tensorboard", config, step))))
        if config.logging.wandb is not None:
            opened.append(stack.enter_context(closing(WeightsAndBiases(run, config))))
        yield Loggers(tuple(opened))


def check_loggers(config: Config) -> None:
    """Raise LoggerError where a package is missing that `loggers` would need."""
    settings = config.logging
    for package, wanted in (("tensorboard", settings.tensorboard), ("wandb", settings.wandb is not None)):
        if wanted and find_spec(package) is None:
            raise LoggerError(
                f"logging.{package} needs the package {package}: install it with `make setup` or "
                f"`pip install {package}`, or switch it off"
            )


def figures(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line; those of a nested object by `object/key`."""
    found = {}
    for key, value in flat(line, separator="/").items():
        if key not in NOT_FIGURES and isinstance(value, int | float) and not isinstance(value, bool):
            found[key] = float(value)
    return found


def _identity(file: Path) -> str:
    """What the file says; it is written where it is missing."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(secrets.token_hex(8))
    return file.read_text()
