"""The learning rate warms up, stays constant, and decays to 0 at the last step."""

import itertools

import pytest
from pydantic import ValidationError

from models.settings import TrainSettings
from models.training.schedule import learning_rate


def rates(settings: TrainSettings, steps: int) -> list[float]:
    return [learning_rate(settings, step, 10) for step in range(steps)]


def test_the_rate_is_constant_by_default() -> None:
    assert rates(TrainSettings(learning_rate=0.5, epochs=2), 30) == [0.5] * 30


def test_the_warm_up_is_linear() -> None:
    assert rates(TrainSettings(learning_rate=0.8, warmup_steps=4), 6) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


def test_the_cosine_decays_over_all_epochs() -> None:
    """24 steps after the warm-up: 3/4 of the rate after a third of them, 1/2 after a half, 1/4 after two thirds."""
    settings = TrainSettings(learning_rate=1.0, epochs=3, learning_rate_decay="cosine", warmup_steps=6)
    by_step = rates(settings, 40)
    assert [by_step[6], by_step[14], by_step[18], by_step[22]] == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert all(after < before for before, after in itertools.pairwise(by_step[6:31]))
    assert by_step[30:] == [pytest.approx(0.0, abs=1e-12)] * 10


def test_a_decay_needs_epochs() -> None:
    with pytest.raises(ValidationError, match=r"'cosine' and epochs is not given: .* give their number"):
        TrainSettings(learning_rate_decay="cosine")
