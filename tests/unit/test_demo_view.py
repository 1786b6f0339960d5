import pytest

from engine.messages.recommendation import ListedItem, Recommendation
from engine.ranking.popularity import Popularity
from producers.demo.demo_view import SPOTLIGHT_CLICKS, SPOTLIGHT_S, DemoView
from producers.demo.scoreboard import Click, Scoreboard
from producers.simulation.shoppers import Simulation, SimulationSettings
from producers.simulation.simulated_catalogue import MIN_ITEMS

SIMULATION = Simulation(SimulationSettings(items=MIN_ITEMS, shoppers=5))


def board() -> Scoreboard:
    items = {item: number for number, item in enumerate(SIMULATION.catalogue.ids)}
    return Scoreboard(items, Popularity(), {"view": 1.0})


def click(score: Scoreboard, user: str, times: int) -> None:
    for number in range(times):
        score.clicked(Click(user, SIMULATION.catalogue.ids[number], number, "view", number))
    items = [ListedItem(SIMULATION.catalogue.ids[200], 1.0, "interest", 0)]
    score.listed(
        Recommendation(id="", user=user, release="r-1", event_ms=times, computed_ms=0, items=items, interests=[]), times
    )


def test_rates_are_those_of_the_last_seconds() -> None:
    score = board()
    camera = DemoView(SIMULATION, score, "here")
    assert camera.frame(0.0).clicks_per_s == 0.0

    score.clicks = 100
    assert camera.frame(2.0).clicks_per_s == pytest.approx(50.0)
    score.clicks, score.lists = 200, 10
    camera.frame(8.0)
    assert camera.frame(12.0).clicks_per_s == 0.0  # nothing since second 8
    assert camera.frame(12.0).lists_per_s == 0.0


def test_the_spotlight_waits_for_somebody_who_clicked_enough_and_moves_on() -> None:
    score = board()
    camera = DemoView(SIMULATION, score, "here")
    click(score, "shopper-00001", SPOTLIGHT_CLICKS - 1)
    assert camera.frame(1.0).spotlight is None

    click(score, "shopper-00002", SPOTLIGHT_CLICKS)
    first = camera.frame(2.0).spotlight
    click(score, "shopper-00003", SPOTLIGHT_CLICKS)
    still = camera.frame(2.0 + SPOTLIGHT_S / 2).spotlight
    then = camera.frame(2.0 + SPOTLIGHT_S).spotlight

    assert first is not None
    assert still is not None
    assert then is not None
    assert [shown.user for shown in (first, still, then)] == ["shopper-00002", "shopper-00002", "shopper-00003"]


def test_the_truth_is_the_simulation_s() -> None:
    score = board()
    click(score, "shopper-00004", SPOTLIGHT_CLICKS)
    frame = DemoView(SIMULATION, score, "here").frame(0.0)

    assert frame.release == "r-1"
    assert frame.spotlight is not None
    assert sum(weight for _, weight in frame.spotlight.truth) == pytest.approx(1.0)
    assert sum(frame.spotlight.chances.values()) == pytest.approx(1.0, abs=1e-4)
    assert frame.spotlight.categories["item-00000"] == SIMULATION.catalogue.categories[0]
