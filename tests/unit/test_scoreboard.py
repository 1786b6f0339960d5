from engine.messages.recommendation import ListedItem, Recommendation
from engine.ranking.popularity import Popularity
from producers.demo.scoreboard import JUDGED, Click, Scoreboard

ITEMS = {f"i{number:03}": number for number in range(200)}
WEIGHTS = {"view": 1.0, "dislike": -1.0}


def board() -> Scoreboard:
    return Scoreboard(ITEMS, Popularity(), WEIGHTS)


def click(user: str, item: str, time_ms: int, action: str = "view") -> Click:
    return Click(user, item, time_ms, action, sent_ms=time_ms)


def recommend(user: str, items: list[str], event_ms: int) -> Recommendation:
    listed = [ListedItem(item, 1.0, "interest", 0) for item in items]
    return Recommendation(
        id="0-0-r", user=user, release="r", event_ms=event_ms, computed_ms=event_ms, items=listed, interests=[]
    )


def test_a_click_is_judged_by_the_list_that_came_before_it() -> None:
    #  u   clicks i000 (no list yet)   list: i001 i002   clicks i002 (hit)   clicks i003 (miss)
    score = board()
    score.clicked(click("u", "i000", 1))
    score.listed(recommend("u", ["i001", "i002"], event_ms=1), received_ms=5)
    score.clicked(click("u", "i002", 10))
    score.clicked(click("u", "i003", 20))

    assert score.hit_rate == 1 / 2
    assert [judged.place for judged in score.shoppers["u"].window] == [None, 2, None]


def test_only_the_first_places_count() -> None:
    score = board()
    items = [f"i{number:03}" for number in range(1, 21)]
    score.listed(recommend("u", items, event_ms=1), received_ms=1)
    score.clicked(click("u", items[JUDGED - 1], 2))
    score.clicked(click("u", items[JUDGED], 3))

    assert score.hit_rate == 1 / 2
    assert [judged.place for judged in score.shoppers["u"].window] == [JUDGED, JUDGED + 1]


def test_lists_of_others_do_not_count_and_clicks_that_are_no_wish_are_not_judged() -> None:
    score = board()
    score.listed(recommend("other", ["i001"], event_ms=1), received_ms=1)
    score.clicked(click("u", "i001", 2))
    assert score.hit_rate == 0.0

    score.listed(recommend("u", ["i002"], event_ms=2), received_ms=3)
    score.clicked(click("u", "i002", 4, action="dislike"))
    score.clicked(click("u", "i002", 5))
    assert score.hit_rate == 1.0


def test_popularity_is_judged_on_the_same_clicks_and_leaves_out_what_was_clicked() -> None:
    score = board()
    for number in range(JUDGED + 1):  # i000 is the most popular, i010 the least
        for turn in range(20 - number):
            score.clicked(click(f"crowd-{turn}", f"i{number:03}", number))
    assert score.popularity_hit_rate == 0.0  # nobody had a list

    score.listed(recommend("u", [f"i{number}" for number in range(100, 120)], event_ms=1), received_ms=1)
    score.clicked(click("u", "i000", 30))  # hit: among the ten most popular
    score.clicked(click("u", "i010", 31))  # hit: i000 makes room for the eleventh
    score.clicked(click("u", "i150", 32))  # miss
    score.clicked(click("u", "i000", 33))  # miss: clicked before, a list would leave it out

    assert score.popularity_hit_rate == 2 / 4


def test_a_short_list_is_judged_beside_as_few_popular_items() -> None:
    score = board()
    for item in ("i000", "i000", "i001"):
        score.clicked(click("crowd", item, 1))
    score.listed(recommend("u", ["i100"], event_ms=1), received_ms=1)
    score.clicked(click("u", "i001", 2))

    assert score.popularity_hit_rate == 0.0  # the one most popular item is i000


def test_freshness_runs_from_each_click_to_the_first_list_that_knows_it() -> None:
    #  click 100   click 110   list at 150 knows both   click 200   list at 203 knows it   list at 500 knows nothing new
    score = board()
    score.clicked(click("u", "i001", 100))
    score.clicked(click("u", "i002", 110))
    assert not score.all_answered

    score.listed(recommend("u", [], event_ms=110), received_ms=150)
    score.clicked(click("u", "i003", 200))
    score.listed(recommend("u", [], event_ms=200), received_ms=203)
    score.listed(recommend("u", [], event_ms=200), received_ms=500)

    assert score.all_answered
    assert [score.freshness_ms(share) for share in (0.3, 0.5, 1.0)] == [3, 40, 50]


def test_a_list_that_does_not_know_the_newest_click_leaves_it_waiting() -> None:
    score = board()
    score.clicked(click("u", "i001", 100))
    score.clicked(click("u", "i002", 110))
    score.listed(recommend("u", [], event_ms=100), received_ms=150)

    assert not score.all_answered


def test_the_summary_names_every_figure() -> None:
    score = board()
    assert score.summary() == {
        "clicks": 0,
        "lists": 0,
        "freshness_p50_ms": 0.0,
        "freshness_p99_ms": 0.0,
        "next_click_hit_rate": 0.0,
        "popularity_hit_rate": 0.0,
        "dead_letters": 0,
    }

    score.clicked(click("u", "i001", 100))
    score.listed(recommend("u", [], event_ms=100), received_ms=107)
    score.dead_letters += 1

    assert score.summary() | {"clicks": 1, "lists": 1, "freshness_p50_ms": 7.0, "dead_letters": 1} == score.summary()
