"""The list that a user had been shown last when clicking."""

from engine.quality.shown_lists import ShownList, ShownLists


def show(lists: ShownLists, decision: str, shown_ms: int, *items: str, user: str = "ann", first: int = 1) -> None:
    shown = ShownList(ord(decision), 0, (), shown_ms, shown_ms)
    lists.show(user, shown, ((item, place) for place, item in enumerate(items, first)))


def before(lists: ShownLists, time_ms: int, user: str = "ann") -> str | None:
    shown = lists.before(user, time_ms)
    return None if shown is None else chr(shown.decision)


def test_a_click_is_judged_by_the_list_shown_last_before_it() -> None:
    """Time:  A at 10, B at 20, A again at 30."""
    lists = ShownLists(10)
    show(lists, "A", 10, "x")
    show(lists, "B", 20, "y")
    show(lists, "A", 30, "x")
    assert [before(lists, time_ms) for time_ms in (9, 10, 19, 20, 29, 30, 99)] == [None, "A", "A", "B", "B", "A", "A"]
    assert before(lists, 99, user="bob") is None


def test_reports_of_one_list_are_one_list_and_a_report_twice_is_one() -> None:
    lists = ShownLists(10)
    for _ in range(2):
        show(lists, "A", 10, *"abc")
        show(lists, "A", 12, *"defghijklm", first=4)  # scrolled: places 4 to 13
    shown = lists.before("ann", 12)
    assert shown is not None
    assert [shown.rank(item) for item in "adjk"] == [1, 4, 10, 0]  # beyond the tenth place nothing counts
    assert shown.rank("z") == 0
    assert (shown.first_ms, shown.last_ms) == (10, 12)


def test_the_last_lists_of_a_user_and_the_last_users_are_kept() -> None:
    lists = ShownLists(2)
    for number in range(5):
        show(lists, "ABCDE"[number], 10 * number, "x")
    assert [before(lists, 10 * number) for number in range(5)] == [None, "B", "C", "D", "E"]
    show(lists, "M", 0, "x", user="bob")
    show(lists, "N", 0, "x", user="cid")
    assert (len(lists), before(lists, 99)) == (2, None)
    lists.forget("bob")
    lists.forget("dan")
    assert (len(lists), before(lists, 99, "bob"), before(lists, 99, "cid")) == (1, None, "N")
    lists.clear()
    assert len(lists) == 0
