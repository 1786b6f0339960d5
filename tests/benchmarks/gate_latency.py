"""How often the gate's condition on latency refuses a release that is the live one, on a machine that others use.

    python -m tests.benchmarks.gate_latency [--times 200] [--busy 3] [--users 2] [--release FOLDER]

Other processes count in a loop meanwhile. Beside the condition of the gate the same release is judged by the plain one:
the ratio of two medians of nine calls by the wall clock, in turns.
"""

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

from engine.arrays import Windows
from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.pipeline import Recommender
from engine.releases import bundles, serving
from engine.retrieval import features
from engine.settings.sections import Settings
from engine.windows.store import Events, WindowStore
from models.evaluation import slowdown
from models.evaluation.list_evaluation import LIVE, RELEASE
from models.jobs import release_gate

_EVENTS, _PLAIN_ROUNDS = 20, 9


def _maker(folder: Path, users: int) -> Callable[[], object]:
    """Makes lists of `users` with 20 events each, by a warm release of its own."""
    settings, catalogue = Settings(), Catalogue()
    live = serving.warm(bundles.read(folder), catalogue, settings.index, threads=1)
    actions = Actions(settings.clicks)
    weights = features.action_weights(actions.weights, actions.codes, live.manifest.action_values)
    recommender = Recommender.starting(settings.recommendations, weights, live)
    windows = _windows(settings, users, len(live.numbers), actions.codes[settings.clicks.default_action])
    return lambda: recommender.recommend(windows, live)


def _windows(settings: Settings, users: int, items: int, code: int) -> Windows:
    rng, store = np.random.default_rng(0), WindowStore(settings.windows)
    slots = np.repeat(store.slots([f"u{user}" for user in range(users)], np.zeros(users, np.int32)), _EVENTS)
    events = len(slots)
    times_ms = 1_764_072_000_000 + 1000 * np.arange(events, dtype=np.int64)
    drawn = rng.integers(0, items, events).astype(np.int32)
    store.append(Events(slots, drawn, times_ms, np.full(events, code, np.uint8), np.zeros(events, np.uint32)))
    return store.read(np.unique(slots))


def _plain_ratio(make: Callable[[], object], make_other: Callable[[], object]) -> float:
    times_s = [list[float](), list[float]()]
    for _ in range(_PLAIN_ROUNDS):
        for side, function in enumerate((make, make_other)):
            started_s = time.perf_counter()
            function()
            times_s[side].append(time.perf_counter() - started_s)
    return median(times_s[0]) / median(times_s[1])


def _spin() -> None:
    while True:
        pass


@contextmanager
def _busy(processes: int) -> Iterator[None]:
    context = multiprocessing.get_context("spawn")
    spinning = [context.Process(target=_spin, daemon=True) for _ in range(processes)]
    for process in spinning:
        process.start()
    try:
        yield
    finally:
        for process in spinning:
            process.kill()


def judged(folder: Path, times: int, users: int) -> dict[str, Any]:
    """Refusals of an identical release by both conditions."""
    retrain, makers = Settings().retrain, (_maker(folder, users), _maker(folder, users))
    plain, bounds, refusals, list_ms = list[float](), list[float](), 0, list[float]()
    for _ in range(times):
        plain.append(_plain_ratio(*makers))
        measured = slowdown.measure(*makers, users)
        bounds.append(measured.ratio.interval[0])
        list_ms.append(1000.0 * measured.list_s[0])
        split = {"list_ms": {RELEASE: list_ms[-1], LIVE: 1000.0 * measured.list_s[1]}, "slowdown": measured.report()}
        refusals += not release_gate.latency(split, retrain).passed
    return {
        "list_ms": round(median(list_ms), 3),
        "plain_refusals": sum(ratio > retrain.max_slowdown for ratio in plain),
        "plain_ratio_max": round(max(plain), 2),
        "refusals": refusals,
        "ratio_lower_end_max": round(max(bounds), 2),
    }


@click.command()
@click.option("--times", default=200)
@click.option("--busy", default=3, help="Processes that count in a loop.")
@click.option("--users", default=2, help="Lists in a call: the gate has 64 where the held-out clicks have so many.")
@click.option("--release", type=click.Path(exists=True, path_type=Path), default=Path("producers/demo/release"))
def main(times: int, busy: int, users: int, release: Path) -> None:
    """Print the figures as JSON."""
    with _busy(busy):
        click.echo(json.dumps({"times": times, "busy": busy, "users": users, **judged(release, times, users)}))


if __name__ == "__main__":
    main()
