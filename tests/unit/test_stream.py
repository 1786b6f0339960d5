from dataclasses import dataclass, replace

import numpy as np

from producers.clock import Clock
from producers.replay.click_encoder import ProducedEvents
from producers.simulation.shoppers import ACTIONS, Simulation, SimulationSettings, shopper_id
from producers.simulation.simulated_catalogue import MIN_ITEMS
from producers.simulation.stream import events, stream

SETTINGS = SimulationSettings(items=MIN_ITEMS, shoppers=50, clicks_per_s=100.0)


@dataclass
class FakeTime:
    """Time passes only in sleep."""

    elapsed_s: float = 0.0

    def sleep(self, seconds: float) -> None:
        self.elapsed_s += seconds

    def clock(self) -> Clock:
        return Clock(
            elapsed_s=lambda: self.elapsed_s,
            now_ms=lambda: SETTINGS.start_ms + round(1_000 * self.elapsed_s),
            sleep=self.sleep,
        )


def test_clicks_go_out_when_their_time_has_come() -> None:
    now, late_ms = FakeTime(), list[int]()

    def send(batch: ProducedEvents) -> None:
        late_ms.extend(now.clock().now_ms() - time for time in batch.times_ms.tolist())

    stream(Simulation(SETTINGS), send, seconds=5.0, clock=now.clock())

    assert 350 < len(late_ms) < 650
    assert all(0 <= late <= 11 for late in late_ms)


def test_what_is_streamed_is_the_simulation() -> None:
    now, sent = FakeTime(), list[ProducedEvents]()
    stream(Simulation(SETTINGS), sent.append, seconds=5.0, clock=now.clock())

    expected = Simulation(SETTINGS).advance(sum(map(len, sent)))

    assert [user for batch in sent for user in batch.users] == list(map(shopper_id, expected.shoppers.tolist()))


def test_events_spell_what_numbers_stand_for() -> None:
    simulation = Simulation(SETTINGS)
    batch = simulation.advance(20)
    spelled = events(simulation, batch)

    assert spelled.users[0] == f"shopper-{batch.shoppers[0]:05d}"
    assert spelled.items[0] == f"item-{batch.items[0]:05d}"
    assert spelled.actions == [ACTIONS[action] for action in batch.actions]
    assert spelled.words is None


def test_some_search_for_the_category_of_what_they_click_then() -> None:
    """Searches come between the clicks, which are those of the same shoppers without searches."""
    plain, searching = Simulation(SETTINGS), Simulation(replace(SETTINGS, searches=0.5))
    clicks, batch = plain.advance(2_000), searching.advance(2_000)
    np.testing.assert_array_equal(batch.items, clicks.items)
    np.testing.assert_array_equal(batch.times_ms, clicks.times_ms)
    found, categories = (
        events(searching, batch),
        dict(zip(plain.catalogue.ids, plain.catalogue.categories, strict=True)),
    )
    assert found.words is not None
    assert found.actions is not None
    searches = [place for place, item in enumerate(found.items) if item is None]
    assert len(found) - len(searches) == 2_000
    assert 50 < len(searches) < 1_000
    for place in searches:
        item = found.items[place + 1]
        assert item is not None
        assert found.words[place] == categories[item]
        assert (found.users[place], found.actions[place]) == (found.users[place + 1], "search")
    assert [item for item in found.items if item] == events(plain, clicks).items
