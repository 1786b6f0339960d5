"""What every kind of test shares: processes, hypothesis without a stopwatch, recorded data, a tiny release, figures.

Without `-n` a whole folder of tests runs in as many processes as there are cores, four at most, and with a Kafka in one
more, as those tests wait most of the time. A module's tests share one of them, and with it the module's fixtures; the
benchmarks are one module in that sense, so that none measures while another does. Each process has a broker of its own,
where there are brokers. With `-s`, `--pdb` or files named one by one everything runs in the process that was started.
"""

import gzip
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from producers.bench import rows

# A core each is what the processes of a parallel run have; torch and onnxruntime read this when they load.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# These machines are shared: how long an example takes says nothing about it.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

only_long = pytest.mark.skipif(not os.environ.get("LONG_TESTS"), reason="takes long: LONG_TESTS=1")
"""A test that costs more than it adds to the others of its module, every day."""

Report = Callable[[str, dict[str, Any]], None]
"""Takes a sentence for people, and the figures in it by name."""

MOST_PROCESSES = 4
"""Of a parallel run: each may start a broker, and trains the tiny release for itself."""

TINY_ITEMS = 120
TINY_USERS = 60
TINY_EVENTS = 40
_STEP_S = 60


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Choose how many processes there are."""
    chosen = config.option
    if not hasattr(chosen, "numprocesses") or chosen.numprocesses is not None or hasattr(config, "workerinput"):
        return  # no pytest-xdist, `-n` was given, or this is one of the processes: it must not start more
    in_one = chosen.capture == "no" or chosen.usepdb or all(Path(path.split("::")[0]).is_file() for path in config.args)
    processes = config.hook.pytest_xdist_auto_num_workers(config=config)
    processes += any(name in os.environ for name in ("KAFKA_HOME", "KAFKA_BOOTSTRAP"))
    chosen.numprocesses = 0 if in_one else min(processes, chosen.maxprocesses or MOST_PROCESSES)
    chosen.tx = ["popen"] * chosen.numprocesses  # the plugin's own look at the options may be over
    chosen.dist = "no" if in_one else "loadscope"
    chosen.loadscopereorder = False  # folders with slow tests come first as it is


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out whole modules, and the benchmarks as if they were one."""
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415 - asked for only where it is installed

    class ByModule(LoadScopeScheduling):  # type: ignore[misc] # untyped
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0]
            folder = str(Path(module).parent)
            return folder if folder.endswith("benchmarks") else module

    return ByModule(config, log)


@pytest.fixture(autouse=True)
def log_levels_stay() -> Iterator[None]:
    """Restores the levels of loggers after each test."""
    loggers = [logging.getLogger(name) for name in ("", "engine", "kafka")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


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
    """A release bundle trained on `tiny_interactions` for a few passes, whose lists follow from its interests alone."""
    torch = pytest.importorskip("torch", reason="a release is trained for this test: pip install 'headrace[train]'")
    from models.data import dataset  # noqa: PLC0415 - only where torch is installed
    from models.publishing import export  # noqa: PLC0415 - only where torch is installed
    from models.settings import EncoderSettings, TrainSettings  # noqa: PLC0415
    from models.training.fit import train  # noqa: PLC0415

    torch.set_num_threads(1)  # so small a model gains nothing from more, and waits for them on a busy machine
    sizes = EncoderSettings(dimensions=16, interests=2, heads=2, window_length=20)
    chosen = TrainSettings(
        encoder=sizes, holdout="last", epochs=20, batch_sequences=16, neighbours=False, popularity=False
    )
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
