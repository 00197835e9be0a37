import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.ledger import Ledger, LedgerError


def test_a_group_is_never_trained_twice() -> None:
    ledger = Ledger()
    ledger.admit("a")
    ledger.train(["a"])
    with pytest.raises(LedgerError, match="a is not in flight"):
        ledger.train(["a"])


def test_a_group_in_flight_is_not_admitted_again() -> None:
    ledger = Ledger()
    ledger.admit("a")
    with pytest.raises(LedgerError, match="admitted twice"):
        ledger.admit("a")


def test_a_lost_group_is_issued_again_and_stays_admitted_once() -> None:
    ledger = Ledger()
    ledger.admit("a")
    assert (ledger.reissue("a"), ledger.reissue("a")) == (1, 2)
    assert ledger.counts() == {"admitted": 1, "trained": 0, "dropped": 0, "in_flight": 1}


def test_an_unbalanced_ledger_is_refused_on_resume() -> None:
    with pytest.raises(LedgerError, match="does not balance"):
        Ledger.from_json({"admitted": 3, "trained": 1, "dropped": {"clip_missing": 1}})


@given(st.lists(st.tuples(st.sampled_from(["admit", "train", "drop", "reissue"]), st.integers(0, 5))))
def test_the_balance_holds_after_any_sequence_of_calls(calls: list[tuple[str, int]]) -> None:
    ledger = Ledger()
    for name, number in calls:
        group = str(number)
        try:
            if name == "admit":
                ledger.admit(group)
            elif name == "train":
                ledger.train([group])
            elif name == "drop":
                ledger.drop(group, "reason")
            else:
                ledger.reissue(group)
        except LedgerError:
            pass
        ledger.check()
    restored = Ledger.from_json(json.loads(json.dumps(ledger.to_json())))
    assert restored.counts()["trained"] == ledger.trained
    assert restored.counts()["in_flight"] == 0
