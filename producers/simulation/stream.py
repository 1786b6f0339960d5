"""Simulated clicks in real time, and as events to be sent."""

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
    """Send the simulation's clicks as their event times come, for `seconds` or, where that is None, for ever.

    The simulation should start now; one that started earlier first sends what is overdue.
    """
    started_s = clock.elapsed_s()
    while seconds is None or clock.elapsed_s() - started_s < seconds:
        batch = simulation.advance_to(clock.now_ms())
        if len(batch):
            send(events(simulation, batch))
        clock.sleep(TICK_S)


def events(simulation: Simulation, batch: ClickBatch) -> ProducedEvents:
    """The clicks of a batch, and the searches before some of them, as events with ids and names."""
    clicks, is_search = batch.with_searches()
    ids, categories = simulation.catalogue.ids, simulation.catalogue.categories
    rows = list(zip(batch.items[clicks].tolist(), batch.actions[clicks].tolist(), is_search.tolist(), strict=True))
    return ProducedEvents(
        users=list(map(shopper_id, batch.shoppers[clicks].tolist())),
        items=[None if search else ids[item] for item, _, search in rows],
        times_ms=batch.times_ms[clicks],
        actions=["search" if search else ACTIONS[action] for _, action, search in rows],
        words=[categories[item] if search else None for item, _, search in rows] if is_search.any() else None,
    )
