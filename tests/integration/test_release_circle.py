"""The whole circle on one log: clicks, archive, retraining, gate, canary, promotion, sabotage, rollback.

    LONG_TESTS=1 RELEASE_CIRCLE_PLOT=docs/images/release-circle.png pytest -s tests/integration/test_release_circle.py

Shoppers click along rings of items; half way their taste changes, so that another item follows each. A is the release
of the first half, B of the second, C is B with its item table shuffled, D is B with one byte of a file changed.
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="releases are trained for this test: pip install 'headrace[train]'")

import torch

from engine.arrays import Float64
from engine.errors import ReleaseError
from engine.eventlog.base import EventLog, Outgoing
from engine.eventlog.kafka import KafkaLog
from engine.eventlog.memory.log import MemoryLog
from engine.eventlog.time_source import TimeSource
from engine.interactions.layout import Source
from engine.messages.recommendation import decode_recommendation
from engine.metrics import Metrics
from engine.releases import bundles
from engine.settings.sections import ArchiveSettings, CanarySettings, KafkaSettings, RetrainSettings, Settings
from engine.worker.archiver import archive_once
from models.jobs import retraining
from models.jobs.live_release import TopicStage
from models.jobs.retraining import Reports, RetrainInput, RetrainOutcome
from models.jobs.training_job import Callbacks
from models.settings import EncoderSettings, TrainSettings
from tests.conftest import Report
from tests.integration.test_canary import START_MS, USERS, Shop
from tests.integration.test_rollback import settings_of
from tests.unit.test_bundles import rewritten
from tests.waiting import until

ITEMS = 120
CLICKS_A_HALF = 18_000
STEP_MS = 30_000
SIZES = EncoderSettings(dimensions=32, interests=2, heads=2, window_length=20)
TRAINING = TrainSettings(encoder=SIZES, holdout="time", epochs=6, learning_rate=5e-3, neighbours=False, minutes=2.0)
CANARY = CanarySettings(share=0.5, interval_s=0.3, min_users=100, difference=0.02)

pytestmark = pytest.mark.skipif(not os.environ.get("LONG_TESTS"), reason="minutes of training: LONG_TESTS=1")


class ChangingShop(Shop):
    """Shoppers whose taste can change, and the next-click rate of the lists that they were sent."""

    def __init__(self, log: EventLog, settings: Settings) -> None:
        super().__init__(log, settings)
        self.order = np.arange(ITEMS)
        """The items in the order in which they are clicked."""
        self.hits: list[tuple[float, bool, str]] = []
        """Time, whether the click was on the user's last list, and that list's release."""
        self._last: dict[str, tuple[str, frozenset[str]]] = {}
        self._listed_ms = 0
        self.marks: list[tuple[float, str]] = []
        self.began_s = time.monotonic()

    def mark(self, text: str) -> None:
        self.marks.append((time.monotonic() - self.began_s, text))

    @property
    def clicks(self) -> int:
        return self._clicks

    def rate(self, release: str, last: int = 2_000) -> float:
        """Of the newest clicks on lists by a release."""
        hits = [hit for _, hit, by in [*self.hits] if by == release][-last:]
        return float(np.mean(hits)) if hits else 0.0

    def _walk(self) -> None:
        rng = np.random.default_rng(1)
        with self.log.producer() as producer:
            while not self.stop.wait(0.03):
                users = rng.choice(USERS, 20, replace=False)
                self._places[users] = (self._places[users] + rng.integers(1, 3, 20)) % ITEMS
                values: list[bytes | None] = []
                for user, item in zip(users.tolist(), self.order[self._places[users]].tolist(), strict=True):
                    self._clicks += 1
                    self._judge(f"u{user}", f"i{item}")
                    message = {"user": f"u{user}", "item": f"i{item}", "ts": START_MS + STEP_MS * self._clicks}
                    values.append(json.dumps(message).encode())
                keys: list[bytes | None] = [f"u{user}".encode() for user in users.tolist()]
                producer.send(Outgoing(self.settings.clicks.topic, keys, values))
                producer.flush()

    def _judge(self, user: str, item: str) -> None:
        release, items = self._last.get(user, ("", frozenset()))
        if release:
            self.hits.append((time.monotonic() - self.began_s, item in items, release))

    def _read(self) -> None:
        with self.log.reader([self.settings.recommendations.topic]) as lists:
            while not self.stop.is_set():
                for records in lists.poll(0.05, 1000):
                    for value in filter(None, records.values):
                        message = decode_recommendation(value)
                        first_ten = frozenset(place.item for place in message.items[:10])
                        self._last[message.user] = (message.release, first_ten)
                        self._listed_ms = max(self._listed_ms, message.event_ms)

    def is_fresh(self) -> bool:
        """Whether the lists are those of the newest clicks."""
        return self._listed_ms > START_MS + STEP_MS * (self._clicks - 200)


class Circle:
    """The commands of the circle, in this process."""

    def __init__(self, shop: ChangingShop, folder: Path) -> None:
        self.shop, self._folder = shop, folder
        self.settings = shop.settings
        self._stage = TopicStage(self.settings, shop.log)

    def archive(self) -> None:
        archive_once(self.settings, self.shop.log, Metrics(), TimeSource())

    def retrain(self) -> RetrainOutcome:
        source = Source(str(self._folder / "clicks"))
        given = RetrainInput(source, {}, self.settings, TRAINING, self._stage, force=False)
        quiet = Reports(Callbacks(lambda _message: None, lambda _progress: None), lambda *_progress: None)
        return retraining.retrain(given, quiet, time.time_ns() // 1_000_000)

    def bundle(self, name: str) -> Path:
        return self.settings.retrain.releases / name

    def state(self, name: str) -> str:
        return self.shop.registrar.read().versions[name.removeprefix("two-hop-")].state

    def live(self) -> str:
        return f"two-hop-{self.shop.registrar.read().aliases()['live']}"


def go_round(log: EventLog, settings: Settings, folder: Path, report: Report) -> None:
    torch.set_num_threads(1)
    retrain = RetrainSettings(releases=folder / "releases", publish_as="canary", max_slowdown=100.0, days=30.0)
    archive = ArchiveSettings(folder=str(folder / "clicks"))
    windows = settings.windows.model_copy(update={"length": 20})  # what was clicked longer ago may come again
    settings = settings.model_copy(update={"retrain": retrain, "archive": archive, "windows": windows})
    shop = ChangingShop(log, settings)
    circle = Circle(shop, folder)
    with shop.open():
        until_clicks(shop, CLICKS_A_HALF)
        circle.archive()
        first = circle.retrain()
        assert (first.outcome, circle.live()) == ("published", first.release)
        with shop.worker() as (worker, _):
            until(shop.is_fresh)
            shop.mark("A is live")
            until_clicks(shop, shop.clicks + 6_000)
            at_home = shop.rate(first.release)
            shop.order = np.random.default_rng(2).permutation(ITEMS)
            shop.mark("taste changes")
            changed = shop.clicks
            until_clicks(shop, changed + 6_000)
            abroad = shop.rate(first.release)
            assert abroad < 0.7 * at_home
            until_clicks(shop, changed + CLICKS_A_HALF)
            circle.archive()
            second = circle.retrain()
            assert (second.outcome, second.reasons) == ("published", [])
            shop.mark("B: canary")
            until(lambda: circle.live() == second.release, 300.0)
            assert circle.shop.registrar.read().versions[second.release.removeprefix("two-hop-")].reason
            until(lambda: worker.release_name == second.release)
            shop.mark("B is live")
            until_clicks(shop, shop.clicks + 6_000)
            again = shop.rate(second.release)
            assert again > 1.3 * abroad
            _sabotage(circle, second.release, folder)
            shop.mark("back to A")
            circle.shop.registrar.change(lambda registry: registry.rollback(time.time_ns() // 1_000_000))
            asked_s = time.monotonic()
            until(lambda: worker.release_name == first.release)
            took_s = time.monotonic() - asked_s
            until_clicks(shop, shop.clicks + 2_000)
    rates = {"at_home": at_home, "abroad": abroad, "again": again, "rollback_s": took_s}
    report(
        f"next clicks in the first ten: A {at_home:.0%}, after the change {abroad:.0%}, B {again:.0%};"
        f" rollback {took_s:.1f} s",
        rates,
    )
    if plot := os.environ.get("RELEASE_CIRCLE_PLOT"):
        names = {first.release: "A", second.release: "B", "two-hop-sabotaged": "C, sabotaged"}
        draw(shop, names, Path(plot))


def _sabotage(circle: Circle, good: str, folder: Path) -> None:
    """C, forced past the gate, is taken back by the clicks; D is refused before anybody hears of it."""
    bundle = circle.bundle(good)
    shuffled = np.random.default_rng(0).permutation(bundles.read(bundle).vectors)
    sabotaged = rewritten(bundle, folder / "sabotaged", version="sabotaged", vectors=shuffled)
    circle.shop.mark("C: canary")
    circle.shop.publish(sabotaged, "canary")
    until(lambda: circle.state("two-hop-sabotaged") == "retired", 300.0)
    circle.shop.mark("C is taken back")
    assert circle.live() == good
    damaged = folder / "damaged" / bundle.name
    shutil.copytree(bundle, damaged)
    vectors = damaged / "vectors.npy"
    content = bytearray(vectors.read_bytes())
    content[-1] ^= 1
    vectors.write_bytes(content)
    with pytest.raises(ReleaseError, match=r"vectors\.npy"):
        TopicStage(circle.settings, circle.shop.log).publish(damaged, "live")
    assert circle.live() == good


def until_clicks(shop: ChangingShop, count: int) -> None:
    until(lambda: shop.clicks >= count, 600.0)


def draw(shop: ChangingShop, names: dict[str, str], path: Path) -> None:
    """The next-click rate over time, by the releases that made the lists."""
    from matplotlib.figure import Figure  # noqa: PLC0415, TID251 - an extra, and a plot of the docs alone

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for release in dict.fromkeys(by for _, _, by in shop.hits):
        times_s = np.array([time_s for time_s, _, by in shop.hits if by == release])
        hits = np.array([hit for _, hit, by in shop.hits if by == release], np.float64)
        axes.plot(*smooth(times_s, hits), label=names[release])
    for time_s, text in shop.marks:
        axes.axvline(time_s, color="grey", linewidth=0.6)
        axes.text(time_s, 1.02, text, rotation=60, fontsize=8, transform=axes.get_xaxis_transform())
    axes.set(xlabel="seconds", ylabel="next clicks in the first ten", ylim=(0, 1))
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=80)


def smooth(times_s: Float64, hits: Float64, clicks: int = 300) -> tuple[Float64, Float64]:
    """Moving mean over so many clicks."""
    width = min(clicks, len(hits))
    means = np.convolve(hits, np.full(width, 1.0 / width), mode="valid")
    return times_s[width - 1 :], means


def test_the_circle(tmp_path: Path, report: Report) -> None:
    settings = settings_of(lambda name: name, poll_interval_s=0.1).model_copy(update={"canary": CANARY})
    go_round(MemoryLog(), settings, tmp_path, report)


@pytest.mark.kafka
def test_the_circle_on_kafka(
    kafka_log: KafkaLog,
    kafka_settings: KafkaSettings,
    topic_names: Callable[[str], str],
    tmp_path: Path,
    report: Report,
) -> None:
    canary = CANARY.model_copy(update={"topic": topic_names("canary-sums")})
    settings = settings_of(topic_names, kafka_settings).model_copy(update={"canary": canary})
    go_round(kafka_log, settings, tmp_path, report)
