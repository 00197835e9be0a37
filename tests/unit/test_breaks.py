"""The catalogue of breaks is true: each can be made, and its test is there."""

from __future__ import annotations

import ast

import pytest

from tests.breaks.__main__ import CHECKOUT, replaced
from tests.breaks.catalogue import BREAKS, Break


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.name)
def test_a_break_can_be_made_and_its_test_is_there(broken: Break) -> None:
    text = replaced(broken, CHECKOUT)
    if broken.file.endswith(".py"):
        ast.parse(text)
    file, _, name = broken.test.partition("::")
    assert f"def {name.partition('[')[0]}(" in (CHECKOUT / file).read_text()


def test_no_two_breaks_have_one_name() -> None:
    assert len({broken.name for broken in BREAKS}) == len(BREAKS)
