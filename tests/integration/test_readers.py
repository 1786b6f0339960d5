"""The readers on real recorded interactions."""

from pathlib import Path

import numpy as np
import pytest

from producers.replay.recorded_events import read

pytestmark = pytest.mark.data


@pytest.mark.parametrize(
    ("name", "events", "users", "items", "actions"),
    [
        ("taobao-84k", 84_440, 815, 55_344, {"pv", "cart", "fav", "buy"}),
        ("yoochoose-100k", 83_846, 21_210, 2_933, None),
        ("ml-100k", 100_000, 943, 1_682, None),
        ("deskdrop", 72_312, 1_895, 2_987, {"VIEW", "LIKE", "BOOKMARK", "FOLLOW", "COMMENT CREATED"}),
    ],
)
def test_recorded_sets_are_read_whole(
    data_folder: Path, name: str, events: int, users: int, items: int, actions: set[str] | None
) -> None:
    if not (data_folder / name).is_dir():
        pytest.skip(f"{data_folder} has no {name}")

    recording = read(data_folder / name)

    assert len(recording) == events
    assert len(recording.users.names) == users
    assert len(recording.items.names) == items
    assert (None if recording.actions is None else set(recording.actions.names)) == actions
    assert (np.diff(recording.times_ms) >= 0).all()
    assert np.array_equal(recording.rows, np.arange(1, events + 1))  # these files are sorted already
