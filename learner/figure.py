"""A figure of a plan that can be checked by hand: what it is, the formula that it comes from, and the numbers in it.

The formula that is shown is the one that is computed, so the two cannot differ.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

_NAME = re.compile(r"[a-z_]+")
_FUNCTIONS = {"max": max, "min": min, "ceil": math.ceil}


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a plan.

    >>> weights = figure("weights", "parameters * bytes / ranks", parameters=1000, bytes=2, ranks=4)
    >>> weights.value, weights.formula, weights.numbers
    (500.0, 'parameters x bytes / ranks', '1,000 x 2 / 4')
    """

    what: str
    expression: str
    """Arithmetic over the names of `terms`, with `max`, `min` and `ceil`."""
    terms: tuple[tuple[str, float], ...]

    @property
    def value(self) -> float:
        """The expression's value."""
        # expressions are this package's own: no text of a user's comes here
        return float(eval(self.expression, {"__builtins__": {}}, {**_FUNCTIONS, **dict(self.terms)}))

    @property
    def formula(self) -> str:
        """The expression in words."""
        return _signs(self.expression).replace("_", " ")

    @property
    def numbers(self) -> str:
        """The expression with numbers in place of names."""
        terms = dict(self.terms)
        return _signs(_NAME.sub(lambda name: _number(terms[name[0]]) if name[0] in terms else name[0], self.expression))


def figure(what: str, expression: str, **terms: float) -> Figure:
    """A figure from an expression and the values of its names."""
    return Figure(what, expression, tuple(terms.items()))


def total(figures: Iterable[Figure]) -> float:
    """Sum of the figures' values."""
    return sum(one.value for one in figures)


def _signs(expression: str) -> str:
    return expression.replace("*", "x")


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}" if abs(value) < 1e12 else f"{value:.3e}"
    return f"{value:.3g}"
