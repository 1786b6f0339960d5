"""Histories cut into sequences: every event asked once, enough of the past before it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.arrays import NO_ACTION
from models.data import sequences
from models.data.histories import Histories
from models.data.sequences import NO_TARGET


def histories_of(*users: list[int]) -> Histories:
    items = np.concatenate([np.array(user, np.int32) for user in users])
    return Histories(
        items=items,
        times_ms=3_600_000 * np.arange(len(items), dtype=np.int64),
        actions=np.ones(len(items), np.uint8),
        starts=np.cumsum([0, *map(len, users)]),
    )


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(1, 12))
def test_every_event_but_the_first_is_asked_exactly_once(lengths: list[int], window: int) -> None:
    counts = np.array(lengths, np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)])
    cut = sequences.cut(counts, starts[:-1], window)
    asked = [place for begin, end in zip(cut.target_begins, cut.ends, strict=True) for place in range(begin, end)]
    inputs = [start + place for start, count in zip(starts, lengths, strict=False) for place in range(count - 1)]
    assert sorted(asked) == inputs
    assert (cut.ends - cut.begins <= window).all()
    # All of the past, or at least half a window of it.
    owner = np.searchsorted(starts, cut.begins, side="right") - 1
    whole = cut.begins == starts[owner]
    assert (whole | (cut.target_begins - cut.begins + 1 >= window // 2)).all()


def test_a_batch_shows_inputs_ages_and_what_came_next() -> None:
    """u: 5 6 7, v: 8 9. Inputs 5 6 and 8; what came next is 6 7 and 9."""
    histories = histories_of([5, 6, 7], [8, 9])
    cut = sequences.cut(histories.lengths(), histories.starts[:-1], 10)
    batch = sequences.gather(histories, cut, np.array([0, 1]))
    assert batch.items.tolist() == [[5, 6], [0, 8]]
    assert batch.targets.tolist() == [[6, 7], [NO_TARGET, 9]]
    assert batch.actions.tolist() == [[1, 1], [NO_ACTION, 1]]
    np.testing.assert_allclose(batch.ages[0], [[0, 0], [np.log(2), 0]], rtol=1e-6)


def test_what_was_seen_before_is_not_asked() -> None:
    """5 6 5 7: after 6 comes 5 again, which the engine would not show; 7 is new."""
    histories = histories_of([5, 6, 5, 7])
    cut = sequences.cut(histories.lengths(), histories.starts[:-1], 10)
    assert sequences.gather(histories, cut, np.array([0])).targets.tolist() == [[6, NO_TARGET, 7]]


def test_a_long_history_is_asked_in_parts_of_even_length_each_behind_a_full_window() -> None:
    """Inputs 0 .. 8, window 4: five parts of one or two, with at most four inputs up to the newest one asked."""
    cut = sequences.cut(np.array([10]), np.array([0]), 4)
    parts = zip(cut.begins.tolist(), cut.target_begins.tolist(), cut.ends.tolist(), strict=True)
    assert list(parts) == [(0, 0, 1), (0, 1, 3), (1, 3, 5), (3, 5, 7), (5, 7, 9)]


def test_skipping_asks_for_a_later_event_but_none_beyond_the_part() -> None:
    """0 .. 6 with the newest two hidden: 0 is asked for 3, 1 for 4; then each for the last, 6."""
    histories = histories_of([0, 1, 2, 3, 4, 5, 6], [9, 9])
    cut = sequences.cut(histories.lengths(), histories.starts[:-1], 20)
    batch = sequences.gather(histories, cut, np.array([0]), np.array([2]))
    assert batch.targets.tolist() == [[3, 4, 5, 6, 6, 6]]


@given(st.lists(st.integers(2, 30), min_size=1, max_size=6), st.integers(2, 9), st.integers(0, 2**32 - 1))
def test_every_asked_position_sees_its_own_event(lengths: list[int], window: int, seed: int) -> None:
    """Whatever is padded, cut or skipped: where a target stands, the input there is visible, and real."""
    histories = histories_of(*([*range(1, length + 1)] for length in lengths))
    cut = sequences.cut(histories.lengths(), histories.starts[:-1], window)
    rng = np.random.default_rng(seed)
    for part in sequences.parts(cut, 4, rng):
        batch = sequences.gather(histories, cut, part, rng.integers(0, 5, len(part)))
        asked = batch.targets.shape[1]
        targets, inputs = batch.targets, batch.items[:, -asked:]
        assert (batch.actions[:, -asked:][targets != NO_TARGET] != NO_ACTION).all()
        assert (targets > inputs)[targets != NO_TARGET].all()  # items count up: every target lies ahead


def test_an_epoch_has_every_sequence_once_and_another_order_next_time() -> None:
    histories = histories_of(*([user, user + 100, user + 200] for user in range(50)))
    cut = sequences.cut(histories.lengths(), histories.starts[:-1], 10)
    rng = np.random.default_rng(0)
    epochs = [
        [sequences.gather(histories, cut, part).items[:, 0].tolist() for part in sequences.parts(cut, 8, rng)]
        for _ in range(2)
    ]
    for epoch in epochs:
        assert sorted(item for batch in epoch for item in batch) == list(range(50))
        assert all(len(batch) <= 8 for batch in epoch)
    assert epochs[0] != epochs[1]
