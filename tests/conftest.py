"""What every kind of test shares: hypothesis without a stopwatch, recorded data, a tiny trained release, figures."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from producers.bench import rows

# These machines are shared: how long an example takes says nothing about it.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

Report = Callable[[str, dict[str, Any]], None]
"""Takes a sentence for people, and the figures in it by name."""

TINY_ITEMS = 120
TINY_USERS = 60
TINY_EVENTS = 40
_STEP_S = 60


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Recorded interactions, or a skip."""
    folder = Path(os.environ.get("RECORDED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no recorded interactions at {folder}; set RECORDED_DATA to a folder that holds some")
    return folder


@pytest.fixture(scope="session")
def tiny_interactions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder: users who walk along a ring of items, a few steps ahead at a time, one of two rings each."""
    rng = np.random.default_rng(0)
    half = TINY_ITEMS // 2
    events = []
    for user in range(TINY_USERS):
        places = (rng.integers(half) + np.cumsum(rng.integers(1, 3, TINY_EVENTS))) % half
        items = places + half * (user % 2)
        times = rng.integers(3600) + _STEP_S * np.arange(TINY_EVENTS)
        events += [(time, user, item) for time, item in zip(times.tolist(), items.tolist(), strict=True)]
    folder = tmp_path_factory.mktemp("tiny")
    with gzip.open(folder / "interactions.csv.gz", "wt") as file:
        file.write("user,item,ts,weight\n")
        file.writelines(f"u{user},i{item},{time},1\n" for time, user, item in sorted(events))
    return folder


@pytest.fixture(scope="session")
def tiny_release(tiny_interactions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release bundle trained on `tiny_interactions` for a few passes."""
    torch = pytest.importorskip("torch", reason="a release is trained for this test: pip install 'headrace[train]'")
    from models.data import dataset  # noqa: PLC0415 - only where torch is installed
    from models.publishing import export  # noqa: PLC0415 - only where torch is installed
    from models.settings import EncoderSettings, TrainSettings  # noqa: PLC0415
    from models.training.fit import train  # noqa: PLC0415

    torch.set_num_threads(1)  # so small a model gains nothing from more, and waits for them on a busy machine
    sizes = EncoderSettings(dimensions=16, interests=2, heads=2, window_length=20)
    chosen = TrainSettings(encoder=sizes, holdout="last", epochs=20, batch_sequences=16)
    trained = train(dataset.read(tiny_interactions), chosen)
    return export.write(trained, chosen, ("two-hop", "tiny"), 0, tmp_path_factory.mktemp("releases"))


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """Prints a measurement (shown with pytest -s); with BENCH_ROWS=FILE its figures are added to that file."""
    long = "LONG_TESTS=1 " if os.environ.get("LONG_TESTS") == "1" else ""

    def write(sentence: str, figures: dict[str, Any]) -> None:
        print(f"\n{sentence}")  # noqa: T201 - shown with pytest -s
        if path := os.environ.get("BENCH_ROWS"):
            rows.append(Path(path), f"{long}pytest -s {request.node.nodeid}", figures)

    return write
