"""`headrace bench throughput`: CPU time of the engine compared with its floor, in one run.

The floor is the bare kernels that no fresh list can do without, called back to back on prepared arrays: poll, decode,
encode, search, encode the message, send. Engine and floor get the same clicks, windows and release on the in-process
log and take batches in turn, so that a change in the machine's speed affects both.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from engine.arrays import Float32, Int32, Int64, UInt8, Windows
from engine.catalogue.actions import Actions
from engine.catalogue.ids import Catalogue
from engine.contract import Contract, NeighbourSizes, PopularityScore
from engine.eventlog.base import Outgoing, Rebalance, Records, Session, TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.metrics import Metrics
from engine.pipeline import Recommender
from engine.ranking.encode import ListHeads, encode_recommendations
from engine.ranking.lists import Lists
from engine.releases import bundles, serving
from engine.releases.bundles import Bundle, NeighbourArrays, NewRelease
from engine.retrieval import features
from engine.retrieval.features import Features
from engine.settings.sections import Settings, WindowSettings, WorkerSettings
from engine.worker.batch import Processor

_JITTER: Final = 0.5
"""Spread of synthetic items around the trained item each is drawn from, in standard deviations of the vectors."""
_NEIGHBOURHOODS: Final = 5
"""Neighbourhoods of the catalogue that a user's clicks come from."""
_NEIGHBOURHOOD_ITEMS: Final = 50
_NEIGHBOUR_SPREAD: Final = 500.0
"""Standard deviation of the distance, in item numbers, between an item and its neighbours."""
_NEIGHBOUR_SIZES: Final = NeighbourSizes(count=0, last_items=10, decay=0.8, weight=2.0, floor=0.01)
"""As training chooses them, but for the count."""
_POPULARITY: Final = PopularityScore(weight=0.5, floor=0.001)
_FIRST_MS: Final = 1_700_000_000_000
_STEP_MS: Final = 60_000
_WARM_UP_BATCHES: Final = 3
_ACTION: Final = "view"


@dataclass(frozen=True, slots=True)
class Load:
    """Size of a measurement; `producers.cli.bench` describes the fields."""

    items: int
    users: int
    batch: int
    batches: int
    neighbours: int = 64
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Prepared:
    """Inputs of the floor's kernels for one batch, computed before the clock starts."""

    features: Features
    interests: Float32
    """[B * K, D]"""
    lists: Lists
    heads: ListHeads
    keys: list[bytes | None]


class _FloorClick(msgspec.Struct):
    """The message that `_clicks` encodes."""

    user: str
    item: str
    ts: int
    action: str


def measure(load: Load, release: Path) -> dict[str, Any]:
    """Figures of engine and floor by name; times and ratios are medians over batches.

    Raises:
        ReleaseError: the bundle `release` cannot be used.
    """
    return measure_runs(load, release, 1)[0]


def measure_runs(load: Load, release: Path, runs: int) -> list[dict[str, Any]]:
    """Figures of several runs one after the other, as `measure` gives them, on windows that are filled once.

    Raises:
        ReleaseError: the bundle `release` cannot be used.
    """
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        bundle = bundles.read(_enlarged(bundles.read(release), load, Path(folder)))
    with threadpool_limits(WorkerSettings().threads, user_api="blas"):
        bench = _Bench(load, bundle)
        return [bench.run() for _ in range(runs)]


@dataclass(frozen=True, slots=True)
class _Times:
    """Seconds that one batch took."""

    wall_s: float
    """Of the engine, wall clock."""
    engine_s: float
    """Of the engine, CPU."""
    floor_s: float
    """Of the floor, CPU."""


