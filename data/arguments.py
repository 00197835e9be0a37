"""Arguments that commands share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from configs.schema import FORMATS, Data
from data.command import command

DEFAULTS = Data(train="")

DAY_SECONDS = 86_400.0

FORMAT_HELP = f"{', '.join(FORMATS)}, or a plug-in module:function (default: auto, told from the file)"


def count(least: int) -> Callable[[str], int]:
    """The type of an argument that is an integer of at least `least`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {least}")
        return value

    return parse


def above_zero(most: float = math.inf) -> Callable[[str], float]:
    """The type of an argument that is a finite number above 0, and at most so much."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value <= most or math.isinf(value):
            limit = "" if math.isinf(most) else f" and at most {most:g}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0{limit}")
        return value

    return parse


def reading_parser(module: str, description: str | None, examples: str) -> argparse.ArgumentParser:
    """The command line of `python -m MODULE`, which reads rows and clips, as far as such commands are alike."""
    arguments = command(module, description, examples)
    arguments.add_argument("file", metavar="FILE", help="questions: a file, or a directory that `datasets` saved")
    arguments.add_argument("--audio-dir", metavar="DIR", help="where relative clip paths start (default: beside FILE)")
    arguments.add_argument("--format", default="auto", metavar="FORMAT", help=FORMAT_HELP)
    add_seconds(arguments, "--min-seconds", DEFAULTS.min_seconds, "shorter clips are bad")
    return arguments


def add_seconds(arguments: argparse.ArgumentParser, option: str, default: float, what: str) -> None:
    """Add a length of clips, at most a day, to the command line."""
    arguments.add_argument(
        option,
        type=above_zero(DAY_SECONDS),
        default=default,
        metavar="S",
        help=f"{what} (default {default:g})",
    )
