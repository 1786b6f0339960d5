"""Events sorted on disk are what a sort in memory gives, and need no more memory than was said."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from models.data import dataset, histories, splits
from models.data.dataset import Interactions
from models.data.numbering import NumberedInteractions
from models.settings import HoldoutName, TrainSettings
from models.training import training_data

COLUMNS = ("items", "times_ms", "actions", "starts")


@pytest.fixture(params=[3, 1000], ids=["many regions", "one region"])
def region(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(histories, "REGION_EVENTS", request.param)
    return int(request.param)


@pytest.mark.usefixtures("region")
def test_sorted_on_disk_as_in_memory(tiny_interactions: Path, tmp_path: Path) -> None:
    ours = histories.sort(NumberedInteractions(tiny_interactions), tmp_path)
    theirs = dataset.read(tiny_interactions).histories()
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    assert (ours.item_ids, ours.action_names) == (theirs.item_ids, theirs.action_names)
    assert ours.fingerprint() == theirs.fingerprint() == dataset.read(tiny_interactions).fingerprint()
    assert {path.name for path in tmp_path.iterdir()} == {"items.npy", "times_ms.npy", "actions.npy"}


EVENTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 6), st.integers(0, 1)), min_size=1)


def interactions(events: list[tuple[int, int, int, int]]) -> Interactions:
    users, items, times, actions = np.array(sorted(events, key=lambda one: one[2])).T
    return Interactions(
        users=users.astype(np.int32),
        items=items.astype(np.int32),
        times_ms=1_600_000_000_000 + times * 86_400_000,
        actions=actions.astype(np.int32),
        user_ids=list("abcde"),
        item_ids=list("uvwxyz"),
        action_names=["view", "dislike"],
    )


@given(EVENTS, st.sampled_from(["none", "last", "time", "both"]), st.sampled_from([0.0, 0.5]), st.integers(1, 20))
def test_material_is_what_the_protocol_leaves(
    events: list[tuple[int, int, int, int]], name: HoldoutName, share: float, region: int
) -> None:
    data = interactions(events)
    tied = data.histories().quantile_ms(splits.TRAINING_SHARE) == data.times_ms[0]
    if name in {"time", "both"} and tied:
        return
    left_out = splits.holdout(data.histories(), name, share, 3)
    training = data.select(~splits.held_out(data, left_out))
    training = training.select(training.actions == 0)
    if not len(training):
        return
    original, histories.REGION_EVENTS = histories.REGION_EVENTS, region
    try:
        found = training_data.prepare(data.histories(), TrainSettings(holdout=name, holdout_items=share, seed=3))
    finally:
        histories.REGION_EVENTS = original
    order = training.by_user()
    assert found.holdout == left_out
    assert [found.ids[row] for row in found.histories.items] == [data.item_ids[item] for item in training.items[order]]
    assert found.histories.times_ms.tolist() == training.times_ms[order].tolist()
    assert found.histories.lengths().tolist() == [count for count in np.bincount(training.users) if count]
    assert found.counts.tolist() == [count for count in np.bincount(training.items) if count]
    recent = training.times_ms > training.times_ms[-1] - 7 * 86_400_000
    assert found.popularity.sum() == recent.sum()
    assert found.newest_ms == training.times_ms[-1]


@given(st.lists(st.integers(0, 253_402_300_799_999), min_size=1, max_size=30), st.floats(0, 0.99))
def test_a_quantile_is_the_one_of_the_sorted_times(times: list[int], share: float) -> None:
    data = interactions([(0, 0, 0, 0)] * len(times)).histories()
    object.__setattr__(data, "times_ms", np.array(times))
    assert data.quantile_ms(share) == sorted(times)[int(share * len(times))]


def test_material_is_saved_and_loaded(tiny_interactions: Path, tmp_path: Path) -> None:
    lines = dataset.read(tiny_interactions).histories()
    made = training_data.prepare(lines, TrainSettings(), tmp_path)
    training_data.save(made, tmp_path, ["files"])
    assert training_data.is_saved_for(tmp_path, ["files"])
    assert not training_data.is_saved_for(tmp_path, ["other files"])
    loaded, in_memory = training_data.load(tmp_path), training_data.prepare(lines, TrainSettings())
    for name in ("items", "times_ms", "actions", "starts"):
        np.testing.assert_array_equal(getattr(loaded.histories, name), getattr(in_memory.histories, name))
    for name in ("counts", "popularity", "ids", "holdout", "newest_ms", "fingerprint"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(in_memory, name))


LIMITED = """
import resource, sys
from pathlib import Path
import pyarrow as pa
pa.set_cpu_count(1)
from models.data import dataset, histories
from models.data.numbering import NumberedInteractions
from models.training import training_data
from models.settings import TrainSettings
import numpy as np
np.lexsort((np.zeros(2), np.zeros(2)))
histories.REGION_EVENTS = 100_000
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
now = 1024 * int(status["VmData"].split()[0])
resource.setrlimit(resource.RLIMIT_DATA, (now + int(sys.argv[3]), resource.RLIM_INFINITY))
folder = Path(sys.argv[2])
if sys.argv[1] == "sort":
    lines = histories.sort(NumberedInteractions(folder / "clicks.parquet"), folder / "histories")
    made = training_data.prepare(lines, TrainSettings(), folder / "material")
    print(len(lines), len(made.histories.items))
else:
    print(len(dataset.read(folder / "clicks.parquet")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on a process's own memory is Linux's")
def test_an_archive_larger_than_memory_is_sorted(tmp_path: Path) -> None:
    """2,000,000 events take 34 MB as records and 40 MB as Interactions; the process may grow by 32 MB."""
    count, rng = 2_000_000, np.random.default_rng(0)
    table = pa.table(
        {
            "user": rng.integers(0, 5_000, count, np.int32),
            "item": rng.integers(0, 2_000, count, np.int32),
            "ts": 1_600_000_000 + np.arange(count),
        }
    )
    parquet.write_table(table, tmp_path / "clicks.parquet", row_group_size=100_000)
    limit = 32 << 20

    def run(verb: str) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, "-c", LIMITED, verb, str(tmp_path), str(limit)]
        plain = os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system"}  # others reserve more than the limit beforehand
        return subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=120, env=plain)

    done = run("sort")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == str(count)
    assert int(done.stdout.split()[1]) > 0.89 * count
    assert run("read").returncode != 0