class _Bench:
    """One release and one log with two readers of the same clicks, the engine and its floor."""

    def __init__(self, load: Load, bundle: Bundle) -> None:
        self.load = load
        self.settings = Settings(
            windows=WindowSettings(max_users=load.users),
            worker=WorkerSettings(max_batch_clicks=load.batch),
        )
        self.metrics = Metrics()
        catalogue = Catalogue()
        self.catalogue = catalogue
        self.live = serving.warm(bundle, catalogue, self.settings.index, self.settings.worker.threads)
        self.processor = Processor(self.settings, catalogue, self.metrics)
        self.processor.swap(self.live)
        topic, outputs = self.settings.clicks.topic, [self.settings.recommendations.topic, self.settings.windows.topic]
        self.log = MemoryLog(dict.fromkeys(outputs, 10 * load.batch))
        self.log.ensure_topics([TopicSpec(name) for name in (topic, *outputs)])
        self.engine = self.log.session([topic], "engine", Rebalance())
        self.floor = self.log.session([topic], "floor", Rebalance())
        self.rng = np.random.default_rng(load.seed)
        self.item_windows = self._random_windows()
        self.batches_sent = 0
        self._fill_windows()

    def run(self) -> dict[str, Any]:
        """Measure batch after batch, and return the figures by name."""
        stages_before: dict[str, float] = {}
        times: list[_Times] = []
        for number, users in enumerate(self._batches()):
            prepared = self._prepare(users)
            self._send_clicks(users)
            if number == _WARM_UP_BATCHES:
                stages_before = self._stage_seconds()
            wall_s, engine_s = _timed(self._run_engine)
            _, floor_s = _timed(self._run_floor, prepared)
            times.append(_Times(wall_s, engine_s, floor_s))
        times = times[_WARM_UP_BATCHES:]
        stages = {name: seconds - stages_before.get(name, 0.0) for name, seconds in self._stage_seconds().items()}
        us_per_list = 1e6 / self.load.batch
        return {
            "items": self.load.items,
            "users": self.load.users,
            "batch": self.load.batch,
            "batches": len(times),
            "neighbours": self.load.neighbours,
            "cpu_us_per_list": median(batch.engine_s for batch in times) * us_per_list,
            "floor_cpu_us_per_list": median(batch.floor_s for batch in times) * us_per_list,
            "ratio": median(batch.engine_s / batch.floor_s for batch in times),
            "lists_per_s": self.load.batch / median(batch.wall_s for batch in times),
            "stage_shares": {name: seconds / sum(stages.values()) for name, seconds in stages.items()},
        }

    def _run_engine(self) -> None:
        """One batch through the engine."""
        self.processor.process(self._poll(self.engine), self.engine)

    def _run_floor(self, prepared: Prepared) -> None:
        """One batch through the bare kernels."""
        polled = self._poll(self.floor)
        decode = msgspec.json.Decoder(_FloorClick).decode
        for records in polled:
            for value in records.values:
                decode(value or b"")
        self.live.encode(prepared.features)
        self.live.index.search(prepared.interests, self.settings.recommendations.candidates_per_interest)
        values: list[bytes | None] = [*encode_recommendations(prepared.lists, prepared.heads, self.catalogue.ids)]
        self.floor.send(Outgoing(self.settings.recommendations.topic, prepared.keys, values))
        self.floor.commit({records.partition: records.offsets[-1] + 1 for records in polled})

    def _random_windows(self) -> Int32:
        """[users, L] item numbers: each user's clicks come from a few neighbourhoods of the catalogue."""
        load, length = self.load, self.settings.windows.length
        starts = self.rng.integers(0, load.items, (load.users, _NEIGHBOURHOODS))
        start = np.take_along_axis(starts, self.rng.integers(0, _NEIGHBOURHOODS, (load.users, length)), axis=1)
        # Items are in the order of the trained items that they were drawn from, so those with near numbers are alike.
        return ((start + self.rng.integers(0, _NEIGHBOURHOOD_ITEMS, start.shape)) % load.items).astype(np.int32)

    def _fill_windows(self) -> None:
        """Bring every window to its full length through the engine's own path."""
        length = self.settings.windows.length
        for start in range(0, self.load.users, self.load.batch):
            users = np.arange(start, min(start + self.load.batch, self.load.users))
            producer = self.log.producer()
            producer.send(
                _clicks(
                    self.settings.clicks.topic,
                    np.repeat(users, length),
                    self.item_windows[users].ravel(),
                    np.tile(_FIRST_MS + _STEP_MS * np.arange(length), len(users)),
                )
            )
            self.processor.process(self._poll(self.engine, len(users) * length), self.engine)
            self.floor.commit({r.partition: r.offsets[-1] + 1 for r in self._poll(self.floor, len(users) * length)})

    def _batches(self) -> Iterator[Int64]:
        """Users of each batch, those for warming up first."""
        for _ in range(_WARM_UP_BATCHES + self.load.batches):
            yield self.rng.choice(self.load.users, self.load.batch, replace=False)

    def _send_clicks(self, users: Int64) -> None:
        length = self.settings.windows.length
        items = self.item_windows[users, self.rng.integers(0, length, len(users))]
        times_ms = np.full(len(users), _FIRST_MS + _STEP_MS * (length + self.batches_sent))
        self.batches_sent += 1
        self.log.producer().send(_clicks(self.settings.clicks.topic, users, items, times_ms))

    def _prepare(self, users: Int64) -> Prepared:
        """Inputs of the floor's kernels for a batch of these users."""
        length = self.settings.windows.length
        times_ms = np.broadcast_to(_FIRST_MS + _STEP_MS * np.arange(length), (len(users), length))
        actions = Actions(self.settings.clicks)
        codes: UInt8 = np.full(times_ms.shape, actions.code(_ACTION), np.uint8)
        windows = Windows(self.item_windows[users], times_ms, codes)
        inputs = features.make(windows, self.live.rows(windows.items), actions.weights, length)
        interests, _ = self.live.encode(inputs)
        recommender = Recommender.starting(self.settings.recommendations, actions.weights, self.live)
        names = [_user(user) for user in users.tolist()]
        return Prepared(
            features=inputs,
            interests=interests.reshape(-1, interests.shape[2]),
            lists=recommender.recommend(windows, self.live),
            heads=ListHeads(names, names, [_FIRST_MS] * len(names), self.live.name, _FIRST_MS),
            keys=[name.encode() for name in names],
        )

    def _poll(self, session: Session, count: int | None = None) -> list[Records]:
        return session.poll(0.0, count or self.load.batch)

    def _stage_seconds(self) -> dict[str, float]:
        """Seconds spent in each stage so far, by name."""
        samples = next(iter(self.metrics.stage_seconds.collect())).samples
        return {sample.labels["stage"]: sample.value for sample in samples if sample.name.endswith("_total")}


