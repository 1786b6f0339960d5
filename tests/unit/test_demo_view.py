import pytest

from engine.messages.recommendation import ListedItem, Recommendation
from engine.ranking.popularity import Popularity
from producers.demo.demo_view import SPOTLIGHT_CLICKS, SPOTLIGHT_S, DemoView
from producers.demo.scoreboard import Click, Scoreboard
from producers.simulation.shoppers import Simulation, SimulationSettings
from producers.simulation.simulated_catalogue import MIN_ITEMS

SIMULATION = Simulation(SimulationSettings(items=MIN_ITEMS, shoppers=5))


def new_scoreboard() -> Scoreboard:
    items = {item: number for number, item in enumerate(SIMULATION.catalogue.ids)}
    return Scoreboard(items, Popularity(), {"view": 1.0})


def click(scoreboard: Scoreboard, user: str, count: int) -> None:
    for number in range(count):
        scoreboard.add_click(Click(user, SIMULATION.catalogue.ids[number], number, "view", number))
    items = [ListedItem(SIMULATION.catalogue.ids[200], 1.0, "interest", 0)]
    scoreboard.add_list(
        Recommendation(id="", user=user, release="r-1", event_ms=count, computed_ms=0, items=items, interests=[]), count
    )


def test_rates_are_those_of_the_last_seconds() -> None:
    scoreboard = new_scoreboard()
    view = DemoView(SIMULATION, scoreboard, "in memory")
    assert view.frame(0.0).clicks_per_s == 0.0

    scoreboard.clicks = 100
    assert view.frame(2.0).clicks_per_s == pytest.approx(50.0)
    scoreboard.clicks, scoreboard.lists = 200, 10
    view.frame(8.0)
    assert view.frame(12.0).clicks_per_s == 0.0  # nothing since second 8
    assert view.frame(12.0).lists_per_s == 0.0


def test_the_spotlight_is_on_shoppers_with_enough_clicks_and_moves_on() -> None:
    scoreboard = new_scoreboard()
    view = DemoView(SIMULATION, scoreboard, "in memory")
    click(scoreboard, "shopper-00001", SPOTLIGHT_CLICKS - 1)
    assert view.frame(1.0).spotlight is None

    click(scoreboard, "shopper-00002", SPOTLIGHT_CLICKS)
    start = view.frame(2.0).spotlight
    click(scoreboard, "shopper-00003", SPOTLIGHT_CLICKS)
    halfway = view.frame(2.0 + SPOTLIGHT_S / 2).spotlight
    end = view.frame(2.0 + SPOTLIGHT_S).spotlight

    users = [spotlight and spotlight.user for spotlight in (start, halfway, end)]
    assert users == ["shopper-00002", "shopper-00002", "shopper-00003"]


def test_hidden_interests_and_chances_are_those_of_the_simulation() -> None:
    scoreboard = new_scoreboard()
    click(scoreboard, "shopper-00004", SPOTLIGHT_CLICKS)
    frame = DemoView(SIMULATION, scoreboard, "in memory").frame(0.0)

    assert frame.release == "r-1"
    assert frame.spotlight is not None
    assert sum(weight for _, weight in frame.spotlight.interests) == pytest.approx(1.0)
    assert sum(frame.spotlight.chances.values()) == pytest.approx(1.0, abs=1e-4)
    assert frame.spotlight.categories["item-00000"] == SIMULATION.catalogue.categories[0]
