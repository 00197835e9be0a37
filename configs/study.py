"""What a study compares: ways of training, their seeds and their length, as a YAML file of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from configs.load import ConfigError, load_config, read_yaml
from configs.schema import Config, Section


class Arm(Section):
    """One way of training. What is not given is the study's."""

    title: str
    """Its name in tables and figures."""
    config: str | None = None
    """Preset or file that it starts from."""
    seeds: tuple[NonNegativeInt, ...] | None = None
    """One run each."""
    steps: PositiveInt | None = None
    """Steps of the short form."""
    full_steps: PositiveInt | None = None
    """Steps with `--full`."""
    keys: dict[str, Any] = Field(default_factory=dict)
    """Keys of the configuration that make the arm, dotted, on top of `config` and of the study's own."""
    needs_format: bool = False
    """Train only where the model that it starts from gives the prompt's form at least once."""


class Study(Section):
    """Arms that are trained on as many questions each, and what is compared with what."""

    title: str
    """Of the page."""
    config: str
    """Preset or file that arms start from."""
    seeds: tuple[NonNegativeInt, ...] = (0, 1, 2)
    """Of the warm start, of data order and of sampling; arms of a seed share its warm start."""
    steps: PositiveInt
    """Steps of the short form."""
    full_steps: PositiveInt
    """Steps with `--full`."""
    keys: dict[str, Any] = Field(default_factory=dict)
    """Keys of the configuration in all arms, dotted."""
    arms: dict[str, Arm] = Field(min_length=1)
    """By the name that their runs begin with."""
    compare: tuple[tuple[str, str], ...] = ()
    """Pairs of arms, or `base`: what the first has over the second, question by question."""

    @model_validator(mode="after")
    def _compares_arms(self) -> Self:
        known = {"base", *self.arms}
        unknown = sorted({name for pair in self.compare for name in pair} - known)
        if unknown:
            raise ValueError(f"compare: {', '.join(unknown)} is no arm; there are {', '.join(sorted(known))}")
        if "base" in self.arms:
            raise ValueError("arms: base is the model before training; give the arm another name")
        return self

    def runs(self, full: bool, directory: Path) -> Iterator[tuple[str, Config]]:
        """The configuration of each run, with the name of its arm; a seed's runs come one after the other.

        Args:
            full: whether at full length.
            directory: of the runs.

        Raises:
            ConfigError: an arm's configuration cannot be used.
        """
        seeds = {name: arm.seeds or self.seeds for name, arm in self.arms.items()}
        for seed in sorted({seed for some in seeds.values() for seed in some}):
            for name in self.arms:
                if seed in seeds[name]:
                    yield name, self.config_of(name, seed, full, directory)

    def config_of(self, name: str, seed: int, full: bool, directory: Path) -> Config:
        """The configuration of an arm's run."""
        arm = self.arms[name]
        steps = (arm.full_steps or self.full_steps) if full else (arm.steps or self.steps)
        own = {
            "run.name": f"{name}-seed{seed}",
            "run.dir": str(directory),
            "run.seed": seed,
            "run.max_steps": steps,
            "evaluate.before": False,
        }
        keys = {**self.keys, **arm.keys, **own}
        config = load_config(arm.config or self.config, [f"{key}={json.dumps(value)}" for key, value in keys.items()])
        if config.data.test is None:
            raise ConfigError(name, ["data.test is not set; arms are compared on its questions"])
        return config


def load_study(path: str) -> Study:
    """Read a study's file; raises `ConfigError` with all that is wrong with it."""
    tree = read_yaml(path)
    try:
        return Study.model_validate(tree)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, details['loc']))}: {details['msg']}" for details in error.errors()]
        raise ConfigError(path, [problem.removeprefix(": ") for problem in problems]) from error
