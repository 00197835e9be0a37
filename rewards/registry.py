"""Find a reward function by the name that a configuration uses.

A name without a colon is a built-in reward, or one that an installed distribution gives under the entry-point group
`auricle.rewards`; `module:function` is a plug-in wherever Python finds it. A reward scores the completions of one
question, one value each; None drops the completion:

    def my_reward(completions: list[str], example: Example, **args) -> list[float | None]

An `async def` of the same form is awaited, several groups at a time.
"""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from configs.plugins import NO_ARGUMENTS, PlugInError, check_signature, load_plug_in
from data.types import ClipSource, Example
from rewards.accuracy import accuracy
from rewards.answers import answer
from rewards.format import format_reward, think_format
from rewards.judge import judge
from rewards.length import length
from rewards.mmau import mmau
from rewards.repetition import repetition
from rewards.well_formed import well_formed

RewardFunction = Callable[..., Any]
"""Called with the completions, the example and the keyword arguments of the configuration."""

BUILT_IN: dict[str, RewardFunction] = {
    "accuracy": accuracy,
    "format": format_reward,
    "think_format": think_format,
    "answer": answer,
    "mmau": mmau,
    "well_formed": well_formed,
    "length": length,
    "repetition": repetition,
    "judge": judge,
}
"""Each checks its arguments before it looks at a completion, so that it can be tried with none."""

GROUP = "auricle.rewards"
"""Entry points of this group are rewards of installed distributions."""

_CONTRACT = "def my_reward(completions: list[str], example: Example, **args) -> list[float | None]"
_NOBODY = Example("", ClipSource(""), "", (), "")


class RewardError(ValueError):
    """A reward that cannot be used, with the mend."""


@dataclass(frozen=True, slots=True)
class Source:
    """The file of the module that a function was loaded from, as it was then."""

    path: str
    """Empty where there is no file."""
    sha256: str

    @classmethod
    def at(cls, path: str) -> Source:
        """The file as it is now."""
        try:
            with open(path, "rb") as file:
                return cls(path, hashlib.file_digest(file, "sha256").hexdigest())
        except OSError:
            return cls(path, "")


def load_reward(use: str, args: Mapping[str, Any] = NO_ARGUMENTS) -> RewardFunction:
    """The reward function named `use`, checked to take completions, an example and `args`."""
    try:
        function = load_plug_in("rewards", use, _CONTRACT) if ":" in use else _named(use)
        check_signature("rewards", use, _CONTRACT, function, ([], None), args)
    except PlugInError as error:
        raise RewardError(str(error)) from error
    if use in BUILT_IN:
        _check_arguments(use, function, args)
    return function


def source_of(use: str, function: RewardFunction) -> Source:
    """Where a function that was loaded as `use` comes from."""
    name = use.partition(":")[0] if ":" in use else getattr(function, "__module__", None) or ""
    return Source.at(getattr(sys.modules.get(name), "__file__", None) or "")


def is_async(function: RewardFunction) -> bool:
    """Whether what the function gives is awaited."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _named(use: str) -> RewardFunction:
    installed = {_origin(point): point for point in entry_points(group=GROUP, name=use)}
    owners = [*(["Auricle"] if use in BUILT_IN else []), *installed]
    if len(owners) > 1:
        raise RewardError(
            f"rewards: {use!r} is given by {' and by '.join(owners)}: uninstall one, or write module:function for the "
            "one that is meant"
        )
    if use in BUILT_IN:
        return BUILT_IN[use]
    if installed:
        (origin, point), *_ = installed.items()
        return load_plug_in("rewards", f"{use} of {origin}", _CONTRACT, path=point.value)
    names = [*BUILT_IN, *sorted({point.name for point in entry_points(group=GROUP)})]
    near = difflib.get_close_matches(use, names, n=1)
    known = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}; a plug-in is module:function"
    raise RewardError(f"rewards: {use!r} is not a reward; {known}")


def _origin(point: EntryPoint) -> str:
    """Who gives an entry point. An editable distribution may be found twice, and is one."""
    owner = point.dist.name if point.dist is not None else "a distribution without a name"
    return f"{owner} ({point.value})"


def _check_arguments(use: str, function: RewardFunction, args: Mapping[str, Any]) -> None:
    try:
        given = function([], _NOBODY, **args)
        if is_async(function):
            asyncio.run(given)
    except (TypeError, ValueError) as error:
        raise RewardError(f"rewards: {use!r}: {error}") from error
