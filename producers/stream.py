"""Lets simulated shoppers click in real time."""

from collections.abc import Callable

from producers.clock import REAL_CLOCK, TICK_S, Clock
from producers.events import Events
from producers.shoppers import ACTIONS, Batch, Simulation, shopper_id


def stream(
    simulation: Simulation, send: Callable[[Events], None], seconds: float | None = None, clock: Clock = REAL_CLOCK
) -> None:
    """Send the simulation's clicks as their event time comes, for so many seconds or, without a number, for ever.

    The simulation should start now. One that started earlier first catches up.
    """
    started_s = clock.elapsed_s()
    while seconds is None or clock.elapsed_s() - started_s < seconds:
        batch = simulation.advance_to(clock.now_ms())
        if len(batch):
            send(events(simulation, batch))
        clock.sleep(TICK_S)


def events(simulation: Simulation, batch: Batch) -> Events:
    """Simulated clicks as a user's own would look."""
    return Events(
        users=list(map(shopper_id, batch.shoppers.tolist())),
        items=[simulation.catalogue.ids[item] for item in batch.items.tolist()],
        times_ms=batch.times_ms,
        actions=[ACTIONS[action] for action in batch.actions.tolist()],
    )
