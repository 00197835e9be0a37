"""Functions of a user's own, where a configuration names one: `module:function`, wherever Python finds the module.

Nothing but a configuration names a plug-in: no data set, no checkpoint and no file of a run.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

Function = Callable[..., Any]

NO_ARGUMENTS: Mapping[str, Any] = MappingProxyType({})


class PlugInError(ValueError):
    """A plug-in that cannot be used; the message names the key, the plug-in and the mend."""


def is_plug_in(name: str) -> bool:
    """Whether it is of the form `module:function`."""
    module, colon, function = name.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), function))


def load_plug_in(key: str, name: str, contract: str, given: Sequence[Any] | None = None, path: str = "") -> Function:
    """The function that a configuration names.

    Args:
        key: of the configuration, for errors.
        name: what the configuration says, for errors.
        contract: the form that a function has to have, as a user would write its first line.
        given: what it has to take by position, if that is to be checked.
        path: `module:function`, where that is not what the configuration says.

    Raises:
        PlugInError: there is none, or it does not take what it is to be given.
    """
    what, path = f"{key}: {name!r}", path or name
    if not is_plug_in(path):
        raise PlugInError(f"{what} is not module:function, for example my_module:my_function")
    module_name, _, function_name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            mend = "install it, or put its folder on PYTHONPATH"
            raise PlugInError(f"{what}: there is no module {error.name!r}; {mend}") from error
        raise PlugInError(f"{what}: {module_name} needs the module {error.name!r}; install it") from error
    except (Exception, SystemExit) as error:
        raise PlugInError(f"{what}: importing {module_name} raised {error!r}; mend the module") from error
    if not hasattr(module, function_name):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        near = difflib.get_close_matches(function_name, functions, n=1)
        known = f"did you mean {near[0]}?" if near else f"it has {', '.join(functions) or 'no function'}"
        raise PlugInError(f"{what}: {module.__file__ or module_name} has no {function_name!r}; {known}")
    function: Function = getattr(module, function_name)
    if not callable(function):
        raise PlugInError(f"{what} is {type(function).__name__}, not a function; write `{contract}`")
    if given is not None:
        check_signature(key, name, contract, function, given)
    return function


def check_signature(
    key: str, name: str, contract: str, function: Function, given: Sequence[Any], args: Mapping[str, Any] = NO_ARGUMENTS
) -> None:
    """Raise `PlugInError` for a function that does not take these values by position and `args` by name, or gives no
    value at once."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise PlugInError(f"{key}: {name!r} is a generator; give a list, `{contract}`")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions of compiled modules tell no signature
        return
    try:
        signature.bind(*given, **args)
    except TypeError as error:
        told = f" with args {dict(args)}" if args else ""
        raise PlugInError(f"{key}: {name!r} takes {signature}{told}: {error}; write `{contract}`") from error
