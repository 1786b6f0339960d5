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
    time, late_ms = FakeTime(), list[int]()

    def send(batch: ProducedEvents) -> None:
        late_ms.extend((time.clock().now_ms() - batch.times_ms).tolist())

    stream(Simulation(SETTINGS), send, seconds=5.0, clock=time.clock())

    assert 350 < len(late_ms) < 650
    assert all(0 <= late <= 11 for late in late_ms)


def test_the_stream_sends_the_clicks_of_the_simulation() -> None:
    sent = list[ProducedEvents]()
    stream(Simulation(SETTINGS), sent.append, seconds=5.0, clock=FakeTime().clock())

    expected = Simulation(SETTINGS).advance(sum(map(len, sent)))

    assert [user for batch in sent for user in batch.users] == list(map(shopper_id, expected.shoppers.tolist()))


def test_events_have_ids_and_names_in_place_of_numbers() -> None:
    simulation = Simulation(SETTINGS)
    batch = simulation.advance(20)
    produced = events(simulation, batch)

    assert produced.users[0] == f"shopper-{batch.shoppers[0]:05d}"
    assert produced.items[0] == f"item-{batch.items[0]:05d}"
    assert produced.actions == [ACTIONS[action] for action in batch.actions]
    assert produced.words is None


def test_some_clicks_come_after_a_search_for_their_category() -> None:
    """The clicks themselves are those of the same shoppers without searches."""
    plain, searching = Simulation(SETTINGS), Simulation(replace(SETTINGS, searches=0.5))
    clicks, batch = plain.advance(2_000), searching.advance(2_000)
    np.testing.assert_array_equal(batch.items, clicks.items)
    np.testing.assert_array_equal(batch.times_ms, clicks.times_ms)
    produced = events(searching, batch)
    categories = dict(zip(plain.catalogue.ids, plain.catalogue.categories, strict=True))
    assert produced.words is not None
    assert produced.actions is not None
    searches = [index for index, item in enumerate(produced.items) if item is None]
    assert len(produced) - len(searches) == 2_000
    assert 50 < len(searches) < 1_000
    for index in searches:
        item = produced.items[index + 1]
        assert item is not None
        assert produced.words[index] == categories[item]
        assert (produced.users[index], produced.actions[index]) == (produced.users[index + 1], "search")
    assert [item for item in produced.items if item] == events(plain, clicks).items
