"""What a study compares: ways of training, their seeds and their length, as a YAML file of its own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator
from pydantic_core import ErrorDetails

from configs.load import STUDY, ConfigError, load_config, read_yaml
from configs.schema import Config, Section

BASE = "base"
"""The model before training, in comparisons."""

PACKAGED = Path(__file__).with_name(STUDY)
"""What the name `study` stands for."""


def _single_keys(keys: dict[str, Any]) -> dict[str, Any]:
    whole = [key for key in keys if "." not in key]
    if whole:
        raise ValueError(f"{whole[0]} would replace a section whole; name its keys, such as {whole[0]}.KEY")
    return keys


Keys = Annotated[dict[str, Any], AfterValidator(_single_keys)]
"""Keys of the configuration, dotted."""
Seeds = Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]


class Arm(Section):
    """One way of training. What is not given is the study's."""

    title: str
    """Its name in tables and figures."""
    config: str | None = None
    """Preset or file that it starts from."""
    seeds: Seeds | None = None
    """One run each."""
    steps: PositiveInt | None = None
    """Steps of the short form."""
    full_steps: PositiveInt | None = None
    """Steps with `--full`."""
    keys: Keys = Field(default_factory=dict)
    """What makes the arm, on top of `config` and of the study's own."""
    needs_format: bool = False
    """Train only where the model that it starts from gives the prompt's form at least once."""


class Study(Section):
    """Arms that are trained, and what is compared with what."""

    title: str
    """Of the page."""
    config: str
    """Preset or file that arms start from."""
    seeds: Seeds = (0, 1, 2)
    """Of the warm start, of data order and of sampling; arms of a seed share its warm start."""
    steps: PositiveInt
    """Steps of the short form."""
    full_steps: PositiveInt
    """Steps with `--full`."""
    keys: Keys = Field(default_factory=dict)
    """In all arms."""
    arms: dict[str, Arm] = Field(min_length=1)
    """By the name that their runs begin with."""
    compare: tuple[tuple[str, str], ...] = ()
    """Pairs of arms: what the first has over the second, question by question. The second may be `base`."""

    @model_validator(mode="after")
    def _compares_arms(self) -> Self:
        if BASE in self.arms:
            raise ValueError(f"arms: {BASE} is the model before training; give the arm another name")
        for first, second in self.compare:
            unknown = [name for name in (first, second) if name not in self.arms and (name != BASE or name == first)]
            if unknown:
                known = f"there are {', '.join(self.arms)}, and {BASE} as the second of a pair"
                raise ValueError(f"compare: {unknown[0]} is no arm; {known}")
            if second != BASE and not set(self.seeds_of(first)) & set(self.seeds_of(second)):
                raise ValueError(f"compare: {first} and {second} have no seed in common")
        titles = Counter(arm.title for arm in self.arms.values())
        if twice := [title for title, count in titles.items() if count > 1]:
            raise ValueError(f"arms: two are called {twice[0]!r}; give each a title of its own")
        return self

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        """One run each."""
        return self.arms[arm].seeds or self.seeds

    def runs(self, full: bool, directory: Path) -> Iterator[tuple[str, Config]]:
        """The configuration of each run, with the name of its arm; a seed's runs come one after the other.

        Args:
            full: whether at full length.
            directory: of the runs.

        Raises:
            ConfigError: an arm's configuration cannot be used, or a pair is to be compared on other questions.
        """
        for seed in sorted({seed for name in self.arms for seed in self.seeds_of(name)}):
            arms = {
                name: self.config_of(name, seed, full, directory) for name in self.arms if seed in self.seeds_of(name)
            }
            for first, second in self.compare:
                if first in arms and second in arms and _asked(arms[first]) != _asked(arms[second]):
                    raise ConfigError(first, [f"data.test is not what {second} has, which it is compared with"])
            yield from arms.items()

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
        written = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in keys.items()]
        config = load_config(arm.config or self.config, written)
        if config.data.test is None:
            raise ConfigError(name, ["data.test is not set; arms are compared on its questions"])
        return config


def _asked(config: Config) -> tuple[str | None, ...]:
    return config.data.test, config.data.audio_dir, config.data.format


def load_study(name_or_path: str) -> Study:
    """Read a study's file, or `study`, which comes with Auricle; raises `ConfigError` with all that is wrong."""
    tree = read_yaml(str(PACKAGED) if name_or_path == PACKAGED.stem else name_or_path)
    try:
        return Study.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(name_or_path, [_explain(details) for details in error.errors()]) from error


def _explain(details: ErrorDetails) -> str:
    """One problem, with the key, the value and the mend."""
    place, kind, value = ".".join(map(str, details["loc"])), details["type"], details["input"]
    if kind == "value_error":
        problem = str(details["ctx"]["error"])
        return f"{place}: {problem}" if place else problem
    if kind == "missing":
        return f"{place}: missing; set it"
    if kind == "extra_forbidden":
        known: Sequence[str] = list(Arm.model_fields if place.startswith("arms.") else Study.model_fields)
        return f"{place}: unknown key; there are {', '.join(known)}"
    return f"{place}: {value!r} cannot be used: {details['msg'][0].lower()}{details['msg'][1:]}"
