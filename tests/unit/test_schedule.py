"""The learning rate rises, stays, and falls to nothing at the last step."""

import itertools

import pytest
from pydantic import ValidationError

from models.settings import TrainSettings
from models.training.schedule import learning_rate


def rates(settings: TrainSettings, steps: int) -> list[float]:
    return [learning_rate(settings, step, 10) for step in range(steps)]


def test_it_stays_as_it_is_set_unless_a_decay_is_chosen() -> None:
    assert rates(TrainSettings(learning_rate=0.5, epochs=2), 30) == [0.5] * 30


def test_it_rises_in_even_steps() -> None:
    assert rates(TrainSettings(learning_rate=0.8, warmup_steps=4), 6) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


def test_it_falls_like_a_cosine_over_all_epochs() -> None:
    """24 steps after the rise: half of the rate in the middle, a quarter's cosine at a third and two thirds."""
    chosen = TrainSettings(learning_rate=1.0, epochs=3, learning_rate_decay="cosine", warmup_steps=6)
    found = rates(chosen, 40)
    assert [found[6], found[14], found[18], found[22]] == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert all(after < before for before, after in itertools.pairwise(found[6:31]))
    assert found[30:] == [pytest.approx(0.0, abs=1e-12)] * 10


def test_a_decay_needs_an_end() -> None:
    with pytest.raises(ValidationError, match=r"'cosine' and epochs is not given: .* say how many"):
        TrainSettings(learning_rate_decay="cosine")
