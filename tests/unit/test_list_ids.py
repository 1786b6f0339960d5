"""The mark of an arm in the ids of lists."""

import pytest

from engine.messages import list_ids
from engine.messages.list_ids import ListMark


def test_a_list_of_no_arm_has_no_mark() -> None:
    decision = list_ids.list_id(3, 1234, "two-hop-7")
    assert decision == "3-1234-two-hop-7"
    assert list_ids.mark_of(decision) is None


@pytest.mark.parametrize(
    ("mark", "decision"),
    [
        (ListMark("diversity", "much"), "3-1234-two-hop-7~diversity~much"),
        (ListMark(list_ids.canary_trial(1764), "live"), "3-1234-two-hop-7~canary.1764~live"),
        (ListMark("canary.5", "canary", (0, 1, -1)), "3-1234-two-hop-7~canary.5~canary+01."),
    ],
)
def test_the_mark_comes_back_from_the_id(mark: ListMark, decision: str) -> None:
    assert list_ids.list_id(3, 1234, "two-hop-7", str(mark)) == decision
    assert list_ids.mark_of(decision) == mark


def test_the_release_may_have_the_signs_of_a_mark_in_its_name() -> None:
    mark = ListMark("e", "a")
    assert list_ids.mark_of(list_ids.list_id(0, 0, "two~hop+8~", str(mark))) == mark


@pytest.mark.parametrize("decision", ["", "nHqS5TzIcDy7uq4p", "~", "a~b", "0-1-r~canary.5~canary+012"])
def test_other_decisions_have_none(decision: str) -> None:
    assert list_ids.mark_of(decision) is None
