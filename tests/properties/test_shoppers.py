import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.simulation.choices import TRIES, Distributions, with_retries
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
weight_rows = st.lists(st.floats(0, 1), min_size=2, max_size=8).filter(lambda row: sum(row) > 0.01)


@settings(max_examples=25, deadline=None)
@given(simulations, st.lists(st.integers(0, 300), min_size=1, max_size=4))
def test_clicks_are_ordered_and_do_not_depend_on_the_batches(drawn: SimulationSettings, counts: list[int]) -> None:
    whole = Simulation(drawn).advance(sum(counts))
    simulation = Simulation(drawn)
    parts = join([simulation.advance(count) for count in counts])

    assert len(whole) == sum(counts)
    for column in ("shoppers", "items", "times_ms", "actions"):
        assert np.array_equal(getattr(whole, column), getattr(parts, column))
    assert (np.diff(whole.times_ms) >= 0).all()
    assert (whole.times_ms >= drawn.start_ms).all()
    assert ((whole.shoppers >= 0) & (whole.shoppers < drawn.shoppers)).all()
    assert ((whole.items >= 0) & (whole.items < drawn.items)).all()


@settings(max_examples=25, deadline=None)
@given(simulations, st.integers(1, 300))
def test_advancing_to_a_time_gives_the_clicks_before_it(drawn: SimulationSettings, count: int) -> None:
    clicks = Simulation(drawn).advance(count)
    end_ms = int(clicks.times_ms[-1])

    before = Simulation(drawn).advance_to(end_ms)

    assert np.array_equal(before.times_ms, clicks.times_ms[clicks.times_ms < end_ms])


@settings(max_examples=25, deadline=None)
@given(simulations, st.integers(0, 500), st.data())
def test_relevance_is_a_distribution_over_items_on_sale(
    drawn: SimulationSettings, count: int, data: st.DataObject
) -> None:
    simulation = Simulation(drawn)
    simulation.advance(count)

    relevance = simulation.relevance(data.draw(st.integers(0, drawn.shoppers - 1)))

    assert np.isclose(relevance.sum(), 1.0, atol=1e-4)
    assert (relevance >= 0).all()


@given(weight_rows, st.data())
def test_the_closed_form_of_retries_equals_a_sum_over_tries(weights: list[float], data: st.DataObject) -> None:
    remembered = np.array(data.draw(st.lists(st.booleans(), min_size=len(weights), max_size=len(weights))))
    one_try = np.array(weights) / sum(weights)

    clicked, reach_probability = np.zeros(len(weights)), 1.0
    for attempt in range(TRIES):
        is_last = attempt == TRIES - 1
        clicked += reach_probability * np.where(remembered & (not is_last), 0.0, one_try)
        reach_probability *= one_try[remembered].sum()

    assert np.allclose(with_retries(one_try, remembered), clicked)
    assert np.isclose(clicked.sum(), 1.0)


@given(st.lists(weight_rows, min_size=1, max_size=6), st.data())
def test_a_draw_inverts_the_cumulative_distribution(rows: list[list[float]], data: st.DataObject) -> None:
    weights = np.zeros((len(rows), 8))
    for number, row in enumerate(rows):
        weights[number, : len(row)] = row
    distributions = Distributions.in_proportion_to(weights)
    row_number = data.draw(st.integers(0, len(rows) - 1))
    uniform = data.draw(st.floats(0, 1, exclude_max=True))

    column = int(distributions.draw(np.array([row_number], np.int32), np.array([uniform]))[0])

    cumulative = np.cumsum(distributions.shares[row_number])
    assert weights[row_number, column] > 0
    assert cumulative[column] >= uniform - 1e-8
    assert column == 0 or cumulative[column - 1] <= uniform + 1e-8