def _enlarged(bundle: Bundle, load: Load, folder: Path) -> Path:
    """A bundle with the graphs of a trained one and `load.items` synthetic items, each near a trained item."""
    rng = np.random.default_rng(load.seed)
    spread = _JITTER * float(bundle.vectors.std())
    trained = np.sort(rng.integers(0, len(bundle.vectors), load.items))
    vectors = bundle.vectors[trained] + rng.normal(0.0, spread, (load.items, bundle.vectors.shape[1]))
    return bundles.write(
        NewRelease(
            model=bundle.manifest.model,
            version="bench",
            created_ms=bundle.manifest.created_ms,
            contract=_contract(bundle, load),
            holdout=bundle.manifest.holdout,
            encoder_onnx=bundle.encoder_onnx,
            items_onnx=bundle.items_onnx,
            vectors=vectors.astype(np.float32),
            neighbours=_synthetic_neighbours(load, rng) if load.neighbours else None,
            popularity=np.ones(load.items, np.float32),
            ids=[f"item-{number:07d}" for number in range(load.items)],
        ),
        folder,
    )


def _contract(bundle: Bundle, load: Load) -> Contract:
    """The trained contract, with parts of the score for neighbours and popularity unless there are no neighbours."""
    if not load.neighbours:
        return replace(bundle.manifest.contract, neighbours=None, popularity=None)
    sizes = replace(_NEIGHBOUR_SIZES, count=load.neighbours)
    return replace(bundle.manifest.contract, neighbours=sizes, popularity=_POPULARITY)


def _synthetic_neighbours(load: Load, rng: np.random.Generator) -> NeighbourArrays:
    """Neighbours with near numbers, and falling weights."""
    distances = np.rint(rng.normal(0.0, _NEIGHBOUR_SPREAD, (load.items, load.neighbours))).astype(np.int64)
    rows = (np.arange(load.items)[:, None] + np.where(distances == 0, 1, distances)) % load.items
    weights = np.sort(rng.random((load.items, load.neighbours), np.float32), axis=1)[:, ::-1]
    return NeighbourArrays(rows.astype(np.int32), weights)


def _clicks(topic: str, users: Int64, items: npt.NDArray[Any], times_ms: Int64) -> Outgoing:
    """Records of n clicks."""
    encode = msgspec.json.encode
    names = [_user(user) for user in users.tolist()]
    values: list[bytes | None] = [
        encode({"user": user, "item": f"item-{item:07d}", "ts": time_ms, "action": _ACTION})
        for user, item, time_ms in zip(names, items.tolist(), times_ms.tolist(), strict=True)
    ]
    return Outgoing(topic, [name.encode() for name in names], values)


def _user(number: int) -> str:
    return f"user-{number:08d}"


def _timed(call: Callable[..., None], *arguments: object) -> tuple[float, float]:
    """Wall and CPU seconds of one call, all threads of the process included."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    call(*arguments)
    return time.perf_counter() - wall_s, time.process_time() - cpu_s
