"""Exposure by impressions on running workers: what was shown differs from what was sent, and the verdict with it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from engine.eventlog import topic_plan
from engine.eventlog.base import EventLog, Outgoing
from engine.eventlog.kafka import KafkaLog
from engine.eventlog.memory.log import MemoryLog
from engine.messages import list_ids
from engine.messages.impression import Impression, ShownItem
from engine.messages.recommendation import Recommendation
from engine.metrics import Metrics
from engine.quality.experiment_report import ExperimentReport
from engine.releases import experiments
from engine.releases.experiments import Judgement
from engine.settings.sections import Exposure, ImpressionSettings, KafkaSettings, Settings
from tests.conftest import Report
from tests.integration.test_canary import CANARY, PARTITIONS, Shop, sabotaged, until
from tests.integration.test_experiments import Trials, now_ms
from tests.integration.test_rollback import settings_of

__all__ = ["sabotaged"]  # a fixture, used by name

BY_IMPRESSIONS = CANARY.model_copy(update={"exposure": "impressions", "impression_wait_s": 0.3})
ACCEPTED = ImpressionSettings(accept=True)
SHOWN_AFTER_MS = 1_000
"""From the click that a list follows to its sight; the next click of the user is a minute later at least."""

Page = Callable[[Recommendation], list[ShownItem] | None]
"""Places on which items of a list are shown; None where nobody looks."""


def as_sent(message: Recommendation) -> list[ShownItem]:
    return [ShownItem(listed.item, place) for place, listed in enumerate(message.items, 1)]


class ReportingShop(Shop):
    """A shop whose page reports what it shows."""

    def __init__(self, log: EventLog, settings: Settings, page: Page) -> None:
        super().__init__(log, settings)
        log.ensure_topics([topic_plan.impressions(settings, PARTITIONS + 1)])  # not those of the clicks
        self.page = page
        self._reported = 0

    @contextmanager
    def open(self) -> Iterator[None]:
        reports = threading.Thread(target=self._report_all)
        with super().open():
            reports.start()
            try:
                yield
            finally:
                self.stop.set()
                reports.join()

    def _report_all(self) -> None:
        with self.log.producer() as producer:
            while not self.stop.wait(0.01):
                news = self.messages[self._reported :]
                self._reported += len(news)
                shown = [(message, items) for message in news if (items := self.page(message))]
                reports = [report_of(message, items) for message, items in shown]
                producer.send(
                    Outgoing(
                        self.settings.impressions.topic,
                        [report.user.encode() for report in reports],
                        [*map(msgspec.json.encode, reports)],
                    )
                )
                producer.flush()


def report_of(message: Recommendation, items: list[ShownItem]) -> Impression:
    shown_ms = message.event_ms + SHOWN_AFTER_MS
    return Impression(decision=message.id, user=message.user, shown_ms=shown_ms, received_ms=shown_ms, items=items)


def lower_half(message: Recommendation) -> list[ShownItem] | None:
    """Two of three users look, and a page that is broken for one arm shows it the second ten items alone."""
    if int(message.user[1:]) % 3 == 0:
        return None
    return as_sent(message) if message.arm != "same" else as_sent(message)[10:]


def verdict(shop: ReportingShop, exposure: Exposure) -> ExperimentReport:
    """The report of an experiment whose arms are the same, once it is decided, or has 600 clicks."""
    trials = Trials(shop)
    arms = [*map(experiments.parse_arm, ("control", "same"))]
    judgement = Judgement(difference=0.05, min_users=50, exposure=exposure)
    shop.registrar.change(lambda registry: experiments.start(registry, exposure, arms, now_ms(), judgement=judgement))
    until(lambda: (seen := trials.report().arms)[1].verdict == "worse" or sum(arm.clicks for arm in seen) > 600)
    report = trials.report()
    trials.stop(exposure)
    return report


def test_a_page_that_shows_other_items_than_were_sent_is_seen_by_impressions_alone(
    tiny_release: Path, report: Report
) -> None:
    settings = settings_of(lambda name: name, poll_interval_s=0.1)
    settings = settings.model_copy(update={"canary": BY_IMPRESSIONS, "impressions": ACCEPTED})
    shop = ReportingShop(MemoryLog(), settings, lower_half)
    shop.publish(tiny_release, "live")
    with shop.worker() as (_, metrics), shop.worker(), shop.open():
        by_lists, by_impressions = verdict(shop, "lists"), verdict(shop, "impressions")
    for whole in (by_lists, by_impressions):
        report(
            f"{whole.exposure}: {whole.sample_ratio} {[(arm.users, arm.clicks, arm.gain) for arm in whole.arms]}", {}
        )
    assert by_lists.arms[1].verdict != "worse"
    assert by_impressions.arms[1].verdict == "worse"
    assert by_impressions.arms[1].gain == 0.0
