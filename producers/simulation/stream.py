"""Lets simulated shoppers click in real time."""

from collections.abc import Callable

from producers.clock import REAL_CLOCK, TICK_S, Clock
from producers.replay.click_encoder import ProducedEvents
from producers.simulation.shoppers import ACTIONS, ClickBatch, Simulation, shopper_id


def stream(
    simulation: Simulation,
    send: Callable[[ProducedEvents], None],
    seconds: float | None = None,
    clock: Clock = REAL_CLOCK,
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


def events(simulation: Simulation, batch: ClickBatch) -> ProducedEvents:
    """Simulated clicks and searches as a user's own would look."""
    rows, searches = batch.with_searches()
    items, categories = simulation.catalogue.ids, simulation.catalogue.categories
    clicked = list(zip(batch.items[rows].tolist(), searches.tolist(), strict=True))
    return ProducedEvents(
        users=list(map(shopper_id, batch.shoppers[rows].tolist())),
        items=[None if search else items[item] for item, search in clicked],
        times_ms=batch.times_ms[rows],
        actions=[
            "search" if search else ACTIONS[action]
            for search, action in zip(searches, batch.actions[rows], strict=True)
        ],
        words=[categories[item] if search else None for item, search in clicked] if searches.any() else None,
    )
