import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.simulation.choices import TRIES, after_tries, draws
from producers.simulation.shoppers import Simulation, SimulationSettings, join
from producers.simulation.simulated_catalogue import MIN_ITEMS

simulations = st.builds(
    SimulationSettings,
    seed=st.integers(0, 2**32),
    items=st.integers(MIN_ITEMS, 2 * MIN_ITEMS),
    shoppers=st.integers(1, 80),
    clicks_per_s=st.none() | st.floats(0.01, 10_000),
    new_items=st.floats(0, 0.9),
    new_shoppers=st.floats(0, 0.9),
    drift=st.floats(0, 1),
)
shares = st.lists(st.floats(0, 1), min_size=2, max_size=8).filter(lambda row: sum(row) > 0.01)


@settings(max_examples=25, deadline=None)
@given(simulations, st.lists(st.integers(0, 300), min_size=1, max_size=4))
def test_clicks_come_in_order_and_do_not_depend_on_the_portions(chosen: SimulationSettings, counts: list[int]) -> None:
    whole = Simulation(chosen).advance(sum(counts))
    simulation = Simulation(chosen)
    parts = join([simulation.advance(count) for count in counts])

    assert len(whole) == sum(counts)
    for column in ("shoppers", "items", "times_ms", "actions"):
        assert np.array_equal(getattr(whole, column), getattr(parts, column))
    assert (np.diff(whole.times_ms) >= 0).all()
    assert (whole.times_ms >= chosen.start_ms).all()
    assert ((whole.shoppers >= 0) & (whole.shoppers < chosen.shoppers)).all()
    assert ((whole.items >= 0) & (whole.items < chosen.items)).all()


@settings(max_examples=25, deadline=None)
@given(simulations, st.integers(1, 300))
def test_advancing_to_a_time_gives_the_clicks_before_it(chosen: SimulationSettings, count: int) -> None:
    clicks = Simulation(chosen).advance(count)
    end_ms = int(clicks.times_ms[-1])

    before = Simulation(chosen).advance_to(end_ms)

    assert np.array_equal(before.times_ms, clicks.times_ms[clicks.times_ms < end_ms])


@settings(max_examples=25, deadline=None)
@given(simulations, st.integers(0, 500), st.data())
def test_relevance_is_a_distribution_over_items_on_sale(
    chosen: SimulationSettings, count: int, data: st.DataObject
) -> None:
    simulation = Simulation(chosen)
    simulation.advance(count)

    relevance = simulation.relevance(data.draw(st.integers(0, chosen.shoppers - 1)))

    assert np.isclose(relevance.sum(), 1.0, atol=1e-4)
    assert (relevance >= 0).all()


@given(shares, st.data())
def test_trying_again_is_what_the_formula_says(row: list[float], data: st.DataObject) -> None:
    """Against a walk through every sequence of tries."""
    remembered = np.array(data.draw(st.lists(st.booleans(), min_size=len(row), max_size=len(row))))
    one_try = np.array(row) / sum(row)

    clicked, reaching = np.zeros(len(row)), 1.0
    for attempt in range(TRIES):
        last = attempt == TRIES - 1
        clicked += reaching * np.where(remembered & (not last), 0.0, one_try)
        reaching *= one_try[remembered].sum()

    assert np.allclose(after_tries(one_try, remembered), clicked)
    assert np.isclose(clicked.sum(), 1.0)


@given(st.lists(shares, min_size=1, max_size=6), st.data())
def test_a_draw_falls_into_the_column_that_its_number_belongs_to(rows: list[list[float]], data: st.DataObject) -> None:
    weights = np.zeros((len(rows), 8))
    for number, row in enumerate(rows):
        weights[number, : len(row)] = row
    table = draws(weights)
    chosen = data.draw(st.integers(0, len(rows) - 1))
    uniform = data.draw(st.floats(0, 1, exclude_max=True))

    column = int(table.draw(np.array([chosen], np.int32), np.array([uniform]))[0])

    upto = np.cumsum(table.shares[chosen])
    assert weights[chosen, column] > 0
    assert upto[column] >= uniform - 1e-8
    assert column == 0 or upto[column - 1] <= uniform + 1e-8
