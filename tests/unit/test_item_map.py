"""The map of items: what is alike is near, whatever the vectors' length."""

import numpy as np

from engine.view.item_map import Projection


def test_the_plane_is_that_of_the_two_widest_directions() -> None:
    rng = np.random.default_rng(0)
    wide = rng.normal(0.0, [1.0, 0.5, 0.01, 0.01], (500, 4)).astype(np.float32) + np.array([0, 0, 3, 0], np.float32)
    projection = Projection(wide)
    places = projection.of(wide)
    assert places.shape == (500, 2)
    assert np.abs(places).max() <= 1.0
    assert projection.explained > 0.95
    assert abs(np.corrcoef(places[:, 0], wide[:, 0])[0, 1]) > 0.95
    assert abs(np.corrcoef(places[:, 1], wide[:, 1])[0, 1]) > 0.95


def test_the_length_of_a_vector_moves_nothing() -> None:
    vectors = np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32)
    projection = Projection(vectors)
    assert np.allclose(projection.of(vectors), projection.of(vectors * np.float32(7.0)), atol=1e-5)


def test_two_dimensions_are_shown_whole_and_a_single_item_is_no_error() -> None:
    assert Projection(np.random.default_rng(2).normal(size=(20, 2)).astype(np.float32)).explained == 1.0
    alone = np.ones((1, 3), np.float32)
    assert np.isfinite(Projection(alone).of(alone)).all()
