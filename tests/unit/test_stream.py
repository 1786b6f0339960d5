from dataclasses import dataclass

from producers.catalogue import MIN_ITEMS
from producers.clock import Clock
from producers.events import Events
from producers.shoppers import ACTIONS, Simulation, SimulationSettings, shopper_id
from producers.stream import events, stream

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

    def send(batch: Events) -> None:
        late_ms.extend(now.clock().now_ms() - time for time in batch.times_ms.tolist())

    stream(Simulation(SETTINGS), send, seconds=5.0, clock=now.clock())

    assert 350 < len(late_ms) < 650
    assert all(0 <= late <= 11 for late in late_ms)


def test_what_is_streamed_is_the_simulation() -> None:
    now, sent = FakeTime(), list[Events]()
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
