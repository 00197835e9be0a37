"""Find a reward function by the name that a configuration uses: a built-in one, or a plug-in `module:function`.

A reward scores the completions of one question, one value each; None drops the completion:

    def my_reward(completions: list[str], example: Example, **args) -> list[float | None]
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from rewards.accuracy import accuracy
from rewards.format import format_reward

RewardFunction = Callable[..., list[float | None]]
"""Called with the completions, the example and the keyword arguments of the configuration."""

BUILT_IN: dict[str, RewardFunction] = {"accuracy": accuracy, "format": format_reward}

_CONTRACT = "def my_reward(completions: list[str], example: Example, **args) -> list[float | None]"


class RewardError(ValueError):
    """A reward that cannot be used, with the mend."""


def load_reward(use: str, args: Mapping[str, Any] | None = None) -> RewardFunction:
    """The reward function named `use`, checked to take completions, an example and `args`."""
    function = _plug_in(use) if ":" in use else BUILT_IN.get(use)
    if function is None:
        near = difflib.get_close_matches(use, BUILT_IN, n=1)
        known = f"did you mean {near[0]}?" if near else f"built-in: {', '.join(BUILT_IN)}; a plug-in is module:function"
        raise RewardError(f"rewards: {use!r} is not a reward; {known}")
    _check_signature(use, function, args or {})
    return function


def _plug_in(use: str) -> RewardFunction:
    module_name, _, name = use.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise RewardError(f"rewards: {use!r} is not module:function, for example my_rewards:brevity")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            mend = "install it, or put its folder on PYTHONPATH"
            raise RewardError(f"rewards: {use!r}: there is no module {error.name!r}; {mend}") from error
        raise RewardError(f"rewards: {use!r}: {module_name} needs the module {error.name!r}; install it") from error
    except Exception as error:
        raise RewardError(f"rewards: {use!r}: importing {module_name} raised {error!r}; mend the module") from error
    if not hasattr(module, name):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        near = difflib.get_close_matches(name, functions, n=1)
        known = f"did you mean {near[0]}?" if near else f"it has {', '.join(functions) or 'no function'}"
        raise RewardError(f"rewards: {use!r}: {module.__file__ or module_name} has no {name!r}; {known}")
    function = getattr(module, name)
    if not callable(function):
        raise RewardError(f"rewards: {use!r} is {type(function).__name__}, not a function; write `{_CONTRACT}`")
    return function  # type: ignore[no-any-return]


def _check_signature(use: str, function: RewardFunction, args: Mapping[str, Any]) -> None:
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise RewardError(f"rewards: {use!r} is a coroutine or generator; write a plain function, `{_CONTRACT}`")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions of compiled modules tell no signature
        return
    try:
        signature.bind([], None, **args)
    except TypeError as error:
        given = f" with args {dict(args)}" if args else ""
        raise RewardError(f"rewards: {use!r} takes {signature}{given}: {error}; write `{_CONTRACT}`") from error
