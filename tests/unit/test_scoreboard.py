from engine.messages.recommendation import ListedItem, Recommendation
from engine.quality.next_click import PLACES
from engine.ranking.popularity import Popularity
from producers.demo.scoreboard import Click, Scoreboard

ITEMS = {f"i{number:03}": number for number in range(200)}
WEIGHTS = {"view": 1.0, "dislike": -1.0}


def new_scoreboard() -> Scoreboard:
    return Scoreboard(ITEMS, Popularity(), WEIGHTS)


def click(user: str, item: str, time_ms: int, action: str = "view") -> Click:
    return Click(user, item, time_ms, action, sent_ms=time_ms)


def recommend(user: str, items: list[str], event_ms: int) -> Recommendation:
    listed = [ListedItem(item, 1.0, "interest", 0) for item in items]
    return Recommendation(
        id="0-0-r", user=user, release="r", event_ms=event_ms, computed_ms=event_ms, items=listed, interests=[]
    )


def test_a_click_is_compared_with_the_list_before_it() -> None:
    #  u   clicks i000 (no list yet)   list: i001 i002   clicks i002 (hit)   clicks i003 (miss)
    scoreboard = new_scoreboard()
    scoreboard.add_click(click("u", "i000", 1))
    scoreboard.add_list(recommend("u", ["i001", "i002"], event_ms=1), received_ms=5)
    scoreboard.add_click(click("u", "i002", 10))
    scoreboard.add_click(click("u", "i003", 20))

    assert scoreboard.hit_rate == 1 / 2
    assert [ranked.rank for ranked in scoreboard.shoppers["u"].window] == [None, 2, None]


def test_only_the_first_ranks_count() -> None:
    scoreboard = new_scoreboard()
    items = [f"i{number:03}" for number in range(1, 21)]
    scoreboard.add_list(recommend("u", items, event_ms=1), received_ms=1)
    scoreboard.add_click(click("u", items[PLACES - 1], 2))
    scoreboard.add_click(click("u", items[PLACES], 3))

    assert scoreboard.hit_rate == 1 / 2
    assert [ranked.rank for ranked in scoreboard.shoppers["u"].window] == [PLACES, PLACES + 1]


def test_lists_of_other_users_and_negative_actions_do_not_count() -> None:
    scoreboard = new_scoreboard()
    scoreboard.add_list(recommend("other", ["i001"], event_ms=1), received_ms=1)
    scoreboard.add_click(click("u", "i001", 2))
    assert scoreboard.hit_rate == 0.0

    scoreboard.add_list(recommend("u", ["i002"], event_ms=2), received_ms=3)
    scoreboard.add_click(click("u", "i002", 4, action="dislike"))
    scoreboard.add_click(click("u", "i002", 5))
    assert scoreboard.hit_rate == 1.0


def test_popularity_is_measured_on_the_same_clicks_without_items_clicked_before() -> None:
    scoreboard = new_scoreboard()
    for number in range(PLACES + 1):  # i000 is the most popular, i010 the least
        for user in range(20 - number):
            scoreboard.add_click(click(f"crowd-{user}", f"i{number:03}", number))
    assert scoreboard.popularity_hit_rate == 0.0  # nobody had a list

    scoreboard.add_list(recommend("u", [f"i{number}" for number in range(100, 120)], event_ms=1), received_ms=1)
    scoreboard.add_click(click("u", "i000", 30))  # hit: among the ten most popular
    scoreboard.add_click(click("u", "i010", 31))  # hit: without i000, which is clicked, the eleventh counts
    scoreboard.add_click(click("u", "i150", 32))  # miss
    scoreboard.add_click(click("u", "i000", 33))  # miss: clicked before, so not among the popular items

    assert scoreboard.popularity_hit_rate == 2 / 4


def test_a_short_list_is_compared_with_as_few_popular_items() -> None:
    scoreboard = new_scoreboard()
    for item in ("i000", "i000", "i001"):
        scoreboard.add_click(click("crowd", item, 1))
    scoreboard.add_list(recommend("u", ["i100"], event_ms=1), received_ms=1)
    scoreboard.add_click(click("u", "i001", 2))

    assert scoreboard.popularity_hit_rate == 0.0  # the one most popular item is i000


def test_freshness_is_the_time_from_a_click_to_the_first_list_that_answers_it() -> None:
    #  click 100   click 110   list at 150 answers both   click 200   list at 203 answers it   list at 500 answers none
    scoreboard = new_scoreboard()
    scoreboard.add_click(click("u", "i001", 100))
    scoreboard.add_click(click("u", "i002", 110))
    assert not scoreboard.all_answered

    scoreboard.add_list(recommend("u", [], event_ms=110), received_ms=150)
    scoreboard.add_click(click("u", "i003", 200))
    scoreboard.add_list(recommend("u", [], event_ms=200), received_ms=203)
    scoreboard.add_list(recommend("u", [], event_ms=200), received_ms=500)

    assert scoreboard.all_answered
    assert [scoreboard.freshness_ms(share) for share in (0.3, 0.5, 1.0)] == [3, 40, 50]


def test_a_list_does_not_answer_a_newer_click() -> None:
    scoreboard = new_scoreboard()
    scoreboard.add_click(click("u", "i001", 100))
    scoreboard.add_click(click("u", "i002", 110))
    scoreboard.add_list(recommend("u", [], event_ms=100), received_ms=150)

    assert not scoreboard.all_answered


def test_the_summary_names_every_figure() -> None:
    scoreboard = new_scoreboard()
    assert scoreboard.summary() == {
        "clicks": 0,
        "lists": 0,
        "freshness_p50_ms": 0.0,
        "freshness_p99_ms": 0.0,
        "next_click_hit_rate": 0.0,
        "popularity_hit_rate": 0.0,
        "dead_letters": 0,
    }

    scoreboard.add_click(click("u", "i001", 100))
    scoreboard.add_list(recommend("u", [], event_ms=100), received_ms=107)
    scoreboard.dead_letters += 1

    assert (
        scoreboard.summary() | {"clicks": 1, "lists": 1, "freshness_p50_ms": 7.0, "dead_letters": 1}
        == scoreboard.summary()
    )
